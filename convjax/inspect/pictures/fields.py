"""Receptive fields on an image: the exact one as a box, the empirical one as heat."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from convjax.inspect.empirical import EmpiricalField
from convjax.inspect.pictures.canvas import BLUE, GREY, INK, bare, figure
from convjax.inspect.receptive_field import ReceptiveField

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def receptive_field_picture(
    field: ReceptiveField | EmpiricalField, *, image: Any = None, position: Sequence[int] | None = None
) -> "Figure":
    """What one output sees, over the image: a box for the exact field, heat for the empirical one.

    The box is drawn as far as it reaches into padding, where it is dashed; a cross marks its middle.

    Args:
        field: of a network over two spatial axes, by `receptive_field` or `empirical_field`.
        image: (H, W) or (H, W, channels), the input; None leaves the ground white.
        position: the output, one number for each spatial axis; None is that of the empirical field, or the one whose
            field is nearest to the middle of the image.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: a field of other than two spatial axes, an image of another size, or a position with an empirical
            field of another.
        ImportError: matplotlib is not installed.

    Example:
        >>> import jax.numpy as jnp, numpy as np, convjax
        >>> from convjax.inspect.empirical import empirical_field
        >>> x, w = jnp.ones((1, 12, 12, 1)), jnp.ones((3, 3, 1, 1))
        >>> field = empirical_field(lambda x: convjax.conv(convjax.conv(x, w), w), x)
        >>> receptive_field_picture(field, image=np.zeros((12, 12))).axes[0].get_title()
        'output (4, 4) sees 5x5'
    """
    empirical = field if isinstance(field, EmpiricalField) else None
    exact = field.exact if isinstance(field, EmpiricalField) else field
    if len(exact.axes) != 2:
        raise ValueError(f"field is of {len(exact.axes)} spatial axes: a picture has 2")
    size = _image_size(exact, image)
    chosen = _position(exact, empirical, size, position)
    rows, columns = (axis.reach(place) for axis, place in zip(exact.axes, chosen, strict=True))

    low, high = (min(0, rows.start), min(0, columns.start)), (max(size[0], rows.stop), max(size[1], columns.stop))
    height, width = high[0] - low[0], high[1] - low[1]
    scale = 4.2 / max(height, width)
    drawn = figure(max(scale * width, 2.6) + (1.1 if empirical else 0.3), max(scale * height, 1.6) + 0.5)
    ax = drawn.subplots()
    bare(ax)
    if image is not None:
        image = np.asarray(image, np.float32)
        span = float(np.ptp(image)) or 1.0
        # The ground is kept pale, so that heat and box stand out on it.
        ax.imshow((image - image.min()) / span, cmap="gray", alpha=0.55 if empirical else 1.0)
    if empirical is not None:
        _draw_heat(drawn, ax, empirical.heat, alpha=0.8 if image is not None else 1.0)
    _draw_box(ax, rows, columns, size)
    margin = 0.02 * max(height, width) + 0.5
    ax.set(xlim=(low[1] - 0.5 - margin, high[1] - 0.5 + margin), ylim=(high[0] - 0.5 + margin, low[0] - 0.5 - margin))
    ax.set_aspect("equal")
    ax.set_title(f"output {chosen} sees {len(rows)}x{len(columns)}", fontsize=10, color=INK)
    return drawn


def _draw_heat(drawn: "Figure", ax: "Axes", heat: np.ndarray, alpha: float) -> None:
    seen = np.ma.masked_equal(heat / (heat.max() or 1.0), 0)
    shown = ax.imshow(seen, cmap="inferno_r", vmin=0, vmax=1, alpha=alpha)
    bar = drawn.colorbar(shown, ax=ax, shrink=0.75, aspect=22, pad=0.03)
    bar.set_label("absolute gradient, of the largest", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, labelcolor=INK, color=GREY)
    bar.outline.set_visible(False)


def _draw_box(ax: "Axes", rows: range, columns: range, size: tuple[int, int]) -> None:
    """The frame of the image; the box, dashed where it reaches into padding; a cross in its middle."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    def rectangle(rows: range, columns: range, **style: Any) -> None:
        corner = columns.start - 0.5, rows.start - 0.5
        ax.add_patch(Rectangle(corner, len(columns), len(rows), fill=False, **style))

    halo = [withStroke(linewidth=4.2, foreground="white")]
    box: dict[str, Any] = {"edgecolor": BLUE, "linewidth": 2.2, "path_effects": halo}
    rectangle(range(size[0]), range(size[1]), edgecolor=GREY, linewidth=0.8)
    rectangle(rows, columns, linestyle=(0, (4, 2)), **box)
    inside = [range(max(seen.start, 0), min(seen.stop, n)) for seen, n in zip((rows, columns), size, strict=True)]
    if all(inside):
        rectangle(*inside, **box)
    middle = (columns.start + columns.stop - 1) / 2, (rows.start + rows.stop - 1) / 2
    ax.plot(*middle, "+", color=BLUE, markersize=9, markeredgewidth=1.8, path_effects=halo)


def _image_size(field: ReceptiveField, image: Any) -> tuple[int, int]:
    height, width = (axis.input_size for axis in field.axes)
    if image is None:
        if height is None or width is None:
            raise ValueError("image must be given for a field that is of no input of known size")
        return height, width
    shape = np.shape(image)
    if len(shape) not in (2, 3) or any(n not in (None, m) for n, m in zip((height, width), shape, strict=False)):
        raise ValueError(f"image of shape {shape} must be (H, W) or (H, W, channels) with H, W = {height}, {width}")
    return shape[0], shape[1]


def _position(
    field: ReceptiveField, empirical: EmpiricalField | None, size: tuple[int, int], asked: Sequence[int] | None
) -> tuple[int, ...]:
    if empirical is not None:
        if asked is not None and tuple(asked) != empirical.position:
            raise ValueError(f"position {tuple(asked)} is not that of the empirical field, {empirical.position}")
        return empirical.position
    if asked is not None:
        if len(asked) != 2 or min(asked) < 0:
            raise ValueError(f"position {tuple(asked)} must be two numbers, at least 0")
        return tuple(int(p) for p in asked)
    middle = []
    for axis, n in zip(field.axes, size, strict=True):
        wanted = (n - axis.size) / 2 - axis.offset
        middle.append(max(0, round(wanted / axis.stride)) if axis.stride else 0)
    return tuple(middle)
