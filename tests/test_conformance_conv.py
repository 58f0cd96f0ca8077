"""Every registered convolution algorithm, on sampled problems: registering an algorithm is what tests it."""

import collections
import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from transforms import (
    PLATFORM,
    Function,
    Results,
    applicable,
    assert_close,
    differentiated,
    in_turn,
    lax_arguments,
    rematerialized,
    sharded,
    stated_error,
)

import convjax
from convjax.algorithms import named
from convjax.algorithms.numerics import error_on
from convjax.algorithms.protocol import Algorithm
from convjax.problem import ConvSpec
from convjax.testing import (
    CONV_FAMILIES,
    check_algorithm,
    random_operands,
    reference_conv_vjp,
    sample_conv_problems,
)

# Programs with more kernels than this, or derivatives with more taps in all, take many seconds to compile.
_MOST_CALLS, _MOST_TAPS = 20, 60

Pair = tuple[Algorithm, ConvSpec]


def small_problems(count: int) -> list[ConvSpec]:
    """Problems of every family in turn whose derivatives have few taps: those of a weight gradient are the outputs."""

    def small(family: str) -> Iterator[ConvSpec]:
        problems = dict.fromkeys(sample_conv_problems(seed=1, count=80, families=(family,)))
        return (p for p in problems if 0 < p.taps * math.prod(p.output) <= _MOST_TAPS and p.macs)

    families = itertools.zip_longest(*map(small, CONV_FAMILIES))
    return list(itertools.islice((p for turn in families for p in turn if p is not None), count))


def pairs_of(problems: Iterable[ConvSpec]) -> list[Pair]:
    """Every problem with every algorithm that applies to it and compiles in reasonable time."""
    return [(a, p) for p in problems for a in applicable(p) if a.cost(p).calls <= _MOST_CALLS]


def one_a_family(pairs: Iterable[Pair]) -> list[Pair]:
    """The first problem that some setting of each algorithm's knobs is given."""
    return list({a.name: (a, p) for a, p in reversed(in_turn(pairs, most=1))}.values())


PROBLEMS = list(dict.fromkeys(sample_conv_problems(seed=0, count=320)))
SMALL = small_problems(320)
OTHER_DTYPES = sample_conv_problems(seed=2, count=32, dtypes=("float64", "bfloat16", "float16"))

# What each test meets by default, and with --thorough.
SAMPLES = {
    "value_pair": (in_turn(pairs_of(PROBLEMS), most=3), pairs_of(PROBLEMS)),
    "derivative_pair": (one_a_family(pairs_of(SMALL)), pairs_of(SMALL)),
    "sharded_pair": (one_a_family(pairs_of(SMALL[100:] + SMALL[:100])), pairs_of(SMALL)),
    "scanned_pair": (one_a_family(pairs_of(SMALL[150:] + SMALL[:150])), pairs_of(SMALL[:64])),
    "eager_pair": (one_a_family(pairs_of(SMALL[190:] + SMALL[:190])), pairs_of(SMALL[:64])),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, samples in SAMPLES.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, samples[metafunc.config.getoption("--thorough")], ids=pair_id)


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
        *lax_arguments(problem),
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
    explanation = convjax.explain(ours, *operands, platform=PLATFORM)
    forced = {row.algorithm for row in explanation.rows if row.role == "fprop" and row.problem == problem}
    assert forced == {str(algorithm)}
    assert_close(ours(*operands), by_lax(problem, transform), 4 * stated_error(explanation))


@functools.lru_cache(maxsize=4)
def by_lax(problem: ConvSpec, transform: Any) -> Results:
    """What stock lax gives in float64, kept for the next algorithm on the same problem."""
    with jax.enable_x64(True):
        stock = jax.jit(functools.partial(transform, function(problem)))
        return jax.device_get(stock(*(x.astype(np.float64) for x in pairs_of_operands(problem))))


