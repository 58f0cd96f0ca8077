"""Every registered window algorithm on sampled problems, and the poolings differentiated through them."""

import collections
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from transforms import (
    PLATFORM,
    applicable,
    assert_close,
    differentiated,
    in_turn,
    rematerialized,
    sharded,
    stated_error,
)

import convjax
from convjax.algorithms.protocol import Algorithm
from convjax.device import Device
from convjax.problem import WindowSpec
from convjax.testing import check_algorithm, reference_max_vjp, sample_window_problems

OPERATIONS = WindowSpec.OPERATIONS
PROBLEMS = list(dict.fromkeys(sample_window_problems(seed=0, count=468)))
ORDERED = [operation for operation in OPERATIONS if operation not in ("sum", "take", "put")]
OTHER_DTYPES = [
    problem
    for seed, (dtype, operations) in enumerate(
        [(dtype, OPERATIONS) for dtype in ("bfloat16", "float16", "float64")]
        + [(dtype, ORDERED) for dtype in ("int32", "int8", "uint8")]
    )
    for problem in sample_window_problems(seed, len(operations), (dtype,), operations=operations)
]
# Past the sizes at which XLA has computed wrongly: windows over (64, 128), more than 16,000 of them.
LARGE = [
    WindowSpec.parse(text)
    for text in (
        "max float32[64,128] window=2x1 stride=2x1 base_dilate=1x2",
        "sum float32[64,128] window=1x2 base_dilate=2x2 pad=0_0x1_1",
        "sum float32[64,256] window=2x1 stride=2x2",
        *(f"{op} float32[1,130,130,2] window=1x3x3x1 stride=1x1x1x1 pad=0_0x1_1x1_1x0_0" for op in OPERATIONS),
        *(f"{op} float32[1,260,260,2] window=1x2x2x1 stride=1x2x2x1" for op in OPERATIONS),
        *(f"{op} float32[1,66,128,2] window=1x3x3x1 stride=1x2x2x1 pad=0_0x-1_1x1_0x0_0" for op in OPERATIONS),
    )
]
BOOLEAN = [WindowSpec.parse(f"{op} bool[7,9] window=3x2 stride=3x2 pad=1_1x0_1") for op in OPERATIONS if op != "sum"]

Pair = tuple[Algorithm, WindowSpec]


def pairs_of(problems: list[WindowSpec]) -> list[Pair]:
    return [(a, p) for p in problems for a in applicable(p)]


def pair_id(pair: Pair) -> str:
    return f"{pair[0]} {pair[1]}"


VALUES = [
    pair
    for operation in OPERATIONS
    for pair in in_turn((p for p in pairs_of(PROBLEMS) if p[1].operation == operation), most=3)
]


@pytest.mark.parametrize("pair", VALUES, ids=pair_id)
def test_values_with_ties_nan_and_infinities(pair: Pair) -> None:
    algorithm, problem = pair
    check_algorithm(algorithm, [problem], PLATFORM, eager=False)


@pytest.mark.parametrize("pair", in_turn(pairs_of(OTHER_DTYPES)), ids=pair_id)
def test_values_in_other_dtypes(pair: Pair) -> None:
    algorithm, problem = pair
    check_algorithm(algorithm, [problem], PLATFORM, eager=False)


@pytest.mark.parametrize("pair", pairs_of(BOOLEAN), ids=pair_id)
def test_booleans_by_every_algorithm(pair: Pair) -> None:
    algorithm, problem = pair
    check_algorithm(algorithm, [problem], PLATFORM, eager=False)


@pytest.mark.parametrize("pair", pairs_of(LARGE), ids=pair_id)
def test_sizes_past_known_thresholds(pair: Pair) -> None:
    algorithm, problem = pair
    check_algorithm(algorithm, [problem], PLATFORM, eager=False)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_algorithm_meets_many_problems(operation: str) -> None:
    met = collections.Counter(a.name for a, p in VALUES if p.operation == operation)
    names = {a.name for a in convjax.algorithms(operation)} - {"mask"}
    if operation in ("take", "put"):
        names -= {"separable", "doubling"}
    if operation in ("take_equal", "put_equal"):
        names = {"mask"}
    assert {name for name, count in met.items() if count >= 3} == names, met


