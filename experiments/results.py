"""Results: what the records of a sweep and a training say when put together, without any drawing."""

import collections
import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from convjax.choose import admitted_error
from convjax.problem import ConvSpec, parse
from experiments import peers
from experiments.cases import AUTO, STOCK
from experiments.config import MODES, PASSES
from experiments.records import AnyRecord, NetworkRecord, SweepRecord, TrainRecord

# The cases of other libraries, and all that are no algorithm of their own.
PEERS = tuple(case for cases in peers.CASES.values() for case in cases)
_OTHERS = (AUTO, STOCK, *PEERS)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One layer and pass: its records by algorithm."""

    layer: str
    pass_: str
    records: dict[str, SweepRecord]

    @property
    def auto(self) -> SweepRecord | None:
        return self.timed.get(AUTO)

    @property
    def stock(self) -> SweepRecord | None:
        return self.timed.get(STOCK)

    @property
    def timed(self) -> dict[str, SweepRecord]:
        """The cases that came out right and were timed."""
        return {name: r for name, r in self.records.items() if r.status == "ok" and r.samples}

    @property
    def algorithms(self) -> dict[str, SweepRecord]:
        """Those of `timed` that are one algorithm."""
        return {name: r for name, r in self.timed.items() if name not in _OTHERS}

    @property
    def best(self) -> SweepRecord | None:
        """The fastest algorithm."""
        return _fastest(self.algorithms.values())

    @property
    def best_candidate(self) -> SweepRecord | None:
        """The fastest that is exact enough to be chosen unasked."""
        return _fastest(r for r in self.algorithms.values() if _admitted(r, self.stock))

    @property
    def regret(self) -> float | None:
        """Times as long as the fastest candidate that convjax's choice takes; 1 where it is that candidate.

        Each is set against stock lax in its own turns, should they not be the same.
        """
        best = self.best_candidate
        if not self.auto or not best or not self.auto.median or not best.median:
            return None
        # The same program timed twice differs by chance alone. (The taps of `put` may be found by another algorithm.)
        same = self.auto.chosen == best.algorithm and not self.auto.problem.startswith("put")
        if same:
            return 1.0
        if self.auto.speedup and best.speedup:
            return max(1.0, best.speedup / self.auto.speedup)
        return max(1.0, self.auto.median / best.median)

    @property
    def is_of_several_turns(self) -> bool:
        """Whether records were made at different times, so that their seconds are not to be compared."""
        return len({r.baseline_seconds for r in self.timed.values()}) > 1

    @property
    def peer(self) -> SweepRecord | None:
        """The fastest case of another library."""
        return max((r for name, r in self.timed.items() if name in PEERS), key=lambda r: r.speedup or 0.0, default=None)

    def over_peer(self, record: SweepRecord | None) -> float | None:
        """Times as fast as that, each set against stock lax in its own turns, should they not be the same."""
        if record is None or self.peer is None or not record.speedup or not self.peer.speedup:
            return None
        return record.speedup / self.peer.speedup


@dataclasses.dataclass(frozen=True)
class Summary:
    """The figures that a reader wants first."""

    layers: int
    cases: int
    statuses: Mapping[str, int]
    compared: int
    faster: int
    mean_speedup: float | None
    # The same over the fastest peer, and the number of cases where one was timed.
    mean_over_peer: float | None
    with_peer: int
    slowest: Cell | None
    fastest: Cell | None
    # Time of convjax's choice over that of the fastest candidate measured, geometric mean.
    regret: float | None


def cells(records: Iterable[SweepRecord], layers: Sequence[str]) -> list[Cell]:
    """The records by layer and pass, in the order of the config's layers."""
    by_cell: dict[tuple[str, str], dict[str, SweepRecord]] = collections.defaultdict(dict)
    for record in records:
        by_cell[record.layer, record.pass_][record.algorithm] = record
    return [Cell(layer, p, by_cell[layer, p]) for layer in layers for p in PASSES if (layer, p) in by_cell]


