"""Adaptive poolings: values, indices and gradients by the definition, further derivatives, dtypes, refusals."""

import functools
import inspect
import itertools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_bad_input import ways
from transforms import assert_close, differentiated, sharded

import convjax
from convjax.ops.adaptive import Bins, adaptive_avg_pool, adaptive_max_pool
from convjax.testing.bins import Operation, adaptive_regions, reference_bins, reference_bins_vjp

LAYOUTS = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
# Size and output.
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "line": ((7,), (5,)),
    "alike": ((6, 4), (3, 2)),
    "uneven": ((5, 7), (3, 4)),
    "one axis alike": ((6, 7), (2, 5)),
    "more than elements": ((3, 2), (5, 4)),
    "one and all": ((1, 5), (3, 1)),
    "volume": ((4, 5, 3), (3, 2, 3)),
}


def numbers_of(size: tuple[int, ...], kind: str) -> np.ndarray:
    """Normal; or few values, so that maxima tie, with NaN and infinities."""
    rng = np.random.default_rng(0)
    shape = (2, *size, 3)
    x = rng.standard_normal(shape)
    if kind == "special":
        x = np.round(x)
        x[rng.random(shape) < 0.3] = -np.inf
        x[rng.random(shape) < 0.1] = np.inf
        x[rng.random(shape) < 0.05] = np.nan
    return x.astype(np.float32)


@pytest.mark.parametrize(("case", "layout"), list(zip(CASES.values(), itertools.cycle([None, "first"]))), ids=CASES)
@np.errstate(invalid="ignore")  # inf - inf is NaN, as it is in any sum
def test_values_indices_and_gradients_equal_the_definition(case: Any, layout: str | None) -> None:
    size, output = case
    options = {"layout": layout and LAYOUTS[len(size)]}
    axis = 1 if layout else -1

    @jax.jit
    def ours(x: jax.Array, g: jax.Array) -> Any:
        x, g = jnp.moveaxis(x, -1, axis), jnp.moveaxis(g, -1, axis)
        mean, pull_mean = jax.vjp(lambda x: adaptive_avg_pool(x, output, **options), x)
        most, pull_most, indices = jax.vjp(
            lambda x: adaptive_max_pool(x, output, return_indices=True, **options), x, has_aux=True
        )
        return jax.tree.map(
            lambda a: jnp.moveaxis(a, axis, -1), {"avg": (mean, *pull_mean(g)), "max": (most, *pull_most(g), indices)}
        )

    for kind in ("normal", "special"):
        x = numbers_of(size, kind)
        g = np.random.default_rng(1).integers(-3, 4, (2, *output, 3)).astype(np.float32)
        got = ours(x, g)
        for operation, bound in (("avg", 1e-6), ("max", 0.0)):
            value, indices = reference_bins(operation, x, output, adaptive_regions(x.shape, output))
            gradient = reference_bins_vjp(operation, x, g, adaptive_regions(x.shape, output))
            for a, b in zip(got[operation], (value, gradient, indices), strict=False):
                np.testing.assert_allclose(a, b, rtol=bound, atol=bound)


def test_an_input_without_a_batch_is_one_of_a_batch() -> None:
    @jax.jit
    def ours(x: jax.Array) -> Any:
        def pooled(x: jax.Array) -> Any:
            return adaptive_avg_pool(x, (3, 2)), *adaptive_max_pool(x, (3, 2), return_indices=True)

        return pooled(x), pooled(x[0])

    for batched, single in zip(*ours(numbers_of((5, 4), "normal")), strict=True):
        np.testing.assert_array_equal(batched[0], single)


def both(f: Callable[[jax.Array], jax.Array], c: jax.Array, pair: jax.Array) -> dict[str, Any]:
    return differentiated(f, c, pair) | sharded(f, c, pair)


def by_definition(operation: Operation, x: np.ndarray, output: tuple[int, ...]) -> Callable[[jax.Array], jax.Array]:
    """The pooling near x as a matrix product: what each element of x is multiplied by."""
    regions = functools.partial(adaptive_regions, x.shape, output)
    y, _ = reference_bins(operation, x, output, regions())
    rows = [reference_bins_vjp(operation, x, unit.reshape(y.shape), regions()) for unit in np.eye(y.size)]
    matrix = jnp.asarray(np.reshape(rows, (y.size, x.size)))
    return lambda x: (matrix @ x.reshape(-1)).reshape(y.shape)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("operation", ["avg", "max"])
