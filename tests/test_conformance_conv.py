"""Every registered convolution algorithm, on sampled problems: registering an algorithm is what tests it."""

import collections
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from transforms import (
    Function,
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
from convjax.problem import ConvSpec
from convjax.testing import check_algorithm, random_operands, reference_conv_vjp, sample_conv_problems

PROBLEMS = list(dict.fromkeys(sample_conv_problems(seed=0, count=320)))
HALF_PRECISIONS = sample_conv_problems(seed=1, count=96, dtypes=("float64", "bfloat16", "float16"))
# Programs with more kernels than this take seconds to compile; a few stay in the sample.
_MOST_CALLS = 40

Pair = tuple[Algorithm, ConvSpec]


def pairs_of(problems: list[ConvSpec]) -> list[Pair]:
    """Every problem with every algorithm that applies to it and compiles in reasonable time."""
    return [(a, p) for p in problems for a in applicable(p) if a.cost(p).calls <= _MOST_CALLS]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "transformed_pair" in metafunc.fixturenames:
        pairs = pairs_of(PROBLEMS) if metafunc.config.getoption("--thorough") else in_turn(PROBLEMS)
        metafunc.parametrize("transformed_pair", pairs, ids=pair_id)


def pair_id(pair: Pair) -> str:
    return f"{pair[0]} {pair[1]}"


def function(problem: ConvSpec, algorithm: Any = "stock") -> Function:
    """The problem as a function of its operands, by lax or through convjax."""
    convolve = (
        lax.conv_general_dilated
        if algorithm == "stock"
        else functools.partial(convjax.conv_general_dilated, algorithm=algorithm)
    )
    return lambda lhs, rhs: convolve(
        lhs,
        rhs,
        problem.strides,
        problem.padding,
        problem.lhs_dilation,
        problem.rhs_dilation,
        lax.ConvDimensionNumbers(*problem.dimension_numbers),
        problem.feature_groups,
        problem.batch_groups,
    )


def pairs_of_operands(problem: ConvSpec) -> list[np.ndarray]:
    """Cotangents, lhs and rhs, each stacked in two."""
    operands = zip(*(random_operands(problem, seed) for seed in (0, 1)), strict=True)
    cotangents = np.random.default_rng(2).standard_normal((2, *problem.output_shape))
    return [cotangents.astype(problem.output_dtype), *map(np.stack, operands)]


def agrees_with_lax(pair: Pair, transform: Any) -> None:
    algorithm, problem = pair
    operands = pairs_of_operands(problem)
    ours = jax.jit(functools.partial(transform, function(problem, str(algorithm))))
    explanation = convjax.explain(ours, *operands, platform="cpu")
    forced = {row.algorithm for row in explanation.rows if row.role == "fprop" and row.problem == problem}
    assert forced == {str(algorithm)}
    got = ours(*operands)
    with jax.enable_x64(True):
        stock = jax.jit(functools.partial(transform, function(problem)))
        want = stock(*(x.astype(np.float64) for x in operands))
    assert_close(got, want, 4 * stated_error(explanation))


def test_at_least_300_problems_are_sampled_and_every_algorithm_meets_many() -> None:
    met = collections.Counter(str(a) for a, _ in pairs_of(PROBLEMS))
    transformed = collections.Counter(str(a) for a, _ in in_turn(PROBLEMS))
    assert len(PROBLEMS) >= 300
    assert all(met[str(a)] >= 60 and transformed[str(a)] >= 20 for a in convjax.algorithms("conv")), (met, transformed)


@pytest.mark.parametrize("pair", pairs_of(PROBLEMS), ids=pair_id)
def test_values_are_as_exact_as_stated(pair: Pair) -> None:
    algorithm, problem = pair
    check_algorithm(algorithm, [problem], eager=False)


@pytest.mark.parametrize("pair", in_turn(HALF_PRECISIONS), ids=pair_id)
def test_other_dtypes_are_as_exact_as_stated(pair: Pair) -> None:
    algorithm, problem = pair
    check_algorithm(algorithm, [problem], eager=False)


def test_derivatives_and_batches_equal_lax(transformed_pair: Pair) -> None:
    agrees_with_lax(transformed_pair, differentiated)


@pytest.mark.parametrize("pair", in_turn(PROBLEMS[::6]), ids=pair_id)
def test_remat_in_scan_equals_lax(pair: Pair) -> None:
    agrees_with_lax(pair, rematerialized)


@pytest.mark.parametrize("pair", in_turn(PROBLEMS[1::6]), ids=pair_id)
def test_shard_map_and_its_gradient_equal_lax(pair: Pair) -> None:
    agrees_with_lax(pair, sharded)


@pytest.mark.parametrize("pair", in_turn(PROBLEMS[2::6]), ids=pair_id)
def test_eager_equals_jit(pair: Pair) -> None:
    algorithm, problem = pair
    f = function(problem, str(algorithm))
    lhs, rhs = random_operands(problem, 0)
    jitted = jax.jit(f)(lhs, rhs)
    assert_close({"eager": f(jnp.asarray(lhs), jnp.asarray(rhs))}, {"eager": jitted}, algorithm.error(problem))


# Past the sizes at which XLA has computed wrongly: more than 16,000 rows, windows over (64, 128).
LARGE = [
    ConvSpec.parse(text)
    for text in (
        "conv float32[1,132,132,2] float32[3,3,2,3] b01f_01io->b01f",
        "conv float32[1,130,130,3] float32[3,3,1,3] b01f_01io->b01f pad=1_1x1_1 feature_groups=3",
        "conv float32[1,16400,2] float32[4,2,2] b0f_0io->b0f pad=3_0",
        "conv float32[1,65,129,3] float32[2,2,3,2] b01f_01io->b01f lhs_dilate=2x2 pad=1_1x1_1",
        "conv float32[2,130,130,2] float32[2,128,128,3] f01b_i01o->01bf",
        "conv float64[1,16400,3] float64[1,3,3] b0f_0io->b0f",
    )
]


@pytest.mark.parametrize("pair", [(a, p) for p in LARGE for a in applicable(p)], ids=pair_id)
def test_sizes_past_known_thresholds(pair: Pair) -> None:
    algorithm, problem = pair
    check_algorithm(algorithm, [problem], eager=False)


@pytest.mark.parametrize("algorithm", [str(a) for a in convjax.algorithms("conv")])
@pytest.mark.parametrize("problem", LARGE[:2], ids=str)
def test_gradients_past_known_thresholds(problem: ConvSpec, algorithm: str) -> None:
    if algorithm not in map(str, applicable(problem)):
        algorithm = "lax"
    cotangent, lhs, rhs = (x[0] for x in pairs_of_operands(problem))
    pullback = jax.jit(lambda lhs, rhs, c: jax.vjp(function(problem, algorithm), lhs, rhs)[1](c))
    want = reference_conv_vjp(problem, lhs, rhs, cotangent)
    bound = 4 * stated_error(convjax.explain(pullback, lhs, rhs, cotangent, platform="cpu"))
    assert_close({"grad": pullback(lhs, rhs, cotangent)}, {"grad": want}, bound)
