"""Poolings of operands that are seldom tried: NumPy's arrays, bools, float8, very large and very many elements."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convjax
from convjax import functional

SAMPLES = np.random.default_rng(1).random((2, 3, 2))
# Functions of x (2, 7, 6, 3).
POOLS: dict[str, Callable[[Any], Any]] = {
    **{
        name: functools.partial(getattr(convjax, name), window=3, strides=2, padding=1)
        for name in ("max_pool", "min_pool", "sum_pool", "avg_pool", "lp_pool", "logsumexp_pool", "median_pool")
    },
    "max_pool and indices": functools.partial(convjax.max_pool, window=3, padding="SAME", return_indices=True),
    "adaptive_avg_pool": functools.partial(convjax.adaptive_avg_pool, output_size=(3, 4)),
    "adaptive_max_pool": functools.partial(convjax.adaptive_max_pool, output_size=(3, 4), return_indices=True),
    "fractional_max_pool": functools.partial(convjax.fractional_max_pool, window=2, output_size=4, samples=SAMPLES),
    "max_unpool": lambda x: convjax.max_unpool(x, np.broadcast_to(np.arange(42).reshape(7, 6, 1), (2, 7, 6, 3)), 2),
    "blur_pool": convjax.blur_pool,
    "global_avg_pool": convjax.global_avg_pool,
    "global_max_pool": convjax.global_max_pool,
    "lp_pool2d": lambda x: functional.lp_pool2d(x, -2, 2),
    "lp_pool2d of signs": lambda x: functional.lp_pool2d(x, 1, 2, ceil_mode=True),
}
OF_INTEGERS = ("max_pool", "min_pool", "sum_pool", "median_pool", "adaptive_max_pool", "max_unpool", "global_max_pool")


def test_numpy_arrays_and_nested_lists_are_read_as_jax_reads_them() -> None:
    """In jax's own width: NumPy's float64 and int64 are float32 and int32, padding and results included."""
    fractions = np.random.default_rng(0).standard_normal((2, 7, 6, 3)) - 9
    integers = np.arange(-400, -148).reshape(2, 7, 6, 3)

    @jax.jit
    def pooled() -> Any:
        calls = [(f, fractions) for f in POOLS.values()] + [(POOLS[name], integers) for name in OF_INTEGERS]
        return [(f(x), f(x.tolist()), f(jnp.asarray(x))) for f, x in calls]

    for *gots, want in pooled():
        for got in gots:
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)


def test_bools_have_a_largest_and_a_least() -> None:
    x = np.random.default_rng(0).random((2, 9, 8, 3)) < 0.3
    options: dict[str, Any] = {"window": 2, "padding": 1}

    @jax.jit
    def ours(x: jax.Array) -> Any:
        return convjax.max_pool(x, return_indices=True, **options), convjax.min_pool(x, **options)

    (largest, indices), least = ours(x)
    (wide_largest, wide_indices), wide_least = ours(x.astype(np.int8))
    assert largest.dtype == least.dtype == np.bool_
    for a, b in ((largest, wide_largest), (indices, wide_indices), (least, wide_least)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_padding_never_wins_where_a_dtype_has_no_infinity(dtype: str) -> None:
    x = jnp.asarray([-2.0, -1, -448, -448, -3, -4], dtype)[:, None]
    y, indices = jax.jit(lambda x: convjax.max_pool(x, 2, padding=1, return_indices=True))(x)
    least = jax.jit(lambda x: convjax.min_pool(x, 2, padding=1))(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y[:, 0].astype(float), np.asarray([-2, -1, -3, -4], dtype).astype(float))
    assert indices[:, 0].tolist() == [0, 1, 4, 5]
    np.testing.assert_array_equal(least[:, 0].astype(float), np.asarray([-2, -448, -448, -4], dtype).astype(float))


def test_gradients_of_shared_elements_are_added_in_float32() -> None:
    """Hundreds of windows share an element; added up in itself bfloat16 stops at 256."""
    x, samples = jnp.array([[0], [1]], "bfloat16"), jnp.zeros((1, 1))
    line = jnp.zeros((601, 1), "bfloat16").at[300].set(1)
    pools: dict[str, tuple[Callable[[jax.Array], jax.Array], jax.Array]] = {
        "avg": (lambda x: convjax.adaptive_avg_pool(x, 300), x[1:]),
        "max": (lambda x: convjax.adaptive_max_pool(x, 600), x),
        "fractional": (lambda x: convjax.fractional_max_pool(x, 301, output_size=301, samples=samples), line),
        "put": (lambda x: convjax.max_pool(x, 301, strides=1, algorithm={"dgrad": ["lax"]}), line),
    }

    @jax.jit
    def gradients(xs: list[jax.Array]) -> list[jax.Array]:
        return [jax.grad(lambda x, f=f: f(x).sum())(x) for (f, _), x in zip(pools.values(), xs, strict=True)]

    got = [float(gradient.max()) for gradient in gradients([x for _, x in pools.values()])]
    assert dict(zip(pools, got, strict=True)) == {"avg": 300, "max": 300, "fractional": 300, "put": 300}  # 301 rounded


def test_windows_are_counted_without_visiting_their_taps() -> None:
    """A million windows of a million taps: traced at once, in little memory."""
    x = jax.ShapeDtypeStruct((1, 2_000_000, 1), np.float32)
    for pool in (convjax.sum_pool, convjax.avg_pool, convjax.max_pool):
        y = jax.eval_shape(functools.partial(pool, window=1_000_001, strides=1, padding=500_000), x)
        assert y.shape == x.shape


def test_planes_that_int32_does_not_number_have_no_indices() -> None:
    """Traced alone: nothing of the size is allocated."""
    x = jax.ShapeDtypeStruct((1, 65536, 65536, 1), np.int8)
    half = jax.ShapeDtypeStruct((1, 32768, 32768, 1), np.int8)
    key = jax.random.key(0)
    asked: list[Callable[[Any], Any]] = [
        functools.partial(convjax.max_pool, window=2, return_indices=True),
        functools.partial(convjax.adaptive_max_pool, output_size=2, return_indices=True),
        functools.partial(convjax.fractional_max_pool, window=2, output_size=2, key=key),
    ]
    for pool in asked:
        with pytest.raises(ValueError, match="65536 x 65536 takes 4294967296 positions, more than the 2147483647 of"):
            jax.eval_shape(pool, x)
    with pytest.raises(ValueError, match="65536 x 65536 takes 5368709120 positions, more than"):
        jax.eval_shape(lambda y: convjax.max_unpool(y, jnp.zeros(y.shape, jnp.int32), 2), half)
    y, _ = jax.eval_shape(asked[0], half)
    assert jax.eval_shape(lambda x: convjax.max_pool(x, 2), x).shape == half.shape
    assert y.shape == (1, 16384, 16384, 1)


@pytest.mark.parametrize("p", [np.inf, -np.inf])
def test_extreme_norms_have_no_derivative_at_zeros(p: float) -> None:
    """As PyTorch's; `abs` of lax has 1 there."""
    x = jnp.array([[0.0, 0, -4, 3, 3, 0]])
    gradient = jax.grad(lambda x: functional.lp_pool1d(x, p, 2).sum())(x)
    np.testing.assert_array_equal(gradient, [[0, 0, -1, 0, 1, 0]] if p > 0 else [[0, 0, 0, 1, 0, 0]])


