"""Fractional max pooling: values, indices and gradients by the definition, drawn samples, refusals."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_adaptive import both, numbers_of
from test_bad_input import ways
from transforms import assert_close

import convjax
from convjax.ops.fractional import fractional_max_pool
from convjax.testing.bins import fractional_regions, reference_bins, reference_bins_vjp

# Size, window and output.
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "line": ((11,), (3,), (5,)),
    "plane": ((9, 7), (2, 3), (6, 4)),
    "one window, and as many as there are": ((6, 4), (2, 2), (1, 3)),
    "volume": ((4, 6, 5), (2, 1, 2), (3, 4, 2)),
}


def samples_of(size: tuple[int, ...]) -> np.ndarray:
    """(N, C, axes), in the order of the axes."""
    return np.random.default_rng(5).random((2, 3, len(size))).astype(np.float32)


def in_pytorchs_order(samples: Any) -> Any:
    return samples[..., ::-1] if samples.shape[-1] == 2 else samples


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_indices_and_gradients_equal_the_definition(case: Any) -> None:
    size, window, output = case
    pool = functools.partial(fractional_max_pool, window=window, output_size=output)
    samples = samples_of(size)

    @jax.jit
    def in_fixed_order(x: jax.Array, u: jax.Array, g: jax.Array) -> jax.Array:
        with convjax.using(deterministic=True):
            return jax.vjp(lambda x: pool(x, samples=u), x)[1](g)[0]

    @jax.jit
    def ours(x: jax.Array, u: jax.Array, g: jax.Array) -> Any:
        y, pullback, indices = jax.vjp(lambda x: pool(x, samples=u, return_indices=True), x, has_aux=True)
        if len(size) == 2:
            first = pool(jnp.moveaxis(x[0], -1, 0), samples=u[0], return_indices=True, layout="NCHW")
            return (y, indices), pullback(g)[0], [jnp.moveaxis(a, 0, -1) for a in first]
        return (y, indices), pullback(g)[0], pool(x[0], samples=u[0], return_indices=True)

    for kind in ("normal", "special"):
        x = numbers_of(size, kind)
        g = np.random.default_rng(1).integers(-3, 4, (2, *output, 3)).astype(np.float32)
        got, gradient, unbatched = ours(x, in_pytorchs_order(samples), g)
        regions = functools.partial(fractional_regions, x.shape, window, output, samples)
        for a, b, want in zip(got, unbatched, reference_bins("max", x, output, regions()), strict=True):
            np.testing.assert_array_equal(a, want.astype(a.dtype))
            np.testing.assert_array_equal(b, a[0])
        want = reference_bins_vjp("max", x, g, regions())
        np.testing.assert_array_equal(gradient, want)
        np.testing.assert_array_equal(in_fixed_order(x, in_pytorchs_order(samples), g), want)


@pytest.mark.usefixtures("x64")
def test_derivatives_equal_those_of_a_matrix() -> None:
    rng = np.random.default_rng(3)
    window, output, samples = (2, 2), (4, 2), rng.random((2, 2, 2))
    pair = np.stack([rng.permutation(2 * 6 * 4 * 2).reshape(2, 6, 4, 2)] * 2) + rng.random((2, 2, 6, 4, 2)) / 2
    regions = functools.partial(fractional_regions, pair[0].shape, window, output, samples)
    y, _ = reference_bins("max", pair[0], output, regions())
    rows = [reference_bins_vjp("max", pair[0], unit.reshape(y.shape), regions()) for unit in np.eye(y.size)]
    matrix = jnp.asarray(np.reshape(rows, (y.size, -1)))

    def ours(x: jax.Array) -> jax.Array:
        return fractional_max_pool(x, window, output_size=output, samples=jnp.asarray(samples[..., ::-1].copy()))

    c = jnp.asarray(rng.standard_normal((2, *y.shape)))
    functions = ours, lambda x: (matrix @ x.reshape(-1)).reshape(y.shape)
    got, want = jax.jit(lambda *operands: [both(f, *operands) for f in functions])(c, jnp.asarray(pair))
    assert_close(got, want, 1e-12)


def test_gradients_of_one_tap_meet_only_where_windows_start_at_one_place() -> None:
    x, samples = jnp.zeros((1, 40, 1)), jnp.full((1, 1, 1), 1 - 2**-24)  # rounds to 1 once a number is added
    pool = functools.partial(fractional_max_pool, window=3, output_size=38, samples=samples)

    @jax.jit
    def run(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        with convjax.using(deterministic=True):
            _, pullback, indices = jax.vjp(lambda x: pool(x, return_indices=True), x, has_aux=True)
        return indices, pullback(jnp.ones((1, 38, 1)))[0]

    indices, gradient = run(x)
    starts, windows = np.unique(indices, return_counts=True)
    # All taps tie, so each window's winner is where it starts.
    assert (starts.size, windows.max()) == (37, 2)
    np.testing.assert_array_equal(gradient.reshape(-1)[starts], windows)


def test_vmap_over_samples_and_keys_equals_a_loop() -> None:
    x = jnp.asarray(numbers_of((9, 7), "normal"))
    keys = jax.random.split(jax.random.key(0), 3)
    samples = jnp.stack([jax.random.uniform(key, (2, 3, 2)) for key in keys])

    @jax.jit
    def drawn(x: jax.Array, keys: jax.Array) -> jax.Array:
        return jax.vmap(lambda key: fractional_max_pool(x, 2, output_ratio=(0.7, 0.5), key=key))(keys)

    @jax.jit
    def given(x: jax.Array, samples: jax.Array) -> jax.Array:
        return fractional_max_pool(x, 2, output_size=(6, 3), samples=samples)

    loop = np.stack([given(x, u) for u in samples])
    np.testing.assert_array_equal(drawn(x, keys), loop)
    np.testing.assert_array_equal(jax.vmap(given, (None, 0))(x, samples), loop)
    assert not np.array_equal(loop[0], loop[1])


def test_any_real_dtype_is_kept() -> None:
    arrays = [np.array([[0], [1], [0], [0], [1]], jnp.dtype(dtype)) for dtype in ("bfloat16", "int8", "bool")]
    samples = jnp.full((1, 1), 0.5, "bfloat16")
    pool = functools.partial(fractional_max_pool, window=2, output_size=3, samples=samples, return_indices=True)
    pooled = jax.jit(lambda arrays: [pool(x) for x in arrays])(arrays)
    for x, (y, indices) in zip(arrays, pooled, strict=True):
        assert (y.dtype, indices.dtype) == (x.dtype, "int32")
        np.testing.assert_array_equal(y[:, 0], np.array([1, 0, 1], x.dtype))
        assert indices[:, 0].tolist() == [1, 2, 4]


def test_empty_batches_and_no_channels() -> None:
    for shape in ((0, 6, 5, 3), (2, 6, 5, 0)):
        pool = functools.partial(fractional_max_pool, window=2, output_size=3, key=jax.random.key(0))
        y, gradient = jax.jit(lambda x, f=pool: (f(x), jax.grad(lambda x: f(x).sum())(x)))(jnp.ones(shape))
        assert y.shape == (shape[0], 3, 3, shape[-1])
        assert gradient.shape == shape


def test_the_algorithm_asked_for_is_taken() -> None:
    pool = functools.partial(fractional_max_pool, window=2, output_size=3, key=jax.random.key(0), algorithm="shift")
    assert {row.algorithm for row in convjax.explain(pool, jnp.ones((1, 6, 5, 2))).rows} == {"shift"}


def test_fr_01_where_windows_start() -> None:
    x, samples = jnp.arange(5.0)[:, None], jnp.array([[0.5]])
    pool = functools.partial(fractional_max_pool, window=2, output_size=3, return_indices=True)
    y, indices = jax.jit(lambda x, samples: pool(x, samples=samples))(x, samples)
    assert y[:, 0].tolist() == indices[:, 0].tolist() == [1, 3, 4]  # starts 0, 2, 3
    none = functools.partial(fractional_max_pool, window=2, output_size=0, samples=samples)
    empty, gradient = jax.jit(lambda x: (none(x), jax.grad(lambda x: none(x).sum())(x)))(x)
    assert empty.shape == (0, 1)
    np.testing.assert_array_equal(gradient, np.zeros(x.shape))


X, KEY, U = jnp.ones((2, 6, 6, 4)), jax.random.key(0), jnp.zeros((2, 4, 2))
REFUSED: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "no size": ((X, 2), {"key": KEY}, ValueError, "output_size and output_ratio are alternatives: .*None and None"),
    "two sizes": ((X, 2), {"key": KEY, "output_size": 3, "output_ratio": 0.5}, ValueError, "alternatives.* 3 and 0.5"),
    "no samples": ((X, 2), {"output_size": 3}, ValueError, "draws at random: pass key"),
    "two samples": ((X, 2), {"output_size": 3, "key": KEY, "samples": U}, ValueError, "key and samples are altern"),
    "window": ((X, 0), {"output_size": 3, "key": KEY}, ValueError, r"window must be at least 1 .*\(0, 0\)"),
    "output size": ((X, 2), {"output_size": (3, -1), "key": KEY}, ValueError, r"output_size must be .*got \(3, -1\)"),
    "too many": (
        (X, 2),
        {"output_size": (5, 6), "key": KEY},
        ValueError,
        "output_size 6 on spatial axis 1 .*at most 5",
    ),
    "window too large": ((X, 7), {"output_size": 1, "key": KEY}, ValueError, "output_size 1 .*at most 0, for a window"),
    "ratio": ((X, 2), {"output_ratio": 1.5, "key": KEY}, ValueError, "output_ratio must be between 0 and 1.*got 1.5"),
    "no ratio": ((X, 2), {"output_ratio": (0.5, None), "key": KEY}, TypeError, "output_ratio must be a real number"),
    "ratios": (
        (X, 2),
        {"output_ratio": (0.5,) * 3, "key": KEY},
        ValueError,
        "output_ratio has 3 entries for 2 spatial axes",
    ),
    "small ratio": ((X, 2), {"output_ratio": 0.1, "key": KEY}, ValueError, r"output_ratio 0.1 of \(6, 6\) .*\(0, 0\)"),
    "shape of samples": (
        (X, 2),
        {"output_size": 3, "samples": U[..., :1]},
        ValueError,
        r"samples of shape \(2, 4, 1\) must be \(2, 4, 2\)",
    ),
    "integer samples": ((X, 2), {"output_size": 3, "samples": U.astype(int)}, TypeError, "samples are int32, but must"),
    "empty axis": ((X[:, :0], 2), {"output_size": 3, "key": KEY}, ValueError, "has no elements on a spatial axis"),
    "rank": ((X, (2,) * 4), {"output_size": 3, "key": KEY}, ValueError, r"x of shape .* must have 6 axes"),
    "four axes": (
        (X[..., None, None], (2,) * 4),
        {"output_size": 1, "key": KEY},
        ValueError,
        "samples are defined for",
    ),
    "complex": ((X + 0j, 2), {"output_size": 3, "key": KEY}, TypeError, "x is complex64, which has no order"),
    "layout": ((X, 2), {"output_size": 3, "key": KEY, "layout": "NCW"}, ValueError, "must have 3 axes"),
    "algorithm": ((X, 2), {"output_size": 3, "key": KEY, "algorithm": "im2col"}, ValueError, "'im2col' is not one of"),
}


@pytest.mark.parametrize("way", ["eager", "jit", "vmap"])
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused_in_one_sentence_that_names_the_argument(case: Any, way: str) -> None:
    (x, *rest), options, error, message = case
    with pytest.raises(error, match=message) as caught:
        ways(lambda x: fractional_max_pool(x, *rest, **options))[way](x)
    assert "\n" not in str(caught.value).split("\n--------------------\n")[0].strip()


def test_operands_are_positional_and_the_rest_is_not() -> None:
    kinds = [p.kind.name for p in inspect.signature(fractional_max_pool).parameters.values()]
    assert kinds == ["POSITIONAL_OR_KEYWORD"] * 2 + ["KEYWORD_ONLY"] * 7
