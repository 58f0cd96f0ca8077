"""Plots: the pictures of a report, each drawn from records and written as one PNG."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from experiments.cases import AUTO
from experiments.config import MODES, PASSES
from experiments.families import FAMILIES, family_of, over_stock, over_torch
from experiments.records import SweepRecord, TrainRecord
from experiments.results import Cell, NetworkRow, family, geometric_mean

# Okabe and Ito's colours (and Tol's indigo for their black), told apart by colour-blind readers too; lax is
# grey wherever it stands.
_COLOURS = ("#CC79A7", "#E69F00", "#009E73", "#56B4E9", "#0072B2", "#F0E442", "#D55E00", "#332288")
_GREY = "#8A8A8A"
_MARKERS = "osv^DPX<>d*1234+x"
_BAR: Any = {"facecolor": "#C9D7E3", "edgecolor": "#333333", "linewidth": 0.8}
_PEER: Any = {"marker": "|", "color": "#222222", "markersize": 11, "markeredgewidth": 1.6, "linestyle": ""}
# Inches: of the longest name of an algorithm beside its mark, and of a line.
_LEGEND_COLUMN, _LEGEND_ROW = 2.9, 0.19
_TITLES = {
    "fprop": "fprop: forward",
    "dgrad": "dgrad: gradient of the input",
    "wgrad": "wgrad: gradient of the weights",
}
# What is drawn of a choice by family.
_OF_CHOICE: dict[str, Callable[[Cell], float | None]] = {
    "times as fast as stock lax": over_stock,
    "times as fast as PyTorch": over_torch,
    "regret: times as long as the fastest candidate": lambda cell: cell.regret,
}
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#777777",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "savefig.dpi": 150,
    "savefig.facecolor": "white",
}


class Look:
    """A colour for each family of algorithms and a marker for each algorithm, the same in every plot."""

    def __init__(self, table: Sequence[Cell]) -> None:
        names = sorted({name for cell in table for name in (*cell.algorithms, *_chosen(cell))})
        families = [f for f in dict.fromkeys(map(family, names)) if f != "lax"]
        self.names = names
        self._colours = {f: _COLOURS[i % len(_COLOURS)] for i, f in enumerate(families)} | {"lax": _GREY}
        self._markers: dict[str, str] = {}
        taken: set[tuple[str, str]] = set()  # families share colours, but no two algorithms a colour and a marker
        for i, name in enumerate(names):
            turns = (_MARKERS[(i + j) % len(_MARKERS)] for j in range(len(_MARKERS)))
            self._markers[name] = next((m for m in turns if (self.colour(name), m) not in taken), _MARKERS[0])
            taken.add((self.colour(name), self._markers[name]))

    def colour(self, name: str) -> str:
        return self._colours.get(family(name), _GREY)

    def marker(self, name: str) -> str:
        return self._markers.get(name, "o")

    def handles(self, names: Sequence[str]) -> list[Line2D]:
        return [
            Line2D([], [], color=self.colour(n), marker=self.marker(n), linestyle="", markersize=6, label=n)
            for n in names
        ]


def draw_all(
    table: Sequence[Cell], choices: dict[str, list[TrainRecord]], rows: Sequence[NetworkRow], directory: Path
) -> dict[str, Path]:
    """Draws every plot there are records for and returns their files by name."""
    directory.mkdir(parents=True, exist_ok=True)
    paths: dict[str, Path] = {}
    with plt.rc_context(_STYLE):
        figures: dict[str, Figure] = {}
        if any(cell.timed for cell in table):
            look = Look(table)
            figures["speed"] = speed(table, look)
            if any(ratio(cell) for ratio in _OF_CHOICE.values() for cell in table):
                figures["families"] = families(table)
            if any(map(_chosen, table)):
                figures["choices"] = chosen(table, look)
            figures["error"] = error(table, look)
        if choices:
            figures["training"] = training(choices)
        if any(row.speedup(v) for row in rows for v in row.records):
            figures["networks"] = networks(rows)
        for name, figure in figures.items():
            paths[name] = directory / f"{name}.png"
            figure.savefig(paths[name])
            plt.close(figure)
    return paths


def speed(table: Sequence[Cell], look: Look) -> Figure:
    """Times as fast as stock lax: a bar for convjax's choice, a mark for every algorithm."""
    passes, layers = _passes(table), _layers(table)
    figure, axes = plt.subplots(
        1,
        len(passes),
        figsize=(4.6 * len(passes) + 1, 0.3 * len(layers) + 1.2),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    ratios = [r.speedup for cell in table for r in cell.timed.values() if r.speedup]
    low, high = min([*ratios, 0.5]), max([*ratios, 2.0])
    for ax, pass_ in zip(axes[0], passes, strict=True):
        _rows(ax, layers)
        ax.axvline(1, color="#333333", linewidth=1)
        for cell in table:
            if cell.pass_ == pass_:
                _speed_row(ax, cell, layers.index(cell.layer), look)
        _log_ratio_axis(ax, low / 1.3, high * 1.3)
        ax.annotate("choice", (1.01, 1.01), xycoords="axes fraction", fontsize=8, color="#222222")
        ax.set_title(_TITLES[pass_], loc="left", fontweight="bold")
        ax.set_xlabel("times as fast as stock lax")
    bar = Rectangle((0, 0), 1, 1, **_BAR, label="convjax's own choice")
    stroke = Line2D([], [], **_PEER, label="torch, the faster memory format")
    peer = [stroke] if any(cell.peer for cell in table) else []
    _legend(figure, [bar, *peer, *look.handles(look.names)])
    return figure


def _speed_row(ax: Axes, cell: Cell, row: int, look: Look) -> None:
    if cell.auto and cell.auto.speedup:
        ratio = cell.auto.speedup
        ax.barh(row, ratio - 1, left=1, height=0.7, zorder=2, **_BAR)
        told = f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"
        ax.annotate(told, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8, color="#222222")
    if cell.peer and cell.peer.speedup:
        ax.plot(cell.peer.speedup, row, **_PEER, zorder=4)
    for name, record in cell.algorithms.items():
        if record.speedup:
            ax.plot(
                record.speedup, row, look.marker(name), color=look.colour(name), markersize=4.5, alpha=0.9, zorder=3
            )


def chosen(table: Sequence[Cell], look: Look) -> Figure:
    """Which algorithm convjax takes for each layer and pass."""
    passes, layers = _passes(table), _layers(table)
    figure, ax = plt.subplots(figsize=(2.1 * len(passes) + 2.2, 0.3 * len(layers) + 0.7), layout="constrained")
    for cell in table:
        for name in _chosen(cell):
            corner = passes.index(cell.pass_), layers.index(cell.layer)
            colour = look.colour(name)
            ax.add_patch(Rectangle((corner[0] + 0.02, corner[1] - 0.44), 0.96, 0.88, facecolor=colour))
            ink = "black" if _luminance(colour) > 0.25 else "white"
            ax.text(corner[0] + 0.5, corner[1], name, ha="center", va="center", color=ink, fontsize=8)
    ax.set(xlim=(0, len(passes)), ylim=(len(layers) - 0.5, -0.5))
    ax.set_xticks(np.arange(len(passes)) + 0.5, passes, fontweight="bold")
    ax.set_yticks(range(len(layers)), layers)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return figure


def error(table: Sequence[Cell], look: Look) -> Figure:
    """Error against time, both of every case that came out right."""
    passes = _passes(table)
    figure, axes = plt.subplots(
        1,
        len(passes),
        figsize=(4.4 * len(passes) + 0.6, 4.4),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for ax, pass_ in zip(axes[0], passes, strict=True):
        ax.axvline(1, color="#333333", linewidth=1)
        for cell in table:
            if cell.pass_ == pass_:
                _error_marks(ax, cell, look)
        ax.set(xscale="log", yscale="log", xlabel="time relative to stock lax (left is faster)")
        ax.xaxis.set_major_formatter(FuncFormatter(_times))
        ax.grid(color="#E6E6E6", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.set_title(_TITLES[pass_], loc="left", fontweight="bold")
    axes[0][0].set_ylabel("error: max|y - float64| / max|float64|")
    _legend(figure, look.handles(look.names))
    return figure


def _legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Above the axes, in as many columns as fit; the figure grows by its rows."""
    width, height = figure.get_size_inches()
    columns = max(1, int(width / _LEGEND_COLUMN))
    figure.set_size_inches(width, height + _LEGEND_ROW * -(-len(handles) // columns))
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, frameon=False)


def _error_marks(ax: Axes, cell: Cell, look: Look) -> None:
    for name, record in cell.algorithms.items():
        if record.speedup and record.error:  # a log axis has no place for the exact ones
            ax.plot(
                1 / record.speedup, record.error, look.marker(name), color=look.colour(name), markersize=5, alpha=0.8
            )


def families(table: Sequence[Cell]) -> Figure:
    """Every layer and pass beside stock lax, PyTorch and the fastest candidate: a mark each, a stroke for the mean."""
    shown = {title: ratio for title, ratio in _OF_CHOICE.items() if any(map(ratio, table))}
    names = [name for name in FAMILIES if any(family_of(cell) == name for cell in table)]
    size = (4.6 * len(shown) + 1, 0.48 * len(names) + 1.2)
    figure, axes = plt.subplots(1, len(shown), figsize=size, sharey=True, squeeze=False, layout="constrained")
    colours = dict(zip(PASSES, ("#0072B2", "#E69F00", "#009E73"), strict=True))
    for ax, (title, ratio) in zip(axes[0], shown.items(), strict=True):
        _rows(ax, names)
        ax.axvline(1, color="#333333", linewidth=1)
        values = [value for cell in table if (value := ratio(cell))]
        _log_ratio_axis(ax, min([*values, 1.0]) / 1.1, max([*values, 1.3]) * 1.1)
        ax.set_xlabel(title)
        for (row, name), (i, pass_) in itertools.product(enumerate(names), enumerate(PASSES)):
            place = row + 0.26 * (i - 1)
            of = [cell for cell in table if cell.pass_ == pass_ and family_of(cell) == name]
            values = [value for cell in of if (value := ratio(cell))]
            ax.plot(values, np.full(len(values), place), "o", color=colours[pass_], markersize=4, alpha=0.5, zorder=3)
            if mean := geometric_mean(values):
                ax.plot(mean, place, "|", color=colours[pass_], markersize=11, markeredgewidth=2.5, zorder=4)
    marks = [Line2D([], [], color=c, marker="o", linestyle="", label=_TITLES[p]) for p, c in colours.items()]
    _legend(figure, marks)
    return figure


def training(choices: dict[str, list[TrainRecord]]) -> Figure:
    """Loss by step, how far the curves are apart, and what a step takes."""
    figure, (losses, apart, steps) = plt.subplots(1, 3, figsize=(14, 3.9), layout="constrained")
    first = next(iter(choices))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(choices)}
    reference = _losses(choices[first])
    for i, (name, epochs) in enumerate(choices.items()):
        curve = _losses(epochs)
        # Curves that agree lie on each other: the lower ones are drawn wider, so that each stays visible.
        losses.plot(curve, color=colours[name], linewidth=1.0 + 1.6 * (len(choices) - 1 - i), label=name, alpha=0.9)
        if name != first:
            shared = min(len(curve), len(reference))
            distance = np.abs(curve[:shared] - reference[:shared])  # NaN where an epoch of either is missing
            apart.plot(np.where(distance > 0, distance, np.nan), color=colours[name], linewidth=1, label=name)
    losses.set(yscale="log", xlabel="step", ylabel="training loss")
    losses.set_title("Loss", loc="left", fontweight="bold")
    apart.set(yscale="log", xlabel="step", ylabel=f"|loss - loss of {first}|")
    apart.set_title("Distance between the curves", loc="left", fontweight="bold")
    _step_bars(steps, choices, colours)
    for ax in (losses, apart):
        ax.grid(color="#E6E6E6", linewidth=0.6)
        if ax.lines:
            ax.legend(frameon=False)
    return figure


def _step_bars(ax: Axes, choices: dict[str, list[TrainRecord]], colours: dict[str, str]) -> None:
    for row, (name, epochs) in enumerate(choices.items()):
        samples = 1e3 * np.concatenate([r.samples for r in epochs])
        low, middle, high = np.quantile(samples, (0.25, 0.5, 0.75))
        ax.barh(row, middle, height=0.6, color=colours[name])
        ax.errorbar(middle, row, xerr=[[middle - low], [high - middle]], color="#222222", capsize=3, linewidth=1)
        ax.text(high, row, f"   {middle:.2f} ms, {epochs[-1].test_accuracy:.1%} right", va="center", fontsize=8)
    ax.set_yticks(range(len(choices)), list(choices))
    ax.invert_yaxis()
    ax.set_xlim(0, ax.get_xlim()[1] * 1.5)
    ax.set_xlabel("milliseconds a step: median, quartiles")
    ax.set_title("Step time and test accuracy", loc="left", fontweight="bold")


def networks(rows: Sequence[NetworkRow]) -> Figure:
    """Times as fast as the stock network: a bar for the accelerated one, a mark for every other variant."""
    modes = [m for m in MODES if any(row.first.mode == m for row in rows)]
    names = list(dict.fromkeys(row.first.network for row in rows))
    others = sorted({v for row in rows for v in row.records} - {"stock", "accelerated"})
    marks: dict[str, Any] = {v: {"color": _COLOURS[i], "marker": _MARKERS[i]} for i, v in enumerate(others)}
    size = (5.2 * len(modes) + 1, 0.34 * len(names) + 1.2)
    figure, axes = plt.subplots(1, len(modes), figsize=size, sharey=True, squeeze=False, layout="constrained")
    ratios = [ratio for row in rows for v in row.records if (ratio := row.speedup(v))]
    for ax, mode in zip(axes[0], modes, strict=True):
        _rows(ax, names)
        ax.axvline(1, color="#333333", linewidth=1)
        for row in rows:
            if row.first.mode == mode:
                _network_row(ax, row, names.index(row.first.network), marks)
        _log_ratio_axis(ax, min([*ratios, 0.5]) / 1.3, max([*ratios, 2.0]) * 1.3)
        ax.set_title({"inference": "Inference", "train": "Training step"}[mode], loc="left", fontweight="bold")
        ax.set_xlabel("times as fast as the stock network")
    bar = Rectangle((0, 0), 1, 1, **_BAR, label="accelerated")
    _legend(figure, [bar, *(Line2D([], [], linestyle="", label=v, **mark) for v, mark in marks.items())])
    return figure


def _network_row(ax: Axes, row: NetworkRow, place: int, marks: dict[str, Any]) -> None:
    ratio = row.speedup("accelerated")
    if ratio:
        ax.barh(place, ratio - 1, left=1, height=0.7, zorder=2, **_BAR)
        ax.annotate(f"{ratio:.2f}x", (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    for variant, mark in marks.items():
        if other := row.speedup(variant):
            ax.plot(other, place, markersize=6, zorder=3, **mark)


def _losses(epochs: Sequence[TrainRecord]) -> np.ndarray:
    """Loss by step from the first epoch's on; NaN, and so a gap of the curve, where an epoch is missing."""
    steps = max(len(r.losses) for r in epochs)
    losses = np.full(steps * max(r.epoch for r in epochs), np.nan)
    for r in epochs:
        start = steps * (r.epoch - 1)
        losses[start : start + len(r.losses)] = r.losses
    return losses


def _chosen(cell: Cell) -> list[str]:
    record: SweepRecord | None = cell.records.get(AUTO)
    return [record.chosen] if record and record.chosen else []


def _passes(table: Sequence[Cell]) -> list[str]:
    present = {cell.pass_ for cell in table}
    return [p for p in PASSES if p in present]


def _layers(table: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.layer for cell in table))


def _rows(ax: Axes, layers: Sequence[str]) -> None:
    """One row a layer, every other one shaded."""
    for row in range(0, len(layers), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="#F4F4F4", zorder=0)
    ax.set_yticks(range(len(layers)), layers)
    ax.set_ylim(len(layers) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)


def _log_ratio_axis(ax: Axes, low: float, high: float) -> None:
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    decades = np.log10(high / low)
    subs = (1.0,) if decades > 3 else (1.0, 2.0, 5.0) if decades > 0.7 else (1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 7.0)
    ax.xaxis.set_major_locator(LogLocator(subs=subs))
    ax.xaxis.set_major_formatter(FuncFormatter(_times))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(axis="x", color="#E0E0E0", linewidth=0.6, zorder=0)


def _times(value: float, _: object) -> str:
    return f"{value:g}x"


def _luminance(colour: str) -> float:
    """Relative luminance of `#RRGGBB`, as the web's accessibility guidelines define it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))
