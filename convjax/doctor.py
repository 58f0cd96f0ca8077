"""`doctor`: what this installation has, which known faults of jaxlib it shows, and whether the algorithms hold."""

import importlib.metadata
import platform as host
from collections.abc import Iterator, Sequence

import jax

from convjax import probes
from convjax.algorithms import algorithms
from convjax.algorithms.protocol import Algorithm
from convjax.device import device_of
from convjax.device_kind import device_kind
from convjax.pages import large_pages
from convjax.platforms import known_platform
from convjax.problem import Problem
from convjax.testing import check_algorithm, sample_conv_problems, sample_window_problems

# Problems that each algorithm is tried on, of those sampled that it applies to.
_TRIED = 2


def examine() -> Iterator[tuple[bool, str]]:
    """Lines of a report as they are found, each with whether all is well; some take seconds.

    A fault of jaxlib that convjax keeps away from is no ill; an algorithm that breaks its promise is.
    """
    platform = known_platform(None)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "numpy"))
    yield True, f"Python {host.python_version()}, {versions}"
    yield True, f"{len(jax.devices())} {platform} devices: {device_kind(platform)}"
    known = "has constants" if device_of(platform) else "has no constants, so lax is taken where nothing was tuned,"
    yield True, f"the cost model {known} for {platform}"
    if platform == "cpu":
        yield True, large_pages()
    for probe in probes.PROBES:
        verdict = probes.run(probe)
        present = "absent" if verdict == "right" else f"PRESENT ({verdict}); {probe.answer}"
        yield True, f"{probe.name}: {probe.fault} ({probe.source}): {present}"
    convs = sample_conv_problems(seed=0, count=160)
    windows = sample_window_problems(seed=0, count=104, operations=("max", "sum"))
    for problems in (convs, windows):
        for algorithm in algorithms(problems[0].operation):
            yield _tried(algorithm, problems, platform)


def _tried(algorithm: Algorithm, problems: Sequence[Problem], platform: str) -> tuple[bool, str]:
    """Whether an algorithm keeps its promises on a few of the problems that it applies to."""
    few = [p for p in problems if not algorithm.unsupported(p, platform)][:_TRIED]
    kind = "convolutions" if problems[0].operation == "conv" else "windows"
    if not few:
        return True, f"{algorithm}: applies to none of the {kind} tried"
    try:
        return True, f"{algorithm}: right on {check_algorithm(algorithm, few, platform, eager=False)} {kind}"
    except Exception as fault:  # whatever it is that an algorithm raises
        return False, f"{algorithm}: FAILS: {' '.join(str(fault).split())}"
