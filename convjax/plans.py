"""Plans: the times that algorithms took on each problem and kind of device, kept in files and merged.

A plan does not name a winner, it holds what was measured: the choice takes the fastest that the limits in
force admit.
"""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from convjax import whole_file
from convjax.algorithms.protocol import Algorithm, describe
from convjax.problem import Problem, parse

_FORMAT = "convjax plans, version 1"


@dataclasses.dataclass(frozen=True)
class Time:
    """What one algorithm took.

    Attributes:
        algorithm: its full name.
        version: the algorithm's; the time of another version is not used.
        seconds: the median.
    """

    algorithm: str
    version: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was measured for one problem on one kind of device.

    Attributes:
        problem: in its text form.
        device: the kind of device, as `convjax.device_kind.device_kind` tells it.
        times: of the algorithms measured, the fastest first.

    Example:
        >>> import jax.numpy as jnp, convjax
        >>> (plan,) = convjax.tune(lambda x: convjax.max_pool(x, 2), jnp.ones((1, 4, 4, 1)), seconds=0.001)
        >>> plan.problem
        'max float32[1,4,4,1] window=1x2x2x1 stride=1x2x2x1'
        >>> plan.times[0].seconds == min(time.seconds for time in plan.times)
        True
    """

    problem: str
    device: str
    times: tuple[Time, ...]

    def seconds(self, algorithm: Algorithm) -> float | None:
        """What `algorithm` took, None if this version of it was not measured."""
        found = (t.seconds for t in self.times if (t.algorithm, t.version) == (describe(algorithm), algorithm.version))
        return next(found, None)


@dataclasses.dataclass(frozen=True, repr=False)
class Plans:
    """Plans by problem and kind of device; in force inside `convjax.using(plans)`. Immutable.

    `a | b` has the plans of both, b's where both have one. Functions jitted under other plans are traced again.

    Args:
        entries: the plans; of two for the same problem and kind of device the last counts.

    Example:
        >>> import jax.numpy as jnp, convjax
        >>> x, w = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 1))
        >>> plans = convjax.tune(lambda x: convjax.depthwise_conv(x, w), x, seconds=0.001)
        >>> len(plans)
        1
        >>> with convjax.using(plans, on_miss="error"):
        ...     convjax.depthwise_conv(x, w).shape
        (1, 6, 6, 4)
    """

    entries: tuple[Plan, ...] = ()

    def __post_init__(self) -> None:
        if not all(isinstance(plan, Plan) for plan in self.entries):
            raise TypeError(f"entries must be plans, got {self.entries!r}: read a file with Plans.load(path)")
        last = {(plan.problem, plan.device): plan for plan in self.entries}
        object.__setattr__(self, "entries", tuple(last.values()))

    def find(self, problem: Problem, device: str | None) -> Plan | None:
        """The plan for `problem` on a kind of device."""
        return self._by_key.get((str(problem), device))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes them as JSON, one plan a line. A file of that name is replaced once the new one is whole."""
        lines = ",\n".join(json.dumps(dataclasses.asdict(plan)) for plan in self.entries)
        whole_file.write(Path(path), f'{{"format": {json.dumps(_FORMAT)}, "plans": [\n{lines}\n]}}\n')

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Plans":
        """The plans in a file that `save` wrote.

        Algorithms that are no longer registered, and other versions of those that are, are kept and not used.

        Raises:
            ValueError: the file holds something else, or is broken.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"plans {path} are not JSON: {error}") from None
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise ValueError(f"{path} does not hold plans: it must be an object with the format {_FORMAT!r}")
        try:
            return cls(tuple(map(_read, data["plans"])))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"plans {path} are broken: {type(error).__name__}: {error}") from None

    @classmethod
    def learnt(cls) -> "Plans":
        """The plans measured in this process because `using(on_miss="tune")` asked for it."""
        return cls(tuple(_LEARNT.values()))

    def __or__(self, other: "Plans") -> "Plans":
        if not isinstance(other, Plans):
            return NotImplemented
        return Plans(self.entries + other.entries)

    def __iter__(self) -> Iterator[Plan]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"<{len(self)} plans>"

    def __str__(self) -> str:
        """A line a plan: the problem, the fastest algorithm, what it took, and how many times that the others did."""
        return "\n".join(_line(plan) for plan in self.entries)

    @functools.cached_property
    def _by_key(self) -> Mapping[tuple[str, str | None], Plan]:
        return {(plan.problem, plan.device): plan for plan in self.entries}

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self.entries)


NO_PLANS = Plans()

# Plans measured when programs were lowered, by problem and kind of device, and under which limits each was.
_LEARNT: dict[tuple[str, str], Plan] = {}
_LEARNT_UNDER: set[tuple[str, str | None, str]] = set()


def learn(plan: Plan, limits: str) -> None:
    """Keeps what was measured under some limits for `Plans.learnt`, beside what was known of other algorithms."""
    key = plan.problem, plan.device
    times = {t.algorithm: t for t in (*(_LEARNT[key].times if key in _LEARNT else ()), *plan.times)}
    _LEARNT[key] = dataclasses.replace(plan, times=tuple(sorted(times.values(), key=lambda t: t.seconds)))
    _LEARNT_UNDER.add((*key, limits))


def is_learnt(problem: Problem, device: str | None, limits: str) -> bool:
    """Whether a problem was measured under these limits."""
    return (str(problem), device, limits) in _LEARNT_UNDER


def _line(plan: Plan) -> str:
    best, *others = plan.times
    rest = ", ".join(f"{t.algorithm} {t.seconds / best.seconds:.2f}x" for t in others)
    return f"{plan.problem}\n       -> {best.algorithm} {best.seconds * 1e3:.3f} ms{': ' if rest else ''}{rest}"


def _read(data: Any) -> Plan:
    """A plan whose problem can be read and whose times are numbers."""
    times = tuple(Time(str(t["algorithm"]), int(t["version"]), float(t["seconds"])) for t in data["times"])
    problem = parse(data["problem"])
    if not times or not all(0 < t.seconds < math.inf for t in times):
        raise ValueError(f"the times of {problem} must be some, in seconds above 0")
    return Plan(str(problem), str(data["device"]), tuple(sorted(times, key=lambda t: t.seconds)))
