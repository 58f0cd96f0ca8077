"""Modules: flax's parameters and numbers for flax's arguments, and those of convjax's functions for the others."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transforms import assert_close

import convjax
from convjax.nn import Conv, ConvLocal, ConvTranspose, DeformConv, DepthwiseConv, SeparableConv
from convjax.ops.deform import deform_conv2d
from convjax.testing.deform import reference_deform_conv2d

# Default precision admits algorithms within 2e-5 of the largest output.
BOUND = 4e-5
PLANE, LINE, SPACE = (2, 7, 6, 4), (2, 9, 4), (1, 4, 5, 4, 4)
F32, BF16 = jnp.float32, jnp.bfloat16


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def wide_bias(arrays: Any, *, dtype: Any) -> Any:
    """A promote_dtype of one's own: half precision for all but the bias."""
    x, kernel, bias = arrays
    return x.astype(BF16), kernel.astype(BF16), bias


# Input shape, kernel size and flax's own arguments; each case mixes some, and all are taken by some case.
CONVOLUTIONS: dict[str, tuple[tuple[int, ...], Any, dict[str, Any]]] = {
    "defaults": (PLANE, (3, 2), {}),
    "lower case": (PLANE, (3, 2), {"padding": "same", "strides": 2}),
    "integer kernel": (LINE, 3, {"strides": 2, "padding": "VALID", "use_bias": False}),
    "even circle": (PLANE, (4, 3), {"padding": "CIRCULAR", "strides": (2, 3), "kernel_dilation": (1, 2)}),
    "reflection": (PLANE, (3, 4), {"padding": "REFLECT", "strides": [2, 1], "feature_group_count": 2}),
    "causal": (LINE, (3,), {"padding": "CAUSAL", "kernel_dilation": 2, "strides": 2}),
    "input dilation": (PLANE, (3, 2), {"input_dilation": (2, 3), "padding": [(1, 2), (0, 1)], "strides": (1, 2)}),
    "mask": (PLANE, (2, 3), {"mask": normal(3, 2, 3, 4, 6) > 0, "strides": None, "padding": 1}),
    "space": (SPACE, (2, 3, 1), {"padding": (1, (2, 0), 0), "input_dilation": None, "kernel_dilation": None}),
    "same lower": (PLANE, (2, 4), {"padding": "SAME_LOWER", "strides": 2, "precision": "highest"}),
    "cropped": (PLANE, (2, 2), {"padding": [(-1, 2), (0, -1)]}),
    "computed in bfloat16": (PLANE, (3, 3), {"dtype": BF16}),
    "bfloat16 parameters": (PLANE, (3, 3), {"param_dtype": BF16, "bias_init": nnx.initializers.normal(1.0)}),
    "summed in float32": (PLANE, (3, 3), {"dtype": BF16, "preferred_element_type": F32}),
    "metadata": (LINE, (3,), {"kernel_metadata": {"kind": "conv"}, "bias_metadata": {"kind": "bias"}}),
    "promotion": (LINE, (2,), {"promote_dtype": wide_bias, "kernel_init": nnx.initializers.he_uniform()}),
    "no batch": ((9, 4), (3,), {"strides": 2}),
    "three batch axes": ((2, 1, 3, 5, 4), (3,), {"feature_group_count": 2}),
}
TRANSPOSED: dict[str, tuple[tuple[int, ...], Any, dict[str, Any]]] = {
    "defaults": (PLANE, (3, 2), {}),
    "integer kernel": (LINE, 3, {"strides": 2, "use_bias": False}),
    "same": (PLANE, (4, 5), {"strides": (2, 3), "kernel_dilation": (2, 1)}),
    "same of adjoint": (PLANE, (4, 1), {"strides": (3, 2), "transpose_kernel": True}),
    "same lower": (PLANE, (4, 3), {"padding": "SAME_LOWER", "kernel_dilation": [1, 2]}),
    "valid": (PLANE, (2, 3), {"padding": "VALID", "strides": [3, 2], "precision": "highest"}),
    "valid in space": (SPACE, (1, 2, 2), {"padding": "VALID", "strides": 2, "transpose_kernel": True}),
    "numbers": (PLANE, (3, 3), {"padding": (2, (1, 3)), "strides": (2, 1), "kernel_metadata": {"kind": "conv"}}),
    "cropped": (LINE, 3, {"padding": [(-1, 2)], "mask": normal(3, 3, 6, 4), "transpose_kernel": True}),
    "circle": (PLANE, (4, 3), {"padding": "CIRCULAR", "strides": (2, 2), "mask": normal(3, 4, 3, 4, 6) > 0}),
    "summed in float32": (
        PLANE,
        (3, 3),
        {"dtype": BF16, "preferred_element_type": F32, "bias_metadata": {"kind": "b"}},
    ),
    "no batch": ((9, 4), (3,), {"strides": 2}),
    "three batch axes": ((2, 1, 3, 5, 4), (3,), {"strides": 2}),
}
PAIRS = [(Conv, nnx.Conv, c) for c in CONVOLUTIONS] + [(ConvTranspose, nnx.ConvTranspose, c) for c in TRANSPOSED]


