"""Max unpooling: values and gradients by the definition, further derivatives, indices that cannot be, refusals."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_adaptive import both
from test_bad_input import ways
from transforms import assert_close

from convjax import max_pool
from convjax.ops.unpool import max_unpool
from convjax.testing.bins import reference_unpool, reference_unpool_vjp

# Windows, size, window, and the options.
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], Any, dict[str, Any]]] = {
    "padded line": ((3,), (5,), 3, {"strides": 2, "padding": 1}),
    "overlapping": ((3, 3), (5, 4), (3, 2), {"strides": 1, "padding": ((0, 0), (0, 0))}),
    "uneven": ((3, 2), (6, 7), (2, 3), {"strides": (2, 4), "padding": ((1, 0), (0, 1)), "output_size": (6, 7)}),
    "volume": ((2, 1, 2), (4, 2, 5), 2, {"output_size": (4, 2, 5)}),
}


def operands_of(windows: tuple[int, ...], size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Values with NaN, infinities and a negative zero, and indices of which several are the same."""
    rng = np.random.default_rng(0)
    shape = (2, *windows, 3)
    y = rng.standard_normal(shape).astype(np.float32)
    y.reshape(-1)[:4] = np.nan, np.inf, -np.inf, -0.0
    return y, rng.integers(0, np.prod(size), shape).astype(np.int32)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients_equal_the_definition(case: Any) -> None:
    windows, size, window, options = case
    f = functools.partial(max_unpool, window=window, **options)
    y, indices = operands_of(windows, size)
    g = np.random.default_rng(1).standard_normal((2, *size, 3)).astype(np.float32)
    one_size = [window] * len(windows) if isinstance(window, int) else window

    @jax.jit
    def ours(y: jax.Array, indices: jax.Array, g: jax.Array) -> Any:
        x, pullback = jax.vjp(lambda y: f(y, indices), y)
        layout = {1: "NCW", 2: "NCHW", 3: "NCDHW"}[len(windows)]
        first = f(jnp.moveaxis(y, -1, 1), jnp.moveaxis(indices, -1, 1), layout=layout)
        unbatched = max_unpool(y[0], indices[0], one_size, **options)
        return x, pullback(g)[0], jnp.moveaxis(first, 1, -1), unbatched

    x, gradient, first, unbatched = ours(y, indices, g)
    want = reference_unpool(y, indices, size).astype(np.float32)
    np.testing.assert_array_equal(x, want)
    np.testing.assert_array_equal(np.signbit(x), np.signbit(want))
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(unbatched, x[0])
    np.testing.assert_array_equal(gradient, reference_unpool_vjp(indices, size, g).astype(np.float32))


