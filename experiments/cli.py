"""The commands: arguments in, one sentence out when something is wrong. No command prints a traceback for bad input."""

import re
import sys
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console

from experiments import config as configs
from experiments.cases import Selection
from experiments.config import PASSES, Config
from experiments.errors import ExperimentError, nearest
from experiments.folder import RunFolder

# What typer exits with when it is interrupted.
_INTERRUPTED = 130
# What it raises where it cannot read the command line, of which it exports one kind alone.
_Unreadable = cast(type[typer.BadParameter], typer.BadParameter.__base__)

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Convolution algorithms compared on real layers, and a network trained by several of them.",
)

ConfigPath = Annotated[Path | None, typer.Option("--config", help="TOML file; without it the run folder's own config.")]
Workdir = Annotated[Path, typer.Option("--workdir", help="The run folder; the same command again resumes in it.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Overrides one key of the config.")]
Only = Annotated[
    str | None, typer.Option("--only", metavar="RE", help="Cases whose id matches, as layer/pass/algorithm.")
]
Skip = Annotated[str | None, typer.Option("--skip", metavar="RE", help="Leaves out cases whose id matches.")]
Passes = Annotated[str | None, typer.Option("--passes", help="Some of fprop,dgrad,wgrad.")]
Shard = Annotated[str | None, typer.Option("--shard", metavar="I/N", help="The i-th of n parts, counted from 1.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Says what would be done and writes nothing.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Deletes what the run folder holds and starts afresh.")]


@app.command("list")
def list_(
    config: ConfigPath = None,
    workdir: Annotated[
        Path | None, typer.Option("--workdir", help="A run folder, whose finished cases are left out.")
    ] = None,
    settings: Settings = None,
    only: Only = None,
    skip: Skip = None,
    passes: Passes = None,
    shard: Shard = None,
) -> None:
    """Prints the cases: layer, pass, problem and the algorithms to be compared."""
    from experiments import listing

    folder = RunFolder(workdir) if workdir else None
    listing.print_cases(_config(config, folder, settings), _selection(only, skip, passes, shard), folder)


@app.command()
def sweep(
    workdir: Workdir,
    config: ConfigPath = None,
    settings: Settings = None,
    only: Only = None,
    skip: Skip = None,
    passes: Passes = None,
    shard: Shard = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Checks every algorithm on every layer and pass against float64, then times it beside stock lax."""
    from experiments import sweep

    folder = RunFolder(workdir)
    resolved = _config(config, folder, settings)
    sweep.run(resolved, folder, _selection(only, skip, passes, shard), dry_run=dry_run, overwrite=overwrite)


@app.command()
def train(
    workdir: Workdir,
    config: ConfigPath = None,
    settings: Settings = None,
    only: Only = None,
    skip: Skip = None,
    shard: Shard = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Trains the digits network by each choice of algorithms; times steps of stock networks: what the config has."""
    from experiments import networks, train

    folder = RunFolder(workdir)
    resolved = _config(config, folder, settings)
    selection = _selection(only, skip, None, shard)
    if resolved.train or not resolved.models:
        train.run(resolved, folder, selection, dry_run=dry_run, overwrite=overwrite)
        overwrite = overwrite and dry_run  # what was trained just now stays
    if resolved.models:
        networks.run(resolved, folder, selection, dry_run=dry_run, overwrite=overwrite)


@app.command()
def report(workdir: Workdir, config: ConfigPath = None, settings: Settings = None) -> None:
    """Writes report.html and its plots from the records alone."""
    from experiments import report

    folder = RunFolder(workdir)
    if config or settings:
        folder.require_config(_config(config, folder, settings))
    report.write(folder)


@app.command()
def fit(
    workdir: Workdir,
    output: Annotated[
        Path | None, typer.Option("--output", help="A file such as convjax/devices.toml, whose table is replaced.")
    ] = None,
) -> None:
    """Fits the cost model's constants to the times of a sweep, and says what the choice loses by them."""
    from experiments import fit

    fit.run(RunFolder(workdir), output)


@app.command()
def run(
    workdir: Workdir,
    config: ConfigPath = None,
    settings: Settings = None,
    overwrite: Overwrite = False,
) -> None:
    """The whole experiment: sweep, train and report, as far as the config has them."""
    from experiments import networks, report, sweep, train
    from experiments.checks import require_sound

    folder = RunFolder(workdir)
    resolved = _config(config, folder, settings)
    if not (resolved.sweep or resolved.train or resolved.models):
        raise ExperimentError(
            f"config {resolved.name!r} has no [sweep], [train] or [models] table: nothing is to be run"
        )
    if overwrite:
        require_sound(resolved)
        folder.prepare(resolved, overwrite=True)
    if resolved.sweep:
        sweep.run(resolved, folder, Selection())
    if resolved.train:
        train.run(resolved, folder, Selection())
    if resolved.models:
        networks.run(resolved, folder, Selection())
    report.write(folder)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="A run folder.")],
    b: Annotated[Path, typer.Argument(help="Another, set against it.")],
    only: Only = None,
    skip: Skip = None,
    passes: Passes = None,
) -> None:
    """Sets the times of two run folders against each other: ratio of medians, with a 95% interval."""
    from experiments import compare

    compare.print_comparison(RunFolder(a), RunFolder(b), _selection(only, skip, passes, None))


def main() -> None:
    """Runs the command line; bad input exits with 2, an interruption with 130."""
    try:
        code = app(standalone_mode=False)
    except _Unreadable as error:
        _say(f"{error.format_message().rstrip('.')} (see --help)")
        sys.exit(2)
    except ExperimentError as error:
        _say(str(error))
        sys.exit(2)
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        sys.exit(2)
    if code == _INTERRUPTED:
        _say("interrupted: the same command resumes")
    sys.exit(code)


def _say(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(f"experiments: {message}", markup=False, emoji=False, highlight=False)


def _config(path: Path | None, folder: RunFolder | None, settings: list[str] | None) -> Config:
    """The config of the file, or of the run folder where no file is named."""
    if path is None and folder is None:
        raise ExperimentError("--config is missing: name a TOML file, such as configs/quickstart.toml")
    if path is None and folder is not None:
        folder.config()  # says so if this is no run folder
        path = folder.config_path
    assert path is not None
    return configs.load(path, settings or ())


def _selection(only: str | None, skip: str | None, passes: str | None, shard: str | None) -> Selection:
    patterns = {}
    for option, text in [("--only", only), ("--skip", skip)]:
        try:
            patterns[option] = re.compile(text) if text is not None else None
        except re.error as error:
            raise ExperimentError(f"{option} {text!r} is no regular expression: {error}") from None
    chosen = tuple(passes.split(",")) if passes is not None else PASSES
    for name in chosen:
        if name not in PASSES:
            raise ExperimentError(f"--passes: {name!r} is no pass{nearest(name, PASSES)}")
    part = re.fullmatch(r"(\d+)/(\d+)", shard or "1/1")
    if part is None or not 1 <= int(part[1]) <= int(part[2]):
        raise ExperimentError(f"--shard {shard!r} must read i/n with i from 1 to n, such as 1/4")
    return Selection(patterns["--only"], patterns["--skip"], chosen, (int(part[1]), int(part[2])))