def randomize(module: nnx.Module, seed: int) -> None:
    """Other values in all parameters, of their own dtypes."""
    leaves, treedef = jax.tree.flatten(nnx.state(module, nnx.Param))
    others = [jnp.asarray(normal(seed + i, *leaf.shape), leaf.dtype) for i, leaf in enumerate(leaves)]
    nnx.update(module, jax.tree.unflatten(treedef, others))


def value_and_gradients(module: nnx.Module) -> tuple[Callable[..., dict[str, Any]], Any]:
    """A function of the module's parameters and input, and those parameters."""
    graph, parameters, rest = nnx.split(module, nnx.Param, ...)

    def run(parameters: Any, x: jax.Array) -> dict[str, Any]:
        y, pullback = jax.vjp(lambda parameters, x: nnx.merge(graph, parameters, rest)(x), parameters, x)
        weights = jnp.asarray(normal(9, *y.shape), y.dtype)
        return {"value": y, "gradients": pullback(weights)}

    return run, parameters


def assert_interchangeable(mine: nnx.Module, theirs: nnx.Module, x: jax.Array, bound: float) -> None:
    """The state of either, loaded into the other, gives the same values and gradients, of the same dtypes."""
    (run_mine, _), (run_theirs, _) = value_and_gradients(mine), value_and_gradients(theirs)
    run = jax.jit(lambda mine, theirs, x: (run_mine(mine, x), run_theirs(theirs, x)))
    for source, target in ((theirs, mine), (mine, theirs)):
        randomize(source, 20 if source is theirs else 30)
        nnx.update(target, nnx.state(source))
        got, want = run(nnx.state(mine, nnx.Param), nnx.state(theirs, nnx.Param), x)
        assert [a.dtype for a in jax.tree.leaves(got)] == [a.dtype for a in jax.tree.leaves(want)]
        assert_close(got, want, bound)


