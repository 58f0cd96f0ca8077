"""Lp, log-sum-exp and median pooling: values and derivatives in float64, extremes, integers, refusals."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from transforms import Results, assert_close, differentiated, loss_of, sharded, two_devices

import convjax
from convjax.ops.logsumexp import logsumexp_pool
from convjax.ops.lp import lp_pool
from convjax.ops.median import median_pool
from convjax.testing.pooling import (
    Reduce,
    log_sum_exp,
    lower_median,
    lp_norm,
    reference_first_vjp,
    reference_pool,
)

Pool = Callable[..., jax.Array]
LAYOUTS = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
POOLS: dict[str, tuple[Pool, Reduce]] = {
    **{f"lp {p}": (functools.partial(lp_pool, p=p), lp_norm(p)) for p in (0.5, 1.5, 2, 3.0, np.inf)},
    "logsumexp": (logsumexp_pool, log_sum_exp),
    "median": (median_pool, lower_median),
}
FEW = ("lp 2", "logsumexp", "median")

# Size of x with its batch and channels, window, options, whether channels come first.
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any], bool]] = {
    "line": ((2, 9, 3), (4,), {}, False),
    "plane": ((2, 7, 6, 2), (3, 2), {"strides": (1, 2), "padding": ((1, 0), (0, 1)), "dilation": (2, 1)}, True),
    "ceil mode": ((1, 8, 6, 2), (3, 3), {"strides": (2, 2), "padding": ((1, 1), (0, 1)), "ceil_mode": True}, False),
    "space": ((1, 4, 5, 3, 2), (2, 3, 1), {"padding": ((1, 1), (1, 0), (0, 0)), "strides": (2, 1, 2)}, True),
    "overhanging": ((1, 3, 2), (5,), {"strides": (3,), "ceil_mode": True}, False),
}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("shape", "window", "options", "first"), CASES.values(), ids=CASES)
def test_values_equal_the_definition(
    shape: tuple[int, ...], window: tuple[int, ...], options: dict[str, Any], first: bool
) -> None:
    """Of rounded values too, among which there are zeros and ties."""
    layout = LAYOUTS[len(window)] if first else None

    @jax.jit
    def ours(x: jax.Array) -> dict[str, jax.Array]:
        x = jnp.moveaxis(x, -1, 1) if first else x
        return {name: pool(x, window, layout=layout, **options) for name, (pool, _) in POOLS.items()}

    for x in (normal(0, *shape), np.round(normal(1, *shape))):
        for name, y in ours(x).items():
            want = reference_pool(POOLS[name][1], x, window, **options)
            assert_close({name: jnp.moveaxis(y, 1, -1) if first else y}, {name: want}, 2e-6)


def test_without_a_batch_and_of_an_empty_one() -> None:
    x = jnp.asarray(normal(0, 1, 5, 4, 2))

    @jax.jit
    def ours(x: jax.Array) -> Any:
        pools = {name: POOLS[name][0] for name in FEW}
        unbatched = {name: (pool(x[0], (3, 2)), pool(x, (3, 2))[0]) for name, pool in pools.items()}
        empty = {name: jax.vjp(lambda x, f=pool: f(x, 2), x[:0]) for name, pool in pools.items()}
        return unbatched, [(y, pullback(y)[0]) for y, pullback in empty.values()]

    unbatched, empty = ours(x)
    for got, want in unbatched.values():
        np.testing.assert_array_equal(got, want)
    for y, gradient in empty:
        assert y.shape == (0, 2, 2, 2)
        assert gradient.shape == (0, 5, 4, 2)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
def test_averages_are_divided_in_the_dtype_of_their_sums(dtype: str) -> None:
    x = jax.ShapeDtypeStruct((1, 9, 9, 2), dtype)
    for options in ({"count_include_pad": False}, {"divisor_override": 3}):
        program = str(jax.make_jaxpr(functools.partial(convjax.avg_pool, window=3, padding=1, **options))(x))
        assert "div" in program
        assert "f64" not in program
        assert "c128" not in program


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["lp 1.5", *FEW])
def test_derivatives_equal_finite_differences(name: str) -> None:
    """One program in float64, at a point and at h to both sides of it along the tangent."""
    pool, reduce = POOLS[name]
    window, options = (3, 2), {"strides": (2, 1), "padding": ((1, 1), (0, 1))}
    rng = np.random.default_rng(0)
    x, h = rng.standard_normal((2, 2, 6, 4, 2)), 1e-5
    x[0] += 0.3 * np.sign(x[0])  # powers below 2 bend too much near 0

    def f(x: jax.Array) -> jax.Array:
        return pool(x, window, **options)

    @jax.jit
    def ours(c: jax.Array, x: jax.Array) -> Results:
        gradient = jax.grad(loss_of(f), 1)
        twice = jax.grad(lambda y: jnp.vdot(gradient(c[0], y), x[1]))(x[0])
        return differentiated(f, c, x) | {"reverse over reverse": twice}

    def value(x: Any) -> np.ndarray:
        return reference_pool(reduce, x, window, **options)

    c = rng.standard_normal((2, *value(x[0]).shape))
    step = np.stack([h * x[1], np.zeros_like(x[1])])
    got, above, below = (ours(c, at) for at in (x, x + step, x - step))
    (gradient,), (second,) = (got[key] for key in ("grad", "hvp"))
    assert_close(got, {"value": value(x[0]), "vmap": np.stack([value(x[0]), value(x[1])])}, 1e-14)
    assert_close(got, {"jvp": (value(x[0] + h * x[1]) - value(x[0] - h * x[1])) / (2 * h)}, 1e-7)
    np.testing.assert_allclose(np.vdot(gradient, x[1]), np.vdot(c[0], got["jvp"]), rtol=1e-12)
    losses = [np.sum(c[0] * value(x[0] + side * h * x[1]) ** 2 / 2) for side in (1, -1)]
    (of_loss,) = (np.asarray(g[0]) for g in got["vmap of grad"])
    np.testing.assert_allclose(np.vdot(of_loss, x[1]), (losses[0] - losses[1]) / (2 * h), rtol=1e-7)
    difference = (np.asarray(above["vmap of grad"][0][0]) - np.asarray(below["vmap of grad"][0][0])) / (2 * h)
    assert_close({"hvp": second}, {"hvp": difference}, 1e-6)
    assert_close(got, {"reverse over reverse": second}, 1e-12)


def test_over_devices() -> None:
    x = jnp.asarray(normal(0, 2, 1, 6, 5, 2))
    pools = [POOLS[name][0] for name in FEW]

    def f(x: jax.Array) -> jax.Array:
        return jnp.concatenate([pool(x, (3, 2), padding=1) for pool in pools], -1)

    c = jnp.asarray(normal(1, *jax.eval_shape(jax.vmap(f), x).shape))
    got = jax.jit(functools.partial(sharded, f))(c, x)
    want = jax.jit(jax.vmap(f))(x), jax.jit(jax.vmap(jax.grad(loss_of(f), 1)))(c, x)
    assert_close(got, {"shard_map": want[0], "grad of shard_map": (want[1],)}, 1e-6)


def test_gradients_that_select_go_to_the_first_of_equals() -> None:
    x = np.round(normal(0, 2, 6, 7, 2))
    x[0, 2, 3, 0], x[0, 2, 4, 0], x[1, 0, 0, 1] = np.nan, np.nan, np.inf
    options = {"strides": (1, 2), "padding": ((1, 1), (1, 0)), "ceil_mode": True}

    @jax.jit
    def ours(x: jax.Array, c: jax.Array) -> Any:
        y, pullback = jax.vjp(lambda x: median_pool(x, (2, 3), **options), x)
        largest, pullback_of_largest = jax.vjp(lambda x: lp_pool(x, (2, 3), p=np.inf, **options), x)
        return y, pullback(c)[0], largest, pullback_of_largest(c)[0]

    want = reference_pool(lower_median, x, (2, 3), **options)
    c = np.random.default_rng(1).integers(-3, 4, want.shape).astype(np.float32)
    y, gradient, largest, gradient_of_largest = ours(x, c)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(gradient, reference_first_vjp(lower_median, x, c, (2, 3), **options))
    np.testing.assert_array_equal(largest, reference_pool(lp_norm(np.inf), x, (2, 3), **options))
    first = reference_first_vjp(lambda v: np.max(v, 0), np.abs(x), c, (2, 3), **options)
    np.testing.assert_array_equal(gradient_of_largest, first * np.sign(x))


@pytest.mark.parametrize("p", [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, np.inf])
def test_lp_has_finite_derivatives_at_zeros(p: float) -> None:
    """All 0 in a window of zeros; of p = 2 with regard to a 0 beside others, 1 / y twice."""
    x = jnp.array([0.0, 0, 0, -4, 3, 0])[:, None]
    v = jnp.arange(1.0, 7)[:, None]

    @jax.jit
    def ours(x: jax.Array) -> Any:
        gradient = jax.grad(lambda x: lp_pool(x, 2, p=p).sum())
        return gradient(x), *jax.jvp(lambda x: lp_pool(x, 2, p=p), (x,), (v,)), jax.jvp(gradient, (x,), (v,))[1]

    gradient, y, tangent, second = (np.ravel(each) for each in ours(x))
    for each in (gradient, tangent, second):
        assert np.isfinite(each).all()
        assert each[0] == 0
    np.testing.assert_allclose(y, [0, 4, 3], rtol=1e-6)
    np.testing.assert_allclose(gradient, [0, 0, 0, -1, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(second, [0, 0, 3 / 4, 0, 0, 6 / 3] if p == 2 else np.zeros(6), rtol=1e-6, atol=1e-6)


def test_small_elements_count_beside_larger_ones() -> None:
    x = jnp.array([1.5, 1e-37])[:, None]
    want = float((1.5**0.05 + 1e-37**0.05) ** 20)
    np.testing.assert_allclose(convjax.lp_pool(x, 2, p=0.05)[0, 0], want, rtol=1e-4)


@pytest.mark.parametrize("divisor", [2**31, 2**40, np.int64(2**32 + 4)])
def test_divisors_may_be_larger_than_int32(divisor: int) -> None:
    y = convjax.avg_pool(jnp.full((4, 1), 2.0), 2, divisor_override=divisor)
    np.testing.assert_allclose(y, 4 / float(divisor), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_nothing_over_or_underflows_on_the_way(dtype: str) -> None:
    """Windows of very large and very small elements side by side, their norms and their gradients."""
    low, high = (1e-4, 9e3) if dtype == "float16" else (1e-30, 4.5e37)
    x = jnp.array([3 * high, 4 * high, 3 * low, -4 * low, low, high], dtype)[:, None]

    @jax.jit
    def ours(x: jax.Array) -> Any:
        pools = [functools.partial(lp_pool, p=p) for p in (1, 2, 7.5, 100)]
        return [(pool(x, 2), jax.grad(lambda x, f=pool: f(x, 2).sum())(x)) for pool in pools]

    bound = 2 * float(jnp.finfo(dtype).eps)
    for p, (y, gradient) in zip((1, 2, 7.5, 100), ours(x), strict=True):
        assert y.dtype == gradient.dtype == dtype
        wide = np.asarray(x, np.float64)
        want = reference_pool(lambda v, p=p: v.max(0) * lp_norm(p)(v / v.max(0)), np.abs(wide)[None], (2,))[0]
        np.testing.assert_allclose(np.asarray(y, np.float64), want, rtol=bound)
        ratio = np.abs(wide) / np.repeat(want, 2, 0)
        small = max(float(jnp.finfo(dtype).tiny), float(jnp.finfo("float32").tiny) / low)
        np.testing.assert_allclose(
            np.asarray(gradient, np.float64), np.sign(wide) * ratio ** (p - 1), rtol=(p + 1) * bound, atol=small
        )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_every_finite_p_has_its_derivatives(dtype: str) -> None:
    """Neither p nor 1 / p need be numbers of the dtype; of two equal elements each has half of the gradient."""
    x, v = jnp.array([1, -3, 0, -3, 2, 2], dtype)[:, None], jnp.ones((6, 1), dtype)

    @jax.jit
    def ours(x: jax.Array) -> Any:
        def of(p: float) -> tuple[jax.Array, ...]:
            gradient = jax.grad(lambda x: lp_pool(x, 2, p=p).sum())
            return lp_pool(x, 2, p=p), gradient(x), jax.jvp(gradient, (x,), (v,))[1]

        return [of(p) for p in (1e30, 3e38, 4e38, 1e300)], [of(p) for p in (1e-300, 1e-40)]

    large, small = ours(x)
    for y, gradient, second in large:
        np.testing.assert_array_equal(np.ravel(y), [3, 3, 2])
        np.testing.assert_array_equal(np.ravel(gradient), [0, -1, 0, -1, 0.5, 0.5])
        np.testing.assert_array_equal(np.ravel(second), np.zeros(6))
    for y, gradient, second in small:
        np.testing.assert_array_equal(np.ravel(y), [np.inf, 3, np.inf])
        np.testing.assert_array_equal(np.ravel(gradient), [0, 0, 0, -1, 0, 0])
        np.testing.assert_array_equal(np.ravel(second), np.zeros(6))


def test_infinities_and_nan() -> None:
    inf, nan = np.inf, np.nan
    x = jnp.array([inf, 1, -inf, 2, -inf, -inf, nan, inf, 1e30, 0])[:, None]

    @jax.jit
    def ours(x: jax.Array) -> Any:
        def with_gradients(pool: Pool) -> tuple[jax.Array, ...]:
            gradient = jax.grad(lambda x: pool(x, 2).sum())
            y, tangent = jax.jvp(lambda x: pool(x, 2), (x,), (jnp.ones_like(x),))
            return y, gradient(x), tangent, jax.jvp(gradient, (x,), (jnp.ones_like(x),))[1]

        return [with_gradients(pool) for pool in (lp_pool, functools.partial(lp_pool, p=0.5), logsumexp_pool)]

    two, half, logarithm = ([np.ravel(each) for each in results] for results in ours(x))
    for y, gradient, tangent, second in (two, half):
        np.testing.assert_array_equal(y[:4], [inf, inf, inf, nan])
        assert y[4] == np.float32(1e30)
        np.testing.assert_array_equal(gradient, [0] * 6 + [nan] * 2 + [1, 0])
        np.testing.assert_array_equal(tangent[:4], [0, 0, 0, nan])
        assert np.isfinite(second[:6]).all()
    y, gradient, tangent, second = logarithm
    np.testing.assert_array_equal(y, np.array([inf, 2, -inf, nan, 1e30], np.float32))
    np.testing.assert_array_equal(gradient, [0, 0, 0, 1, 0, 0, nan, nan, 1, 0])
    np.testing.assert_array_equal(tangent, [0, 1, 0, nan, 1])
    np.testing.assert_array_equal(second, [0] * 6 + [nan] * 2 + [0] * 2)
    medians = median_pool(jnp.concatenate([x, x[:2]]), 3)
    np.testing.assert_array_equal(np.ravel(medians), np.array([1, -inf, nan, 1], np.float32))


@pytest.mark.parametrize("value", [-1e4, -90.0, 90.0, 1e4, 3e38])
def test_logsumexp_is_a_sum_and_never_overflows(value: float) -> None:
    x = jnp.full((6, 1), value)
    y, pullback = jax.vjp(lambda x: logsumexp_pool(x, 4, strides=2, padding=1), x)
    np.testing.assert_allclose(np.ravel(y), value + np.log([3, 4, 3]), rtol=1e-6)
    np.testing.assert_allclose(
        np.ravel(pullback(jnp.ones_like(y))[0]), [1 / 3, 7 / 12, 7 / 12, 7 / 12, 7 / 12, 1 / 3], rtol=1e-6
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precisions_are_summed_in_float32(dtype: str) -> None:
    x = jnp.ones((4096, 1), dtype)
    assert lp_pool(x, 4096, p=1).item() == 4096
    assert lp_pool(x, 4096, p=2).item() == 64
    np.testing.assert_allclose(logsumexp_pool(x, 4096).astype(float).item(), 1 + np.log(4096), rtol=4e-3)
    large = jnp.full((4, 1), 6e4, dtype)
    assert convjax.avg_pool(large, 4).item() == large[0, 0]  # their sum is no float16
    gradient = jax.grad(lambda x: convjax.avg_pool(x, 4, divisor_override=2).astype(jnp.float32).sum())(large)
    np.testing.assert_array_equal(gradient, np.full((4, 1), 0.5))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "bool"])
def test_medians_of_integers_keep_the_dtype(dtype: str) -> None:
    low, high = (False, True) if dtype == "bool" else (jnp.iinfo(dtype).min, jnp.iinfo(dtype).max)
    x = jnp.array([high, high, low, low, high, high], dtype)[:, None]
    y = median_pool(x, 3, strides=1, padding=1)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y[:, 0], np.array([high, high, low, low, high, high], dtype))
    x = jnp.asarray(np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 100, (1, 9, 8, 1)).astype(dtype))
    want = reference_pool(lower_median, x, (3, 4), strides=(2, 1), padding=((1, 1), (2, 0)))
    np.testing.assert_array_equal(median_pool(x, (3, 4), strides=(2, 1), padding=((1, 1), (2, 0))), want)
    tiles = median_pool(x, 3, algorithm="reshape")
    np.testing.assert_array_equal(tiles, reference_pool(lower_median, x, (3, 3), strides=(3, 3)))


def test_of_many_taps_programs_stay_small() -> None:
    x = jnp.asarray(normal(0, 1, 32, 33, 1))
    for pool in (lp_pool, logsumexp_pool, median_pool):
        f = functools.partial(pool, window=31)
        assert str(jax.make_jaxpr(f)(x)).count(" slice[") <= 2 * 31 + 4
    y = jax.jit(lambda x: [lp_pool(x, 31), logsumexp_pool(x, 31), median_pool(x, 31)])(x)
    for got, reduce in zip(y, (lp_norm(2), log_sum_exp, lower_median), strict=True):
        assert_close({"value": got}, {"value": reference_pool(reduce, x, (31, 31))}, 1e-5)


def test_poolings_of_an_array_divided_along_its_rows_do_not_share_their_padding() -> None:
    """As lax's own do on jaxlib 0.10, where the second pooling sees the padding of the first."""
    x = np.random.default_rng(0).standard_normal((1, 6, 6, 2)).astype(np.float32)
    divided = jax.device_put(x, NamedSharding(two_devices(), PartitionSpec(None, "batch")))

    pools: list[Any] = [convjax.max_pool, convjax.avg_pool, convjax.min_pool, median_pool, logsumexp_pool, lp_pool]

    @jax.jit
    def pooled(x: jax.Array) -> Results:
        values, pullback = jax.vjp(lambda x: {p.__name__: p(x, 3, strides=1, padding=1) for p in pools}, x)
        return values | {"gradient": pullback(values)}

    assert_close(pooled(divided), pooled(jnp.asarray(x)), 1e-6)


