"""The report: one self-contained page made from a run folder's records alone."""

import base64
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from rich import box
from rich.table import Table

from convjax import whole_file
from experiments import families, plots, results, tables
from experiments.cases import STOCK
from experiments.errors import ExperimentError
from experiments.families import Ratios
from experiments.folder import RunFolder
from experiments.records import TrainRecord


def write(folder: RunFolder) -> Path:
    """Draws the plots, writes the page, and returns its path."""
    config, records = folder.config(), folder.records()
    if not records.by_case:
        raise ExperimentError(f"{folder.path} has no records yet: run a sweep or a training in it first")
    table = results.cells(records.sweep, list(config.sweep.layers) if config.sweep else [])
    family_rows = families.rows(table)
    choices = results.by_choice(records.train, list(config.train.choices) if config.train else [])
    rows = results.network_rows(records.networks)
    swept = [record for cell in table for record in cell.records.values()]
    pictures = plots.draw_all(table, choices, rows, folder.plots_path)
    text = _template().render(
        config=config,
        config_text=config.text(),
        cells=table,
        several_turns=[cell for cell in table if cell.is_of_several_turns],
        summary=results.summarise(table),
        failures=results.with_status([*swept, *records.networks, *records.train], "wrong", "error"),
        stopped=results.with_status(swept, "timeout"),
        refusals=results.refusals(table),
        training=[_training_row(epochs) for epochs in choices.values()],
        networks=rows,
        all_networks_ok=all(r.status == "ok" for r in records.networks),
        network_means=results.network_means(rows),
        pictures={name: _embedded(path) for name, path in pictures.items()},
        environments=folder.environments(records.by_case.values()),
        lost_environments=folder.lost_environments(records.by_case.values()),
        used={r.environment for r in records.by_case.values()},
        broken=records.broken,
        stock=STOCK,
        families=families,
        family_rows=family_rows,
        regretted=families.regretted(table),
        behind=families.behind(table),
        long_gradients=families.long_gradients(table),
        late=families.late(table),
        large=families.large(table),
    )
    whole_file.write(folder.report_path, text)
    _print_families(family_rows)
    print(f"report: {folder.report_path}, {len(records.by_case)} records, {len(pictures)} pictures", flush=True)
    if records.broken:
        print(f"report: {records.broken} broken record lines skipped", flush=True)
    return folder.report_path


def _print_families(rows: list[families.Row]) -> None:
    """The families beside stock lax, with the regret, and beside PyTorch: one table of both is wider than terminals."""
    over_stock = [row.over_stock | ({"regret": row.regret} if row.regret else {}) for row in rows]
    beside = {"lax": over_stock, "torch": [row.over_torch for row in rows]}
    for peer, ratios in beside.items():
        if any(ratios):
            tables.console(160).print(_family_table(rows, peer, ratios))


def _family_table(rows: list[families.Row], peer: str, ratios: list[dict[str, Ratios]]) -> Table:
    """Geometric means of each row's ratios, with the worst in brackets."""
    columns = [*families.COLUMNS, *(["regret"] if peer == "lax" else [])]
    title = f"convjax's own choice over {peer}: geometric means, in brackets the worst"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    # Where it is narrow, the worst stands below the mean: neither is cut.
    table.add_column("family", overflow="fold", min_width=len("depthwise"))
    for heading in ("layers", *columns):
        table.add_column(heading, justify="right", overflow="fold", min_width=max(len(heading), len("(0.00x)")))
    for row, found in zip(rows, ratios, strict=True):
        table.add_row(row.family, str(row.layers), *(_ratios(found.get(column)) for column in columns))
    return table


def _training_row(epochs: list[TrainRecord]) -> dict[str, Any]:
    samples = np.concatenate([r.samples for r in epochs])
    differences = [r.loss_difference for r in epochs if r.loss_difference is not None]
    return {
        "choice": epochs[0].choice,
        "algorithms": epochs[0].algorithms,
        "epochs": len(epochs),
        "last": epochs[-1],
        "step": float(np.median(samples)),
        "difference": float(np.max(differences)) if differences else None,  # NaN is the largest
        "reasons": sorted({reason for r in epochs for reason in r.reasons}),
    }


def _embedded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"ms": _milliseconds, "times": _times, "ratios": _ratios}
    environment.filters |= {"sci": _scientific, "mib": _mebibytes}
    return environment.get_template("report.html.j2")


def _milliseconds(seconds: float | None) -> str:
    """Three digits, and all before the point: nothing is written as a power of ten that need not be."""
    return "" if seconds is None else f"{1e3 * seconds:.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"


def _ratios(ratios: Ratios | None) -> str:
    """Geometric mean, and the worst in brackets."""
    return f"{_times(ratios.mean)} ({_times(ratios.worst)})" if ratios else ""


def _scientific(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _mebibytes(value: int | None) -> str:
    return "" if value is None else f"{value / 2**20:.1f}"