@pytest.mark.parametrize(("ours", "flax", "case"), PAIRS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_flax_arguments_give_flax_parameters_and_numbers(ours: Any, flax: Any, case: str) -> None:
    shape, kernel, options = (CONVOLUTIONS if ours is Conv else TRANSPOSED)[case]
    mine, theirs = (module(4, 6, kernel, **options, rngs=nnx.Rngs(7)) for module in (ours, flax))
    for a, b in zip(*(nnx.to_flat_state(nnx.state(m)) for m in (mine, theirs)), strict=True):
        assert a[0] == b[0]
        np.testing.assert_array_equal(a[1][...], b[1][...])
    for name in ("kernel", "bias") if mine.bias is not None else ("kernel",):
        assert getattr(mine, name).get_metadata() == getattr(theirs, name).get_metadata()
    half = BF16 in (options.get("dtype"), options.get("param_dtype")) or "promote_dtype" in options
    assert_interchangeable(mine, theirs, jnp.asarray(normal(1, *shape)), 2e-2 if half else BOUND)


# Size, kernel, stride and dilation: even and odd overlaps, none, and some of more than twice the circle.
CIRCLES = [(5, 4, 1, 1), (5, 5, 1, 1), (4, 4, 2, 1), (4, 3, 2, 2), (2, 2, 3, 1), (2, 7, 1, 1), (1, 6, 2, 1)]


@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_circular_transposes_align_as_flax_does(transpose_kernel: bool) -> None:
    @jax.jit
    def both() -> list[list[jax.Array]]:
        results = []
        for size, kernel, stride, dilation in CIRCLES:
            modules = [
                module(
                    *(1, 1, kernel, stride),
                    padding="CIRCULAR",
                    kernel_dilation=dilation,
                    transpose_kernel=transpose_kernel,
                    kernel_init=lambda _, shape, dtype: jnp.arange(1, 1 + shape[0], dtype=dtype).reshape(shape),
                    rngs=nnx.Rngs(0),
                )
                for module in (ConvTranspose, nnx.ConvTranspose)
            ]
            results.append([module(jnp.arange(1.0, 1 + size)[:, None] ** 2) for module in modules])
        return results

    for (mine, theirs), case in zip(both(), CIRCLES, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, err_msg=str(case))


@pytest.mark.parametrize("module", [Conv, ConvTranspose])
@pytest.mark.parametrize(
    ("layout", "shape"),
    [("NCW", (2, 3, 5, 4)), ("NCHW", (2, 3, 5, 4, 4)), ("NCHW", (0, 2, 5, 4, 4)), ("NCDHW", (5, 4, 3, 4))],
)
def test_channels_first_gives_what_channels_last_gives(module: Any, layout: str, shape: tuple[int, ...]) -> None:
    rank = len(layout) - 2
    options: dict[str, Any] = {"strides": 2, "padding": (1,) * rank, "feature_group_count": 2, "rngs": nnx.Rngs(0)}
    last = module(4, 6, (3,) * rank, **options)
    first = module(4, 6, (3,) * rank, layout=layout, **options)
    nnx.update(first, nnx.state(last))
    batch = len(shape) - rank - 1

    @jax.jit
    def both(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.moveaxis(first(jnp.moveaxis(x, -1, batch)), batch, -1), last(x)

    got, want = both(normal(1, *shape))
    assert got.shape[:batch] == shape[:batch]
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular", ("zeros", "reflect")])
def test_padding_modes_are_those_of_pad(mode: Any) -> None:
    x = normal(1, *PLANE)
    padded = Conv(4, 6, (3, 4), 2, padding=[(1, 2), (2, 0)], padding_mode=mode, rngs=nnx.Rngs(0))
    plain = nnx.Conv(4, 6, (3, 4), 2, padding="VALID", rngs=nnx.Rngs(0))
    np.testing.assert_allclose(padded(x), plain(convjax.pad(x, [(1, 2), (2, 0)], mode=mode)), atol=1e-4)


def test_named_paddings_that_flax_has_not() -> None:
    x = jnp.asarray(normal(1, *PLANE))
    full = Conv(4, 6, (3, 2), padding="FULL", rngs=nnx.Rngs(0))
    causal = Conv(4, 6, (3, 2), padding="CAUSAL", rngs=nnx.Rngs(0))
    assert full(x).shape == (2, 9, 7, 6)
    np.testing.assert_allclose(causal(x), full(x)[:, :7, :6], atol=1e-5)
    spread = Conv(4, 6, (3, 2), 2, padding="SAME", input_dilation=2, rngs=nnx.Rngs(0))
    dilated = jnp.zeros((2, 13, 11, 4)).at[:, ::2, ::2].set(x)
    np.testing.assert_allclose(spread(x), nnx.Conv(4, 6, (3, 2), 2, rngs=nnx.Rngs(0))(dilated), atol=1e-5)


def adjoint_of(conv: Conv, size: tuple[int, ...], y: jax.Array) -> jax.Array:
    x = jax.ShapeDtypeStruct((y.shape[0], *size, conv.in_features), y.dtype)
    return jax.linear_transpose(lambda x: conv(x), x)(y)[0]


@pytest.mark.parametrize(("mode", "groups"), [("zeros", 2), ("circular", 1), ("reflect", 2)])
def test_conv_transpose_is_the_adjoint_of_conv_of_every_size(mode: Any, groups: int) -> None:
    """With transpose_kernel it takes the parameters of the Conv that it is the adjoint of."""
    options: dict[str, Any] = {
        "kernel_dilation": (1, 2),
        "use_bias": False,
        "feature_group_count": groups,
        "padding_mode": mode,
        "rngs": nnx.Rngs(0),
    }
    conv = Conv(6, 4, (4, 3), (3, 2), padding=[(1, 2), (0, 1)], **options)
    # Padding e - 1 - p, with e = 4 and 5.
    of_transposed: dict[str, Any] = {"padding": [(2, 1), (4, 3)], "transpose_kernel": True}
    transposed = ConvTranspose(*(4, 6, (4, 3), (3, 2)), **of_transposed, **options)
    nnx.update(transposed, nnx.state(conv))
    longer = ConvTranspose(*(4, 6, (4, 3), (3, 2)), **of_transposed, output_padding=(2, 1), **options)
    nnx.update(longer, nnx.state(conv))

    @jax.jit
    def pairs(y: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
        least, most = adjoint_of(conv, (7, 10), y), adjoint_of(conv, (9, 11), y)
        return [
            (transposed(y), least),
            (transposed(y, output_size=(9, 11)), most),
            (longer(y), most),
            (longer(y, output_size=(7, 10)), least),
        ]

    for got, want in pairs(normal(1, 2, 3, 4, 4)):
        np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("padding", ["SAME", "VALID", "FULL"])
def test_named_transposes_are_adjoint_to_the_conv_of_that_name(padding: str) -> None:
    conv = Conv(3, 2, (4,), (2,), padding=padding, use_bias=False, rngs=nnx.Rngs(0))
    transposed = ConvTranspose(
        2, 3, (4,), (2,), padding=padding, use_bias=False, transpose_kernel=True, rngs=nnx.Rngs(0)
    )
    nnx.update(transposed, nnx.state(conv))

    @functools.partial(jax.jit, static_argnums=1)
    def both(y: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
        return transposed(y, output_size=n), adjoint_of(conv, (n,), y)

    for n in (10, 11):
        got, want = both(normal(1, *jax.eval_shape(conv, jnp.ones((1, n, 3))).shape), n)
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (4, 2), (2, 3)])
def test_a_causal_transpose_makes_n_s_elements_from_earlier_ones(kernel: int, stride: int) -> None:
    layer = ConvTranspose(1, 1, kernel, stride, padding="CAUSAL", rngs=nnx.Rngs(0))
    reach = jax.jit(jax.jacobian(lambda x: layer(x)))(jnp.ones((5, 1)))[:, 0, :, 0]  # output, input
    assert reach.shape == (5 * stride, 5)
    late = np.arange(5)[None, :] * stride > np.arange(5 * stride)[:, None]
    assert not np.any(np.where(late, reach, 0))
    assert np.all(np.diagonal(reach[::stride]))  # each is seen at once


def test_grouped_transposes_are_dilated_convolutions_with_the_same_parameters() -> None:
    """Without transpose_kernel, as flax states them itself: an nnx.Conv with input_dilation."""
    x = jnp.asarray(normal(1, *PLANE))
    options: dict[str, Any] = {"padding": [(2, 3), (1, 0)], "kernel_dilation": (2, 1), "feature_group_count": 2}
    mine = ConvTranspose(4, 6, (3, 2), (2, 3), **options, rngs=nnx.Rngs(5))
    theirs = nnx.Conv(4, 6, (3, 2), input_dilation=(2, 3), **options, rngs=nnx.Rngs(5))
    np.testing.assert_array_equal(mine.kernel[...], theirs.kernel[...])
    assert_interchangeable(mine, theirs, x, BOUND)


def test_depthwise_has_the_state_of_a_grouped_conv() -> None:
    x = jnp.asarray(normal(1, *PLANE))
    mine = DepthwiseConv(4, (3, 2), 3, strides=2, rngs=nnx.Rngs(2))
    theirs = nnx.Conv(4, 12, (3, 2), 2, feature_group_count=4, rngs=nnx.Rngs(2))
    assert_interchangeable(mine, theirs, x, BOUND)
    filters = mine.kernel[...].reshape(3, 2, 4, 3)
    want = convjax.depthwise_conv(x, filters, bias=mine.bias[...], strides=2, padding="SAME")
    np.testing.assert_allclose(mine(x), want, atol=1e-5)


def test_separable_is_the_function_of_its_kernels() -> None:
    x = jnp.asarray(normal(1, *PLANE))
    windows: dict[str, Any] = {"strides": 2, "padding": 2, "padding_mode": "reflect", "algorithm": "shift"}
    layer = SeparableConv(4, 5, (3, 2), 3, kernel_dilation=2, **windows, rngs=nnx.Rngs(2))
    randomize(layer, 4)
    assert jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(layer))) == {
        "depthwise": {"kernel": (3, 2, 1, 12)},
        "pointwise": {"kernel": (1, 1, 12, 5), "bias": (5,)},
    }
    depthwise, pointwise = layer.depthwise.kernel[...].reshape(3, 2, 4, 3), layer.pointwise.kernel[...]
    want = convjax.separable_conv(x, depthwise, pointwise, bias=layer.pointwise.bias[...], dilation=2, **windows)
    np.testing.assert_allclose(layer(x), want, atol=1e-4)


