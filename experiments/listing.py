"""The list of cases, as a table."""

import collections

from rich.table import Table

from experiments import networks, sweep, tables
from experiments.cases import Selection, epochs, groups
from experiments.checks import require_sound
from experiments.config import Config
from experiments.folder import RunFolder
from experiments.models.choices import describe
from experiments.records import Records


def print_cases(config: Config, selection: Selection, folder: RunFolder | None) -> None:
    """One row a layer and pass, with the algorithms to be compared on it; of a run folder, those still to do."""
    require_sound(config)
    if folder:
        folder.require_config(config)
    records = folder.records() if folder else Records({})
    table = Table(title=f"{config.name}: cases{' still to do' if folder else ''}", title_justify="left")
    for column in ("case", "problem", "algorithms"):
        table.add_column(column, overflow="fold")
    sweep_cases = network_cases = 0
    if config.sweep:
        for group, names in sweep.remaining(groups(config.sweep, selection), selection, records):
            table.add_row(group.task.id, str(group.task.problem), ", ".join(names))
            sweep_cases += len(names)
    if config.train:
        todo = collections.Counter(name for _, name in epochs(config.train, selection, records))
        for name, count in todo.items():
            choice = config.train.choices[name]
            table.add_row(f"train/{name}", f"digits, {count} epochs", describe(choice))
    if config.models:
        for timed, variants in networks.remaining(config.models, selection, records):
            inputs = "x".join(map(str, (timed.batch, *timed.network.input_shape(timed.size))))
            table.add_row(timed.id, inputs, ", ".join(variants))
            network_cases += len(variants)
    console = tables.console(200)
    console.print(table)
    console.print(f"{sweep_cases} sweep cases, {network_cases} of networks")