def test_at_least_300_problems_are_sampled_and_every_algorithm_meets_many() -> None:
    for name, (usual, _) in SAMPLES.items():
        met = collections.Counter(label for a, _ in usual for label in {str(a), a.name})
        least = 3 if name == "value_pair" else 1
        assert all(met[str(a) if name == "value_pair" else a.name] >= least for a in convjax.algorithms("conv")), (
            name,
            met,
        )
    for name in ("value_pair", "derivative_pair"):
        assert len({problem for _, problem in SAMPLES[name][1]}) >= 300


def test_values_are_as_exact_as_stated(value_pair: Pair) -> None:
    algorithm, problem = value_pair
    check_algorithm(algorithm, [problem], PLATFORM, eager=False)


@pytest.mark.parametrize("pair", in_turn(pairs_of(OTHER_DTYPES)), ids=pair_id)
def test_other_dtypes_are_as_exact_as_stated(pair: Pair) -> None:
    algorithm, problem = pair
    check_algorithm(algorithm, [problem], PLATFORM, eager=False)


def test_derivatives_and_batches_equal_lax(derivative_pair: Pair) -> None:
    agrees_with_lax(derivative_pair, differentiated)


def test_shard_map_and_its_gradient_equal_lax(sharded_pair: Pair) -> None:
    agrees_with_lax(sharded_pair, sharded)


def test_remat_in_scan_equals_lax(scanned_pair: Pair) -> None:
    agrees_with_lax(scanned_pair, rematerialized)


def test_eager_equals_jit(eager_pair: Pair) -> None:
    algorithm, problem = eager_pair
    f = function(problem, str(algorithm))
    lhs, rhs = map(jnp.asarray, random_operands(problem, 0))
    assert_close({"value": f(lhs, rhs)}, {"value": jax.jit(f)(lhs, rhs)}, error_on(PLATFORM, algorithm, problem))


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
        # Sums of 8 bytes side by side, which the emitters of jaxlib 0.10.1 mix up.
        "conv float64[2,13,14,5] float64[2,4,5,5] b01f_01io->b01f",
        "conv float64[2,9,9,5] float64[3,3,5,5] b01f_01io->b01f",
    )
]


@pytest.mark.parametrize("pair", [(a, p) for p in LARGE for a in applicable(p)], ids=pair_id)
def test_sizes_past_known_thresholds(pair: Pair) -> None:
    algorithm, problem = pair
    check_algorithm(algorithm, [problem], PLATFORM, eager=False)


def test_an_empty_batch_beside_axes_of_one_is_transformed() -> None:
    problem = ConvSpec.parse("conv float32[0,5,1,1] float32[3,5,3,1] bf01_oi01->bf01 pad=1_1x0_0")
    assert check_algorithm(named("conv", "fft")[0], [problem], PLATFORM) == 1


@pytest.mark.parametrize("pair", [(a, p) for p in LARGE[:2] for a in applicable(p)], ids=pair_id)
def test_gradients_past_known_thresholds(pair: Pair) -> None:
    algorithm, problem = str(pair[0]), pair[1]
    cotangent, lhs, rhs = (x[0] for x in pairs_of_operands(problem))
    pullback = jax.jit(lambda lhs, rhs, c: jax.vjp(function(problem, algorithm), lhs, rhs)[1](c))
    want = reference_conv_vjp(problem, lhs, rhs, cotangent)
    bound = 4 * stated_error(convjax.explain(pullback, lhs, rhs, cotangent, platform=PLATFORM))
    assert_close({"grad": pullback(lhs, rhs, cotangent)}, {"grad": want}, bound)


def test_disable_jit_leaves_primitives_jitted() -> None:
    """As jax's own are; one that is not would call itself for ever."""
    x, w = jnp.arange(10.0).reshape(1, 5, 2), jnp.ones((2, 2, 1))
    with jax.disable_jit():
        y, pullback = jax.vjp(lambda x: convjax.max_pool(convjax.conv(x, w), 2), x)
        (gradient,) = pullback(jnp.ones_like(y))
    np.testing.assert_array_equal(y.ravel(), [14, 30])
    np.testing.assert_array_equal(gradient.ravel(), [0, 0, 1, 1, 1, 1, 1, 1, 1, 1])
