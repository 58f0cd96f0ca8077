"""Measuring a problem: its candidates checked against each other and timed in turns, outside of any program.

`decide` is what lowerings ask: the choice, measured first where the policy says so.
"""

import concurrent.futures
import dataclasses
import statistics
import threading
import warnings
from typing import Any

import jax
import numpy as np

from convjax import plans, timing
from convjax.algorithms.numerics import error_on
from convjax.algorithms.protocol import Algorithm, describe
from convjax.choose import Choice, candidates, choose, measurements, predictions
from convjax.device_kind import device_kind
from convjax.lowering import Bound
from convjax.plans import Plan, Plans, Time
from convjax.problem import Problem
from convjax.request import Request
from convjax.target import Target
from convjax.testing import needs_x64, random_operands, reference

# Predictions are seldom wrong by more than this, so what is predicted to be slower is not tried.
_HOPELESS = 8.0
# What is this much slower than the fastest so far on a first call is not timed any longer.
_SLOWER = 4.0
# Time for one candidate where the caller gives none.
SECONDS = 0.1


def decide(problem: Problem, request: Request, target: Target) -> Choice:
    """The choice for a problem that is being lowered; without a plan it is measured now if the policy is to tune.

    Raises:
        ValueError: as `choose`; or a problem is to be measured on a platform that this machine lacks.
    """
    if request.policy.on_miss == "tune" and request.wish is None and not problem.empty:
        with _LOCK:
            # A plan of algorithms that are not taken where the program is divided is a plan all the same.
            alone = dataclasses.replace(target, divided=False)
            limits = request.policy.limits + " portable" * target.portable
            if not (is_known(problem, request, alone) or _is_learnt(problem, request, alone, limits)):
                plans.learn(_in_thread(problem, request, alone), limits)
        request = with_learnt(problem, request, alone)
    return choose(problem, request, target)


def _is_learnt(problem: Problem, request: Request, target: Target, limits: str) -> bool:
    """Whether it was measured under these limits, or under none, and so that an algorithm keeps these.

    Other limits leave out algorithms, of which nothing is known then.
    """
    kind = device_kind(target.platform)
    if plans.is_learnt(problem, kind, limits):
        return True
    return plans.is_learnt(problem, kind, "") and is_known(problem, with_learnt(problem, request, target), target)


def is_known(problem: Problem, request: Request, target: Target) -> bool:
    """Whether the plans in force have a time of an algorithm that may be taken."""
    return bool(measurements(candidates(problem, request, target).allowed, problem, request, target.platform))


def with_learnt(problem: Problem, request: Request, target: Target) -> Request:
    """The request with what was measured in this process beside its plans, if it is to tune.

    Its plans come first, but for a problem of which they hold no algorithm that may be taken.
    """
    if request.policy.on_miss != "tune" or problem.empty:
        return request
    own, learnt = request.policy.plans, Plans.learnt()
    known = learnt | own if is_known(problem, request, target) else own | learnt
    return dataclasses.replace(request, policy=dataclasses.replace(request.policy, plans=known))


def measure_problem(problem: Problem, request: Request, target: Target, seconds: float = SECONDS) -> Plan:
    """The times of the candidates for `problem`, those that are plainly slower left out.

    A candidate whose value is not within the stated errors is left out with a warning.

    Args:
        problem: what is to be computed, on standard normal operands.
        request: whose policy limits the candidates; its wishes are put aside.
        target: a platform of this machine, and what its programs may call.
        seconds: time spent on each candidate, compilation not counted.

    Raises:
        ValueError: seconds is not positive, this machine has no such device, or every candidate is left out.
    """
    if not (isinstance(seconds, int | float | np.number) and seconds > 0):
        raise ValueError(f"seconds must be positive, got {seconds!r}")
    platform = target.platform
    kind = device_kind(platform)
    if kind is None:
        raise ValueError(f"{problem} cannot be measured on {platform}: this machine has no such device")
    allowed = candidates(problem, Request(role=request.role, policy=request.policy), target).allowed
    predicted = dict.fromkeys(allowed, 0.0) | predictions(allowed, problem, request, platform)
    least = min((seconds for seconds in predicted.values() if seconds), default=0.0)
    hopeful = sorted((a for a in allowed if predicted[a] <= _HOPELESS * least), key=lambda a: predicted[a])
    with jax.enable_x64(needs_x64(problem)):
        operands = jax.device_put(random_operands(problem, 0), jax.devices(platform)[0])
        programs = _right_and_quick(hopeful, problem, operands, platform)
        budget = timing.Budget(seconds, 3, 100)
        samples = timing.interleave(dict(enumerate(programs.values())), dict.fromkeys(range(len(programs)), budget))
    times = [Time(describe(a), a.version, statistics.median(samples[i])) for i, a in enumerate(programs)]
    return Plan(str(problem), kind, tuple(sorted(times, key=lambda t: t.seconds)))


def _right_and_quick(
    hopeful: list[Algorithm], problem: Problem, operands: tuple[jax.Array, ...], platform: str
) -> dict[Algorithm, timing.Program]:
    """The warmed-up programs of the algorithms that agree and are not far behind the fastest."""
    programs: dict[Algorithm, timing.Program] = {}
    values: dict[Algorithm, np.ndarray] = {}
    took: dict[Algorithm, float] = {}
    for algorithm in hopeful:
        program = timing.compile_program(Bound(algorithm, problem), *operands)
        value, _ = timing.timed(program)
        values[algorithm] = np.asarray(value)
        programs[algorithm], took[algorithm] = program, timing.timed(program)[1]
    for algorithm in _wrong(values, problem, operands, platform):
        warnings.warn(
            f"{algorithm} is not within its stated error on {problem} and is left out: please report it", stacklevel=2
        )
        del took[algorithm]
    if not took:
        raise ValueError(
            f"none of {', '.join(map(str, hopeful))} is within its stated error on {problem}, so nothing can be timed: "
            "see what `python -m convjax doctor` says of this installation"
        )
    fastest = min(took.values())
    return {a: programs[a] for a in took if took[a] <= _SLOWER * fastest}


def _wrong(
    values: dict[Algorithm, np.ndarray], problem: Problem, operands: tuple[jax.Array, ...], platform: str
) -> list[Algorithm]:
    """Those whose value is off. Where all agree they are right; where they do not, float64 NumPy decides."""
    stated = {a: error_on(platform, a, problem) for a in values}
    anchor = min(stated, key=lambda a: stated[a])
    if all(_distance(v, values[anchor]) <= stated[a] + stated[anchor] for a, v in values.items()):
        return []
    exact = np.asarray(reference(problem, *map(np.asarray, operands)))
    return [a for a, v in values.items() if not _distance(v, exact) <= stated[a]]


def _distance(a: Any, b: Any) -> float:
    """The largest difference as a fraction of b's largest element."""
    wide = np.complex128 if np.iscomplexobj(b) else np.float64
    a, b = np.asarray(a).astype(wide), np.asarray(b).astype(wide)
    largest = float(np.max(np.abs(b), initial=0.0))
    return float(np.max(np.abs(a - b), initial=0.0)) / (largest or 1.0)


# One problem at a time: two that are measured at once slow each other down.
_LOCK = threading.Lock()


def _in_thread(problem: Problem, request: Request, target: Target) -> Plan:
    """Measured in a thread of its own, where no program is being traced."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(measure_problem, problem, request, target).result()
