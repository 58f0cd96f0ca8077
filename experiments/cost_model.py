"""The cost model fitted: a device's rates from the times of a sweep, and what the choice loses by them.

Predicted seconds are linear in the reciprocals of the rates. Non-negative least squares on relative errors gives a
first set of these, soft-l1 on the logarithms one that outliers do not bend. From there, and from the constants that
were in force, each is moved by itself as long as the choices it leads to lose less time; the better end counts.
"""

import collections
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import optimize

from convjax.algorithms.protocol import Cost, cost_on
from convjax.choose import INCUMBENT, candidates
from convjax.device import Device
from convjax.problem import Problem, parse
from convjax.request import Request
from convjax.target import Target
from experiments.errors import ExperimentError
from experiments.records import SweepRecord
from experiments.results import Cell

RATES = tuple(field.name for field in dataclasses.fields(Device))
_WORK = ("gemm", "vector", "library", "scalar", "bytes", "calls")

# Fewer cases than this for each constant say nothing of it.
_LEAST_CASES = 10
# Errors of predictions, in logarithms, that are usual; far larger ones count by their size and not its square.
_USUAL = 0.05
# How far from where it starts least squares may take a constant, and the steps it takes in the end, as factors.
_RANGE = 100.0
_STEPS = (1.5, 1.2, 1.08, 1.03)
# What a case may have come to that says something of its time: right, or stopped and failed.
_COUNTED = ("ok", "timeout", "wrong", "error")
# How much of the mean logarithmic error of the predictions weighs against a mean logarithm of the regret: between
# constants that choose alike, those that predict well are better.
_PREDICTION_WEIGHT = 0.1


@dataclasses.dataclass(frozen=True)
class Times:
    """Recorded times beside the work of what was timed, one row a layer and pass, one column a candidate.

    Attributes:
        cells: the rows.
        names: each row's candidates.
        work: of each candidate, in the order of `RATES`; 0 where a row has fewer.
        seconds: of each candidate. One that was stopped or failed counts as long as the slowest of its row;
            infinite where a row has fewer.
        timed: which of them were timed.
        favour: the factor on a prediction by which the incumbent keeps its place.
        left_out: how many candidates are in no row, as they have no record of today's version.
    """

    cells: tuple[Cell, ...]
    names: tuple[tuple[str, ...], ...]
    work: np.ndarray
    seconds: np.ndarray
    timed: np.ndarray
    favour: np.ndarray
    left_out: int

    @property
    def count(self) -> int:
        return int(self.timed.sum())


@dataclasses.dataclass(frozen=True)
class Regret:
    """Times of the choices over those of the fastest candidates: geometric mean, the worst, and each."""

    mean: float
    worst: float
    each: np.ndarray
    chosen: np.ndarray


@dataclasses.dataclass(frozen=True)
class Fit:
    """Constants with the geometric error of their predictions and the regret of their choices."""

    device: Device
    error: float
    regret: Regret


def times_of(table: Sequence[Cell], platform: str) -> Times:
    """The candidates of every layer and pass that were timed, as the chooser sees them.

    The gradient of a max-pool is left out: it is two problems, and its time is that of both.
    """
    found = [(cell, _recorded(cell, platform)) for cell in table]
    left_out = sum(record is None for _, row in found for _, _, record in row)
    known = [(cell, [(a, cost, r) for a, cost, r in row if r and r.status in _COUNTED]) for cell, row in found]
    rows = [(cell, row) for cell, row in known if any(record.samples for _, _, record in row)]
    most = max((len(row) for _, row in rows), default=0)
    work = np.zeros((len(rows), most, len(RATES)))
    seconds, favour = np.full((len(rows), most), np.inf), np.ones((len(rows), most))
    timed = np.zeros((len(rows), most), bool)
    for i, (_, row) in enumerate(rows):
        for j, (algorithm, cost, record) in enumerate(row):
            work[i, j] = [getattr(cost, kind) for kind in _WORK]
            favour[i, j] = INCUMBENT if algorithm.name == "lax" else 1.0
            timed[i, j] = bool(record.samples)
            seconds[i, j] = record.median if record.samples else np.nan
        seconds[i] = np.where(np.isnan(seconds[i]), np.max(seconds[i, timed[i]]), seconds[i])
    names = tuple(tuple(str(algorithm) for algorithm, _, _ in row) for _, row in rows)
    return Times(tuple(cell for cell, _ in rows), names, work, seconds, timed, favour, left_out)