def test_named_algorithms_compute_the_same() -> None:
    x = jnp.asarray(normal(0, 1, 6, 6, 2))
    for pool in (lp_pool, logsumexp_pool, median_pool):
        (row,) = convjax.explain(functools.partial(pool, window=2, algorithm="lax"), x, platform="cpu").rows
        assert row.algorithm == "lax"
        want = pool(x, 2)
        for algorithm in ("lax", "shift", "reshape"):
            np.testing.assert_array_equal(pool(x, 2, algorithm=algorithm), want)
        with pytest.raises(ValueError, match="do not tile"):
            pool(x, 3, strides=1, algorithm="reshape")


X = jnp.ones((2, 6, 6, 4))
EACH: dict[str, tuple[jax.Array, dict[str, Any], type[Exception], str]] = {
    "zero window": (X, {"window": 0}, ValueError, r"window must be at least 1 .*got \(0, 0\)"),
    "zero stride": (X, {"window": 2, "strides": (1, 0)}, ValueError, r"strides must be .*got \(1, 0\)"),
    "zero dilation": (X, {"window": 2, "dilation": 0}, ValueError, r"dilation must be .*got \(0, 0\)"),
    "too large": (X, {"window": 7}, ValueError, "axis 0 has 6 elements, 6 with padding, fewer .*7"),
    "half the window": (X, {"window": 3, "padding": 2}, ValueError, r"padding \(2, 2\) .* window, 1"),
    "negative padding": (X, {"window": 3, "padding": -1}, ValueError, r"padding \(-1, -1\) .*between 0 and"),
    "padding alone": (X, {"window": 2, "padding": "FULL", "dilation": 9}, ValueError, "holds no element of x"),
    "nothing but padding": (X[:, :0], {"window": 2, "padding": 1}, ValueError, r"over \(0, 6\).*no element"),
    "sizes that vanish": (
        X,
        {"window": 9, "strides": 2, "ceil_mode": True},
        ValueError,
        r"windows of extent \(9, 9\) do not fit into \(6, 6\).*use a smaller window",
    ),
    "of an empty batch too": (
        X[:0],
        {"window": 9, "strides": 2, "ceil_mode": True},
        ValueError,
        r"windows of extent \(9, 9\) do not fit",
    ),
    "rank": (X[0, 0], {"window": (2, 2)}, ValueError, r"x of shape \(6, 4\) must have 4 axes"),
    "layout": (X, {"window": 2, "layout": "CHWN"}, ValueError, "layout must be .*NCHW .*got 'CHWN'"),
    "algorithm": (X, {"window": 2, "algorithm": "im2col"}, ValueError, "'im2col' is not one of lax"),
    "complex": (X + 0j, {"window": 2}, TypeError, "x is complex64, .*cast it to a "),
}
SOME: dict[str, tuple[Pool, jax.Array, dict[str, Any], type[Exception], str]] = {
    "p of 0": (lp_pool, X, {"window": 2, "p": 0}, ValueError, "p must be above 0, got 0"),
    "negative p": (lp_pool, X, {"window": 2, "p": -np.inf}, ValueError, "p must be above 0, got -inf"),
    "p that is none": (lp_pool, X, {"window": 2, "p": np.nan}, ValueError, "p must be above 0, got nan"),
    "norms of integers": (lp_pool, X.astype(int), {"window": 2}, TypeError, "x is int32, but lp_pool .*cast"),
    "logarithms": (logsumexp_pool, X.astype(int), {"window": 2}, TypeError, "x is int32, but logsumexp_pool .*cast"),
}
REFUSED = {
    **{
        f"{pool.__name__}, {name}": (pool, *case)
        for pool in (lp_pool, logsumexp_pool, median_pool)
        for name, case in EACH.items()
    },
    **SOME,
    **{
        f"{pool.__name__}, {name}": (pool, *EACH[name])
        for pool in (convjax.avg_pool, convjax.sum_pool, convjax.min_pool, convjax.max_pool)
        for name in ("nothing but padding", "sizes that vanish", "of an empty batch too")
    },
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused_in_one_sentence_that_names_the_argument(case: Any, jit: bool) -> None:
    pool, x, options, error, message = case
    call = functools.partial(pool, **options)
    with pytest.raises(error, match=message) as caught:
        (jax.jit(call) if jit else call)(x)
    assert "\n" not in str(caught.value).split("\n--------------------\n")[0].strip()


def test_operands_are_positional_and_the_rest_is_not() -> None:
    for pool in (lp_pool, logsumexp_pool, median_pool):
        kinds = [parameter.kind.name for parameter in inspect.signature(pool).parameters.values()]
        assert kinds[:2] == ["POSITIONAL_OR_KEYWORD"] * 2
        assert set(kinds[2:]) == {"KEYWORD_ONLY"}
