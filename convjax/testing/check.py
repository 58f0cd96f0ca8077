"""The check that an algorithm keeps its promises: right where it applies, and as exact as it says."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax.algorithms import onednn
from convjax.algorithms.numerics import error_on
from convjax.algorithms.protocol import Algorithm, ReadsReversed, describe, is_opaque
from convjax.dtypes import dtype_of
from convjax.platforms import known_platform
from convjax.problem import ConvSpec, Problem
from convjax.target import Target, compiling_for
from convjax.testing.operands import Kind, needs_x64, random_operands
from convjax.testing.reference import reference
from convjax.testing.sample import sample_conv_problems

_SHOWN = 5


def check_algorithm(
    algorithm: Algorithm, problems: Iterable[Problem] | None = None, platform: str = "cpu", *, eager: bool = True
) -> int:
    """Compares `algorithm`, jitted and eager, with `reference` on every problem it says it supports.

    One that has `of_reversed` is asked for the same of kernels that were reversed; where programs may call oneDNN, each
    is asked for a portable one too.
    Checked are shapes, dtypes, the error on normal operands against `algorithm.error(problem)` and what
    the platform's products round beyond it, small integers bit for bit where `algorithm.exact`, and for
    windows also ties, NaN and infinities.

    Args:
        algorithm: any value with the protocol's methods, registered or not.
        problems: what to try; by default 96 sampled convolutions. Give an algorithm for windows the
            problems of its operations, e.g. `sample_window_problems(0, 26, operations=("max",))`.
        platform: where it runs, e.g. "cpu" or "cuda".
        eager: whether to run it without jit too, which compiles each of its steps and takes most of the time.

    Returns:
        How many of the problems it applies to, all of them passed.

    Raises:
        AssertionError: some results are wrong; the first few are listed with their problems.
        ValueError: it applies to none of the problems, so nothing was checked; or the platform is unknown.

    Example:
        >>> from convjax.algorithms.conv.lax_conv import Lax
        >>> check_algorithm(Lax(), sample_conv_problems(seed=0, count=4))
        4
    """
    platform = known_platform(platform)
    tried = tuple(problems) if problems is not None else sample_conv_problems(0, 96)
    applies = [problem for problem in tried if not algorithm.unsupported(problem, platform)]
    if not applies:
        reasons = Counter(reason for problem in tried for reason in algorithm.unsupported(problem, platform))
        raise ValueError(
            f"{describe(algorithm)} applies to none of the {len(tried)} problems on {platform}, nothing was checked: "
            f"{'; '.join(reason for reason, _ in reasons.most_common(_SHOWN)) or 'give at least one problem'}"
        )
    with jax.default_device(jax.local_devices(backend=platform)[0]), compiling_for(Target(platform)):
        faults = [
            f"{problem}: {'; '.join(found)}"
            for problem in applies
            if (found := [*_faults(algorithm, problem, platform, eager)])
        ]
    if faults:
        shown = "".join(f"\n  {fault}" for fault in faults[:_SHOWN])
        more = f"\n  and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise AssertionError(
            f"{describe(algorithm)} is wrong on {len(faults)} of {len(applies)} problems:{shown}{more}"
        )
    return len(applies)


def _faults(algorithm: Algorithm, problem: Problem, platform: str, eager: bool) -> Iterator[str]:
    """What is wrong with the results on one problem, one sentence each."""
    run = partial(algorithm, problem)
    ways = {"jitted": jax.jit(run)} | ({"eager": run} if eager else {})
    if onednn.is_at_hand() and not is_opaque(algorithm):
        ways["portable"] = jax.jit(partial(_portable, algorithm, problem))
    if isinstance(algorithm, ReadsReversed) and isinstance(problem, ConvSpec):
        ways["of a reversed kernel"] = jax.jit(partial(_reversed_twice, algorithm, problem))
    kinds: list[tuple[Kind, float]] = [("normal", error_on(platform, algorithm, problem))]
    if algorithm.exact:
        kinds.append(("integers", 0.0))
        if not isinstance(problem, ConvSpec):
            kinds.append(("special", 0.0))
    for kind, bound in kinds:
        operands = random_operands(problem, 0, kind)
        with jax.enable_x64(needs_x64(problem)):
            arrays = jax.device_put(operands)  # nothing is compiled, as `jnp.asarray` may
            try:
                results = {way: call(*arrays) for way, call in ways.items()}
            except Exception as error:
                error.add_note(f"{describe(algorithm)} raised this on {problem}, which it says it supports")
                raise
        expected = reference(problem, *operands)
        for way, result in results.items():
            fault = _difference(np.asarray(result), expected, _dtype(problem), bound, _largest_product(operands))
            if fault:
                yield f"{way} on {kind} operands, {fault}"


def _portable(algorithm: Algorithm, problem: Problem, *operands: jax.Array) -> jax.Array:
    with compiling_for(Target("cpu", portable=True)):
        result: jax.Array = algorithm(problem, *operands)
        return result


def _reversed_twice(algorithm: ReadsReversed, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    return algorithm.of_reversed(problem, lhs, lax.rev(rhs, problem.dimension_numbers[1][2:]))


def _dtype(problem: Problem) -> np.dtype:
    if isinstance(problem, ConvSpec):
        return dtype_of(problem.output_dtype)
    return dtype_of("int32" if problem.operation.startswith("arg") else problem.dtype)


def _largest_product(operands: Iterable[np.ndarray]) -> float:
    """What errors are measured against where the result is zero throughout, because no tap meets an element."""
    with np.errstate(invalid="ignore"):  # inf x 0 among special operands, whose results must be equal anyway
        return math.prod(float(np.max(np.abs(array.astype(np.complex128)), initial=0)) for array in operands)


def _difference(got: np.ndarray, want: np.ndarray, dtype: np.dtype, bound: float, if_zero: float) -> str | None:
    """How `got` differs from `want` by more than `bound` times its largest value, None if it does not."""
    if got.dtype != dtype or got.shape != want.shape:
        return f"{got.dtype}{list(got.shape)} where {dtype}{list(want.shape)} is due"
    if bound == 0 or not jnp.issubdtype(dtype, jnp.inexact):
        want = want.astype(dtype)
    if want.dtype == dtype and np.array_equal(got, want):
        return None
    got, want = (a.astype(np.complex128 if a.dtype.kind == "c" else np.float64) for a in (got, want))
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    with np.errstate(invalid="ignore"):  # inf - inf, where same is already True or the fault is reported as NaN
        error = np.max(np.where(same, 0, np.abs(got - want)), initial=0)
    scale = np.max(np.abs(want[np.isfinite(want)]), initial=0) or if_zero
    if np.all(same) or error <= bound * scale:
        return None
    return (
        f"{np.count_nonzero(~same)} of {got.size} values differ, by up to {error:.3g} "
        f"where the largest is {scale:.3g} and the error promised is {bound:.3g} of it"
    )