@pytest.mark.parametrize("layout", [None, "NCHW"])
def test_local_with_equal_kernels_is_conv(layout: str | None) -> None:
    x = normal(1, 2, 3, 6, 5, 4)
    options: dict[str, Any] = {"strides": (2, 1), "padding": [(1, 0), (0, 2)], "kernel_dilation": (1, 2)}
    layer = ConvLocal(4, 3, (3, 2), **options, input_size=(6, 5), layout=layout, rngs=nnx.Rngs(0))
    shared = nnx.Conv(4, 3, (3, 2), **options, rngs=nnx.Rngs(0))
    randomize(shared, 5)
    layer.kernel[...] = jnp.broadcast_to(shared.kernel[...].reshape(24, 3), layer.kernel_shape)
    layer.bias[...] = jnp.broadcast_to(shared.bias[...], layer.bias.shape)
    given = jnp.moveaxis(x, -1, 2) if layout else x
    y = jnp.moveaxis(layer(given), 2, -1) if layout else layer(given)
    np.testing.assert_allclose(y, shared(x), atol=1e-4)


def test_every_local_kernel_is_drawn_as_one_of_conv() -> None:
    """The variance is 1 / fan-in of one output, whatever the number of positions, and no two kernels are equal."""
    layer = ConvLocal(8, 16, (3, 3), input_size=(12, 12), param_dtype=BF16, dtype=F32, rngs=nnx.Rngs(0))
    kernels = np.asarray(layer.kernel[...], np.float32)
    assert layer.kernel.dtype == layer.bias.dtype == BF16
    assert kernels.shape == (12, 12, 72, 16)
    assert np.var(kernels) == pytest.approx(1 / 72, rel=0.02)
    assert len(np.unique(kernels.reshape(144, -1), axis=0)) == 144
    assert layer(jnp.ones((12, 12, 8), BF16)).dtype == F32


