"""Comparing two run folders: for each case in both, the ratio of medians with a bootstrap interval."""

import collections
import dataclasses

import numpy as np
from rich.table import Table
from scipy import stats

from experiments import tables
from experiments.cases import Selection
from experiments.errors import ExperimentError
from experiments.folder import RunFolder
from experiments.records import AnyRecord, NetworkRecord, SweepRecord, TrainRecord
from experiments.results import geometric_mean

# Names of cases that are left out, of each reason.
_MOST_NAMES = 3


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Median of b over median of a, and the 95% interval of it; below 1, b is faster."""

    case: str
    a: float
    b: float
    low: float
    high: float

    @property
    def ratio(self) -> float:
        return self.b / self.a

    @property
    def verdict(self) -> str:
        if self.low > 1:
            return "slower"
        return "faster" if self.high < 1 else "even"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The ratios of the cases that can be compared, and by reason the names of those that cannot."""

    ratios: list[Ratio]
    left_out: dict[str, list[str]]


def comparison(a: RunFolder, b: RunFolder, selection: Selection, seed: int = 0) -> Comparison:
    """Of the selected cases that came out right in one folder at least, in the order of `a` and then of `b`."""
    left, right = a.records().by_case, b.records().by_case
    found, left_out = [], collections.defaultdict[str, list[str]](list)
    for case in left | right:
        records = [r for r in (left.get(case), right.get(case)) if r]
        if not any(r.status == "ok" and r.samples for r in records) or not _takes(selection, records[0]):
            continue
        if reason := _incomparable(left.get(case), right.get(case)):
            left_out[reason].append(case)
        else:
            found.append(compare(case, left[case], right[case], seed))
    return Comparison(found, dict(left_out))


def _incomparable(a: AnyRecord | None, b: AnyRecord | None) -> str | None:
    """Why two records of one case are not compared, if so."""
    if a is None:
        return "only in b"
    if b is None:
        return "only in a"
    if _problem(a) != _problem(b):
        return "of another problem"
    if not a.status == b.status == "ok":
        return "not right in one"
    if not a.samples or not b.samples:
        return "without samples in one"
    if not all((*a.samples, *b.samples)):  # shorter than the clock tells, and no ratio can be made of it
        return "with samples of 0 s"
    return None


def _problem(record: AnyRecord) -> tuple[object, ...]:
    """What was computed, as far as the record tells."""
    match record:
        case SweepRecord():
            return (record.problem,)
        case NetworkRecord():
            return record.batch, record.size, record.parameters
        case TrainRecord():
            return record.algorithms, record.parameters, len(record.losses)


def compare(case: str, a: AnyRecord, b: AnyRecord, seed: int = 0) -> Ratio:
    """The ratio of one case; with too few samples to resample, the interval spans their extremes."""
    if min(len(a.samples), len(b.samples)) < 3:
        low, high = min(b.samples) / max(a.samples), max(b.samples) / min(a.samples)
    else:
        interval = stats.bootstrap(
            (np.asarray(a.samples), np.asarray(b.samples)),
            lambda x, y, axis: np.median(y, axis=axis) / np.median(x, axis=axis),
            method="percentile",
            n_resamples=1000,
            rng=np.random.default_rng(seed),
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return Ratio(case, float(np.median(a.samples)), float(np.median(b.samples)), low, high)


def print_comparison(a: RunFolder, b: RunFolder, selection: Selection) -> None:
    """A table of the ratios, their geometric mean, what is left out, and what the two environments do not share."""
    a.config(), b.config()  # says so if one is no run folder
    compared = comparison(a, b, selection)
    found, left_out = compared.ratios, _told(compared.left_out)
    if not found:
        why = f" ({'; '.join(left_out)})" if left_out else ""
        raise ExperimentError(f"{a.path} and {b.path} have no timed case in common{why}: nothing can be compared")
    console = tables.console(160)
    table = Table(title=f"{b.path} against {a.path} (below 1 it is faster)", title_justify="left")
    for column in ("case", "a, ms", "b, ms", "b / a", "95% interval", ""):
        table.add_column(column, justify="left" if column in ("case", "") else "right")
    for r in found:
        table.add_row(
            r.case, f"{1e3 * r.a:.3f}", f"{1e3 * r.b:.3f}", f"{r.ratio:.3f}", f"{r.low:.3f} to {r.high:.3f}", r.verdict
        )
    console.print(table)
    mean = geometric_mean([r.ratio for r in found])
    console.print(f"{len(found)} cases, geometric mean of b / a {mean:.3f}")
    for line in (*left_out, *_environment_changes(a, b)):
        console.print(line)


def _told(left_out: dict[str, list[str]]) -> list[str]:
    """`2 cases only in a: x, y`."""
    return [
        f"{len(cases)} case{'s' if len(cases) > 1 else ''} {reason}: {', '.join(cases[:_MOST_NAMES])}"
        + (", ..." if len(cases) > _MOST_NAMES else "")
        for reason, cases in left_out.items()
    ]


def _takes(selection: Selection, record: AnyRecord) -> bool:
    if isinstance(record, SweepRecord) and record.pass_ not in selection.passes:
        return False
    return selection.takes(record.case)


def _environment_changes(a: RunFolder, b: RunFolder) -> list[str]:
    """Where the newest environments of two runs differ, and those that are not known."""
    records = {folder.path: folder.records().by_case.values() for folder in (a, b)}
    lost = [
        f"{name} lacks {', '.join(files)}: what its records were measured on is not known"
        for name, folder in (("a", a), ("b", b))
        if (files := folder.lost_environments(records[folder.path]))
    ]
    left, right = (folder.environments(records[folder.path])[:1] for folder in (a, b))
    if not left or not right:
        return lost
    keys = [key for key in {**left[0], **right[0]} if key != "id"]
    changes = [(key, left[0].get(key), right[0].get(key)) for key in keys]
    return [*lost, *(f"{key}: {was} / {now}" for key, was, now in changes if was != now)]
