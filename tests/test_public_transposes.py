"""The cases of `cases.json` about transposed convolution, unfolding and folding, and true convolution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, LAYOUTS, batched, numbers, plane
from transforms import applicable, assert_close

import convjax
from convjax.problem import Problem

TORCH_NAMES = {"stride": "strides"}


def transposed(x: jax.Array, w: jax.Array, **options: object) -> jax.Array:
    """`conv_transpose` of channels-first x by PyTorch's w (C, K / groups, *kernel)."""
    renamed = {TORCH_NAMES.get(name, name): value for name, value in options.items()}
    return convjax.conv_transpose(x, jnp.moveaxis(w, (0, 1), (-2, -1)), layout=LAYOUTS[x.ndim - 2], **renamed)


def by_every_algorithm(x: jax.Array, w: jax.Array, **options: object) -> list[jax.Array]:
    """The same, eagerly, chosen under jit, and by every algorithm that applies."""
    (row,) = convjax.explain(lambda x, w: transposed(x, w, **options), x, w, platform="cpu").rows
    problem: Problem = row.problem
    algorithms = (None, *map(str, applicable(problem)))
    return [
        transposed(x, w, **options),
        *jax.jit(lambda x, w: [transposed(x, w, algorithm=a, **options) for a in algorithms])(x, w),
    ]


def test_ct_02_output_length_counts_stride_dilation_and_padding() -> None:
    args = dict(CASES["CT-02"]["args"])
    x, kernel = jnp.ones(args.pop("x_shape")), args.pop("kernel")
    y = jax.eval_shape(lambda x: transposed(x, jnp.ones((1, 1, *kernel)), **args), x)
    assert list(y.shape[2:]) == CASES["CT-02"]["expected"]["spatial"]


def test_ct_04_output_padding_is_computed() -> None:
    args = CASES["CT-04"]["args"]
    x, w = batched(numbers(args["x"]), 2), jnp.asarray(numbers(args["w"]))
    for y in by_every_algorithm(x, w, stride=2, padding=1, output_padding=1):
        np.testing.assert_allclose(y[0, 0], CASES["CT-04"]["expected"]["value"], atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "output_padding": 2}, {"dilation": 3, "output_padding": 3}])
def test_ct_05_output_padding_is_below_stride_or_dilation(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"output_padding \d must be .*below the larger of stride \d and dilation \d"):
        transposed(plane(3, 3), jnp.ones((1, 1, 3)), **{"output_padding": 1, **options})


def test_ct_07_padding_crops() -> None:
    expected = CASES["CT-07"]["expected"]
    x, w = jax.ShapeDtypeStruct((1, 1, 128, 128), np.float32), jax.ShapeDtypeStruct((1, 1, 4, 4), np.float32)
    y = jax.eval_shape(lambda x, w: transposed(x, w, stride=4, padding=0), x, w)
    assert y.shape[2:] == (expected["torch_meaning"],) * 2
    lax_padding = jax.eval_shape(lambda x, w: transposed(x, w, stride=4, padding=4 - 1), x, w)  # pads the input by 0
    assert lax_padding.shape[2:] == (expected["lax_explicit_0_0"],) * 2


def test_ct_08_same_is_the_adjoint_of_the_same_convolution() -> None:
    args = CASES["CT-08"]["args"]
    x, w = batched(numbers(args["x"]), 1), batched(numbers(args["w"]), 1)
    for y in by_every_algorithm(x, w, stride=2, padding="SAME"):
        np.testing.assert_allclose(y[0, 0], CASES["CT-08"]["expected"]["value"], atol=1e-5)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER", "VALID", "FULL", "CAUSAL", 1, [(2, 0)], [(-1, 1)]])
def test_ct_08_every_padding_is_that_of_the_convolution_transposed(padding: object, mode: str) -> None:
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.standard_normal((4, 2, 3)), jnp.float32)
    cases = [(2, 7), (3, 9)]

    @jax.jit
    def both(cotangents: list[jax.Array]) -> list[tuple[jax.Array, jax.Array]]:
        results = []
        for (strides, size), cotangent in zip(cases, cotangents, strict=True):
            options = {"strides": strides, "padding": padding, "padding_mode": mode}
            pullback = jax.linear_transpose(lambda x, o=options: convjax.conv(x, w, **o), jnp.zeros((1, size, 2)))  # type: ignore[misc]
            got = convjax.conv_transpose(cotangent, jnp.swapaxes(w, -1, -2), output_size=size, **options)
            results.append((got, pullback(cotangent)[0]))
        return results

    def output(strides: int, size: int) -> tuple[int, ...]:
        return jax.eval_shape(
            lambda x: convjax.conv(x, w, strides=strides, padding=padding, padding_mode=mode), jnp.zeros((1, size, 2))
        ).shape

    for got, want in both([jnp.asarray(rng.standard_normal(output(*case)), jnp.float32) for case in cases]):
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_ct_09_groups_stand_one_after_another() -> None:
    args, expected = CASES["CT-09"]["args"], CASES["CT-09"]["expected"]
    w = jnp.arange(1.0, args["w"]["range1"] + 1).reshape(args["w"]["shape"])
    for y in by_every_algorithm(jnp.ones((1, 4, 1, 1)), w, groups=args["groups"]):
        np.testing.assert_allclose(y.ravel(), expected["value"], atol=1e-5)


def test_ct_11_more_padding_makes_less_output() -> None:
    args, expected = CASES["CT-11"]["args"], CASES["CT-11"]["expected"]
    lengths = []
    for options in map(dict, args["cases"]):
        w = jnp.ones((1, 1, *[options.pop("kernel")] * 2))
        lengths.append(transposed(jnp.ones((1, 1, args["n"], args["n"])), w, **options).shape[2])
    assert lengths == expected["lengths"]