@pytest.mark.parametrize("use_mask", [True, False])
def test_deform_starts_as_conv_with_the_same_parameters(use_mask: bool) -> None:
    x = normal(1, 3, *PLANE)
    options: dict[str, Any] = {"strides": (2, 1), "feature_group_count": 2, "kernel_dilation": 2, "dtype": F32}
    layer = DeformConv(4, 6, (3, 2), **options, offset_groups=2, use_mask=use_mask, rngs=nnx.Rngs(3))
    plain = nnx.Conv(4, 6, (3, 2), **options, rngs=nnx.Rngs(3))
    np.testing.assert_array_equal(layer.kernel[...], plain.kernel[...])
    assert layer.offset_conv.kernel.shape == (3, 2, 4, 2 * 6 * (3 if use_mask else 2))
    np.testing.assert_allclose(layer(x), plain(x), atol=1e-4)


@pytest.mark.parametrize("layout", [None, "NCHW"])
def test_deform_samples_where_its_convolution_says(layout: str | None) -> None:
    x = normal(1, 2, 5, 6, 4)
    options: dict[str, Any] = {"strides": (2, 1), "padding": [(1, 0), (2, 1)]}
    layer = DeformConv(4, 3, (2, 3), **options, offset_groups=2, layout=layout, rngs=nnx.Rngs(0))
    randomize(layer, 6)
    of_offsets = nnx.Conv(4, 36, (2, 3), **options, rngs=nnx.Rngs(0))
    nnx.update(of_offsets, nnx.state(layer.offset_conv))
    features = np.asarray(of_offsets(x), np.float64)
    want = reference_deform_conv2d(
        x,
        features[..., :24],
        layer.kernel[...],
        mask=2 / (1 + np.exp(-features[..., 24:])),
        bias=layer.bias[...],
        strides=(2, 1),
        padding=((1, 0), (2, 1)),
        offset_groups=2,
    )
    y = jnp.moveaxis(layer(jnp.moveaxis(x, -1, 1)), 1, -1) if layout else layer(x)
    np.testing.assert_allclose(y, want, atol=1e-3)


