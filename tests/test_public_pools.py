"""Public faults of the other poolings, by the numbers of `cases.json`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, batched, numbers

from convjax.ops.lp import lp_pool

POOL_ALGORITHMS = [None, "lax", "shift"]


@pytest.mark.parametrize("p", [0.5, 1, 1.5, 2, 3, np.inf])
def test_lp_01_a_window_of_zeros_has_gradient_zero(p: float) -> None:
    case = CASES["LP-01"]
    x = batched(numbers(case["args"]["x"]), 1)
    y, pullback = jax.vjp(lambda x: lp_pool(x, case["args"]["kernel"], p=p, layout="NCW"), x)
    np.testing.assert_array_equal(y.ravel(), case["expected"]["value"])
    np.testing.assert_array_equal(pullback(jnp.ones_like(y))[0].ravel(), case["expected"]["grad_x_of_sum"])


@pytest.mark.parametrize("algorithm", POOL_ALGORITHMS)
def test_lp_03_p_of_infinity_is_the_largest_absolute_value(algorithm: str | None) -> None:
    args, expected = CASES["LP-03"]["args"], CASES["LP-03"]["expected"]
    x = batched(numbers(args["x"]), 1)
    y = lp_pool(x, args["kernel"], strides=args["stride"], p=float(args["p"]), layout="NCW", algorithm=algorithm)
    assert y.ravel().tolist() == expected["value"]
    near = lp_pool(x, args["kernel"], strides=args["stride"], p=1e4, layout="NCW", algorithm=algorithm)
    np.testing.assert_allclose(near, y, rtol=1e-3)


def test_lp_04_powers_of_half_precisions_neither_over_nor_underflow() -> None:
    args, expected = CASES["LP-04"]["args"], CASES["LP-04"]["expected"]
    for case, want in zip(args["cases"], expected["value"], strict=True):
        y = lp_pool(batched(numbers(case["x"], args["dtype"]), 1), args["kernel"], p=case["p"], layout="NCW")
        assert y.dtype == args["dtype"]
        np.testing.assert_allclose(y.astype(jnp.float32).item(), want, rtol=expected["rtol"])