def test_gradients_are_the_same_on_every_run_of_any_device() -> None:
    """A GPU's scatter adds in another order each time, so it is not what is taken without being asked for."""
    x = jnp.ones((1, 9, 9, 2))
    gradient = jax.grad(lambda x: convjax.max_pool(x, 3, strides=2).sum())
    for platform in ("cuda", "rocm", "tpu"):
        taken = {row.problem.operation: row.algorithm for row in convjax.explain(gradient, x, platform=platform).rows}
        assert taken["put"] == "shift"


def test_float8_is_summed_and_widened_as_asked() -> None:
    """Jax promotes float8 to no other dtype unasked."""
    x, w = jnp.arange(16, dtype="float8_e4m3fn").reshape(1, 4, 4, 1), jnp.ones((3, 3, 1, 1), "float8_e4m3fn")
    wide = convjax.conv(x, w, preferred_element_type=jnp.float32)
    np.testing.assert_array_equal(wide.ravel(), [45, 54, 81, 90])
    wide = convjax.conv_local(x, jnp.ones((2, 2, 9, 1), x.dtype), kernel_size=3, preferred_element_type="float32")
    np.testing.assert_array_equal(wide.ravel(), [45, 54, 81, 90])
    for y in (
        convjax.conv(x, w, bias=jnp.ones(1, x.dtype)),
        convjax.deform_conv2d(x, jnp.zeros((1, 2, 2, 18)), w),
        convjax.dilation2d(x, jnp.zeros((3, 3, 1), x.dtype)),
    ):
        assert (y.dtype, y.shape) == (x.dtype, (1, 2, 2, 1))
    with pytest.raises(TypeError, match="x and w are int4, of less than a byte: cast them to int8"):
        convjax.conv(x.astype("int4"), w.astype("int4"), preferred_element_type=jnp.int32)
    with pytest.raises(TypeError, match="preferred_element_type float8_e4m3fn cannot hold products of float32"):
        convjax.conv(x.astype("float32"), w.astype("float32"), preferred_element_type=x.dtype)
