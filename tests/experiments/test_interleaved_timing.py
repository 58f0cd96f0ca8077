"""Interleaved sampling: turns, budgets, raw samples."""

import jax.numpy as jnp
import numpy as np

from convjax import timing


def test_programs_are_compiled_ahead_and_wait() -> None:
    program = timing.compile_program(lambda x: x @ x, jnp.eye(64))
    result, seconds = timing.timed(program)
    np.testing.assert_array_equal(result, np.eye(64))
    assert seconds > 0
    assert program.compile_seconds > 0


def test_turns_alternate_and_budgets_end_them() -> None:
    order: list[str] = []

    def busy(name: str, seconds: float) -> None:
        order.append(name)
        end = timing.time.perf_counter() + seconds
        while timing.time.perf_counter() < end:
            pass

    slow, fast = timing.Budget(0.0, 3, 3), timing.Budget(0.01, 2, 1000)
    samples = timing.interleave(
        {"slow": lambda: busy("slow", 0.004), "fast": lambda: busy("fast", 0.0005)}, {"slow": slow, "fast": fast}
    )
    assert len(samples["slow"]) == 3
    assert min(samples["slow"]) >= 0.004
    assert sum(samples["fast"]) >= 0.01
    # The fast one has several calls in each turn, between the slow one's single calls.
    assert order[:3] == ["slow", "fast", "fast"]
    assert "slow" in order[3:9]


def test_a_settled_turn_begins_with_untimed_runs() -> None:
    order: list[str] = []

    def busy(name: str) -> None:
        order.append(name)
        timing.time.sleep(0.002)

    calls = {"a": lambda: busy("a"), "b": lambda: busy("b")}
    budgets = dict.fromkeys(calls, timing.Budget(0.0, 2, 2))
    samples = timing.interleave(calls, budgets, turn_seconds=1e-3, settled={"a"})
    assert [len(samples[name]) for name in calls] == [2, 2]
    turns = "".join(order).split("b")
    assert turns[-1] == ""
    assert len(turns) == 3
    assert all(2 <= len(turn) <= 1 + timing.SETTLE_SECONDS / 0.002 for turn in turns[:-1])  # the last one is timed


def test_a_settled_turn_of_a_long_program_begins_with_one_untimed_run() -> None:
    runs: list[float] = []

    def long() -> None:
        runs.append(timing.timed(lambda: timing.time.sleep(1.1 * timing.SETTLE_SECONDS))[1])

    samples = timing.interleave({"long": long}, {"long": timing.Budget(0.0, 2, 2)}, settled={"long"})
    assert len(samples["long"]) == 2
    assert len(runs) == 4