def test_derivatives_equal_those_of_a_matrix(operation: Operation) -> None:
    rng = np.random.default_rng(3)
    pair = np.stack([rng.permutation(2 * 5 * 3 * 2).reshape(2, 5, 3, 2)] * 2) + rng.random((2, 2, 5, 3, 2)) / 2
    ours = functools.partial({"avg": adaptive_avg_pool, "max": adaptive_max_pool}[operation], output_size=(3, 2))
    c = jnp.asarray(rng.standard_normal((2, 2, 3, 2, 2)))
    functions = ours, by_definition(operation, pair[0], (3, 2))
    got, want = jax.jit(lambda *operands: [both(f, *operands) for f in functions])(c, jnp.asarray(pair))
    assert_close(got, want, 1e-12)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precisions_are_summed_and_divided_in_float32(dtype: str) -> None:
    values = np.array([1, 60000], dtype)
    for n, output in ((4096, 2), (4097, 3)):
        y = jax.jit(adaptive_avg_pool, static_argnums=1)(np.tile(values, (n, 1)), output)
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, np.tile(values, (output, 1)))


def test_maxima_of_any_real_dtype() -> None:
    arrays = [np.array([[0], [1], [0], [0], [1]], dtype) for dtype in ("int8", "uint8", "bool", "float16")]
    pooled = jax.jit(lambda arrays: [adaptive_max_pool(x, 3, return_indices=True) for x in arrays])(arrays)
    for x, (y, indices) in zip(arrays, pooled, strict=True):
        assert (y.dtype, indices.dtype) == (x.dtype, "int32")
        np.testing.assert_array_equal(y[:, 0], np.ones(3, x.dtype))
        assert indices[:, 0].tolist() == [1, 1, 4]


def test_alike_bins_are_windows() -> None:
    x = jnp.asarray(numbers_of((6, 4), "normal"))
    for ours, pool in ((adaptive_avg_pool, convjax.avg_pool), (adaptive_max_pool, convjax.max_pool)):
        got, want = (convjax.explain(f, x).rows for f in (lambda x, f=ours: f(x, (3, 2)), lambda x, f=pool: f(x, 2)))
        assert [row.problem for row in got] == [row.problem for row in want]
        np.testing.assert_array_equal(ours(x, (3, 2)), pool(x, (2, 2)))


def test_sizes_are_kept_where_asked() -> None:
    x = jnp.asarray(numbers_of((5, 4), "normal"))
    np.testing.assert_array_equal(adaptive_max_pool(x, (None, None)), x)
    np.testing.assert_array_equal(adaptive_avg_pool(x, (5, None)), x)
    for output_size, layout, shape in (
        ((None, 3), None, (2, 5, 3, 3)),
        (3, None, (2, 3, 3, 3)),
        (3, "NCHW", (2, 5, 3, 3)),
    ):
        pool = functools.partial(adaptive_avg_pool, output_size=output_size, layout=layout)
        assert jax.eval_shape(pool, x).shape == shape


@pytest.mark.parametrize("algorithm", ["lax", "shift", "reshape"])
@pytest.mark.parametrize("pool", [adaptive_avg_pool, adaptive_max_pool])
def test_the_algorithm_asked_for_is_taken(pool: Any, algorithm: str) -> None:
    rows = convjax.explain(lambda x: pool(x, (3, 2), algorithm=algorithm), jnp.ones((1, 5, 4, 2))).rows
    assert {row.algorithm for row in rows} == {algorithm}


@pytest.mark.parametrize("pool", [adaptive_avg_pool, adaptive_max_pool])
def test_gradients_of_elements_in_more_than_two_bins_are_added_in_a_fixed_order(pool: Any) -> None:
    gradient = jax.grad(lambda x: pool(x, (8, 16)).sum())
    scatters = re.findall(r"scatter-add\[[^\]]*\]", str(jax.make_jaxpr(gradient)(jnp.ones((1, 5, 7, 2)))))
    assert ["unique_indices=True" in scatter for scatter in scatters] == [True, True]


def test_elements_are_in_two_bins_at_most_where_there_are_no_more_bins_than_elements() -> None:
    for size in range(1, 25):
        for count in range(1, size + 1):
            bins = Bins(size, count)
            held = [np.arange(start, start + n) for start, n in zip(bins.starts, bins.lengths, strict=True)]
            assert np.bincount(np.concatenate(held)).max() <= 2


def test_empty_batches_and_no_channels() -> None:
    for shape in ((0, 5, 4, 3), (2, 5, 4, 0)):
        x = jnp.ones(shape)
        for pool in (adaptive_avg_pool, adaptive_max_pool):
            f = functools.partial(pool, output_size=(3, 2))
            y, gradient = jax.jit(lambda x, f=f: (f(x), jax.grad(lambda x: f(x).sum())(x)))(x)
            assert y.shape == (shape[0], 3, 2, shape[-1])
            assert gradient.shape == shape
        _, indices = jax.eval_shape(lambda x: adaptive_max_pool(x, (3, 2), return_indices=True), x)
        assert indices.shape == (shape[0], 3, 2, shape[-1])