def summarise(table: Sequence[Cell]) -> Summary:
    statuses = collections.Counter[str](r.status for cell in table for r in cell.records.values())
    compared = [(cell, cell.auto.speedup) for cell in table if cell.auto and cell.auto.speedup]
    ratios = [ratio for _, ratio in compared]
    over_peer = [ratio for cell in table if (ratio := cell.over_peer(cell.auto))]
    regrets = [regret for cell in table if (regret := cell.regret)]
    ordered = [cell for cell, _ in sorted(compared, key=lambda pair: pair[1])]
    return Summary(
        layers=len({cell.layer for cell in table}),
        cases=sum(statuses.values()),
        statuses=statuses,
        compared=len(ratios),
        faster=sum(ratio >= 1 for ratio in ratios),
        mean_speedup=geometric_mean(ratios),
        mean_over_peer=geometric_mean(over_peer),
        with_peer=len(over_peer),
        slowest=ordered[0] if ordered else None,
        fastest=ordered[-1] if ordered else None,
        regret=geometric_mean(regrets),
    )


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A reason for which an algorithm refused problems: how it read the first time, and the layers and passes."""

    algorithm: str
    reason: str
    where: tuple[str, ...]


def refusals(table: Sequence[Cell]) -> list[Refusal]:
    """One for each algorithm and reason; reasons that differ in their numbers alone are one."""
    grouped: dict[tuple[str, str], list[tuple[str, str]]] = collections.defaultdict(list)
    for cell in table:
        for name, record in cell.records.items():
            if record.status == "unsupported":
                for reason in record.reasons:
                    kind = re.sub(r"\d+(x\d+)*", "n", reason)
                    grouped[name, kind].append((reason, f"{cell.layer}/{cell.pass_}"))
    return [
        Refusal(name, found[0][0], tuple(where for _, where in found)) for (name, _), found in sorted(grouped.items())
    ]


def with_status(records: Iterable[AnyRecord], *statuses: str) -> list[AnyRecord]:
    """The cases that ended in one of `statuses`."""
    return [r for r in records if r.status in statuses]


def by_choice(records: Iterable[TrainRecord], choices: Sequence[str]) -> dict[str, list[TrainRecord]]:
    """The epochs of each choice that has some, in order: both that of the config's choices."""
    grouped: dict[str, list[TrainRecord]] = collections.defaultdict(list)
    for record in records:
        grouped[record.choice].append(record)
    return {name: sorted(grouped[name], key=lambda r: r.epoch) for name in choices if name in grouped}


@dataclasses.dataclass(frozen=True)
class NetworkRow:
    """One network in one mode: its records by variant."""

    records: dict[str, NetworkRecord]

    @property
    def first(self) -> NetworkRecord:
        return next(iter(self.records.values()))

    def speedup(self, variant: str) -> float | None:
        """Times as fast as the stock network, in its own turns."""
        return self.records[variant].speedup if variant in self.records else None

    def over_peer(self, variant: str) -> float | None:
        """Times as fast as the fastest peer; each is set against the stock network in its own turns."""
        own, peer = self.speedup(variant), max((self.speedup(p) or 0.0 for p in peers.CASES), default=0.0)
        return own / peer if own and peer else None


@dataclasses.dataclass(frozen=True)
class NetworkMeans:
    """How many times as fast the accelerated networks are in one mode: geometric means, and of how many."""

    mode: str
    over_stock: float | None
    networks: int
    over_peer: float | None
    with_peer: int


def network_rows(records: Iterable[NetworkRecord]) -> list[NetworkRow]:
    """The records by network and mode, in the order they were first taken in."""
    grouped: dict[tuple[str, str], dict[str, NetworkRecord]] = collections.defaultdict(dict)
    for record in records:
        grouped[record.network, record.mode][record.variant] = record
    return [NetworkRow(found) for found in grouped.values()]


def network_means(rows: Sequence[NetworkRow]) -> list[NetworkMeans]:
    """Those of every mode that was timed."""
    means = []
    for mode in MODES:
        timed = [row for row in rows if row.first.mode == mode]
        stock = [ratio for row in timed if (ratio := row.speedup("accelerated"))]
        peer = [ratio for row in timed if (ratio := row.over_peer("accelerated"))]
        if stock:
            means.append(NetworkMeans(mode, geometric_mean(stock), len(stock), geometric_mean(peer), len(peer)))
    return means


def _fastest(records: Iterable[SweepRecord]) -> SweepRecord | None:
    """By what each gains over stock lax in its own turns, as far as all have that; else by their medians."""
    records = list(records)
    if all(r.speedup for r in records):
        return max(records, key=lambda r: r.speedup or 0.0, default=None)
    return min(records, key=lambda r: r.median or np.inf)


def _admitted(record: SweepRecord, stock: SweepRecord | None) -> bool:
    """Whether the algorithm is exact enough to be chosen unasked: always, if it is as exact as stock lax there."""
    admitted = _admitted_error(record.problem)
    if admitted is None or record.error_bound is None:
        return True
    return record.error_bound <= max(admitted, (stock and stock.error_bound) or 0.0)


@functools.lru_cache(maxsize=4096)
def _admitted_error(problem: str) -> float | None:
    spec = parse(problem)
    return admitted_error(spec, "cpu") if isinstance(spec, ConvSpec) else None


def geometric_mean(values: Sequence[float]) -> float | None:
    return float(np.exp(np.mean(np.log(values)))) if values else None


def family(algorithm: str) -> str:
    """The algorithm's name without its knobs."""
    return algorithm.partition("(")[0]
