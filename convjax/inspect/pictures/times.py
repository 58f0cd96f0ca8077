"""Where the time goes: the predicted seconds of every problem in an explanation, as bars."""

import math
from typing import TYPE_CHECKING

from convjax.explain import Explanation, Row
from convjax.inspect.pictures.canvas import BLUE, GREEN, GREY, INK, ORANGE, RED, figure
from convjax.problem import ConvSpec, Problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"fprop": BLUE, "dgrad": ORANGE, "wgrad": GREEN, "stock": RED}


def time_picture(explanation: Explanation, *, most: int = 40) -> "Figure":
    """The predicted time of every convolution and pooling that `convjax.explain` found, in the order of the program.

    Args:
        explanation: what `convjax.explain` returned. A problem that occurs several times has one bar, for all.
        most: bars; of more problems the longest are shown.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: nothing to show, or no row with a prediction.
        ImportError: matplotlib is not installed.

    Example:
        >>> import jax.numpy as jnp, convjax
        >>> found = convjax.explain(lambda x: convjax.max_pool(x, 2), jnp.ones((1, 32, 32, 8)), platform="cpu")
        >>> [label.get_text() for label in time_picture(found).axes[0].get_yticklabels()]
        ['max 2x2 /2 on 32x32, 8 planes']
    """
    total = sum(map(_seconds, explanation.rows))
    if not total:
        raise ValueError(f"explanation has {len(explanation.rows)} rows, none with a predicted time on its platform")
    kept = set(sorted(range(len(explanation.rows)), key=lambda i: -_seconds(explanation.rows[i]))[:most])
    rows = [row for i, row in enumerate(explanation.rows) if i in kept]
    drawn = figure(8.6, 0.29 * len(rows) + 1.25)
    ax = drawn.subplots()
    unit, name = next((u, n) for u, n in ((1, "s"), (1e3, "ms"), (1e6, "µs")) if total * u >= 1 or n == "µs")
    for place, row in enumerate(rows):
        seconds = _seconds(row)
        ax.barh(place, seconds * unit, height=0.68, color=_COLOURS.get(row.role, GREY), zorder=2)
        told = "no prediction" if row.predicted is None else f"{seconds * unit:.3g} {name}, {seconds / total:.0%}"
        ax.annotate(
            f"{told}  {row.algorithm}",
            (seconds * unit, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=INK,
        )
    labels = [_label(row.problem) + (f"  ({row.count} times)" if row.count > 1 else "") for row in rows]
    ax.set_yticks(range(len(rows)), labels, fontsize=8)
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.tick_params(axis="x", labelsize=8, color=GREY, labelcolor=INK)
    ax.set(xlim=(0, max(map(_seconds, rows)) * unit * 1.45), ylim=(len(rows) - 0.4, -0.6))
    ax.set_xlabel(f"predicted {name} on {explanation.platform}", fontsize=8, color=INK)
    ax.grid(axis="x", color="#E6E6E6", linewidth=0.6, zorder=0)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color("#BBBBBB")
    left = len(explanation.rows) - len(rows)
    ax.set_title(
        f"{total * unit:.3g} {name} in all" + (f"; {left} shorter ones not shown" if left else ""),
        fontsize=10,
        color=INK,
        loc="left",
    )
    roles = dict.fromkeys(row.role for row in rows)
    if len(roles) > 1:
        from matplotlib.patches import Patch

        handles = [Patch(color=_COLOURS.get(role, GREY), label=role) for role in roles]
        drawn.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False, fontsize=8)
    return drawn


def _seconds(row: Row) -> float:
    return 0.0 if row.predicted is None else row.predicted * row.count


def _label(problem: Problem) -> str:
    """A problem in the few words by which people tell layers apart."""
    if isinstance(problem, ConvSpec):
        window, stride, size = problem.kernel, problem.strides, problem.input
        channels = f"{problem.G * problem.C}→{problem.G * problem.K}"
        if problem.G > 1:
            channels += f" in {problem.G} groups"
        kind = "conv"
    else:
        axes = [a for a, k in enumerate(problem.window) if k > 1 or problem.strides[a] > 1] or [problem.ndim - 1]
        window, stride, size = (tuple(v[a] for a in axes) for v in (problem.window, problem.strides, problem.shape))
        others = [n for a, n in enumerate(problem.shape) if a not in axes]
        channels = f"{math.prod(others)} planes"
        kind = problem.operation
    steps = f" /{_by(set(stride))}" if max(stride) > 1 and len(set(stride)) == 1 else ""
    steps = steps or (f" /{_by(stride)}" if max(stride) > 1 else "")
    return f"{kind} {_by(window)}{steps} on {_by(size)}, {channels}"


def _by(values: object) -> str:
    return "x".join(map(str, values))  # type: ignore[call-overload]