# Poolings: (function, shape, window, options). Sizes are uneven and windows overlap, tile, dilate or overhang.
POOLINGS: dict[str, tuple[Any, tuple[int, ...], Any, dict[str, Any]]] = {
    "max overlapping": (convjax.max_pool, (2, 9, 8, 3), 3, {"strides": 2, "padding": 1}),
    "max tiling": (convjax.max_pool, (2, 8, 7, 3), 2, {}),
    "max dilated": (convjax.max_pool, (1, 9, 8, 2), (2, 3), {"strides": 1, "dilation": 2}),
    "max ceil": (convjax.max_pool, (1, 8, 7, 2), 3, {"strides": 2, "ceil_mode": True}),
    "max 1-D": (convjax.max_pool, (2, 11, 3), 4, {"strides": 3, "padding": "SAME"}),
    "max 3-D": (convjax.max_pool, (1, 5, 4, 6, 2), 2, {"strides": (2, 1, 2), "padding": "SAME_LOWER"}),
    "max large": (convjax.max_pool, (2, 14, 3), 9, {"strides": 1, "padding": "SAME"}),
    "max channels first": (convjax.max_pool, (2, 3, 6, 5), 2, {"strides": 1, "layout": "NCHW"}),
    "min overlapping": (convjax.min_pool, (2, 7, 8, 3), 3, {"strides": 2, "padding": "SAME"}),
    "min tiling": (convjax.min_pool, (1, 6, 9, 2), 3, {}),
    "sum strided": (convjax.sum_pool, (2, 7, 8, 3), 2, {"strides": 3}),
    "sum dilated": (convjax.sum_pool, (1, 9, 8, 2), 2, {"strides": 1, "dilation": 3, "padding": 1}),
    "sum large": (convjax.sum_pool, (1, 12, 9, 2), (8, 3), {"strides": (2, 1), "padding": 1}),
    "avg overlapping": (convjax.avg_pool, (2, 9, 8, 3), 3, {"strides": 2, "padding": 1}),
    "avg real elements": (convjax.avg_pool, (2, 8, 9, 3), 3, {"padding": "SAME", "count_include_pad": False}),
    "avg tiling": (convjax.avg_pool, (2, 8, 6, 2), 2, {}),
    "avg ceil": (convjax.avg_pool, (1, 8, 7, 2), 3, {"strides": 2, "ceil_mode": True, "divisor_override": 5}),
    "avg overhang": (convjax.avg_pool, (1, 8, 7, 2), 3, {"strides": 2, "ceil_mode": True}),
}


def pooling(name: str, algorithm: Any = None) -> Callable[[jax.Array], jax.Array]:
    pool, _, window, options = POOLINGS[name]
    return functools.partial(pool, window=window, algorithm=algorithm, **options)


def problem_of(name: str) -> WindowSpec:
    shape = jax.ShapeDtypeStruct(POOLINGS[name][1], np.float32)
    (row,) = convjax.explain(pooling(name), shape, platform=PLATFORM).rows
    assert isinstance(row.problem, WindowSpec)
    return row.problem


def stock(name: str) -> Callable[[jax.Array], jax.Array]:
    """The same by lax, or where lax has no derivative, by a maximum over stacked slices; averages by brute force."""
    problem = problem_of(name)
    pool, _, _, options = POOLINGS[name]
    if problem.operation == "max" and set(problem.window_dilation) != {1}:
        return functools.partial(_stacked_max, problem)
    combine = {"max": lax.max, "min": lax.min, "sum": lax.add}[problem.operation]

    def reduce(x: jax.Array) -> jax.Array:
        return lax.reduce_window(
            x,
            problem.identity.astype(x.dtype),
            combine,
            problem.window,
            problem.strides,
            problem.padding,
            problem.base_dilation,
            problem.window_dilation,
        )

    return (lambda x: reduce(x) / divisors(problem, options)) if pool is convjax.avg_pool else reduce


def _stacked_max(problem: WindowSpec, x: jax.Array) -> jax.Array:
    assert not any(map(any, problem.padding))
    slices = []
    for tap in np.ndindex(*problem.window):
        start = [t * d for t, d in zip(tap, problem.window_dilation, strict=True)]
        counts = zip(start, problem.windows_shape, problem.strides, strict=True)
        slices.append(lax.slice(x, start, [a + (n - 1) * s + 1 for a, n, s in counts], problem.strides))
    return jnp.max(jnp.stack(slices), axis=0)