def test_ad_01_bins_are_not_windows_of_one_stride() -> None:
    pool = jax.jit(functools.partial(adaptive_max_pool, return_indices=True), static_argnames="output_size")
    y, indices = pool(jnp.arange(25.0).reshape(5, 5, 1), output_size=(3, 3))
    want = [[6, 8, 9], [16, 18, 19], [21, 23, 24]]
    assert y[..., 0].tolist() == want
    assert indices[..., 0].tolist() == want
    small = jnp.array([[1.0, 2], [3, 4]])[..., None]
    y, _ = pool(small, output_size=(4, 4))
    np.testing.assert_array_equal(y[..., 0], np.repeat(np.repeat(small[..., 0], 2, 0), 2, 1))


def test_ad_04_each_bin_has_its_own_divisor() -> None:
    @jax.jit
    def value_and_gradient(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, pullback = jax.vjp(lambda x: adaptive_avg_pool(x, 5), x)
        return y, pullback(jnp.ones_like(y))[0]

    y, gradient = value_and_gradient(np.arange(7, dtype=np.float32)[:, None])
    np.testing.assert_allclose(y[:, 0], [0.5, 1.5, 3, 4.5, 5.5])
    np.testing.assert_allclose(gradient[:, 0], [1 / 2, 1, 5 / 6, 1 / 3, 5 / 6, 1, 1 / 2], rtol=1e-6)


def test_ad_05_no_bins_are_refused() -> None:
    for count in (0, -1, (4, 0, 4)):
        for pool in (adaptive_avg_pool, adaptive_max_pool):
            with pytest.raises(ValueError, match="output_size must be at least 1 on every axis"):
                pool(jnp.ones((1, 2, 4, 4, 4)), count, layout="NCDHW")


def test_mx_12_indices_are_not_carried_in_half_precision() -> None:
    x = np.zeros((1, 1, 65536), "float16")
    x[..., -1] = 1
    pool = jax.jit(adaptive_max_pool, static_argnames=("output_size", "return_indices", "layout"))
    for count, want in ((1, [65535]), (3, [0, 21845, 65535])):
        _, indices = pool(x, output_size=count, return_indices=True, layout="NCW")
        assert indices.ravel().tolist() == want


X = jnp.ones((2, 6, 6, 4))
REFUSED: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    f"{name}, {what}": (pool, *case)
    for name, pool in (("avg", adaptive_avg_pool), ("max", adaptive_max_pool))
    for what, case in {
        "zero": ((X, 0), {}, ValueError, r"output_size must be at least 1 on every axis, got \(0, 0\)"),
        "name": ((X, "3"), {}, TypeError, "output_size must hold integers, got '3'"),
        "negative": ((X, (3, -1)), {}, ValueError, r"output_size must be .*got \(3, -1\)"),
        "fraction": ((X, 2.5), {}, TypeError, r"output_size must hold integers, got .*2\.5"),
        "nothing": ((X, None), {}, TypeError, "output_size must hold integers, got .*None"),
        "rank": ((X, (2, 2, 2, 2)), {}, ValueError, r"x of shape \(2, 6, 6, 4\) must have 6 axes for 4 spatial"),
        "empty axis": ((X[:, :0], 2), {}, ValueError, r"x of shape \(2, 0, 6, 4\) has no elements on a spatial axis"),
        "no axis": ((X[0, 0, 0], 2), {}, ValueError, r"x of shape \(4,\) has no spatial axis"),
        "layout": ((X, 2), {"layout": "CHWN"}, ValueError, "layout must be .*got 'CHWN'"),
        "algorithm": ((X, 2), {"algorithm": "im2col"}, ValueError, "'im2col' is not one of .*for"),
    }.items()
} | {
    "avg, integers": (adaptive_avg_pool, (X.astype(int), 2), {}, TypeError, "x is int32, whose averages .*cast"),
    "max, complex": (adaptive_max_pool, (X + 0j, 2), {}, TypeError, "x is complex64, which has no order"),
}


@pytest.mark.parametrize("way", ["eager", "jit", "vmap"])
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused_in_one_sentence_that_names_the_argument(case: Any, way: str) -> None:
    pool, (x, *rest), options, error, message = case
    with pytest.raises(error, match=message) as caught:
        ways(lambda x: pool(x, *rest, **options))[way](x)
    assert "\n" not in str(caught.value).split("\n--------------------\n")[0].strip()


def test_operands_are_positional_and_the_rest_is_not() -> None:
    for pool, keywords in ((adaptive_avg_pool, 2), (adaptive_max_pool, 3)):
        kinds = [p.kind.name for p in inspect.signature(pool).parameters.values()]
        assert kinds == ["POSITIONAL_OR_KEYWORD"] * 2 + ["KEYWORD_ONLY"] * keywords