def test_deform_learns_its_offsets_from_zero() -> None:
    """At integer positions the gradient is one-sided, and not zero: that of the function, carried to the kernel."""
    x = jnp.asarray(normal(1, 1, 5, 5, 2))
    layer = DeformConv(2, 3, (3, 3), rngs=nnx.Rngs(0))
    weights = jnp.asarray(normal(2, 1, 5, 5, 3))
    gradient = jax.jit(nnx.grad(lambda layer: jnp.sum(weights * layer(x))))(layer)["offset_conv"]["bias"][...]

    def loss(shared: jax.Array) -> jax.Array:
        offset, m = jnp.split(jnp.broadcast_to(shared, (1, 5, 5, 27)), [18], -1)
        y = deform_conv2d(x, offset, layer.kernel[...], mask=1 + m / 2, padding=1)  # 2 sigmoid(m) near 0
        return jnp.sum(weights * y)

    want = jax.jit(jax.grad(loss))(jnp.zeros(27))
    assert np.all(np.abs(want) > 1e-3)
    np.testing.assert_allclose(gradient, want, atol=1e-4)


def test_a_local_kernel_is_drawn_with_its_metadata() -> None:
    init = nnx.with_metadata(nnx.initializers.lecun_normal(), note="a")
    layer = ConvLocal(4, 3, (3, 2), input_size=(6, 5), kernel_init=init, rngs=nnx.Rngs(0))
    plain = ConvLocal(4, 3, (3, 2), input_size=(6, 5), kernel_init=nnx.initializers.lecun_normal(), rngs=nnx.Rngs(0))
    assert layer.kernel.get_metadata("note") == "a"
    np.testing.assert_array_equal(layer.kernel[...], plain.kernel[...])


@pytest.mark.parametrize("layer", [Conv, ConvTranspose, DepthwiseConv, SeparableConv])
@pytest.mark.parametrize("padding", [[1, 2], [[1, 2], [0, 1]]])
def test_numpy_paddings_are_as_lists(layer: Any, padding: Any) -> None:
    channels = (4,) if layer is DepthwiseConv else (4, 6)
    array, given = (layer(*channels, (3, 2), padding=p, rngs=nnx.Rngs(0)) for p in (np.array(padding), padding))
    x = jnp.asarray(normal(1, *PLANE))
    np.testing.assert_array_equal(array(x), given(x))
