"""Sums over windows of what is padded with zeros pad it themselves; windows of one element each are copies of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import convjax
from convjax import WindowSpec, accelerate
from convjax.algorithms import named
from convjax.explain import explain_problem
from convjax.testing import check_algorithm


def pads_and_problem(fn: Any, *operands: Any) -> tuple[int, WindowSpec]:
    """How many pads are left of an accelerated function, and the problem of its last sum."""
    text = str(jax.make_jaxpr(accelerate(fn))(*operands))
    return text.count(" pad["), convjax.explain(accelerate(fn), *operands).rows[-1].problem


def summed(x: jax.Array, window: int = 3, strides: int = 1, padding: Any = "VALID") -> jax.Array:
    return lax.reduce_window(x, 0.0, lax.add, (1, window, window, 1), (1, strides, strides, 1), padding)


@pytest.mark.parametrize(
    ("window", "strides", "padding"), [(2, 2, "VALID"), (3, 2, "SAME"), (3, 3, "SAME"), (2, 3, "VALID")]
)
def test_gradients_of_sums_know_their_zeros(window: int, strides: int, padding: str, rng: np.random.Generator) -> None:
    x = jnp.asarray(rng.standard_normal((2, 11, 9, 3)), jnp.float32)
    y = summed(x, window, strides, padding)

    def gradient(x: jax.Array, g: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: summed(x, window, strides, padding), x)[1](g)[0]

    left, problem = pads_and_problem(gradient, x, y)
    assert left == 0
    assert problem.shape == y.shape
    assert problem.base_dilation == (1, strides, strides, 1)
    np.testing.assert_allclose(jax.jit(accelerate(gradient))(x, y), gradient(x, y), rtol=1e-5, atol=1e-5)

    def twice(x: jax.Array) -> jax.Array:
        return jnp.sum(gradient(x, jnp.sin(summed(x, window, strides, padding))) ** 2)

    np.testing.assert_allclose(jax.grad(accelerate(twice))(x), jax.grad(twice)(x), rtol=1e-4, atol=1e-4)


ZERO = np.float32(0)
KEPT = {
    "another value": lambda x: summed(lax.pad(x, np.float32(1), [(0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)])),
    "a value unknown": lambda x: summed(lax.pad(x, x[0, 0, 0, 0], [(0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)])),
    "a crop": lambda x: summed(lax.pad(x, ZERO, [(0, 0, 0), (-1, 2, 0), (0, 0, 0), (0, 0, 0)]), padding="SAME"),
    "read elsewhere": lambda x: (lambda padded: (jnp.max(padded), summed(padded)))(
        lax.pad(x, ZERO, [(0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)])
    ),
    "maxima": lambda x: lax.reduce_window(
        lax.pad(x, ZERO, [(0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)]),
        -np.inf,
        lax.max,
        (1, 2, 2, 1),
        (1, 1, 1, 1),
        "VALID",
    ),
}
GONE = {
    "around": lambda x: summed(lax.pad(x, ZERO, [(0, 0, 0), (1, 2, 0), (3, 0, 0), (0, 0, 0)])),
    "cropped, not padded": lambda x: summed(lax.pad(x, ZERO, [(0, 0, 0), (-1, -2, 0), (1, 0, 0), (0, 0, 0)])),
    "between, then cropped": lambda x: summed(lax.pad(x, ZERO, [(0, 0, 0), (-1, 3, 2), (0, 0, 1), (0, 0, 0)])),
    "then padded": lambda x: summed(lax.pad(x, ZERO, [(0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 0, 0)]), padding="SAME"),
    "other axes": lambda x: summed(lax.pad(x, ZERO, [(1, 0, 0), (0, 0, 0), (0, 0, 0), (0, 2, 0)])),
}  # fmt: skip


@pytest.mark.parametrize(
    ("fn", "pads"), [*((f, 1) for f in KEPT.values()), *((f, 0) for f in GONE.values())], ids=[*KEPT, *GONE]
)
def test_zeros_alone_are_taken_over(fn: Any, pads: int, rng: np.random.Generator) -> None:
    x = jnp.asarray(rng.standard_normal((2, 7, 6, 3)), jnp.float32)
    assert pads_and_problem(fn, x)[0] == pads
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), accelerate(fn)(x), fn(x))


ONE_ELEMENT = [
    "sum float32[2,3,4,5] window=1x2x3x1 pad=0_0x1_1x2_2x0_0 base_dilate=1x2x3x1",  # a gradient's
    "sum float32[2,3,4,5] window=1x2x3x1 pad=0_0x0_3x4_1x0_0 base_dilate=1x2x3x1",
    "sum bfloat16[3,4] window=3x2 pad=2_1x-1_1 base_dilate=3x2",
    "sum int32[5] window=4 base_dilate=4",
    "max float32[3,1] window=2x3 pad=1_1x2_2 base_dilate=2x3",
    "min float32[3,4] window=2x1 pad=3_0x1_1 base_dilate=2x1",
]


@pytest.mark.parametrize("text", ONE_ELEMENT)
def test_windows_of_one_element(text: str) -> None:
    problem = WindowSpec.parse(text)
    (reshape,) = named(problem.operation, "reshape")
    check_algorithm(reshape, [problem])


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_large_ones_are_chosen(platform: str) -> None:
    problem = WindowSpec.parse("sum float32[4,46,46,64] window=1x11x11x1 pad=0_0x10_10x10_10x0_0 base_dilate=1x11x11x1")
    (row,) = explain_problem(problem, platform=platform).rows
    assert row.algorithm == "reshape"


@pytest.mark.parametrize(
    "text",
    [
        "sum float32[2,4,5] window=1x2x1 stride=1x2x1 base_dilate=1x2x1",
        "sum float32[2,4,5] window=1x2x1 base_dilate=1x3x1",
        "argmax float32[2,4,5] window=1x1x1 stride=1x2x1",
        "sum float32[2,9,5] window=1x2x1 base_dilate=1x2x1 window_dilate=1x2x1",
    ],
)
def test_windows_of_others_are_refused(text: str) -> None:
    problem = WindowSpec.parse(text)
    assert named(problem.operation, "reshape")[0].unsupported(problem, "cpu")
