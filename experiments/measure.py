"""Measuring one group: every case is checked against float64 first, and those that are right are timed in turns."""

import concurrent.futures
import dataclasses
import statistics
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from convjax import timing
from convjax.algorithms.numerics import error_on
from convjax.algorithms.protocol import cost_on, workspace_on
from convjax.device import device_of
from convjax.platforms import default_platform
from experiments import peers
from experiments.cases import AUTO, STOCK, Group
from experiments.config import Sweep
from experiments.records import Status, SweepRecord

Result = TypeVar("Result")

# What a faulty algorithm raises while it is traced, compiled or run. Its case is recorded as an `error`
# and the sweep goes on; anything else is a fault of the experiment itself and stops it.
_FAULTS = (ArithmeticError, AssertionError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)

# Long beside the time a program settles in, short beside the drift of a clock.
_TURN_SECONDS = 0.02

# Other libraries promise nothing: PyTorch rounds some sums of bfloat16 tap by tap, and is timed for all that.
_LATITUDE = 4


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one case before its timing; `program` is there if it is to be timed."""

    status: Status
    reasons: tuple[str, ...] = ()
    program: Callable[[], Any] | None = None
    compile_seconds: float | None = None
    error: float | None = None
    call_seconds: float = 0.0


class Measurement:
    """Cases of one group on this machine: compiled and checked when it is made, sampled whenever asked.

    Stock lax runs beside them in any case: it is what they are compared with.
    """

    def __init__(self, group: Group, names: Collection[str], settings: Sweep, seed: int, environment: str) -> None:
        self.group, self.task, self.settings, self.environment = group, group.task, settings, environment
        present = [name for name in self.group.names if name in names or name == STOCK]
        self.asked = [name for name in present if name in names]
        too_large = self._draw(seed)
        refused = {name: outcome for name in present if (outcome := too_large or self._refuse(name))}
        runnable = [name for name in present if name not in refused]
        compiled: dict[str, Any] = self._compile([name for name in runnable if name not in self.group.peers])
        compiled |= {name: self._peer(name) for name in runnable if name in self.group.peers}
        self.outcomes = refused | {name: self._check(name, result) for name, result in compiled.items()}
        self.samples: dict[str, list[float]] = {name: [] for name in present}

    def sample(self) -> None:
        """Adds a round of samples, taken in turns, of all that are right."""
        calls = {name: outcome.program for name, outcome in self.outcomes.items() if outcome.program}
        budgets = {name: self._budget(name, self.outcomes[name]) for name in calls}
        # Not what is slow: it would take twice as long for a few thousandths of its time.
        settled = {name for name in calls if self.outcomes[name].call_seconds <= self.settings.slow_seconds}
        for name, taken in timing.interleave(calls, budgets, turn_seconds=_TURN_SECONDS, settled=settled).items():
            self.samples[name] += taken

    def records(self) -> list[SweepRecord]:
        """Those of the cases asked for, with the samples of all rounds."""
        baseline = statistics.median(self.samples[STOCK]) if self.samples[STOCK] else None
        return [self._record(name, self.outcomes[name], self.samples[name], baseline) for name in self.asked]

    def _draw(self, seed: int) -> Outcome | None:
        """Makes the operands and the reference, unless memory is short of them: then no case can be run."""
        try:
            self.operands, self.reference = self.task.operands(seed), self.task.reference(seed)
        except MemoryError as error:
            return Outcome("error", (f"its operands and reference do not fit into memory: {error}",))
        return None

    def _refuse(self, name: str) -> Outcome | None:
        """Why a case is not even compiled, if so."""
        if name in self.group.peers:
            reasons = peers.unsupported(name, self.task.layer)
            return Outcome("unsupported", reasons) if reasons else None
        algorithm = self.group.algorithms.get(name)
        if algorithm is None:
            return None
        reasons = algorithm.unsupported(self.task.problem, default_platform())
        if reasons:
            return Outcome("unsupported", tuple(reasons))
        predicted, chosen = self._predicted(algorithm), self._predicted(self.task.chosen)
        limit, times = self.settings.predicted_limit_seconds, self.settings.predicted_limit_times
        if predicted > limit:
            return Outcome("timeout", (f"not run: predicted {predicted:.3g} s, above {limit:g} s",))
        if times and predicted > times * chosen:
            return Outcome(
                "timeout", (f"not run: predicted {predicted / chosen:.3g} times the choice's, above {times:g}",)
            )
        return None

    def _compile(self, names: Sequence[str]) -> dict[str, timing.Program | Outcome]:
        """Each case's program; equal ones (convjax's choice and the algorithm it takes) are compiled once."""
        lowered = {name: guarded(timing.lower, self._function(name), *self.operands) for name in names}
        distinct = {low.text: low for low in lowered.values() if isinstance(low, timing.Lowered)}
        with concurrent.futures.ThreadPoolExecutor(self.settings.compile_threads) as pool:
            programs = pool.map(lambda low: guarded(low.compile), distinct.values())
            by_text = dict(zip(distinct, programs, strict=True))
        return {name: by_text[low.text] if isinstance(low, timing.Lowered) else low for name, low in lowered.items()}

    def _peer(self, name: str) -> peers.Program | Outcome:
        """A peer's program, on the same operands."""
        return guarded(peers.layer_program, name, self.task.layer, self.task.pass_, self.operands)

    def _check(self, name: str, compiled: timing.Program | peers.Program | Outcome) -> Outcome:
        """The value of a compiled case compared, and the case warmed up, as far as it gets."""
        if isinstance(compiled, Outcome):
            return compiled
        limits, may_stop, took = self.settings, name not in (AUTO, STOCK), compiled.compile_seconds
        if may_stop and took > limits.compile_limit_seconds:
            return Outcome("timeout", (f"compiling took longer than {limits.compile_limit_seconds:g} s",), None, took)
        called = guarded(timing.timed, compiled)
        if isinstance(called, Outcome):
            return dataclasses.replace(called, compile_seconds=took)
        result, seconds = called
        value = np.asarray(result) if isinstance(compiled, timing.Program) else compiled.array(result)
        error, bound = self._error(value), self._bound(name)
        if not error <= bound:  # NaN is wrong too
            return Outcome("wrong", (f"error {error:.2g} is above the bound {bound:.2g}",), None, took, error)
        if may_stop and seconds > limits.limit_seconds:
            return Outcome("timeout", (f"one call took longer than {limits.limit_seconds:g} s",), None, took, error)
        for _ in range(limits.warmup - 1):
            if seconds < limits.slow_seconds:
                seconds = timing.timed(compiled)[1]
        return Outcome("ok", (), compiled, took, error, seconds)

    def _predicted(self, algorithm: Any) -> float:
        """The cost model's seconds; 0 for what it does not know on this platform."""
        device, cost = device_of(default_platform()), cost_on(default_platform(), algorithm, self.task.problem)
        return device.seconds(cost) if device and cost else 0.0

    def _function(self, name: str) -> Callable[..., jax.Array]:
        if name == STOCK:
            return self.task.stock()
        return self.task.ours(None if name == AUTO else self.group.algorithms[name])

    def _error(self, value: np.ndarray) -> float:
        y = value.astype(np.float64)
        largest = float(np.max(np.abs(self.reference), initial=0.0))
        return float(np.max(np.abs(y - self.reference), initial=0.0)) / (largest or 1.0)

    def _bound(self, name: str) -> float:
        """What the algorithm promises; stock lax is held to what direct summation does, peers to `_LATITUDE` of it."""
        algorithm = self.group.algorithm(name) or self.task.algorithms["lax"]
        stated = error_on(default_platform(), algorithm, self.task.problem) * (
            _LATITUDE if name in self.group.peers else 1
        )
        return stated + self.task.rounding

    def _budget(self, name: str, outcome: Outcome) -> timing.Budget:
        """A slow case gets few samples; the choice and what it is compared with, stock lax and peers, get more."""
        s = self.settings
        favour = s.favour if name in (AUTO, STOCK, *self.group.peers) else 1.0
        if outcome.call_seconds > s.slow_seconds:
            count = max(1, round(favour * s.slow_samples))
            return timing.Budget(0.0, count, count)
        return timing.Budget(favour * s.seconds, s.min_samples, max(s.min_samples, round(favour * s.max_samples)))

    def _record(self, name: str, outcome: Outcome, samples: list[float], baseline: float | None) -> SweepRecord:
        task, problem = self.task, self.task.problem
        algorithm = self.group.algorithm(name)
        applies = outcome.status != "unsupported"  # else there is neither cost nor bound
        return SweepRecord(
            case=self.group.case(name),
            status=outcome.status,
            reasons=outcome.reasons,
            samples=tuple(samples),
            compile_seconds=outcome.compile_seconds,
            environment=self.environment,
            layer=task.layer.name,
            layer_text=task.layer.text,
            pass_=task.pass_,
            algorithm=name,
            version=algorithm.version if algorithm else None,
            chosen=str(algorithm) if name == AUTO else None,
            problem=str(problem),
            fields=dataclasses.asdict(problem),
            flops=problem.flops,
            bytes=problem.bytes,
            workspace_bytes=round(workspace_on(default_platform(), algorithm, problem))
            if applies and algorithm
            else None,
            error=outcome.error,
            error_bound=self._bound(name) if applies else None,
            baseline_seconds=baseline,
        )


def guarded(call: Callable[..., Result], *arguments: Any) -> Result | Outcome:
    """What `call` returns, or the `error` that a faulty algorithm makes of it."""
    try:
        return call(*arguments)
    except _FAULTS as fault:
        told = str(fault).strip().splitlines()
        return Outcome("error", (": ".join([type(fault).__name__, *told[:1]]),))
