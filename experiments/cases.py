"""Cases: what a sweep's config asks for, in the groups that are timed in turns, and the part of it to be done."""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Sequence
from typing import Any, Literal

import convjax
from convjax.layer import Layer
from experiments import peers
from experiments.config import PASSES, Sweep, Train
from experiments.programs import Task
from experiments.records import Record, Records, SweepRecord, TrainRecord

# Beside the algorithms: convjax's own choice, and stock lax, which the others are compared with.
AUTO = "auto"
STOCK = "jax.lax"


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which cases of a config a command deals with."""

    only: re.Pattern[str] | None = None
    skip: re.Pattern[str] | None = None
    passes: Sequence[str] = PASSES
    # (i, n): the i-th of n parts, from 1. Whole groups are dealt out, so that a case's peers are in its part.
    shard: tuple[int, int] = (1, 1)

    def takes(self, case: str) -> bool:
        if self.only is not None and not self.only.search(case):
            return False
        return self.skip is None or not self.skip.search(case)

    def takes_group(self, index: int) -> bool:
        part, parts = self.shard
        return index % parts == part - 1

    @property
    def suffix(self) -> str:
        """What tells the record files of shards apart."""
        part, parts = self.shard
        return "" if parts == 1 else f"-{part}of{parts}"


@dataclasses.dataclass(frozen=True)
class Group:
    """One layer and pass with everything that computes it: the cases that are timed in turns."""

    task: Task
    algorithms: dict[str, Any]
    # Cases of other libraries.
    peers: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return [STOCK, AUTO, *self.algorithms, *self.peers]

    def case(self, name: str) -> str:
        """The id of a case: layer/pass/algorithm."""
        return f"{self.task.id}/{name}"

    def algorithm(self, name: str) -> Any | None:
        """The algorithm that a case runs: of `auto` the one convjax takes, of stock lax and of peers none."""
        return self.task.chosen if name == AUTO else self.algorithms.get(name)

    def holds(self, name: str, record: Record | None) -> bool:
        """Whether `record` is of this case as it is now, i.e. of the same version of the same algorithm."""
        if not isinstance(record, SweepRecord):
            return False
        if name in self.peers and record.status == "unsupported":  # by what may have been installed since
            return record.reasons == peers.unsupported(name, self.task.layer)
        algorithm = self.algorithm(name)
        if algorithm is None:
            return True
        return record.version == algorithm.version and record.chosen in (None, str(algorithm))


def groups(sweep: Sweep, selection: Selection) -> list[Group]:
    """The selected groups of a sweep, in the order of its layers and passes, holding only the selected cases."""
    layers = [Layer.parse(name, text) for name, text in sweep.layers.items()]
    tasks = [Task(layer, p) for layer in layers for p in sweep.passes if not (layer.is_pool and p == "wgrad")]
    cases = tuple(case for peer in sweep.peers for case in peers.CASES[peer])
    return [
        Group(task, candidates(task, sweep.algorithms), cases)
        for index, task in enumerate(tasks)
        if selection.takes_group(index) and task.pass_ in selection.passes
    ]


def epoch_case(epoch: int, choice: str) -> str:
    """The id of a training's case: train/choice/epoch."""
    return f"train/{choice}/epoch-{epoch:03d}"


def versions() -> str:
    """A hash of the registered algorithms and their versions: what convjax chooses from, and what that computes.

    Records of whole networks hold it: which algorithms each took is known only once the network is built again.
    """
    registered = "; ".join(f"{a} {a.version}" for a in convjax.algorithms())
    return hashlib.sha256(registered.encode()).hexdigest()[:12]


def trained(records: Records) -> dict[str, TrainRecord]:
    """The epochs trained under the algorithms of today; those of stock lax too, as others are compared with them."""
    now = versions()
    return {r.case: r for r in records.train if r.versions == now}


def epochs(train: Train, selection: Selection, records: Records) -> list[tuple[int, str]]:
    """The selected epochs still to be trained, each with its choice. Choices take turns, so all are one group."""
    if not selection.takes_group(0):
        return []
    every = itertools.product(range(1, train.epochs + 1), train.choices)
    done = trained(records)
    return [
        (epoch, choice)
        for epoch, choice in every
        if selection.takes(case := epoch_case(epoch, choice)) and case not in done
    ]


def candidates(task: Task, wanted: Literal["all"] | Sequence[str]) -> dict[str, Any]:
    """The algorithms to be compared on a task, by name."""
    return {name: a for name, a in task.algorithms.items() if wanted == "all" or {name, a.name} & set(wanted)}
