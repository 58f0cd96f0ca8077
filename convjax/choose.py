"""The choice: candidates that are allowed, ranked by measured or predicted time; nothing is run.

A lowering asks `choose` and `explain` prints what it saw, so both see the same.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from convjax.algorithms import algorithms, named
from convjax.algorithms.bands import MOST_WORKSPACE, SMALL_WORKSPACE, admitted_workspace
from convjax.algorithms.numerics import LIBRARY, direct_error, epsilon, error_on, rounding_on
from convjax.algorithms.protocol import Algorithm, Gathers, Reasons, cost_on, describe, is_opaque, workspace_on
from convjax.device import device_of
from convjax.device_kind import device_kind
from convjax.dtypes import dtype_of
from convjax.problem import ConvSpec, Problem
from convjax.request import Request
from convjax.target import Target

# Stated error admitted by each precision, as a fraction of the largest output in float32; scaled to other dtypes.
_ADMITTED = {None: 2e-5, "default": 2e-5, "high": 4e-6}

# Predictions are good to some tenths, so lax keeps its place unless another is predicted to be clearly faster.
INCUMBENT = 0.8


@dataclasses.dataclass(frozen=True)
class Choice:
    """The algorithm taken and why.

    Attributes:
        problem: what is computed.
        algorithm: what will run.
        reason: one sentence.
        predicted: seconds by the cost model, None where it knows no constants of the device or no cost.
        measured: seconds by a plan, None without one.
        rejected: every other registered algorithm with its reasons, the fastest first.
    """

    problem: Problem
    algorithm: Algorithm
    reason: str
    predicted: float | None
    measured: float | None
    rejected: tuple[tuple[Algorithm, Reasons], ...]


@functools.lru_cache(maxsize=4096)
def choose(problem: Problem, request: Request, target: Target) -> Choice:
    """The algorithm for `problem`: wishes first, then limits, then the least time on `target`, measured or predicted.

    Raises:
        ValueError: a wish binds this pass and none of its algorithms applies, no algorithm keeps the limits, or there
            is no plan where one is required.
    """
    if problem.empty:
        first, *others = algorithms(problem.operation)
        nothing = "nothing is computed, since the problem is empty"
        return Choice(problem, first, nothing, None, None, tuple((a, (nothing,)) for a in others))
    platform = target.platform
    allowed, rejected, wished = candidates(problem, request, target)
    planned = measurements(algorithms(problem.operation), problem, request, platform)
    if request.policy.on_miss == "error" and not (planned or wished):
        raise ValueError(
            f"there is no plan for {problem} on {device_kind(platform)}, and on_miss='error' requires one: "
            "pass the function to convjax.tune and its plans to convjax.using"
        )
    predicted = predictions(allowed, problem, request, platform)
    measured = measurements(allowed, problem, request, platform)
    if measured:
        taken = min(measured, key=lambda a: measured[a])
        reason = f"measured fastest of {len(measured)}" if len(measured) > 1 else "the only one measured"
        slower = _slower("measured", measured, taken, allowed)
    elif predicted:
        taken = min(predicted, key=lambda a: predicted[a] * (INCUMBENT if a.name == "lax" else 1))
        reason = f"shortest predicted time of {len(predicted)} that apply"
        if predicted[taken] > min(predicted.values()):
            reason = f"none of {len(predicted)} that apply is predicted to be clearly faster"
        slower = _slower("predicted", predicted, taken, allowed)
    else:
        taken, reason = allowed[0], f"no times are predicted for {platform}, so the first that applies"
        slower = dict.fromkeys(allowed[1:], ("another comes first",))
    reason = "asked for" if wished else reason
    rejected = slower | rejected
    return Choice(problem, taken, reason, predicted.get(taken), measured.get(taken), tuple(rejected.items()))


def _slower(
    known: str, seconds: dict[Algorithm, float], taken: Algorithm, allowed: Iterable[Algorithm]
) -> dict[Algorithm, Reasons]:
    """Why those that may be taken are not, the fastest first, by times that are `known` as measured or as predicted."""
    return {
        a: (f"{known} {seconds[a] / seconds[taken]:.1f}x the time" if a in seconds else f"not {known}",)
        for a in sorted(allowed, key=lambda a: seconds.get(a, math.inf))
        if a != taken
    }


class Candidates(NamedTuple):
    """Which algorithms may be taken for a problem.

    Attributes:
        allowed: in the registry's order.
        rejected: the others, with their reasons.
        wished: whether the allowed ones are those that a wish names.
    """

    allowed: list[Algorithm]
    rejected: dict[Algorithm, Reasons]
    wished: bool


def candidates(problem: Problem, request: Request, target: Target) -> Candidates:
    """The candidates for `problem` on `target`.

    Raises:
        ValueError: a wish binds this pass and none of its algorithms applies, or no algorithm keeps the limits.
    """
    registered, platform = algorithms(problem.operation), target.platform
    wished = _wished(problem, request, target)
    if wished:
        not_wished: Reasons = ("another was asked for",)
        return Candidates(wished, {a: not_wished for a in registered if a not in wished}, wished=True)
    refusals = {
        a: unusable(a, problem, request, target)
        or _inexact(a, problem, request, platform)
        or _wasteful(a, problem, request, platform)
        or _gathering(a, problem, target)
        for a in registered
    }
    rejected = {a: reasons for a, reasons in refusals.items() if reasons}
    if len(rejected) == len(registered):
        advice = " (precision='highest' multiplies unrounded)" if rounding_on(platform, problem) else ""
        raise ValueError(
            f"no algorithm keeps the limits {request.policy.limits} for {problem}{advice}: {_listed(rejected)}"
        )
    return Candidates([a for a in registered if a not in rejected], rejected, wished=False)


def predictions(
    allowed: Iterable[Algorithm], problem: Problem, request: Request, platform: str
) -> dict[Algorithm, float]:
    """Seconds by the cost model with the rates in force, of what it knows; none where the platform has no constants."""
    device = request.policy.device or device_of(platform)
    if device is None:
        return {}
    costs = {a: cost_on(platform, a, problem) for a in allowed}
    return {a: device.seconds(cost) for a, cost in costs.items() if cost is not None}


def least_seconds(ways: Sequence[Sequence[Problem]], request: Request, target: Target) -> list[float]:
    """For each way, the sum of the shortest times of its problems; infinite where no algorithm may be taken.

    All are measured, or else all are predicted: plans of one way alone do not turn what they were tuned for to another.
    """
    measured, predicted = [], []
    for way in ways:
        allowed = [_allowed(problem, request, target) for problem in way]
        measured.append([measurements(a, p, request, target.platform) for a, p in zip(allowed, way, strict=True)])
        predicted.append([predictions(a, p, request, target.platform) for a, p in zip(allowed, way, strict=True)])
    all_measured = all(times for way in measured for times in way)
    return [
        sum(min(times.values(), default=math.inf) for times in way) for way in (measured if all_measured else predicted)
    ]


def _allowed(problem: Problem, request: Request, target: Target) -> list[Algorithm]:
    try:
        return candidates(problem, request, target).allowed
    except ValueError:  # none keeps the limits
        return []


def measurements(
    allowed: Iterable[Algorithm], problem: Problem, request: Request, platform: str
) -> dict[Algorithm, float]:
    """Seconds by the plan in force for this kind of device."""
    plans = request.policy.plans
    plan = plans.find(problem, device_kind(platform)) if plans else None
    return {} if plan is None else {a: seconds for a in allowed if (seconds := plan.seconds(a)) is not None}


def admitted_error(problem: ConvSpec, platform: str) -> float:
    """The largest stated error that the problem's precision admits on a platform.

    Direct summation always passes, and lax: where matrix units round, nothing has to be more exact than it.
    """
    direct = direct_error(problem) + LIBRARY * rounding_on(platform, problem)
    precision = (problem.precision or "default").lower()
    scale = max(epsilon(dtype_of(problem.output_dtype)), epsilon(dtype_of(problem.lhs_dtype))) / epsilon(
        dtype_of("float32")
    )
    return max(direct, _ADMITTED.get(precision, 0.0) * scale)


def unusable(algorithm: Algorithm, problem: Problem, request: Request, target: Target) -> Reasons:
    """Why it cannot compute the problem, or not within the limits in force."""
    platform = target.platform
    if is_opaque(algorithm) and (target.divided or target.portable):
        why = "is divided among devices" if target.divided else "is to be portable, or kept in jax's compilation cache"
        return (f"calls a library by name, and the program {why}",)
    reasons = algorithm.unsupported(problem, platform)
    if reasons:
        return reasons
    limits = request.policy
    needed, error = workspace_on(platform, algorithm, problem), error_on(platform, algorithm, problem)
    if limits.max_workspace_bytes is not None and needed > limits.max_workspace_bytes:
        reasons += (f"needs {needed:.0f} bytes of workspace, {limits.max_workspace_bytes} are allowed",)
    if limits.max_error is not None and error > limits.max_error:
        reasons += (f"states an error of {error:.1e}, {limits.max_error:.1e} is allowed",)
    if limits.deterministic and platform in algorithm.varies_on:
        reasons += (f"may give other bits on another run on {platform}",)
    return reasons


def _inexact(algorithm: Algorithm, problem: Problem, request: Request, platform: str) -> Reasons:
    """Why the problem's precision does not admit it, unless the caller has set a limit of his own."""
    if request.policy.max_error is not None or not isinstance(problem, ConvSpec):
        return ()
    error, admitted = error_on(platform, algorithm, problem), admitted_error(problem, platform)
    if error <= admitted:
        return ()
    return (f"states an error of {error:.1e}, precision {problem.precision or 'default'} admits {admitted:.1e}",)


