"""Blur pooling and poolings over all spatial axes: values and derivatives in float64, layouts, refusals."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transforms import Results, assert_close, differentiated

import convjax
from convjax.ops.blur import blur_pool
from convjax.ops.global_pool import global_avg_pool, global_max_pool
from convjax.testing.pooling import reference_blur

LAYOUTS = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
NUMPY_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap", "zeros": "constant"}
Linear = Callable[[Any], np.ndarray]

# Shape of x, filter sizes, strides, padding modes.
BLURS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[str, ...]]] = {
    "line": ((2, 7, 2), (3,), (2,), ("reflect",)),
    "plane": ((1, 6, 5, 2), (4, 5), (2, 1), ("replicate", "circular")),
    "space": ((1, 3, 4, 5, 1), (2, 3, 1), (1, 3, 2), ("zeros", "reflect", "replicate")),
    "longer than x": ((1, 2, 1, 2), (7, 3), (2, 2), ("reflect", "reflect")),
}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def of_linear(f: Linear, c: np.ndarray, x: np.ndarray) -> Results:
    """What `differentiated` should return for the linear map f, by f of every unit vector."""
    units = np.eye(x[0].size).reshape(-1, *x.shape[1:])
    matrix = np.stack([f(unit) for unit in units])

    def adjoint(g: np.ndarray) -> np.ndarray:
        return np.sum(matrix * g, tuple(range(1, matrix.ndim))).reshape(x.shape[1:])

    return {
        "value": f(x[0]),
        "grad": (adjoint(c[0]),),
        "jvp": f(x[1]),
        "hvp": (adjoint(c[0] * f(x[1])),),
        "vmap": np.stack([f(x[0]), f(x[1])]),
        "vmap of grad": (np.stack([adjoint(c[i] * f(x[i])) for i in range(2)]),),
    }


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("shape", "size", "strides", "modes"), BLURS.values(), ids=BLURS)
def test_blur_and_its_derivatives(
    shape: tuple[int, ...], size: tuple[int, ...], strides: tuple[int, ...], modes: tuple[str, ...]
) -> None:
    options: dict[str, Any] = {"filter_size": size, "strides": strides, "padding_mode": modes}

    def want(x: Any) -> np.ndarray:
        return reference_blur(x, size, strides, [NUMPY_MODES[mode] for mode in modes])

    x = normal(0, 2, *shape)
    c = normal(1, 2, *want(x[0]).shape)
    layout = LAYOUTS[len(size)]

    @jax.jit
    def ours(c: jax.Array, x: jax.Array) -> Any:
        first = blur_pool(jnp.moveaxis(x[0], -1, 1), layout=layout, **options)
        return differentiated(lambda x: blur_pool(x, **options), c, x), first, blur_pool(x[0][0], **options)

    got, first, unbatched = ours(c, x)
    assert_close(got, of_linear(want, c, x), 1e-12)
    assert_close(
        {"first": jnp.moveaxis(first, 1, -1), "one": unbatched}, {"first": want(x[0]), "one": want(x[0])[0]}, 1e-12
    )


def test_blur_keeps_constants_and_halves_its_size() -> None:
    for dtype in ("float32", "float16", "bfloat16"):
        y = blur_pool(jnp.full((1, 7, 8, 3), 1.5, dtype), filter_size=5)
        assert y.dtype == dtype
        assert y.shape == (1, 4, 4, 3)
        np.testing.assert_array_equal(y, np.full(y.shape, 1.5))
    assert blur_pool(jnp.ones((0, 7, 8, 3))).shape == (0, 4, 4, 3)
    assert blur_pool(jnp.ones((7, 8, 3)), layout="NHWC").shape == (4, 4, 3)
    assert blur_pool(jnp.ones((7, 8, 3))).shape == (7, 4, 3)  # a batch of lines
    x = jnp.asarray(normal(0, 2, 9, 3), jnp.float32)
    np.testing.assert_array_equal(blur_pool(x, filter_size=1), x[:, ::2])
    assert blur_pool(x, algorithm="shift").shape == (2, 5, 3)


@pytest.mark.usefixtures("x64")
def test_global_average_and_its_derivatives() -> None:
    x, c = normal(0, 2, 2, 3, 4, 2), normal(1, 2, 2, 2)

    @jax.jit
    def ours(c: jax.Array, x: jax.Array) -> Any:
        kept = global_avg_pool(jnp.moveaxis(x[0], -1, 1), layout="NCHW", keepdims=True)
        return differentiated(global_avg_pool, c, x), kept, global_avg_pool(x[0][0], layout="NHWC")

    got, kept, unbatched = ours(c, x)
    want = of_linear(lambda x: np.mean(x, (1, 2)), c, x)
    assert_close(got, want, 1e-12)
    assert kept.shape == (2, 2, 1, 1)
    assert_close({"kept": kept[..., 0, 0], "one": unbatched}, {"kept": want["value"], "one": want["value"][0]}, 1e-12)


def test_global_maximum_and_its_gradient() -> None:
    x = np.round(normal(0, 2, 3, 4, 5, 2)).astype(np.float32)
    x[1, 1, 2, 3, 0] = np.nan

    @jax.jit
    def ours(x: jax.Array) -> Any:
        first = global_max_pool(jnp.moveaxis(x, -1, 1), layout="NCDHW", keepdims=True)
        return (
            global_max_pool(x),
            jax.grad(lambda x: global_max_pool(x).sum())(x),
            first,
            global_max_pool(x[0], layout="NDHWC"),
        )

    y, gradient, first, unbatched = ours(x)
    np.testing.assert_array_equal(y, np.max(x, (1, 2, 3)))
    np.testing.assert_array_equal(first, np.asarray(y)[..., None, None, None])
    np.testing.assert_array_equal(unbatched, y[0])
    flat = x.reshape(2, -1, 2)
    want = np.zeros_like(flat)
    np.put_along_axis(want, np.argmax(flat, 1)[:, None], 1, 1)  # NumPy's argmax: the first NaN, else the first maximum
    np.testing.assert_array_equal(np.asarray(gradient).reshape(flat.shape), want)
    assert global_max_pool(jnp.full((1, 2, 1), -128, "int8")).item() == -128


def test_global_pools_tell_axes_by_rank_and_layout() -> None:
    for pool in (global_avg_pool, global_max_pool):
        assert pool(jnp.ones((5, 3))).shape == (3,)
        assert pool(jnp.ones((2, 5, 3)), keepdims=True).shape == (2, 1, 3)
        assert pool(jnp.ones((3, 5)), layout="NCW").shape == (3,)
        assert pool(jnp.ones((2, 1, 4, 5, 6, 3))).shape == (2, 3)
        assert pool(jnp.ones((0, 5, 5, 3))).shape == (0, 3)
        assert jax.grad(lambda x, f=pool: f(x).sum())(jnp.ones((0, 5, 5, 3))).shape == (0, 5, 5, 3)
    for dtype in ("float16", "bfloat16"):
        x = jnp.full((1, 300, 300, 1), 3.0, dtype)
        assert global_avg_pool(x).item() == 3
        assert global_avg_pool(x).dtype == dtype


X = jnp.ones((2, 6, 6, 4))
REFUSED: dict[str, tuple[Callable[..., jax.Array], jax.Array, dict[str, Any], type[Exception], str]] = {
    "filter": (blur_pool, X, {"filter_size": 0}, ValueError, r"filter_size must be at least 1 .*got \(0, 0\)"),
    "filters": (blur_pool, X, {"filter_size": (3,)}, ValueError, r"x of shape .* must have 3 axes"),
    "fraction": (blur_pool, X, {"filter_size": 2.5}, TypeError, "filter_size must hold integers, got .*2.5"),
    "stride": (blur_pool, X, {"strides": 0}, ValueError, r"strides must be at least 1 .*got \(0, 0\)"),
    "strides": (blur_pool, X, {"filter_size": (3, 3), "strides": (2, 2, 2)}, ValueError, "strides has 3 entries for 2"),
    "mode": (blur_pool, X, {"padding_mode": "mirror"}, ValueError, "padding_mode must be .*'mirror'"),
    "layout": (blur_pool, X, {"layout": "NCW"}, ValueError, r"x of shape .* must have 3 axes"),
    "four axes": (blur_pool, X[None, None], {}, ValueError, r"x of shape .* has 4 spatial axes, but .* takes 1 to 3"),
    "no axis": (blur_pool, X[0, 0, 0], {}, ValueError, r"x of shape \(4,\) has no spatial axis"),
    "no elements": (blur_pool, X[:, :0], {}, ValueError, "cannot fill .* from an axis of size 0"),
    "integers": (blur_pool, X.astype(int), {}, TypeError, "x is int32, whose averages .*cast"),
    "algorithm": (blur_pool, X, {"algorithm": "cudnn"}, ValueError, "'cudnn' is not one of lax, shift"),
    "mean of integers": (global_avg_pool, X.astype(int), {}, TypeError, "x is int32, whose averages .*cast"),
    "mean of nothing": (global_avg_pool, X[:, :, :0], {}, ValueError, r"x of shape \(2, 6, 0, 4\) has no elements"),
    "maximum of nothing": (global_max_pool, X[:, :0], {}, ValueError, r"x of shape \(2, 0, 6, 4\) has no elements"),
    "mean of a pixel": (global_avg_pool, X[0, 0, 0], {}, ValueError, r"x of shape \(4,\) has no spatial axis"),
    "maximum of a pixel": (global_max_pool, X[0, 0, 0], {}, ValueError, r"x of shape \(4,\) has no spatial axis"),
    "mean's layout": (global_avg_pool, X, {"layout": "NCW"}, ValueError, r"x of shape .* must have 3 axes"),
    "maximum's layout": (
        global_max_pool,
        X,
        {"layout": "CHWN"},
        ValueError,
        "layout must be .*NHWC, NCHW .*got 'CHWN'",
    ),
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused_in_one_sentence_that_names_the_argument(case: Any, jit: bool) -> None:
    function, x, options, error, message = case
    call = functools.partial(function, **options)
    with pytest.raises(error, match=message) as caught:
        (jax.jit(call) if jit else call)(x)
    assert "\n" not in str(caught.value).split("\n--------------------\n")[0].strip()


def test_only_x_is_positional() -> None:
    for function in (blur_pool, global_avg_pool, global_max_pool):
        kinds = [parameter.kind.name for parameter in inspect.signature(function).parameters.values()]
        assert kinds[0] == "POSITIONAL_OR_KEYWORD"
        assert set(kinds[1:]) == {"KEYWORD_ONLY"}


def test_a_blurred_maximum_is_the_paper_s() -> None:
    x = jnp.asarray(normal(0, 1, 8, 8, 2), jnp.float32)
    y = blur_pool(convjax.max_pool(x, 2, strides=1))
    largest = np.max(np.lib.stride_tricks.sliding_window_view(np.asarray(x), (2, 2), (1, 2)), (-2, -1))
    assert_close({"value": y}, {"value": reference_blur(largest, (3, 3), (2, 2), ("reflect", "reflect"))}, 2e-6)
