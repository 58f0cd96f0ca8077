"""Timing compiled programs: compilation ahead of time and interleaved sampling, both outside of jit.

Programs that are to be compared take turns in one process, so that a drifting clock or a busy
neighbour falls on all of them alike and their ratios stay fair.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any, TypeVar

import jax

# A program shorter than this runs several times in a turn, after one untimed run: otherwise a program
# of 50 us is measured with the caches its slower neighbour left.
TURN_SECONDS = 2e-3
# How long a settled program runs untimed first. A pool of threads that another library leaves behind looks for
# work for some milliseconds more: within them XLA's programs were timed up to 1.5 times as slow.
SETTLE_SECONDS = 0.03
# Calls of a short program that are timed as one on a device that works behind the host: what the host takes for each is
# hidden by the device's work on those before, as it is in a longer program.
_IN_A_ROW = 10
# A program's samples are spread over this many turns at least, if it takes that many.
_TURNS = 5

Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Program:
    """A function compiled for its operands, together with them; calling it, once or in a row, waits for the result."""

    executable: jax.stages.Compiled
    operands: tuple[Any, ...]
    compile_seconds: float

    def __call__(self, times: int = 1) -> Any:
        for _ in range(times - 1):
            self.executable(*self.operands)
        return jax.block_until_ready(self.executable(*self.operands))

    @property
    def is_behind_host(self) -> bool:
        """Whether calls return before they have run, to be run one after another: on every device but CPUs."""
        arrays = [a for a in jax.tree.leaves(self.operands) if isinstance(a, jax.Array)]
        return any(device.platform != "cpu" for a in arrays for device in a.devices())


@dataclasses.dataclass(frozen=True)
class Budget:
    """How long one program is sampled: until `seconds` are spent, within the two sample counts."""

    seconds: float
    min_samples: int
    max_samples: int

    def spent(self, samples: list[float], calls: int = 1) -> bool:
        """Whether samples of so many calls each are enough."""
        count = len(samples)
        return count >= self.max_samples or (count >= self.min_samples and calls * sum(samples) >= self.seconds)


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A function traced and lowered for its operands; equal `text` means the same program."""

    stage: jax.stages.Lowered
    text: str
    operands: tuple[Any, ...]
    lower_seconds: float

    def compile(self) -> Program:
        """The executable; the program's `compile_seconds` cover tracing, lowering and compiling."""
        start = time.perf_counter()
        executable = self.stage.compile()
        return Program(executable, self.operands, self.lower_seconds + time.perf_counter() - start)


def lower(fn: Callable[..., Any], *operands: Any) -> Lowered:
    """`fn` traced and lowered for `operands`, under one name whatever `fn` is called."""

    def program(*operands: Any) -> Any:
        return fn(*operands)

    start = time.perf_counter()
    stage = jax.jit(program).lower(*operands)
    return Lowered(stage, stage.as_text(), operands, time.perf_counter() - start)


def compile_program(fn: Callable[..., Any], *operands: Any) -> Program:
    """`fn` compiled ahead of time for `operands`."""
    return lower(fn, *operands).compile()


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """The result of `call`, which must wait for it, and the seconds it took."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def interleave(
    calls: Mapping[Key, Callable[[], Any]],
    budgets: Mapping[Key, Budget],
    *,
    turn_seconds: float = TURN_SECONDS,
    settled: Collection[Key] = (),
) -> dict[Key, list[float]]:
    """Samples every call round-robin until each has spent its budget.

    Args:
        calls: what to time; each must have run before (nothing is warmed up here beyond a turn's own
            untimed run) and must wait for its result.
        budgets: one for each call.
        turn_seconds: how long a turn lasts; a program shorter than this runs several times in it, and once before,
            untimed.
        settled: those that run untimed for `SETTLE_SECONDS`, and at least once, before every turn. What ran before
            leaves its data in the caches, the system's pages to map anew and its threads looking for work, which a
            program that runs by itself pays once.

    Returns:
        The raw samples of each call in seconds, in the order taken.
    """
    samples: dict[Key, list[float]] = {key: [] for key in calls}
    rows = {key: _row(call, turn_seconds) for key, call in calls.items()}
    waiting = list(calls)
    while waiting:
        for key in waiting:
            _take_turn(calls[key], rows[key], budgets[key], samples[key], turn_seconds, key in settled)
        waiting = [key for key in waiting if not budgets[key].spent(samples[key], rows[key])]
    return samples


def _row(call: Callable[[], Any], turn_seconds: float) -> int:
    """How many calls one sample is of."""
    behind = isinstance(call, Program) and call.is_behind_host
    return _IN_A_ROW if behind and timed(call)[1] < turn_seconds else 1


def _take_turn(
    call: Callable[..., Any], row: int, budget: Budget, samples: list[float], turn_seconds: float, settled: bool
) -> None:
    """One turn: a long program runs once, a short one for about `turn_seconds`."""
    first = timed(call)[1]
    if first >= turn_seconds and not settled and row == 1:
        samples.append(first)
        return
    untimed = first
    while settled and untimed < SETTLE_SECONDS:
        untimed += timed(call)[1]
    in_a_row = functools.partial(call, row) if row > 1 else call
    begin, turn = len(samples), 0.0
    few = budget.max_samples / _TURNS
    while turn < turn_seconds and len(samples) - begin < few and not budget.spent(samples, row):
        seconds = timed(in_a_row)[1]
        samples.append(seconds / row)
        turn += seconds
