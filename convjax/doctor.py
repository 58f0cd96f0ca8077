"""`doctor`: what this installation has, which known faults of jaxlib it shows, and whether the algorithms hold."""

import importlib.metadata
import platform as host
from collections.abc import Iterator, Sequence

import jax

from convjax import probes
from convjax.algorithms import algorithms, onednn
from convjax.algorithms.protocol import Algorithm
from convjax.device import device_of
from convjax.device_kind import device_kind
from convjax.pages import large_pages
from convjax.platforms import known_platform
from convjax.problem import Problem, WindowSpec
from convjax.processor import vector_width
from convjax.testing import check_algorithm, sample_conv_problems, sample_window_problems

# Problems of each operation that an algorithm is tried on, of those sampled that it applies to.
_CONVOLUTIONS, _WINDOWS = 2, 1


def examine() -> Iterator[tuple[bool, str]]:
    """Lines of a report as they are found, each with whether all is well; some take seconds.

    All is not well where a fault is present that convjax does not avoid, where a probe cannot be run, or where an
    algorithm breaks its promise.
    """
    platform = known_platform(None)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "numpy"))
    yield True, f"Python {host.python_version()}, {versions}"
    yield True, f"{len(jax.devices())} {platform} devices: {device_kind(platform)}"
    known = "has constants" if device_of(platform) else "has no constants, so lax is taken where nothing was tuned,"
    yield True, f"the cost model {known} for {platform}"
    if platform == "cpu":
        yield True, large_pages()
        yield True, vector_width()
        yield True, f"oneDNN: {onednn.missing() or 'called where it is fastest, unless a program is to be portable'}"
    for probe in probes.PROBES:
        yield _probed(probe, probes.run(probe))
    convs = sample_conv_problems(seed=0, count=160)
    for algorithm in algorithms("conv"):
        yield _tried(algorithm, convs, platform, "convolutions", _CONVOLUTIONS)
    windows = sample_window_problems(seed=0, count=468)
    for algorithm in dict.fromkeys(a for operation in WindowSpec.OPERATIONS for a in algorithms(operation)):
        computed = [problem for problem in windows if algorithm in algorithms(problem.operation)]
        yield _tried(algorithm, computed, platform, "windows", _WINDOWS)


def _probed(probe: probes.Probe, verdict: str) -> tuple[bool, str]:
    """The line of a probe that ended so, and whether programs are right here all the same."""
    told = f"{probe.name}: {probe.fault} ({probe.source})"
    if verdict in ("wrong", "raises", "crashes", "hangs"):
        return probe.avoided, f"{told}: PRESENT ({verdict}); {probe.answer if probe.avoided else 'not avoided here'}"
    return verdict == "right", f"{told}: {'absent' if verdict == 'right' else verdict}"


def _tried(algorithm: Algorithm, problems: Sequence[Problem], platform: str, kind: str, count: int) -> tuple[bool, str]:
    """Whether an algorithm keeps its promises on the first `count` problems of each operation that it applies to."""
    applies: dict[str, list[Problem]] = {}
    for problem in problems:
        if not algorithm.unsupported(problem, platform):
            applies.setdefault(problem.operation, []).append(problem)
    few = [problem for same in applies.values() for problem in same[:count]]
    if not few:
        return True, f"{algorithm}: applies to none of the {kind} tried"
    try:
        return True, f"{algorithm}: right on {check_algorithm(algorithm, few, platform, eager=False)} {kind}"
    except Exception as fault:  # whatever it is that an algorithm raises
        return False, f"{algorithm}: FAILS: {' '.join(str(fault).split())}"