@pytest.mark.parametrize("algorithm", [None, "lax", "fft", "shift(by=multiply)", "im2col", "vmap"])
def test_cv_07_same_is_as_long_as_x_where_the_kernel_is_longer(algorithm: str | None) -> None:
    args = CASES["CV-07"]["args"]
    x, w = jnp.asarray(numbers(args["x"]))[:, None], jnp.asarray(numbers(args["v"]))[:, None, None]
    y = convjax.convolve(x, w, padding="SAME_LOWER", algorithm=algorithm)
    np.testing.assert_allclose(y[:, 0], CASES["CV-07"]["expected"]["value"], atol=1e-6)


@pytest.mark.parametrize("algorithm", [None, "lax", "fft", "shift(by=multiply)", "im2col", "vmap"])
def test_cv_09_nothing_is_rounded_to_one_operands_integers(algorithm: str | None) -> None:
    args = CASES["CV-09"]["args"]
    x, w = jnp.asarray(args["x"], args["x_dtype"])[:, None], jnp.asarray(args["v"], args["v_dtype"])[:, None, None]
    y = convjax.convolve(x, w, padding="FULL", algorithm=algorithm)
    assert y.dtype == w.dtype
    np.testing.assert_allclose(y[:, 0], CASES["CV-09"]["expected"]["value"], atol=1e-6)


def test_uf_01_impossible_geometry_is_refused_on_each_axis() -> None:
    """(4 - 9) + 1 and (5 - 9) + 1 blocks: the product of two negative counts is the 12 columns."""
    with pytest.raises(ValueError, match=r"axis 0 has 4 elements.*dilated kernel's 9"):
        convjax.fold(jnp.ones((1, 3, 4, 12)), (4, 5), 2, dilation=8)


def test_uf_02_what_overlaps_is_added() -> None:
    x = jnp.asarray(numbers(CASES["UF-02"]["args"]["x"]))[None, ..., None]
    folded = convjax.fold(convjax.unfold(x, 2), (3, 3), 2)
    np.testing.assert_array_equal(folded[0, ..., 0], CASES["UF-02"]["expected"]["value"])
    cover = convjax.fold(convjax.unfold(jnp.ones_like(x), 2), (3, 3), 2)
    np.testing.assert_array_equal(folded / cover, x)


def test_uf_03_per_axis_stride_dilation_and_padding() -> None:
    args, expected = CASES["UF-03"]["args"], CASES["UF-03"]["expected"]
    columns = convjax.unfold(
        jnp.asarray(numbers(args["x"])),
        args["kernel"],
        strides=args["stride"],
        padding=args["padding"],
        dilation=args["dilation"],
        layout="NCHW",
    )
    assert list(columns.reshape(1, 12, -1).shape) == expected["shape"]
    np.testing.assert_array_equal(columns.reshape(12, -1), expected["value"])


def test_uf_04_padding_is_height_then_width() -> None:
    args = CASES["UF-04"]["args"]
    columns = convjax.unfold(jnp.ones(args["x_shape"]), args["kernel"], padding=args["padding"], layout="NCHW")
    assert list(columns.reshape(1, 6, -1).shape) == CASES["UF-04"]["expected"]["shape"]


def test_gr_08_empty_batches_of_transposes_have_zero_weight_gradients() -> None:
    x, w, bias = jnp.ones((0, 4, 5, 5)), jnp.ones((4, 3, 2, 2)), jnp.ones(6)

    def f(x: jax.Array, w: jax.Array, bias: jax.Array) -> jax.Array:
        return transposed(x, w, bias=bias, stride=2, groups=2)

    y, pullback = jax.vjp(f, x, w, bias)
    assert y.shape == (0, 6, 10, 10)
    grad_x, grad_w, grad_bias = pullback(y)
    assert grad_x.shape == x.shape
    np.testing.assert_array_equal(grad_w, np.zeros(w.shape))
    np.testing.assert_array_equal(grad_bias, np.zeros(6))


def test_jx_07_vmap_of_the_transpose_equals_a_loop_and_so_does_its_gradient() -> None:
    args = CASES["JX-07"]["args"]
    cases = [(tuple(axes), groups) for axes, groups in zip(args["in_axes"], args["groups"][::-1] * 2, strict=True)]
    rng = np.random.default_rng(0)

    def value_and_grads(x: jax.Array, w: jax.Array, groups: int) -> object:
        def f(x: jax.Array, w: jax.Array) -> jax.Array:
            return transposed(x, w, stride=2, groups=groups, algorithm="lax")

        return f(x, w), jax.grad(lambda x, w: jnp.sum(jnp.square(f(x, w))), (0, 1))(x, w)

    def members(x: jax.Array, axis: int | None) -> jax.Array:
        return jnp.broadcast_to(x, (4, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)

    @jax.jit
    def both(operands: list[list[jax.Array]]) -> tuple[object, object]:
        mapped, looped = [], []
        for (axes, groups), (x, w) in zip(cases, operands, strict=True):
            f = functools.partial(value_and_grads, groups=groups)
            mapped.append(jax.vmap(f, axes)(x, w))
            looped.append(jax.lax.map(lambda pair, f=f: f(*pair), (members(x, axes[0]), members(w, axes[1]))))
        return mapped, looped

    operands = []
    for axes, groups in cases:
        shapes = zip(((2, 4, 5), (4, 4 // groups, 3)), axes, strict=True)
        full = [shape if axis is None else (*shape[:axis], 4, *shape[axis:]) for shape, axis in shapes]
        operands.append([jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in full])
    mapped, looped = both(operands)
    assert_close({"all": mapped}, {"all": looped}, 1e-5)
