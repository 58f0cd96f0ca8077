"""Second derivatives of convolutions, reverse over reverse and forward over reverse, against differences in float64.

Those of transposed and deformable convolutions, morphology, patches and poolings are in their own files.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convjax

STRIDED = {"strides": (2, 1), "dilation": (1, 2), "groups": 2}
LAX: dict[str, Any] = {
    "window_strides": (2, 1),
    "padding": ((2, -1), (0, 3)),
    "lhs_dilation": (1, 3),
    "rhs_dilation": (2, 1),
    "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    "feature_group_count": 2,
}
# A function and the shapes of its operands.
CASES: dict[str, tuple[Callable[..., jax.Array], tuple[tuple[int, ...], ...]]] = {
    "conv": (functools.partial(convjax.conv, padding=((2, 1), (0, -1)), **STRIDED), ((2, 5, 6, 4), (3, 2, 2, 6))),
    "conv reflect": (
        functools.partial(convjax.conv, padding="SAME", padding_mode=("reflect", "circular"), **STRIDED),
        ((2, 5, 6, 4), (3, 2, 2, 6)),
    ),
    "conv bias": (lambda x, w, b: convjax.conv(x, w, bias=b, padding=1), ((1, 7, 3), (3, 3, 2), (2,))),
    "convolve": (functools.partial(convjax.convolve, padding="FULL"), ((2, 4, 3, 3), (2, 3, 3, 2))),
    "depthwise": (functools.partial(convjax.depthwise_conv, padding="SAME_LOWER"), ((2, 5, 4, 3), (3, 2, 3, 2))),
    "separable": (
        functools.partial(convjax.separable_conv, strides=2, padding=1),
        ((1, 5, 6, 3), (3, 3, 3, 2), (1, 1, 6, 4)),
    ),
    "local": (functools.partial(convjax.conv_local, kernel_size=2), ((2, 4, 5, 2), (3, 4, 8, 3))),
    "conv_general_dilated": (functools.partial(convjax.conv_general_dilated, **LAX), ((2, 5, 4, 4), (2, 3, 2, 6))),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_second_derivatives_are_those_of_differences(case: Any) -> None:
    f, shapes = case
    rng = np.random.default_rng(0)
    point, direction = ([rng.standard_normal(shape) for shape in shapes] for _ in range(2))
    step = 1e-5

    def loss(*operands: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(f(*operands)))

    gradient = jax.grad(loss, tuple(range(len(shapes))))

    def slope(*operands: jax.Array) -> jax.Array:
        return sum(jnp.vdot(g, d) for g, d in zip(gradient(*operands), direction, strict=True))  # type: ignore[return-value]

    @jax.jit
    def curvatures(point: list[jax.Array], direction: list[jax.Array]) -> Any:
        beyond, before = (
            gradient(*(x + side * step * d for x, d in zip(point, direction, strict=True))) for side in (1, -1)
        )
        return (
            [(a - b) / (2 * step) for a, b in zip(beyond, before, strict=True)],
            jax.grad(slope, tuple(range(len(shapes))))(*point),
            jax.jvp(gradient, tuple(point), tuple(direction))[1],
        )

    differences, reverse_over_reverse, forward_over_reverse = curvatures(point, direction)
    for want, *got in zip(differences, reverse_over_reverse, forward_over_reverse, strict=True):
        for derivative in got:
            np.testing.assert_allclose(derivative, want, rtol=1e-5, atol=1e-5 * np.max(np.abs(want)))
