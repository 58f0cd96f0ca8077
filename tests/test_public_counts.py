"""The cases of `cases.json` about what convolutions cost."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, conv
from jax import lax
from test_public_transposes import transposed

import convjax
from convjax.inspect.count import Count, count
from convjax.problem import ConvSpec

Operation = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def array(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)


def transpose_of(layer: dict[str, int]) -> Operation:
    renamed = {"s": "stride", "p": "padding", "op": "output_padding", "groups": "groups"}
    options = {renamed[name]: value for name, value in layer.items() if name in renamed}
    return lambda x, w, b: transposed(x, w, bias=b, **options)


@pytest.mark.parametrize("index", range(3))
def test_ac_02_a_grouped_transposed_convolution_is_divided_by_its_groups_once(index: int) -> None:
    args, expected = CASES["AC-02"]["args"], CASES["AC-02"]["expected"]
    layer = args["layers"][index]
    c, k, taps = layer["cin"], layer["cout"], layer["k"]
    w = array(c, k // layer.get("groups", 1), taps, taps)
    counted = count(transpose_of(layer), array(args["batch"], c, *args["n"]), w, array(k), parameters=(1, 2))
    assert counted.macs == counted.layers[0].macs == expected["macs"][index]
    assert counted.flops_with_bias == counted.layers[0].flops_with_bias == expected["flops_with_bias"][index]
    assert counted.parameters == counted.layers[0].parameters == w.size + k
    assert [layer.kind for layer in counted.layers] == ["conv_transpose"]


def test_ac_03_macs_flops_and_bias_additions_are_told_apart() -> None:
    args, expected = CASES["AC-03"]["args"], CASES["AC-03"]["expected"]
    outputs, taps = args["out_channels"], args["kernel"]
    operands = array(*args["x_shape"]), array(outputs, 1, taps, taps), array(outputs)
    counted = count(lambda x, w, b: conv(x, w, bias=b, padding=args["padding"]), *operands)
    assert counted.macs == expected["macs"]
    assert counted.macs + counted.bias_adds == expected["with_bias_adds"]
    assert counted.flops == 2 * expected["macs"]
    without = count(lambda x, w: conv(x, w), *operands[:2])
    assert (without.macs, without.bias_adds) == (expected["macs"], 0)


def macs_by_loops(x: Any, w: Any, y: Any, groups: int, transposed: bool) -> int:
    """Every position of y, or of x where the convolution is transposed, meets every tap."""
    positions = x if transposed else y
    return int(x[0] * np.prod(positions[2:]) * np.prod(w[2:]) * x[1] * y[1] // groups)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(
    ("groups", "options"),
    [
        (1, {}),
        (2, {"stride": 2, "padding": 1}),
        (4, {"dilation": 2}),
        (1, {"stride": 3, "dilation": 2, "padding": 2}),
        (2, {"padding": 2}),
    ],
)
def test_macs_are_those_of_the_definition(ndim: int, groups: int, options: dict[str, int]) -> None:
    x = (2, 4, *(9, 8, 7)[:ndim])
    spatial = {"strides": options.get("stride", 1), **{k: v for k, v in options.items() if k != "stride"}}
    taps = (3, 2, 3)[:ndim]
    w = (8, 4 // groups, *taps)
    counted = count(lambda x, w: conv(x, w, groups=groups, **spatial), array(*x), array(*w))
    assert counted.macs == macs_by_loops(x, w, counted.layers[0].output_shape, groups, transposed=False)

    w = (4, 8 // groups, *taps)
    counted = count(lambda x, w: transposed(x, w, groups=groups, **options), array(*x), array(*w))
    assert counted.macs == macs_by_loops(x, w, counted.layers[0].output_shape, groups, transposed=True)
    assert counted.layers[0].kind == "conv_transpose"


@pytest.mark.parametrize("stride", [1, 2])
def test_elements_meet_every_tap_of_a_transposed_convolution_cropped_to_less_than_its_kernel(stride: int) -> None:
    counted = count(lambda x, w: transposed(x, w, stride=stride, padding=4), array(2, 3, 4), array(3, 5, 8))
    assert counted.layers[0].output_shape[-1] < 8
    assert counted.macs == 2 * 4 * 8 * 3 * 5


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_vmapped_transposed_convolutions_of_stride_1_are_told_apart(axes: tuple[int | None, int | None]) -> None:
    """Nothing in the problem says that they are transposed: their scope does, whatever transformations it is under."""
    mapped = jax.vmap(convjax.conv_transpose, axes)
    x, w = array(*[7] * (axes[0] == 0), 2, 5, 4), array(*[7] * (axes[1] == 0), 3, 4, 6)
    forward = 7 * 2 * 5 * 3 * 4 * 6
    assert count(mapped, x, w).macs == forward
    tangents = count(lambda x, w: jax.jvp(mapped, (x, w), (x, w)), x, w)
    assert [row.macs for row in tangents.layers] == [forward] * 3


def products(x: ConvSpec) -> int:
    """Pairs of a window and a tap that meet an element or a cell of padding on the grid of the elements."""
    total = 1
    for o, s, k, rd, (lo, _), ld in zip(
        x.output, x.strides, x.kernel, x.rhs_dilation, x.padding, x.lhs_dilation, strict=True
    ):
        total *= sum((i * s + t * rd - lo) % ld == 0 for i in range(o) for t in range(k))
    return total * x.N * x.G * x.K * x.C


def test_gradients_cost_what_the_convolution_costs() -> None:
    """A strided convolution, and a transposed one whose every element meets every tap: three times as many MACs."""
    x, w = array(2, 4, 9, 9), array(8, 4, 3, 3)

    def strided(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, w, (2, 2), "VALID").sum()

    def dilated(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, w, (1, 1), [(2, 2)] * 2, lhs_dilation=(2, 2)).sum()

    def transpose(x: jax.Array, w: jax.Array) -> jax.Array:
        return convjax.conv_transpose(x, jnp.moveaxis(w, (0, 1), (-1, -2)), layout="NCHW").sum()

    forward = x.size * 9 * 8
    assert [row.macs for row in count(transpose, x, w).layers] == [forward]
    assert [row.macs for row in count(jax.grad(transpose), x, w).layers] == [forward]

    for loss in (strided, dilated):
        forward = count(loss, x, w).macs
        backward = count(jax.grad(loss, (0, 1)), x, w)
        assert [layer.macs for layer in backward.layers] == [forward] * len(backward.layers)
        assert len(backward.layers) == 2


@pytest.mark.parametrize(
    "options", [{}, {"strides": 2}, {"dilation": 2}, {"padding": 1}, {"padding": "SAME"}, {"groups": 3}], ids=str
)
def test_gradients_of_a_transposed_convolution_cost_what_it_costs(options: Any) -> None:
    """Every element of x meets every tap once, forward and in both gradients."""
    x, w = array(2, 8, 8, 6), array(3, 3, 6, 5)

    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        return (convjax.conv_transpose(x, w, **options) ** 2).sum()

    forward = x.size * 9 * 5
    assert [row.macs for row in count(jax.grad(loss, (0, 1)), x, w).layers] == 3 * [forward]


def test_second_derivatives_of_a_transposed_convolution_cost_as_much() -> None:
    x, w = array(2, 8, 8, 6), jnp.ones((3, 3, 6, 5))

    def slope(x: jax.Array) -> jax.Array:
        return (jax.grad(lambda x: (convjax.conv_transpose(x, w) ** 3).sum())(x) ** 2).sum()

    rows = count(jax.grad(slope), x).layers
    assert [row.macs for row in rows] == len(rows) * [x.size * 9 * 5]


def test_inputs_spread_apart_under_strides_are_counted_pair_by_pair() -> None:
    text = "conv float32[2,7,9,3] float32[3,4,3,5] b01f_01io->b01f stride=2x3 pad=1_2x0_1 lhs_dilate=4x2 rhs_dilate=1x2"
    problem = ConvSpec.parse(text)
    assert problem.macs == products(problem) < problem.products
    everywhere = ConvSpec.parse(text.replace(" lhs_dilate=4x2", ""))
    assert everywhere.macs == everywhere.products == products(everywhere)


def test_windows_are_comparisons_and_additions_not_macs() -> None:
    x = array(2, 9, 8, 4)
    largest: Count = count(lambda x: convjax.max_pool(x, (3, 2), strides=2), x)
    assert (largest.macs, largest.flops, largest.window_operations) == (0, 0, 2 * 4 * 4 * 4 * 6)
    mean = count(lambda x: convjax.avg_pool(x, (3, 2), strides=2), x)
    assert (mean.macs, mean.window_operations, mean.elementwise) == (0, 2 * 4 * 4 * 4 * 6, 2 * 4 * 4 * 4)
    assert largest.bytes == 4 * (2 * 9 * 8 * 4 + 2 * 4 * 4 * 4)
    stock = count(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 2, 1), (1, 2, 2, 1), "VALID"), x)
    assert (stock.window_operations, stock.bytes) == (largest.window_operations, largest.bytes)
