"""Interleaved sampling: turns, budgets, raw samples. Turns are held against a clock that only the calls move."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest

from convjax import timing


class Clock:
    """Stands still but for what is spent on it; `order` says by whom."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def spend(self, name: str, seconds: float) -> None:
        self.order.append(name)
        self.now += seconds

    def call(self, name: str, seconds: float) -> Callable[[], None]:
        return functools.partial(self.spend, name, seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(timing, "SETTLE_SECONDS", 1.0)  # sums of binary fractions are exact
    return clock


def test_programs_are_compiled_ahead_and_wait() -> None:
    program = timing.compile_program(lambda x: x @ x, jnp.eye(64))
    result, seconds = timing.timed(program)
    np.testing.assert_array_equal(result, np.eye(64))
    assert seconds > 0
    assert program.compile_seconds > 0


def test_turns_alternate_and_budgets_end_them(clock: Clock) -> None:
    calls = {"slow": clock.call("slow", 4.0), "fast": clock.call("fast", 0.5)}
    budgets = {"slow": timing.Budget(0.0, 3, 3), "fast": timing.Budget(10.0, 2, 1000)}
    samples = timing.interleave(calls, budgets, turn_seconds=2.0)
    # Between the slow one's single calls the fast one has an untimed call and a turn's worth of them, until its budget
    # of 10 s, twenty calls, is spent.
    assert clock.order == 3 * (["slow"] + 5 * ["fast"]) + 2 * 5 * ["fast"]
    assert samples == {"slow": 3 * [4.0], "fast": 20 * [0.5]}


def test_a_budget_ends_a_turn_and_few_samples_are_spread(clock: Clock) -> None:
    calls = {"fast": clock.call("fast", 0.5)}
    assert timing.interleave(calls, {"fast": timing.Budget(1.5, 2, 1000)}, turn_seconds=20.0) == {"fast": 3 * [0.5]}
    clock.order.clear()
    # Ten samples at most are two in each of five turns, after one that is not timed.
    assert timing.interleave(calls, {"fast": timing.Budget(99.0, 2, 10)}, turn_seconds=20.0) == {"fast": 10 * [0.5]}
    assert len(clock.order) == 5 * (1 + 2)


def test_a_settled_turn_begins_with_untimed_runs(clock: Clock) -> None:
    calls = {"a": clock.call("a", 0.25), "b": clock.call("b", 0.25)}
    budgets = dict.fromkeys(calls, timing.Budget(0.0, 2, 2))
    samples = timing.interleave(calls, budgets, turn_seconds=0.125, settled={"a"})
    assert samples == dict.fromkeys(calls, 2 * [0.25])
    assert clock.order == 2 * (4 * ["a"] + ["a"] + ["b"])  # of a's runs in a turn the last one is timed


def test_a_settled_turn_of_a_long_program_begins_with_one_untimed_run(clock: Clock) -> None:
    samples = timing.interleave({"long": clock.call("long", 1.5)}, {"long": timing.Budget(0.0, 2, 2)}, settled={"long"})
    assert len(samples["long"]) == 2
    assert len(clock.order) == 4