def selection(indices: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(N, windows, plane, C): 1 where a window is the last to be written."""
    n, c = indices.shape[0], indices.shape[-1]
    flat = indices.reshape(n, -1, c)
    chosen = np.zeros((n, flat.shape[1], int(np.prod(size)), c))
    for i, o, j in np.ndindex(*flat.shape):
        chosen[i, :, flat[i, o, j], j] = 0
        chosen[i, o, flat[i, o, j], j] = 1
    return chosen


def test_derivatives_equal_those_of_a_matrix() -> None:
    windows, size = (3, 2), (6, 4)
    _, indices = operands_of(windows, size)
    matrix = selection(indices, size).astype(np.float32)
    rng = np.random.default_rng(2)
    pair = jnp.asarray(rng.standard_normal((2, 2, *windows, 3)), jnp.float32)
    c = jnp.asarray(rng.standard_normal((2, 2, *size, 3)), jnp.float32)

    def by_matrix(y: jax.Array) -> jax.Array:
        return jnp.einsum("noc,nopc->npc", y.reshape(2, -1, 3), matrix, precision="highest").reshape(2, *size, 3)

    functions = (lambda y: max_unpool(y, jnp.asarray(indices), 2)), by_matrix
    got, want = jax.jit(lambda *operands: [both(f, *operands) for f in functions])(c, pair)
    assert_close(got, want, 1e-6)


def test_gradients_are_added_up_nowhere() -> None:
    y, indices = operands_of((3, 2), (6, 4))
    gradient = jax.grad(lambda y: jnp.square(max_unpool(y, jnp.asarray(indices), 2)).sum())
    assert "scatter-add" not in str(jax.make_jaxpr(gradient)(y))


def test_vmap_over_indices_and_over_both() -> None:
    y, indices = operands_of((3, 2), (6, 4))
    y, indices = jnp.asarray(np.nan_to_num(y, posinf=1, neginf=2)), jnp.asarray(indices)

    @jax.jit
    def mapped(y: jax.Array, indices: jax.Array) -> Any:
        f = functools.partial(max_unpool, window=(2, 2))
        return (
            jax.vmap(f)(y, indices),
            jax.vmap(f, (None, 0))(y[0], indices),
            jax.vmap(f, (2, 2), 2)(jnp.moveaxis(y, 0, 2), jnp.moveaxis(indices, 0, 2)),
        )

    both, over_indices, at_two = mapped(y, indices)
    want = reference_unpool(y, indices, (6, 4))
    np.testing.assert_array_equal(both, want.astype(np.float32))
    np.testing.assert_array_equal(jnp.moveaxis(at_two, 2, 0), both)
    again = reference_unpool(jnp.stack([y[0], y[0]]), indices, (6, 4))
    np.testing.assert_array_equal(over_indices, again.astype(np.float32))


@pytest.mark.parametrize(
    "options", [{"strides": 1}, {"strides": 2, "padding": ((1, 1), (1, 1))}, {"strides": 2, "padding": "SAME"}], ids=str
)
def test_what_is_pooled_again_is_the_same(options: dict[str, Any]) -> None:
    x = jnp.asarray(np.random.default_rng(0).random((2, 7, 6, 2)) + 1, jnp.float32)

    @jax.jit
    def back_and_again(x: jax.Array) -> tuple[jax.Array, ...]:
        y, indices = max_pool(x, 3, return_indices=True, **options)
        back = max_unpool(y, indices, 3, output_size=(7, 6), **options)
        return y, back, max_pool(back, 3, **options)

    y, back, again = back_and_again(x)
    np.testing.assert_array_equal(again, y)
    np.testing.assert_array_equal(back, np.where(np.asarray(back) > 0, x, 0))


def test_any_dtype_is_kept() -> None:
    indices = jnp.array([[1, 1], [3, 0]], jnp.int32)[..., None]
    ones = [np.ones((2, 2, 1), jnp.dtype(dtype)) for dtype in ("bfloat16", "float16", "int8", "bool", "complex64")]
    unpooled = jax.jit(lambda ones: [max_unpool(y, indices, 2) for y in ones])(ones)
    for y, x in zip(ones, unpooled, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x[..., 0], np.array([[0, 1, 0, 0], [1, 0, 0, 1]], y.dtype))


def test_empty_batches_and_no_channels() -> None:
    for shape in ((0, 2, 2, 3), (2, 2, 2, 0)):
        y, indices = jnp.ones(shape), jnp.zeros(shape, jnp.int32)
        x, pullback = jax.vjp(lambda y, i=indices: max_unpool(y, i, 2), y)
        assert x.shape == (shape[0], 4, 4, shape[-1])
        assert pullback(x)[0].shape == shape


@pytest.mark.usefixtures("x64")
def test_indices_out_of_the_plane_are_written_nowhere_where_they_cannot_be_seen() -> None:
    y = jnp.arange(1.0, 7.0).reshape(6, 1)
    for dtype, out in (("int32", (-1, 12, 2**31 - 1)), ("int64", (-12, 2**32 + 1, 2**62))):
        indices = jnp.array([*out, 0, 11, 5], dtype)[:, None]
        x, pullback = jax.vjp(jax.jit(lambda y, i=indices: max_unpool(y, jnp.asarray(i) * 1, 2)), y)
        np.testing.assert_array_equal(x[:, 0], [4, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 5])
        np.testing.assert_array_equal(pullback(jnp.ones_like(x))[0][:, 0], [0, 0, 0, 1, 1, 1])
        with pytest.raises(ValueError, match=f"indices hold {out[0]}, .*below 12"):
            max_unpool(y, indices, 2)


def test_up_02_an_overwritten_element_has_no_gradient() -> None:
    y = jnp.array([[10.0, 20], [30, 40]])[..., None]
    indices = jnp.array([[1, 6], [1, 5]])[..., None]
    x, pullback = jax.vjp(lambda y: max_unpool(y, indices, (2, 2)), y)
    assert x[..., 0].tolist() == [[0, 30, 0, 0], [0, 40, 20, 0], [0] * 4, [0] * 4]
    assert pullback(jnp.ones_like(x))[0][..., 0].tolist() == [[0, 1], [1, 1]]


def test_up_03_several_sizes_pool_to_the_same_windows() -> None:
    x = jax.ShapeDtypeStruct((1, 3, 135, 240), np.float32)
    y, indices = jax.eval_shape(lambda x: max_pool(x, 2, return_indices=True, layout="NCHW"), x)
    assert y.shape == (1, 3, 67, 120)
    for output_size, want in ((None, (134, 240)), ((135, 240), (135, 240))):
        unpool = functools.partial(max_unpool, window=2, output_size=output_size, layout="NCHW")
        x = jax.eval_shape(unpool, y, indices)
        assert x.shape == (1, 3, *want)


def test_up_04_indices_that_no_pooling_gives() -> None:
    y = jnp.array([[1.0, 2], [3, 4]])[..., None]
    for indices, index in (([[-1, 3], [16, 5]], -1), ([[0, 3], [16, 5]], 16)):
        call = functools.partial(max_unpool, indices=jnp.array(indices)[..., None], window=(2, 2))
        for f in (call, jax.grad(lambda y, call=call: call(y).sum())):
            with pytest.raises(ValueError, match=f"indices hold {index}, but must be .*below 16, .* plane of 4 x 4"):
                f(y)


Y, INDICES = jnp.ones((2, 3, 3, 4)), jnp.zeros((2, 3, 3, 4), jnp.int32)
REFUSED: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "rank": ((Y[0, 0], INDICES[0, 0], (2, 2)), {}, ValueError, r"y of shape \(3, 4\) must have 4 axes .*or 3 without"),
    "shape of indices": (
        (Y, INDICES[:, :2], 2),
        {},
        ValueError,
        r"indices of shape \(2, 2, 3, 4\) must have the shape of y",
    ),
    "rank of indices": (
        (Y[0], INDICES, (2, 2)),
        {},
        ValueError,
        r"indices of shape \(2, 3, 3, 4\) must have the shape of y",
    ),
    "dtype of indices": (
        (Y, INDICES.astype(float), 2),
        {},
        TypeError,
        "indices are float32, but must be int32 or int64",
    ),
    "small indices": ((Y, INDICES.astype("int16"), 2), {}, TypeError, "indices are int16, but must be int32 or int64"),
    "window": ((Y, INDICES, 0), {}, ValueError, r"window must be at least 1 .*got \(0, 0\)"),
    "strides": ((Y, INDICES, 2), {"strides": (1, 0)}, ValueError, r"strides must be at least 1 .*got \(1, 0\)"),
    "three strides": ((Y, INDICES, 2), {"strides": (1, 1, 1)}, ValueError, "strides has 3 entries for 2 spatial axes"),
    "padding": ((Y, INDICES, 3), {"padding": 2}, ValueError, r"padding \(2, 2\) .* between 0 and half the window, 1"),
    "negative padding": ((Y, INDICES, 3), {"padding": -1}, ValueError, r"padding \(-1, -1\) on spatial axis 0 must be"),
    "named padding": (
        (Y, INDICES, 3),
        {"padding": "SAME"},
        ValueError,
        "padding 'SAME' depends on the size .*give it as output_size",
    ),
    "a stride more": (
        (Y, INDICES, 2),
        {"output_size": (6, 8)},
        ValueError,
        "output_size 8 on spatial axis 1 .* 5 and 7",
    ),
    "a stride less": (
        (Y, INDICES, 2),
        {"output_size": (4, 6)},
        ValueError,
        "output_size 4 on spatial axis 0 .* 5 and 7",
    ),
    "sizes": ((Y, INDICES, 2), {"output_size": (6, 6, 6)}, ValueError, "output_size has 3 entries for 2 spatial axes"),
    "no size": (
        (Y[:, :1, :1], INDICES[:, :1, :1], 1),
        {"output_size": 0},
        ValueError,
        "output_size 0 .*between 1 and 1",
    ),
    "nothing left": (
        (Y[:, :1, :1], INDICES[:, :1, :1], 2),
        {"padding": 1},
        ValueError,
        r"output_size would be \(0, 0\) by default: give one of at least 1",
    ),
    "no windows": (
        (Y[:, :0], INDICES[:, :0], 2),
        {"output_size": (1, 6)},
        ValueError,
        "y of shape .* has no elements on",
    ),
    "layout": ((Y, INDICES, 2), {"layout": "CHWN"}, ValueError, "layout must be .*got 'CHWN'"),
}


@pytest.mark.parametrize("way", ["eager", "jit", "vmap"])
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused_in_one_sentence_that_names_the_argument(case: Any, way: str) -> None:
    (y, *rest), options, error, message = case
    with pytest.raises(error, match=message) as caught:
        ways(lambda y: max_unpool(y, *rest, **options))[way](y)
    assert "\n" not in str(caught.value).split("\n--------------------\n")[0].strip()


def test_operands_are_positional_and_the_rest_is_not() -> None:
    kinds = [p.kind.name for p in inspect.signature(max_unpool).parameters.values()]
    assert kinds == ["POSITIONAL_OR_KEYWORD"] * 3 + ["KEYWORD_ONLY"] * 4
