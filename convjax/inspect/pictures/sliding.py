"""The sliding kernel: which elements each output is computed from, with padding, stride and dilation."""

import dataclasses
import functools
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from convjax import sizes
from convjax.inspect.pictures.canvas import BLUE, GREY, INK, ORANGE, PALE, bare, figure, number
from convjax.ops.arguments import Padding, padding_pairs, positive_integer, positive_per_axis
from convjax.ops.conv import conv2d
from convjax.problem import Ints, Pads

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches of a cell, and of a character of the sums; most cells along an axis whose numbers can be read; most taps whose
# products are written.
_CELL = 0.44
_CHARACTER = 0.06
_MOST_NUMBERED = 14
_MOST_PRODUCTS = 9


def sliding_kernel(
    x: Any,
    w: Any,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    interval: int = 700,
) -> "FuncAnimation":
    """The kernel w sliding over x, an output a frame: the taps it reads, and the sum it makes.

    Padding is drawn hatched, and numbers are shown where the picture has room for them. Save it by
    `animation.save("sliding.gif", writer="pillow")`.

    Args:
        x: (H, W) or (W,), the input's numbers.
        w: (R, S) or (R,), the kernel's.
        strides, padding, dilation: as `convjax.conv`.
        interval: milliseconds a frame.

    Returns:
        A `matplotlib.animation.FuncAnimation`.

    Raises:
        ValueError: x and w are not both of 1 or both of 2 axes, or as `convjax.conv`.
        ImportError: matplotlib is not installed.

    Example:
        >>> import os, tempfile, numpy as np
        >>> animation = sliding_kernel(np.arange(9.0).reshape(3, 3), np.ones((2, 2)))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     animation.save(os.path.join(directory, "sliding.gif"), writer="pillow")
        ...     os.listdir(directory)
        ['sliding.gif']
    """
    slide = _slide(x, w, strides, padding, dilation)
    drawn = slide.figure(1, 1)
    from matplotlib.animation import FuncAnimation

    (panel,) = slide.panels(drawn, 1, 1)

    def draw(step: int) -> list[Any]:
        for ax in panel:
            ax.clear()
        slide.draw(panel, step)
        return []

    return FuncAnimation(drawn, draw, frames=slide.steps, interval=interval, init_func=list)


