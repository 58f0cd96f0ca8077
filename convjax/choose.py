"""The choice: candidates that are allowed, ranked by predicted time; nothing is run.

A lowering asks `choose` and `explain` prints what it saw, so both see the same.
"""

import dataclasses
import functools

from convjax.algorithms import algorithms, named
from convjax.algorithms.numerics import direct_error, epsilon
from convjax.algorithms.protocol import Algorithm, Reasons, describe
from convjax.device import device_of
from convjax.dtypes import dtype_of
from convjax.problem import ConvSpec, Problem
from convjax.request import Request

# Stated error admitted by each precision, as a fraction of the largest output in float32; scaled to other dtypes.
_ADMITTED = {None: 2e-5, "default": 2e-5, "high": 4e-6}


# Predictions are good to some tenths, so lax keeps its place unless another is predicted to be clearly faster.
INCUMBENT = 0.8


@dataclasses.dataclass(frozen=True)
class Choice:
    """The algorithm taken and why.

    Attributes:
        algorithm: what will run.
        reason: one sentence.
        seconds: predicted time, None where the device has no constants.
        rejected: every other registered algorithm with its reasons.
    """

    problem: Problem
    algorithm: Algorithm
    reason: str
    seconds: float | None
    rejected: tuple[tuple[Algorithm, Reasons], ...]


@functools.lru_cache(maxsize=4096)
def choose(problem: Problem, request: Request, platform: str) -> Choice:
    """The algorithm for `problem`: wishes first, then constraints, then the shortest predicted time.

    Raises:
        ValueError: a wish binds this pass and none of its algorithms applies, or no algorithm keeps the limits.
    """
    allowed, rejected, wished = _sifted(problem, request, platform)
    device = request.constraints.device or device_of(platform)
    if device is None:
        taken, seconds = allowed[0], None
        reason = f"no measured constants for {platform}, so the first that applies"
        rejected |= dict.fromkeys(allowed[1:], ("another comes first",))
    else:
        predicted = {a: device.seconds(a.cost(problem)) for a in allowed}
        taken = min(allowed, key=lambda a: predicted[a] * (INCUMBENT if a.name == "lax" else 1))
        seconds = predicted[taken]
        reason = f"shortest predicted time of {len(allowed)} that apply"
        if seconds > min(predicted.values()):
            reason = f"none of {len(allowed)} that apply is predicted to be clearly faster"
        rejected |= {a: (f"predicted {predicted[a] / seconds:.1f}x the time",) for a in allowed if a != taken}
    return Choice(problem, taken, "asked for" if wished else reason, seconds, tuple(rejected.items()))


def candidates(problem: Problem, request: Request, platform: str) -> list[Algorithm]:
    """The algorithms that `choose` ranks for `problem`."""
    return _sifted(problem, request, platform)[0]


def _sifted(
    problem: Problem, request: Request, platform: str
) -> tuple[list[Algorithm], dict[Algorithm, Reasons], bool]:
    """What may be taken, what may not and why, and whether the first is what was asked for."""
    wished = _wished(problem, request, platform)
    if wished:
        others = [a for a in algorithms(problem.operation) if a not in wished]
        return wished, dict.fromkeys(others, ("another was asked for",)), True
    rejected: dict[Algorithm, Reasons] = {}
    for algorithm in algorithms(problem.operation):
        reasons = _unusable(algorithm, problem, request, platform) or _inexact(algorithm, problem, request)
        if reasons:
            rejected[algorithm] = reasons
    allowed = [a for a in algorithms(problem.operation) if a not in rejected]
    if not allowed:
        raise ValueError(f"no algorithm keeps the limits {request.constraints} for {problem}: {_listed(rejected)}")
    return allowed, rejected, False


def admitted_error(problem: ConvSpec) -> float:
    """The largest stated error that the problem's precision admits; direct summation always passes."""
    direct = direct_error(problem)
    precision = (problem.precision or "default").lower()
    scale = max(epsilon(dtype_of(problem.output_dtype)), epsilon(dtype_of(problem.lhs_dtype))) / epsilon(
        dtype_of("float32")
    )
    return max(direct, _ADMITTED.get(precision, 0.0) * scale)


def _unusable(algorithm: Algorithm, problem: Problem, request: Request, platform: str) -> Reasons:
    """Why it cannot compute the problem, or not within the limits in force."""
    reasons = algorithm.unsupported(problem, platform)
    if reasons:
        return reasons
    limits = request.constraints
    needed, error = algorithm.cost(problem).workspace, algorithm.error(problem)
    if limits.max_workspace_bytes is not None and needed > limits.max_workspace_bytes:
        reasons += (f"needs {needed:.0f} bytes of workspace, {limits.max_workspace_bytes} are allowed",)
    if limits.max_error is not None and error > limits.max_error:
        reasons += (f"states an error of {error:.1e}, {limits.max_error:.1e} is allowed",)
    return reasons


def _inexact(algorithm: Algorithm, problem: Problem, request: Request) -> Reasons:
    """Why the problem's precision does not admit it, unless the caller has set a limit of his own."""
    if request.constraints.max_error is not None or not isinstance(problem, ConvSpec):
        return ()
    error, admitted = algorithm.error(problem), admitted_error(problem)
    if error <= admitted:
        return ()
    return (f"states an error of {error:.1e}, precision {problem.precision or 'default'} admits {admitted:.1e}",)


def _wished(problem: Problem, request: Request, platform: str) -> list[Algorithm]:
    """The algorithms of the first wish that applies. Whoever names an algorithm has judged its error."""
    refusals: dict[Algorithm, Reasons] = {}
    for wish in request.wish or ():
        family = named(problem.operation, wish) if isinstance(wish, str) else (wish,)
        reasons = {a: _unusable(a, problem, request, platform) for a in family}
        applying = [a for a, refused in reasons.items() if not refused]
        if applying:
            return applying
        refusals |= reasons
    if request.must:
        raise ValueError(f"algorithm does not apply to {request.role} of {problem}: {_listed(refusals)}")
    return []


def _listed(reasons: dict[Algorithm, Reasons]) -> str:
    return "; ".join(f"{describe(a)}: {', '.join(refused)}" for a, refused in reasons.items())
