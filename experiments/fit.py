"""The fit command: a recorded sweep in; constants, how well they predict and what the choice loses by them out."""

import re
import tomllib
from pathlib import Path
from typing import Any

from rich.table import Table

from convjax import whole_file
from convjax.device import Device, devices
from experiments import cost_model, results, tables
from experiments.cost_model import RATES, Fit, Times
from experiments.errors import ExperimentError
from experiments.folder import RunFolder
from experiments.records import SweepRecord

_MOST_WORST = 5
# What must be the same of the environments that a fit's records come from.
_MACHINE = ("cpu", "cores", "platform", "device")


def run(folder: RunFolder, output: Path | None) -> Fit:
    """Fits the constants of the device that `folder`'s sweep ran on, prints them and stores them in `output`."""
    layers = folder.config().section("sweep").layers
    if output:
        _text(output)  # before the fit, which takes long
    records = folder.records().sweep
    environment = _environment(folder, records)
    kind = environment["device"]
    times = cost_model.times_of(results.cells(records, list(layers)), environment["platform"])
    known = devices()
    start = known.get(kind) or known.get(environment["platform"]) or known["cpu"]
    fitted = cost_model.fit(times, start)
    _print(kind, times, {"shipped": cost_model.judge(times, start), "fitted": fitted})
    if output:
        store(output, kind, fitted.device, _comment(environment, times))
        print(f"fit: [{kind}] of {output} written", flush=True)
    return fitted


def store(path: Path, kind: str, device: Device, comment: str) -> None:
    """Puts the constants of `kind` into the file at `path`, under a comment; other tables stay as they are."""
    text = _text(path)
    header = f"[{kind}]" if re.fullmatch(r"[\w-]+", kind) else f'["{kind}"]'
    numbers = [f"{name} = {getattr(device, name):.1e}" for name in RATES]
    table = "\n".join([f"# {comment}", header, *numbers]) + "\n"
    # The comment above the old table, its header, and its lines up to a blank one.
    old = rf"(?m)(?:^#.*\n)*^{re.escape(header)}\n(?:^[^\[#\n].*\n?)*"
    written, replaced = re.subn(old, lambda _: table, text)
    if not replaced:
        written = f"{text.rstrip()}\n\n{table}".lstrip()
    whole_file.write(path, written)


def _text(path: Path) -> str:
    """What the file at `path` holds by now; `ExperimentError` if no table can be put there."""
    if not path.parent.is_dir():
        raise ExperimentError(f"{path} cannot be written: {path.parent} is no folder")
    if path.is_dir():
        raise ExperimentError(f"{path} cannot be written: it is a folder")
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path} is not TOML: {error}") from None
    return text


def _environment(folder: RunFolder, records: list[SweepRecord]) -> dict[str, Any]:
    """The machine of the records; `ExperimentError` if they come from several."""
    if not records:
        raise ExperimentError(f"{folder.path} has no sweep records yet: run a sweep in it first")
    if lost := folder.lost_environments(records):
        raise ExperimentError(
            f"{folder.path} lacks {', '.join(lost)}, which its records name: whose times they are is not known"
        )
    environments = folder.environments(records)
    machines = {tuple(e[key] for key in _MACHINE) for e in environments}
    if len(machines) > 1:
        raise ExperimentError(
            f"the records in {folder.path} come from {len(machines)} machines: constants are fitted to the times of one"
        )
    return environments[0]


def _comment(environment: dict[str, Any], times: Times) -> str:
    device = environment["device"]
    if environment["platform"] == "cpu":
        vector = "".join(f" with {flag}" for flag in environment["cpu_vector_flags"][-1:])
        device = f"{environment['cores']} cores of {environment['cpu']}{vector}"
    fitted = f"{times.count} times of {len(times.cells)} layers and passes"
    return f"{device}, jax {environment['packages']['jax']}: fitted to {fitted}."


def _print(kind: str, times: Times, fits: dict[str, Fit]) -> None:
    console = tables.console(160)
    table = Table(title=f"{kind}: {times.count} times of {len(times.cells)} layers and passes", title_justify="left")
    table.add_column("")
    for name in fits:
        table.add_column(name, justify="right")
    for rate in RATES:
        table.add_row(rate, *(f"{getattr(fit.device, rate):.1e}" for fit in fits.values()))
    table.add_section()
    table.add_row("predictions are off by", *(f"{fit.error:.2f}x" for fit in fits.values()))
    table.add_row("regret, geometric mean", *(f"{fit.regret.mean:.3f}" for fit in fits.values()))
    table.add_row("regret, worst", *(f"{fit.regret.worst:.2f}" for fit in fits.values()))
    table.add_section()
    biases = {name: cost_model.by_algorithm(times, fit.device) for name, fit in fits.items()}
    for algorithm, (count, _) in next(iter(biases.values())).items():
        table.add_row(f"{algorithm}, {count} times", *(f"{bias[algorithm][1]:.2f}x" for bias in biases.values()))
    table.caption = "below the regrets: predicted over recorded times, by algorithm"
    console.print(table)
    if times.left_out:
        told = "1 candidate is" if times.left_out == 1 else f"{times.left_out} candidates are"
        console.print(f"{told} left out for want of a record of today's version")
    fitted = list(fits.values())[-1].regret
    for row in (-fitted.each).argsort()[:_MOST_WORST]:
        if fitted.each[row] > 1:
            cell, names, best = times.cells[row], times.names[row], times.seconds[row].argmin()
            console.print(
                f"{fitted.each[row]:.2f}  {cell.layer}/{cell.pass_}: {names[fitted.chosen[row]]}, not {names[best]}",
            )