def divisors(problem: WindowSpec, options: dict[str, Any]) -> np.ndarray:
    """What each window's sum is divided by, cell by cell: padding as asked, the overhang of ceil mode never."""
    if "divisor_override" in options:
        return np.full(problem.windows_shape, options["divisor_override"])
    counts = np.zeros(problem.windows_shape)
    overhang = options.get("ceil_mode", False)  # then no case here has padding as well
    for window in np.ndindex(*problem.windows_shape):
        for tap in np.ndindex(*problem.window):
            inside = True
            for w, t, n, s, (lo, hi) in zip(window, tap, problem.shape, problem.strides, problem.padding, strict=True):
                cell = w * s + t - lo
                padding_counts = options.get("count_include_pad", True) and not overhang
                inside &= (-lo <= cell < n + hi) if padding_counts else (0 <= cell < n)
            counts[window] += inside
    return counts


def operands_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Cotangents and x, each stacked in two; all elements of x differ, so that nothing ties."""
    rng = np.random.default_rng(0)
    problem = problem_of(name)
    x = rng.permutation(2 * int(np.prod(problem.shape))).reshape(2, *problem.shape) / 64 - 1
    return rng.standard_normal((2, *problem.windows_shape)).astype(np.float32), x.astype(np.float32)


ALL_WAYS = ("max dilated", "sum strided")
CASES = [(name, str(a)) for name in POOLINGS for a in applicable(problem_of(name))]
TRANSFORMED = [(name, algorithm) for algorithm, name in in_turn((a, name) for name, a in CASES)]


@pytest.mark.parametrize(
    ("name", "algorithm", "transform"),
    [
        *((*case, differentiated) for case in TRANSFORMED),
        *((*case, transform) for case in TRANSFORMED if case[0] in ALL_WAYS for transform in (rematerialized, sharded)),
    ],
)
def test_poolings_transform_as_stock_ones_do(name: str, algorithm: str, transform: Any) -> None:
    operands = operands_of(name)
    ours = jax.jit(functools.partial(transform, pooling(name, algorithm)))
    explanation = convjax.explain(ours, *operands, platform=PLATFORM)
    assert {row.algorithm for row in explanation.rows if row.role == "fprop"} == {algorithm}
    got = ours(*operands)
    with jax.enable_x64(True):
        want = jax.jit(functools.partial(transform, stock(name)))(*(x.astype(np.float64) for x in operands))
    assert_close(got, want, 4 * (stated_error(explanation) + np.finfo(np.float32).eps))


MASK = {"dgrad": "mask"}
MASKED = [(name, MASK) for name in POOLINGS if not name.startswith(("sum", "avg"))]


@pytest.mark.parametrize("name", ["max dilated", "min overlapping"])
def test_gradients_by_comparison_transform_as_those_by_index_do(name: str) -> None:
    operands = operands_of(name)

    def transformed(pool: Any) -> Any:
        transforms = (differentiated, rematerialized, sharded) if name in ALL_WAYS else (differentiated,)
        return functools.reduce(dict.__or__, (transform(pool, *operands) for transform in transforms))

    masked, indexed = (functools.partial(transformed, pooling(name, a)) for a in (MASK, {"dgrad": "shift"}))
    rows = convjax.explain(masked, platform=PLATFORM).rows
    assert {(row.problem.operation, row.algorithm) for row in rows if row.role == "dgrad"} == {
        ("take_equal", "mask"),
        ("put_equal", "mask"),
    }
    got, want = jax.jit(lambda: (masked(), indexed()))()
    assert_close(got, want, 1e-6)


def test_comparison_is_taken_where_it_is_the_first_that_applies() -> None:
    def operations(algorithm: Any, window: int = 65) -> set[str]:
        def loss(x: jax.Array) -> jax.Array:
            return convjax.max_pool(x, window, strides=1, algorithm={"dgrad": algorithm}).sum()

        return {row.problem.operation for row in convjax.explain(jax.grad(loss), jnp.ones((1, 70, 1))).rows}

    assert operations(["mask", "shift"]) == operations(["shift", "mask"], window=3) == {"max", "argmax", "put"}
    assert operations(["mask", "shift"], window=3) == operations(["reshape", "mask"], window=3) == {"max", "put_equal"}
    with pytest.raises(ValueError, match="65 taps: above 64 slices"):
        operations("mask")


def test_the_cheaper_gradient_is_taken() -> None:
    def operations(**rates: float) -> set[str]:
        device = Device(**(dict.fromkeys(("gemm", "vector", "library", "scalar", "memory"), 1e30) | rates), call=0.0)
        with convjax.using(device=device):
            rows = convjax.explain(
                jax.grad(lambda x: convjax.max_pool(x, 2).sum()), jnp.ones((1, 8, 4)), platform="cpu"
            ).rows
        return {row.problem.operation for row in rows if row.role == "dgrad"}

    assert operations(memory=1e9) == {"put_equal"}  # no taps in memory
    assert operations(vector=1e9) == {"argmax", "put"}


@pytest.mark.parametrize(("name", "algorithm"), [c for c in CASES if not c[0].startswith(("sum", "avg"))] + MASKED)
def test_ties_go_to_the_first_in_value_gradient_and_tangent(name: str, algorithm: Any) -> None:
    problem, pool = problem_of(name), pooling(name, algorithm)
    rng = np.random.default_rng(0)
    x = rng.choice([-np.inf, 0.0, 1.0, np.nan], problem.shape, p=[0.2, 0.4, 0.35, 0.05]).astype(np.float32)
    c = rng.integers(-4, 5, problem.windows_shape).astype(np.float32)
    t = rng.integers(-4, 5, problem.shape).astype(np.float32)
    want = reference_max_vjp(problem, x, c)

    @jax.jit
    def derivatives(x: jax.Array, c: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(pool, x)[1](c)[0], jax.jvp(pool, (x,), (t,))[1]

    gradient, tangent = derivatives(x, c, t)
    np.testing.assert_array_equal(gradient, want)
    assert float(jnp.sum(gradient)) == c.sum()
    assert float(jnp.vdot(tangent, c)) == float(np.vdot(t, want))


@pytest.mark.parametrize(("name", "algorithm"), [c for c in CASES + MASKED if c[0].startswith("max")])
def test_the_gradient_goes_to_the_index_returned(name: str, algorithm: Any) -> None:
    problem = problem_of(name)
    rng = np.random.default_rng(1)
    x = rng.choice([-np.inf, 0.0, 1.0, np.nan], problem.shape, p=[0.3, 0.4, 0.25, 0.05]).astype(np.float32)
    c = rng.integers(1, 5, problem.windows_shape).astype(np.float32)
    pool = functools.partial(pooling(name, algorithm), return_indices=True)

    @jax.jit
    def run(x: jax.Array, c: jax.Array) -> Any:
        y, pullback, indices = jax.vjp(pool, x, has_aux=True)
        return y, indices, pullback(c)[0]

    y, indices, gradient = run(x, c)
    assert indices.dtype == jnp.int32
    for plane in zip(*(planes(name, array) for array in (x, y, indices, c, gradient)), strict=True):
        x_plane, y_plane, index_plane, c_plane, gradient_plane = plane
        np.testing.assert_array_equal(x_plane[index_plane], y_plane)
        want = np.zeros_like(x_plane)
        np.add.at(want, index_plane, c_plane)
        np.testing.assert_array_equal(gradient_plane, want)


def planes(name: str, array: Any) -> np.ndarray:
    """One row of flat positions for each batch element and channel."""
    channels_first = "layout" in POOLINGS[name][3]
    array = np.asarray(array) if channels_first else np.moveaxis(np.asarray(array), -1, 1)
    return array.reshape(array.shape[0] * array.shape[1], -1)


@pytest.mark.parametrize("name", ["max overlapping", "max dilated", "sum dilated", "avg ceil"])
def test_eager_equals_jit(name: str) -> None:
    x = jnp.asarray(operands_of(name)[1][0])
    np.testing.assert_array_equal(pooling(name)(x), jax.jit(pooling(name))(x))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_averages_are_summed_in_float32(dtype: str) -> None:
    x = jnp.ones((1, 64, 64, 1), dtype)
    assert convjax.avg_pool(x, 64).astype(jnp.float32).item() == 1.0
    gradient = jax.grad(lambda x: convjax.avg_pool(x, 2, strides=1).sum().astype(jnp.float32))(x)
    assert gradient.dtype == x.dtype