def _wasteful(algorithm: Algorithm, problem: Problem, request: Request, platform: str) -> Reasons:
    """Why its workspace is out of proportion, unless the caller has set a limit of his own."""
    needed, most = workspace_on(platform, algorithm, problem), MOST_WORKSPACE * problem.bytes
    if request.policy.max_workspace_bytes is not None or needed <= admitted_workspace(problem):
        return ()
    small = f" and {SMALL_WORKSPACE} are too many" if most < SMALL_WORKSPACE else ""
    return (f"needs {needed:.0f} bytes of workspace, {MOST_WORKSPACE} times operands and result are {most}{small}",)


def _gathering(algorithm: Algorithm, problem: Problem, target: Target) -> Reasons:
    """Why it would move more between devices than need be."""
    if target.divided and isinstance(algorithm, Gathers) and algorithm.gathers(problem):
        return ("moves operands that are divided by batch among devices",)
    return ()


def _wished(problem: Problem, request: Request, target: Target) -> list[Algorithm]:
    """The algorithms of the first wish that applies. Whoever names an algorithm has judged its error."""
    refusals: dict[Algorithm, Reasons] = {}
    for wish in request.wish or ():
        family = named(problem.operation, wish) if isinstance(wish, str) else (wish,)
        reasons = {a: unusable(a, problem, request, target) for a in family}
        applying = [a for a, refused in reasons.items() if not refused]
        if applying:
            return applying
        refusals |= reasons
    if request.must:
        raise ValueError(f"algorithm does not apply to {request.role} of {problem}: {_listed(refusals)}")
    return []


def _listed(reasons: dict[Algorithm, Reasons]) -> str:
    return "; ".join(f"{describe(a)}: {', '.join(refused)}" for a, refused in reasons.items())