def sliding_kernel_frames(
    x: Any,
    w: Any,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    positions: Sequence[int] | None = None,
    columns: int = 2,
) -> "Figure":
    """Frames of `sliding_kernel` beside one another.

    Args:
        x, w, strides, padding, dilation: as `sliding_kernel`.
        positions: the outputs shown, numbered row-major; None is all of them, or the first 6.
        columns: frames in a row.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: as `sliding_kernel`, or a position that the output does not have.
        ImportError: matplotlib is not installed.

    Example:
        >>> import numpy as np
        >>> figure = sliding_kernel_frames(np.arange(9.0).reshape(3, 3), np.ones((2, 2)), positions=[0, 3])
        >>> len(figure.axes)
        4
    """
    slide = _slide(x, w, strides, padding, dilation)
    steps = list(range(min(slide.steps, 6))) if positions is None else list(positions)
    if not steps or not all(0 <= step < slide.steps for step in steps):
        raise ValueError(f"positions {tuple(steps)} must be between 0 and {slide.steps - 1}, the last output")
    columns = min(positive_integer("columns", columns), len(steps))
    rows = -(-len(steps) // columns)
    drawn = slide.figure(rows, columns)
    for panel, step in zip(slide.panels(drawn, rows, columns), steps, strict=False):
        slide.draw(panel, step)
    return drawn


@dataclasses.dataclass(frozen=True, eq=False)
class _Slide:
    """A convolution of one channel, and how its steps are drawn."""

    x: np.ndarray
    w: np.ndarray
    y: np.ndarray
    strides: Ints
    padding: Pads
    dilation: Ints

    @property
    def steps(self) -> int:
        return self.y.size

    @property
    def padded(self) -> Ints:
        return tuple(n + max(lo, 0) + max(hi, 0) for n, (lo, hi) in zip(self.x.shape, self.padding, strict=True))

    @property
    def numbered(self) -> bool:
        return max(*self.padded, *self.y.shape) <= _MOST_NUMBERED

    @functools.cached_property
    def font(self) -> float:
        """Points at which the longest number fits into a cell."""
        return min(10, 42 / max(len(number(value)) for value in (*self.x.flat, *self.y.flat)))

    @property
    def cell(self) -> float:
        return _CELL if self.numbered else _CELL / 2

    @property
    def width(self) -> float:
        """Inches of a frame."""
        return max(self.cell * (self.padded[1] + self.y.shape[1]) + 0.9, 3.6)

    @functools.cached_property
    def sums(self) -> list[str]:
        """The products that make each output, in lines as wide as a frame; none where they cannot be read."""
        if not self.numbered or self.w.size > _MOST_PRODUCTS:
            return []
        return [
            "\n".join(textwrap.wrap(self._sum(output), int(self.width / _CHARACTER)))
            for output in np.ndindex(self.y.shape)
        ]

    def figure(self, rows: int, columns: int) -> "Figure":
        lines = max((text.count("\n") + 1 for text in self.sums), default=0)
        height = self.cell * max(self.padded[0], self.y.shape[0]) + 0.65 + 0.16 * lines
        drawn = figure(self.width * columns, height * rows)
        drawn.get_layout_engine().set(wspace=0.06, hspace=0.04)  # type: ignore[union-attr, call-arg]
        return drawn

    def panels(self, drawn: "Figure", rows: int, columns: int) -> "list[tuple[Axes, Axes]]":
        """A pair of axes a frame, input and output, cells of both equally large."""
        widths = [self.padded[1], self.y.shape[1]] * columns
        axes = drawn.subplots(rows, 2 * columns, squeeze=False, gridspec_kw={"width_ratios": widths})
        panels = [(axes[row, 2 * c], axes[row, 2 * c + 1]) for row in range(rows) for c in range(columns)]
        for ax in axes.flat:
            ax.set_axis_off()
        return panels

    def draw(self, panel: "tuple[Axes, Axes]", step: int) -> None:
        source, target = panel
        for ax in panel:
            ax.set_axis_on()
        output = tuple(int(i) for i in np.unravel_index(step, self.y.shape))
        self._input(source, output)
        if self.sums:
            source.set_xlabel(self.sums[step], fontsize=8, color=INK, loc="left")
        self._output(target, step)

    def _taps(self, output: Ints) -> dict[tuple[int, int], float]:
        """The kernel's number at every element that it lies on."""
        start = [o * s - lo for o, s, (lo, _) in zip(output, self.strides, self.padding, strict=True)]
        return {
            (start[0] + t * self.dilation[0], start[1] + u * self.dilation[1]): float(weight)
            for (t, u), weight in np.ndenumerate(self.w)
        }

    def _input(self, ax: "Axes", output: Ints) -> None:
        taps = self._taps(output)
        (top, bottom), (left, right) = self.padding
        (rows, columns) = self.x.shape
        for i in range(-max(top, 0), rows + max(bottom, 0)):
            for j in range(-max(left, 0), columns + max(right, 0)):
                inside = 0 <= i < rows and 0 <= j < columns
                _cell(ax, i, j, "#D6E6F2" if (i, j) in taps else "white" if inside else PALE, "" if inside else "////")
                if self.numbered:
                    value = number(self.x[i, j]) if inside else "0"
                    _write(ax, j, i, value, self.font, INK if inside else GREY)
        for (i, j), weight in taps.items():
            _cell(ax, i, j, "none", "", BLUE, 1.6, 3)
            if self.numbered:
                _write(
                    ax,
                    j + 0.45,
                    i + 0.42,
                    f"\N{MULTIPLICATION SIGN}{number(weight)}",
                    6.5,
                    BLUE,
                    ha="right",
                    va="bottom",
                )
        _frame(ax, (-max(top, 0), rows + max(bottom, 0)), (-max(left, 0), columns + max(right, 0)))
        padded = any(lo > 0 or hi > 0 for lo, hi in self.padding)
        ax.set_title(f"input {rows}x{columns}" + (", padded" if padded else ""), fontsize=9, color=INK)

    def _sum(self, output: Ints) -> str:
        rows, columns = self.x.shape
        terms = [
            f"{_factor(self.x[i, j] if 0 <= i < rows and 0 <= j < columns else 0)}·{_factor(weight)}"
            for (i, j), weight in self._taps(output).items()
        ]
        return f"{' + '.join(terms)} = {number(self.y[output])}"

    def _output(self, ax: "Axes", step: int) -> None:
        rows, columns = self.y.shape
        for place, value in enumerate(self.y.reshape(-1)):
            i, j = divmod(place, columns)
            _cell(ax, i, j, "#FBE3B5" if place == step else "white" if place < step else PALE, "")
            if self.numbered and place <= step:
                _write(ax, j, i, number(value), self.font, INK)
        i, j = divmod(step, columns)
        _cell(ax, i, j, "none", "", ORANGE, 2, 3)
        _frame(ax, (0, rows), (0, columns))
        ax.set_title(f"output {rows}x{columns}", fontsize=9, color=INK)


def _factor(value: Any) -> str:
    return f"({number(value)})" if value < 0 else number(value)


def _cell(
    ax: "Axes", i: int, j: int, face: str, hatch: str, edge: str = "#BBBBBB", line: float = 0.7, order: int = 1
) -> None:
    from matplotlib.patches import Rectangle

    cell = Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=face, edgecolor=edge, linewidth=line, zorder=order)
    cell.set_hatch(hatch)
    if hatch:
        cell.set(edgecolor="#D5D5D5")
    cell.set_in_layout(False)  # the frame says where it lies, and hundreds of cells take long to ask
    ax.add_patch(cell)


