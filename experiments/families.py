"""Families: how convjax's choice stands beside stock lax, PyTorch and the fastest candidate, family by family."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from convjax.layer import Layer
from experiments.config import PASSES
from experiments.results import Cell, geometric_mean

FAMILIES = (
    "depthwise to 7",
    "depthwise above 7",
    "grouped",
    "dense 3x3",
    "1x1",
    "other dense",
    "transposed",
    "3-D",
    "1-D",
    "vmapped",
    "pooling",
)
# Input channels up to which a dense layer is the stem of a network.
_STEM_CHANNELS = 4

# What the ratios of a family are put together over: each pass, both gradients, everything.
COLUMNS: dict[str, tuple[str, ...]] = {p: (p,) for p in PASSES} | {"gradients": PASSES[1:], "all": PASSES}
EVERYTHING = "all families"

# Below these the choice is behind: too slow beside stock lax, and far from PyTorch.
BEHIND_STOCK, BEHIND_TORCH = 0.95, 0.5
# Seconds that a choice may compile longer than stock lax, and times its operands and result that it may need beside.
LATE_SECONDS, LARGE_WORKSPACE = 1.0, 4.0
# Times as long as the forward pass that a gradient may take.
LONG_GRADIENT = 10.0


@dataclasses.dataclass(frozen=True)
class Ratios:
    """Ratios of some cells put together: how many, their geometric mean, and the worst with its layer and pass."""

    count: int
    mean: float
    worst: float
    where: str


@dataclasses.dataclass(frozen=True)
class Row:
    """A family: by column, times as fast as stock lax and as PyTorch; and the regret of the choice."""

    family: str
    layers: int
    over_stock: dict[str, Ratios]
    over_torch: dict[str, Ratios]
    regret: Ratios | None


def family(layer: Layer) -> str:
    """What `layer` is compared with, by the first that holds: pooled, vmapped, transposed, its axes, groups, kernel."""
    if layer.is_pool:
        return "pooling"
    if layer.members:
        return "vmapped"
    if layer.kind == "transpose":
        return "transposed"
    if layer.ndim != 2:
        return f"{layer.ndim}-D"
    if 1 < layer.groups == layer.x_shape[-1]:
        return "depthwise to 7" if max(layer.kernel) <= 7 else "depthwise above 7"
    if layer.groups > 1:
        return "grouped"
    if set(layer.kernel) == {1}:
        return "1x1"
    plain = set(layer.kernel) == {3} and set(layer.strides) == set(layer.rhs_dilation) == {1}
    return "dense 3x3" if plain and layer.x_shape[-1] > _STEM_CHANNELS else "other dense"


def family_of(cell: Cell) -> str:
    return family(Layer.parse(cell.layer, next(iter(cell.records.values())).layer_text))


def over_stock(cell: Cell) -> float | None:
    """Times as fast as stock lax convjax's choice is."""
    return cell.auto.speedup if cell.auto else None


def over_torch(cell: Cell) -> float | None:
    """Times as fast as PyTorch convjax's choice is."""
    return cell.over_peer(cell.auto)


def rows(table: Sequence[Cell]) -> list[Row]:
    """One for each family in which a choice was measured, and one of them all."""
    by_family = {name: [cell for cell in table if family_of(cell) == name] for name in FAMILIES}
    by_family[EVERYTHING] = list(table)
    every = [
        Row(
            family=name,
            layers=len({cell.layer for cell in cells}),
            over_stock=_by_column(cells, over_stock),
            over_torch=_by_column(cells, over_torch),
            regret=_ratios(cells, lambda cell: cell.regret, worst=max),
        )
        for name, cells in by_family.items()
    ]
    return [row for row in every if row.over_stock or row.over_torch or row.regret]


def regretted(table: Iterable[Cell], most: int = 10) -> list[Cell]:
    """The cells in which a faster algorithm than the choice was measured, the worst first."""
    found = [cell for cell in table if (cell.regret or 1.0) > 1.0]
    return sorted(found, key=lambda cell: cell.regret or 1.0, reverse=True)[:most]


def behind(table: Iterable[Cell]) -> list[Cell]:
    """The cells in which the choice is slower than it should be beside stock lax or PyTorch."""
    return [
        cell for cell in table if (over_stock(cell) or 1.0) < BEHIND_STOCK or (over_torch(cell) or 1.0) < BEHIND_TORCH
    ]


def long_gradients(table: Sequence[Cell]) -> list[tuple[Cell, float]]:
    """The gradients whose choice takes far longer than that of the forward pass, each with how many times as long."""
    forward = {cell.layer: cell.auto.median for cell in table if cell.pass_ == "fprop" and cell.auto}
    ratios = [
        (cell, cell.auto.median / seconds)
        for cell in table
        if cell.pass_ != "fprop" and cell.auto and cell.auto.median and (seconds := forward.get(cell.layer))
    ]
    return [(cell, ratio) for cell, ratio in ratios if ratio > LONG_GRADIENT]


def late(table: Iterable[Cell]) -> list[Cell]:
    """The cells whose choice takes a second longer to compile than stock lax."""
    return [cell for cell in table if (compiled_later(cell) or 0.0) > LATE_SECONDS]


def compiled_later(cell: Cell) -> float | None:
    """Seconds that the choice takes longer to compile than stock lax."""
    if not cell.auto or not cell.stock or cell.auto.compile_seconds is None or cell.stock.compile_seconds is None:
        return None
    return cell.auto.compile_seconds - cell.stock.compile_seconds


def large(table: Iterable[Cell]) -> list[Cell]:
    """The cells whose choice needs a workspace far above its operands and result."""
    return [cell for cell in table if (workspace(cell) or 0.0) > LARGE_WORKSPACE]


def workspace(cell: Cell) -> float | None:
    """Workspace of the choice, in multiples of its operands and result."""
    if not cell.auto or cell.auto.workspace_bytes is None or not cell.auto.bytes:
        return None
    return cell.auto.workspace_bytes / cell.auto.bytes


def _by_column(cells: Sequence[Cell], ratio: Callable[[Cell], float | None]) -> dict[str, Ratios]:
    found = {name: _ratios([c for c in cells if c.pass_ in passes], ratio) for name, passes in COLUMNS.items()}
    return {name: ratios for name, ratios in found.items() if ratios}


def _ratios(
    cells: Sequence[Cell],
    ratio: Callable[[Cell], float | None],
    worst: Callable[[Iterable[tuple[float, str]]], tuple[float, str]] = min,
) -> Ratios | None:
    known = [(value, f"{cell.layer}/{cell.pass_}") for cell in cells if (value := ratio(cell))]
    mean = geometric_mean([value for value, _ in known])
    return Ratios(len(known), mean, *worst(known)) if mean else None
