"""The sweep: every selected case of a config measured, some groups at a time, and recorded once these are done."""

import collections

import jax

from experiments import progress, results
from experiments.cases import Group, Selection, groups
from experiments.checks import require_sound
from experiments.config import Config, Sweep
from experiments.folder import RunFolder
from experiments.measure import Measurement
from experiments.records import Records, RecordWriter, SweepRecord

Todo = list[tuple[Group, list[str]]]


def run(
    config: Config, folder: RunFolder, selection: Selection, *, dry_run: bool = False, overwrite: bool = False
) -> None:
    """Measures the selected cases that have no record yet."""
    settings: Sweep = config.section("sweep")
    require_sound(config)
    folder.check(config, overwrite=overwrite)
    records = Records({}) if overwrite else folder.records()
    todo = remaining(groups(settings, selection), selection, records)
    cases = sum(len(names) for _, names in todo)
    skipped = f", {records.broken} broken record lines skipped" if records.broken else ""
    print(f"sweep: {cases} cases in {len(todo)} groups to do, {len(records.sweep)} recorded{skipped}", flush=True)
    if dry_run:
        for group, names in todo:
            print(f"{group.task.id}: {', '.join(names)}")
        return
    environment = folder.prepare(config, overwrite=overwrite)["id"]
    with (
        RecordWriter(folder.records_path / f"sweep{selection.suffix}.jsonl") as writer,
        progress.meter("sweep", len(todo)) as meter,
    ):
        together = settings.round_groups if settings.rounds > 1 else 1
        for i in range(0, len(todo), together):
            for measurement in _in_rounds(todo[i : i + together], config, environment):
                measured = measurement.records()
                writer.write(measured)
                meter.advance(_line(measurement.group, measured))
            jax.clear_caches()  # their programs are not needed again


def _in_rounds(todo: Todo, config: Config, environment: str) -> list[Measurement]:
    """These groups, compiled one after another and then sampled so, as often as the config says."""
    settings: Sweep = config.section("sweep")
    measurements = []
    for group, names in todo:
        with group.task.width():
            measurements.append(Measurement(group, names, settings, config.seed, environment))
    for _ in range(settings.rounds):
        for measurement in measurements:
            with measurement.task.width():
                measurement.sample()
    return measurements


def remaining(every: list[Group], selection: Selection, records: Records) -> Todo:
    """The groups that have selected cases without a valid record, with the names of these."""
    todo = []
    for group in every:
        names = [
            n
            for n in group.names
            if selection.takes(group.case(n)) and not group.holds(n, records.by_case.get(group.case(n)))
        ]
        if names:
            todo.append((group, names))
    return todo


def _line(group: Group, measured: list[SweepRecord]) -> str:
    """`layer/pass: 5 ok, 3 unsupported; auto winograd(tile=4) is 2.10x lax, 1.20x torch`."""
    counts = collections.Counter(r.status for r in measured)
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    cell = results.Cell(group.task.layer.name, group.task.pass_, {r.algorithm: r for r in measured})
    if cell.auto is None or not cell.auto.speedup:
        return f"{group.task.id}: {told}"
    over = cell.over_peer(cell.auto)
    against = f", {over:.2f}x {cell.peer.algorithm}" if over and cell.peer else ""
    return f"{group.task.id}: {told}; auto {cell.auto.chosen} is {cell.auto.speedup:.2f}x lax{against}"