def _write(
    ax: "Axes", x: float, y: float, text: str, size: float, colour: str, ha: str = "center", va: str = "center"
) -> None:
    ax.text(x, y, text, fontsize=size, color=colour, ha=ha, va=va, in_layout=False)


def _frame(ax: "Axes", rows: tuple[int, int], columns: tuple[int, int]) -> None:
    bare(ax)
    ax.set(xlim=(columns[0] - 0.6, columns[1] - 0.4), ylim=(rows[1] - 0.4, rows[0] - 0.6), aspect="equal", anchor="N")


def _slide(x: Any, w: Any, strides: int | Sequence[int], padding: Padding, dilation: int | Sequence[int]) -> _Slide:
    x, w = np.asarray(x), np.asarray(w)
    if x.ndim != w.ndim or x.ndim not in (1, 2):
        raise ValueError(f"x of shape {x.shape} and w of shape {w.shape} must both have 1 axis, or both 2")
    steps, gaps = (positive_per_axis(n, v, x.ndim) for n, v in (("strides", strides), ("dilation", dilation)))
    extent = tuple(map(sizes.dilated, w.shape, gaps))
    pads = padding_pairs(padding, x.shape, extent, steps)
    if x.ndim == 1:  # a plane of one row
        x, w, steps, gaps, pads = x[None], w[None], (1, *steps), (1, *gaps), ((0, 0), *pads)
    floats = jnp.asarray(x, jnp.float32)[None, ..., None], jnp.asarray(w, jnp.float32)[..., None, None]
    y = conv2d(*floats, strides=steps, padding=pads, dilation=gaps)
    return _Slide(x, w, np.asarray(y[0, ..., 0]), steps, pads, gaps)