def _recorded(cell: Cell, platform: str) -> list[tuple[Any, Cost, SweepRecord | None]]:
    """The candidates of a cell whose costs are known, with these and their records of today's version, if any."""
    problem: Problem = parse(next(iter(cell.records.values())).problem)
    if problem.operation == "put":
        return []
    row = []
    for algorithm in candidates(problem, Request(), Target(platform)).allowed:
        cost = cost_on(platform, algorithm, problem)
        if cost is None:
            continue
        record = cell.records.get(str(algorithm))
        current = record is not None and record.version == algorithm.version
        row.append((algorithm, cost, record if current else None))
    return row


def fit(times: Times, start: Device) -> Fit:
    """The constants whose choices lose least; a kind of work that no candidate does keeps that of `start`."""
    found = [_search(times, device) for device in (predicting(times, start), start)]
    return judge(times, min(found, key=lambda device: _objective(times, device)))


def predicting(times: Times, start: Device) -> Device:
    """The constants that predict best, by non-negative and then by robust least squares."""
    require_enough(times)
    log, free = _logarithms(start), _free(times)
    work, seconds = times.work[times.timed][:, free], times.seconds[times.timed]
    relative = work / seconds[:, None]
    scale = np.linalg.norm(relative, axis=0)
    first = optimize.nnls(relative / scale, np.ones(len(seconds)))[0] / scale
    low, high = log[free] - np.log(_RANGE), log[free] + np.log(_RANGE)
    begin = np.clip(np.log(np.maximum(first, np.finfo(float).tiny)), low + 1e-6, high - 1e-6)
    log[free] = optimize.least_squares(
        lambda trial: np.log(work @ np.exp(trial)) - np.log(seconds),
        begin,
        bounds=(low, high),
        loss="soft_l1",
        f_scale=_USUAL,
    ).x
    return _device(log)


def judge(times: Times, device: Device) -> Fit:
    """How well `device` predicts these times, and what its choices lose."""
    return Fit(device, float(np.exp(np.mean(np.abs(_residuals(times, device))))), _regret(times, device))


def by_algorithm(times: Times, device: Device) -> dict[str, tuple[int, float]]:
    """For each algorithm how often it was timed, and predicted over recorded times in the geometric mean."""
    rows, columns = np.nonzero(times.timed)
    found: dict[str, list[float]] = collections.defaultdict(list)
    for row, column, residual in zip(rows, columns, _residuals(times, device), strict=True):
        found[times.names[row][column]].append(residual)
    return {name: (len(each), float(np.exp(np.mean(each)))) for name, each in sorted(found.items())}


def require_enough(times: Times) -> None:
    needed = _LEAST_CASES * len(RATES)
    if times.count < needed:
        raise ExperimentError(
            f"the run has {times.count} timed cases of algorithms that may be chosen, and {len(RATES)} constants need "
            f"at least {needed}: sweep more layers, with algorithms = 'all'"
        )


def _search(times: Times, start: Device) -> Device:
    """Moves one constant after another by ever smaller steps, as long as the objective falls."""
    device, best = start, _objective(times, start)
    for step in _STEPS:
        moved = True
        while moved:
            moved = False
            for index, direction in itertools.product(_free(times), (1, -1)):
                log = _logarithms(device)
                log[index] += direction * np.log(step)
                trial = _device(log)
                value = _objective(times, trial)
                if value < best - 1e-9:
                    device, best, moved = trial, value, True
    return device


def _objective(times: Times, device: Device) -> float:
    error = np.mean(np.abs(_residuals(times, device)))
    return float(np.log(_regret(times, device).mean) + _PREDICTION_WEIGHT * error)


def _regret(times: Times, device: Device) -> Regret:
    predicted = np.where(np.isfinite(times.seconds), times.work @ np.exp(_logarithms(device)), np.inf) * times.favour
    chosen = predicted.argmin(axis=1)
    each = times.seconds[np.arange(len(chosen)), chosen] / times.seconds.min(axis=1)
    return Regret(float(np.exp(np.mean(np.log(each)))), float(each.max()), each, chosen)


def _residuals(times: Times, device: Device) -> np.ndarray:
    """Logarithms of predicted over recorded times."""
    predicted = times.work[times.timed] @ np.exp(_logarithms(device))
    return np.asarray(np.log(predicted) - np.log(times.seconds[times.timed]))


def _free(times: Times) -> np.ndarray:
    """Which constants the times say something of."""
    return np.flatnonzero(times.work[times.timed].any(axis=0))


def _logarithms(device: Device) -> np.ndarray:
    """Of the seconds that a unit of each kind of work takes; what a call takes is a constant itself."""
    return np.log([device.call if name == "call" else 1 / getattr(device, name) for name in RATES])


def _device(log: np.ndarray) -> Device:
    """The inverse, to the two digits that times are good for."""
    seconds = dict(zip(RATES, np.exp(log), strict=True))
    rates = {name: value if name == "call" else 1 / value for name, value in seconds.items()}
    return Device(**{name: float(f"{value:.1e}") for name, value in rates.items()})
