"""Where the time goes: the seconds of every problem in an explanation, as bars."""

import math
from typing import TYPE_CHECKING

from convjax.explain import Explanation, Row
from convjax.inspect import table
from convjax.inspect.pictures.canvas import BLUE, GREEN, GREY, INK, ORANGE, RED, figure
from convjax.ops.arguments import positive_integer
from convjax.problem import ConvSpec, Problem

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"fprop": BLUE, "dgrad": ORANGE, "wgrad": GREEN, "stock": RED}


def time_picture(explanation: Explanation, *, most: int = 40) -> "Figure":
    """The time of every convolution and pooling that `convjax.explain` found, in the order of the program.

    It is the measured one where a plan in force has it, else the predicted one.

    Args:
        explanation: what `convjax.explain` returned. A problem that occurs several times has one bar, for all.
        most: bars; of more problems the longest are shown.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: nothing to show, or no row whose time is known.
        ImportError: matplotlib is not installed.

    Example:
        >>> import jax.numpy as jnp, convjax
        >>> found = convjax.explain(lambda x: convjax.max_pool(x, 2), jnp.ones((1, 32, 32, 8)), platform="cpu")
        >>> [label.get_text() for label in time_picture(found).axes[0].get_yticklabels()]
        ['max 2x2 /2 on 32x32, 8 planes']
    """
    total = sum(map(_seconds, explanation.rows))
    if not total:
        raise ValueError(f"explanation has {len(explanation.rows)} rows, none whose time is known on its platform")
    by_length = sorted(range(len(explanation.rows)), key=lambda i: -_seconds(explanation.rows[i]))
    longest = by_length[: positive_integer("most", most)]
    rows = [explanation.rows[i] for i in sorted(longest)]
    unit, name = next((u, n) for u, n in ((1, "s"), (1e3, "ms"), (1e6, "µs")) if total * u >= 1 or n == "µs")
    drawn = figure(8.6, 0.29 * len(rows) + 1.25)
    ax = drawn.subplots()
    for place, row in enumerate(rows):
        length = _seconds(row) * unit
        ax.barh(place, length, height=0.68, color=_COLOURS.get(row.role, GREY), zorder=2)
        told = f"{length:.3g} {name}, {length / unit / total:.0%}" if length else "no prediction"
        text = f"{told}  {row.algorithm}"
        ax.annotate(text, (length, place), (4, 0), textcoords="offset points", va="center", fontsize=7.5, color=INK)
    _style(ax, [_label(row) for row in rows])
    ax.set(xlim=(0, max(map(_seconds, rows)) * unit * 1.45), ylim=(len(rows) - 0.4, -0.6))
    sources = {"predicted" if row.measured is None else "measured" for row in rows if _seconds(row)}
    ax.set_xlabel(f"{' or '.join(sorted(sources))} {name} on {explanation.platform}", fontsize=8, color=INK)
    left = len(explanation.rows) - len(rows)
    title = f"{total * unit:.3g} {name} in all" + (f"; {left} shorter ones not shown" if left else "")
    ax.set_title(title, fontsize=10, color=INK, loc="left")
    roles = dict.fromkeys(row.role for row in rows)
    if len(roles) > 1:
        from matplotlib.patches import Patch

        handles = [Patch(color=_COLOURS.get(role, GREY), label=role) for role in roles]
        drawn.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False, fontsize=8)
    return drawn


def _style(ax: "Axes", labels: list[str]) -> None:
    ax.set_yticks(range(len(labels)), labels, fontsize=8)
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.tick_params(axis="x", labelsize=8, color=GREY, labelcolor=INK)
    ax.grid(axis="x", color="#E6E6E6", linewidth=0.6, zorder=0)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color("#BBBBBB")


def _seconds(row: Row) -> float:
    """Of all the times that it occurs; 0 where it is not known."""
    return row.count * ((row.predicted if row.measured is None else row.measured) or 0.0)


def _label(row: Row) -> str:
    return _layer(row.problem) + (f"  ({row.count} times)" if row.count > 1 else "")


def _layer(problem: Problem) -> str:
    """A problem in the few words by which people tell layers apart."""
    if isinstance(problem, ConvSpec):
        kind, window, stride, size = "conv", problem.kernel, problem.strides, problem.input
        channels = f"{problem.G * problem.C}→{problem.G * problem.K}"
        if problem.G > 1:
            channels += f" in {problem.G} groups"
    else:
        kind = problem.operation
        axes = [a for a, k in enumerate(problem.window) if k > 1 or problem.strides[a] > 1] or [problem.ndim - 1]
        window, stride, size = (tuple(v[a] for a in axes) for v in (problem.window, problem.strides, problem.shape))
        channels = f"{math.prod(n for a, n in enumerate(problem.shape) if a not in axes)} planes"
    alike = len(set(stride)) == 1
    steps = f" /{table.shape(stride[:1] if alike else stride)}" if max(stride) > 1 else ""
    return f"{kind} {table.shape(window)}{steps} on {table.shape(size)}, {channels}"
