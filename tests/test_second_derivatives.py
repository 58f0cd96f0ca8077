"""Second derivatives of everything but poolings, reverse over reverse and forward over reverse, against differences.

In float64. Those of poolings are in their own files.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convjax

STRIDED: dict[str, Any] = {"strides": (2, 1), "dilation": (1, 2), "groups": 2}
TRANSPOSED: dict[str, Any] = {"padding": ((1, 0), (0, 2)), "output_padding": (1, 1), **STRIDED}
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
    "conv3d": (functools.partial(convjax.conv3d, strides=(2, 1, 1), padding=1), ((1, 3, 4, 3, 2), (2, 1, 3, 2, 3))),
    "convolve": (functools.partial(convjax.convolve, padding="FULL"), ((2, 4, 3, 3), (2, 3, 3, 2))),
    "depthwise": (functools.partial(convjax.depthwise_conv, padding="SAME_LOWER"), ((2, 5, 4, 3), (3, 2, 3, 2))),
    "separable": (
        functools.partial(convjax.separable_conv, strides=2, padding=1),
        ((1, 5, 6, 3), (3, 3, 3, 2), (1, 1, 6, 4)),
    ),
    "local": (functools.partial(convjax.conv_local, kernel_size=2), ((2, 4, 5, 2), (3, 4, 8, 3))),
    "conv_general_dilated": (functools.partial(convjax.conv_general_dilated, **LAX), ((2, 5, 4, 4), (2, 3, 2, 6))),
    "conv_transpose": (functools.partial(convjax.conv_transpose, **TRANSPOSED), ((2, 3, 4, 4), (3, 2, 4, 3))),
    "conv_transpose reflect": (
        functools.partial(convjax.conv_transpose, padding_mode=("reflect", "circular"), **TRANSPOSED),
        ((2, 3, 4, 4), (3, 2, 4, 3)),
    ),
    "conv_transpose bias": (
        lambda x, w, b: convjax.conv_transpose(x, w, bias=b, strides=2, padding="SAME"),
        ((1, 4, 3), (3, 3, 2), (2,)),
    ),
    "deform_conv2d": (
        lambda x, offset, w, mask: convjax.deform_conv2d(x, offset, w, mask=mask, padding=1, offset_groups=2),
        ((1, 3, 3, 2), (1, 4, 4, 16), (2, 2, 2, 2), (1, 4, 4, 8)),
    ),
    "dilation2d": (functools.partial(convjax.dilation2d, padding=1, strides=(2, 1)), ((2, 4, 3, 2), (2, 3, 2))),
    "erosion2d": (functools.partial(convjax.erosion2d, dilation=(1, 2)), ((2, 4, 5, 2), (2, 2, 2))),
    "unfold": (
        functools.partial(convjax.unfold, kernel_size=(2, 3), strides=(1, 2), padding=1, dilation=(2, 1)),
        ((2, 5, 4, 2),),
    ),
    "fold": (functools.partial(convjax.fold, output_size=(5, 4), kernel_size=(2, 3), padding=1), ((2, 6, 4, 12),)),
    "pad": (
        functools.partial(
            convjax.pad, widths=((2, -1), (3, 1), (1, 2)), mode=("reflect", "circular", "replicate"), layout="NDHWC"
        ),
        ((2, 4, 3, 2, 2),),
    ),
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
        sides = [jnp.stack([x + step * d, x - step * d]) for x, d in zip(point, direction, strict=True)]
        beside = jax.lax.map(lambda operands: gradient(*operands), sides)
        return (
            [(beyond - before) / (2 * step) for beyond, before in beside],
            jax.grad(slope, tuple(range(len(shapes))))(*point),
            jax.jvp(gradient, tuple(point), tuple(direction))[1],
        )

    differences, reverse_over_reverse, forward_over_reverse = curvatures(point, direction)
    for want, *got in zip(differences, reverse_over_reverse, forward_over_reverse, strict=True):
        for derivative in got:
            np.testing.assert_allclose(derivative, want, rtol=1e-5, atol=1e-5 * np.max(np.abs(want)))
