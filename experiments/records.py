"""Records: one JSON line a case, appended and flushed, so that nothing finished is ever lost."""

import dataclasses
import os
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from experiments.config import Mode, Pass

Status = Literal["ok", "unsupported", "wrong", "error", "timeout"]


class _Line(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        serialize_by_alias=True,
        ser_json_inf_nan="strings",  # else null, which is no number when read back
    )

    case: str
    status: Status
    reasons: tuple[str, ...] = ()
    # Seconds, raw, in the order taken; the report takes medians.
    samples: tuple[float, ...] = ()
    compile_seconds: float | None = None
    environment: str
    # When it was written, in seconds since 1970; 0 of records from before this was kept.
    made: float = 0.0

    @property
    def median(self) -> float | None:
        """Median sample in seconds."""
        return statistics.median(self.samples) if self.samples else None


class _Compared(_Line):
    # Median of stock lax, or of the stock network, in the same turns: what this record's time is to be compared with.
    baseline_seconds: float | None = None

    @property
    def speedup(self) -> float | None:
        """Times as fast as stock, both measured in the same turns; None of what came out wrong, however fast."""
        if self.status != "ok" or not self.baseline_seconds or not self.median:
            return None
        return self.baseline_seconds / self.median


class SweepRecord(_Compared):
    """One layer, pass and algorithm.

    `algorithm` may also be `auto`, convjax's own choice, which `chosen` names, or `jax.lax`, stock lax.
    """

    kind: Literal["sweep"] = "sweep"
    layer: str
    layer_text: str
    pass_: Pass = Field(validation_alias="pass", serialization_alias="pass")
    algorithm: str
    version: int | None
    chosen: str | None = None
    problem: str
    fields: dict[str, Any]
    flops: int
    bytes: int
    workspace_bytes: int | None = None
    # max|y - reference| / max|reference| against float64, and the bound the algorithm states for it.
    error: float | None = None
    error_bound: float | None = None


class TrainRecord(_Line):
    """One epoch of one choice; `samples` are the seconds of its steps."""

    kind: Literal["train"] = "train"
    # Of the algorithms it was made by, as `cases.versions` tells them; None of records from before this was kept.
    versions: str | None = None
    choice: str
    algorithms: str
    epoch: int
    losses: tuple[float, ...]
    # Largest distance of a loss from the first choice's at the same step; None for the first itself.
    loss_difference: float | None
    train_accuracy: float
    test_accuracy: float
    parameters: int


class NetworkRecord(_Compared):
    """An inference or a training step of one network in one variant: `stock`, `accelerated`, or a peer's."""

    kind: Literal["network"] = "network"
    # As those of a `TrainRecord`.
    versions: str | None = None
    network: str
    mode: Mode
    variant: str
    batch: int
    size: int
    parameters: int | None = None
    # Largest distance from stock, relative in the 2-norm, and its bound: of the output, or of the loss and any
    # parameter's gradient, all on running statistics; None of stock itself and of peers.
    error: float | None = None
    error_bound: float | None = None
    losses: tuple[float, ...] = ()
    # Largest distance of a loss from stock's at the same step, relative to the first, and its bound.
    loss_difference: float | None = None
    loss_bound: float | None = None


AnyRecord = SweepRecord | TrainRecord | NetworkRecord
Record = Annotated[AnyRecord, Field(discriminator="kind")]
_ADAPTER: pydantic.TypeAdapter[AnyRecord] = pydantic.TypeAdapter(Record)


@dataclasses.dataclass(frozen=True)
class Records:
    """What a run folder's records say; of two with one case id the one made later counts."""

    by_case: dict[str, AnyRecord]
    # Lines that could not be read: half-written or damaged. Their cases count as not done.
    broken: int = 0

    @property
    def sweep(self) -> list[SweepRecord]:
        return [r for r in self.by_case.values() if isinstance(r, SweepRecord)]

    @property
    def train(self) -> list[TrainRecord]:
        return [r for r in self.by_case.values() if isinstance(r, TrainRecord)]

    @property
    def networks(self) -> list[NetworkRecord]:
        return [r for r in self.by_case.values() if isinstance(r, NetworkRecord)]


def read(paths: Iterable[Path]) -> Records:
    """The records of these files; lines that are no record are counted and skipped."""
    by_case: dict[str, AnyRecord] = {}
    broken = 0
    for path in sorted(paths):
        for line in path.read_bytes().split(b"\n"):
            if not line.strip():
                continue
            try:
                record = _ADAPTER.validate_json(line)
            except pydantic.ValidationError:
                broken += 1
            else:
                known = by_case.get(record.case)
                if known is None or record.made >= known.made:  # the later line of two without a time
                    by_case[record.case] = record
    return Records(by_case, broken)


class RecordWriter:
    """Appends records to one file, stamped with the time; each `write` is on the disk when it returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab+")
        self._end_broken_line()

    def write(self, records: Iterable[AnyRecord]) -> None:
        for record in records:
            stamped = record.model_copy(update={"made": time.time()})
            self._file.write(stamped.model_dump_json().encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _end_broken_line(self) -> None:
        """A line that an interruption cut short must not swallow the next record."""
        if self._file.tell():
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
