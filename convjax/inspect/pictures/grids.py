"""Grids of small images: the kernels of a layer and the feature maps that it makes."""

from typing import TYPE_CHECKING, Any

import numpy as np

from convjax.inspect.pictures.canvas import GREY, INK, figure
from convjax.ops.arguments import positive_integer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches of a tile.
_TILE = 0.95


def feature_map_picture(
    maps: Any, *, columns: int = 8, most: int = 64, layout: str | None = None, shared: bool = True
) -> "Figure":
    """The feature maps of one example as a grid, numbered by channel.

    Args:
        maps: (H, W, C), or (C, H, W) where `layout` is "NCHW": what a layer returns for one example.
        columns: maps in a row.
        most: maps shown; the title says how many there are.
        layout: None, "NHWC" or "NCHW".
        shared: whether all maps have one scale of colours, which is drawn beside them; if not, each has its own.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: maps are not of three axes, or another layout.
        ImportError: matplotlib is not installed.

    Example:
        >>> import numpy as np
        >>> picture = feature_map_picture(np.random.default_rng(0).random((6, 6, 12)))
        >>> [ax.get_title() for ax in picture.axes][:2]
        ['0', '1']
    """
    maps = np.asarray(maps, np.float32)
    if maps.ndim != 3:
        raise ValueError(f"maps of shape {maps.shape} must have 3 axes, those of one example: take maps[0] of a batch")
    if layout not in (None, "NHWC", "NCHW"):
        raise ValueError(f"layout must be None, NHWC or NCHW, got {layout!r}")
    tiles = maps if layout == "NCHW" else np.moveaxis(maps, -1, 0)
    shown = tiles[: positive_integer("most", most)]
    limits = (float(shown.min()), float(shown.max())) if shared else (None, None)
    drawn, axes = _grid(len(shown), columns, shown.shape[1:], bar=shared, titled=True)
    for place, (ax, tile) in enumerate(zip(axes, shown, strict=False)):
        image = ax.imshow(tile, cmap="viridis", vmin=limits[0], vmax=limits[1], interpolation="nearest")
        ax.set_title(str(place), fontsize=7, color=GREY, pad=2)
    if shared:
        _bar(drawn, image, axes)
    _caption(drawn, f"{tiles.shape[1]}x{tiles.shape[2]}, {_of(len(shown), len(tiles), 'feature map')}")
    return drawn


def kernel_picture(w: Any, *, columns: int = 8, most: int = 64, rgb: bool | None = None) -> "Figure":
    """The kernels of a layer as a grid: red above 0, blue below, white at 0.

    Args:
        w: (R, S, C, K), a convolution's kernel.
        columns: kernels in a row where they are shown in colours; else each row is a kernel and each column an input
            channel.
        most: kernels shown, and input channels.
        rgb: whether the three channels of a kernel are the three colours of an image, each kernel scaled to its own
            range; None means where C is 3.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: w is not of four axes, or `rgb` with other than 3 channels.
        ImportError: matplotlib is not installed.

    Example:
        >>> import numpy as np
        >>> picture = kernel_picture(np.random.default_rng(0).normal(size=(3, 3, 2, 4)))
        >>> [ax.get_title() for ax in picture.axes][:2]
        ['channel 0', 'channel 1']
    """
    w = np.asarray(w, np.float32)
    if w.ndim != 4:
        raise ValueError(f"w of shape {w.shape} must have 4 axes: (R, S, C, K)")
    channels, most = w.shape[2], positive_integer("most", most)
    rgb = channels == 3 if rgb is None else rgb
    if rgb and channels != 3:
        raise ValueError(f"rgb takes the channels for red, green and blue, but w has {channels} of them")
    return _in_colours(w, columns, most) if rgb else _by_channel(w, most)


def _in_colours(w: np.ndarray, columns: int, most: int) -> "Figure":
    taps_h, taps_w, _, kernels = w.shape
    count = min(kernels, most)
    drawn, axes = _grid(count, columns, (taps_h, taps_w), bar=False, titled=True)
    for place, ax in enumerate(axes[:count]):
        tile = w[..., place]
        span = float(np.ptp(tile)) or 1.0
        ax.imshow((tile - tile.min()) / span, interpolation="nearest")
        ax.set_title(str(place), fontsize=7, color=GREY, pad=2)
    _caption(drawn, f"{_of(count, kernels, 'kernel')} of {taps_h}x{taps_w}, their 3 channels as colours")
    return drawn


def _by_channel(w: np.ndarray, most: int) -> "Figure":
    taps_h, taps_w, channels, kernels = w.shape
    rows, across = min(kernels, most), min(channels, most)
    drawn, axes = _grid(rows * across, across, (taps_h, taps_w), bar=True, titled=False)
    largest = float(np.abs(w[..., :across, :rows]).max()) or 1.0
    for place, ax in enumerate(axes):
        k, c = divmod(place, across)
        image = ax.imshow(w[:, :, c, k], cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
        if k == 0:
            ax.set_title(f"channel {c}" if across <= 4 else str(c), fontsize=7, color=GREY, pad=3)
        if c == 0:
            ax.set_ylabel(f"kernel {k}" if rows <= 8 else str(k), fontsize=7, color=GREY, labelpad=3)
    _bar(drawn, image, axes)
    _caption(drawn, f"{_of(rows, kernels, 'kernel')} of {taps_h}x{taps_w}, {_of(across, channels, 'input channel')}")
    return drawn


def _grid(count: int, columns: int, tile: tuple[int, ...], bar: bool, titled: bool) -> "tuple[Figure, list[Axes]]":
    """Axes for `count` tiles; those left over at the end are not drawn."""
    columns = max(1, min(positive_integer("columns", columns), count))
    rows = -(-count // columns)
    height = _TILE * min(max(tile[0] / max(tile[1], 1), 0.3), 3) + (0.18 if titled else 0.02)
    drawn = figure(max(_TILE * columns + (0.9 if bar else 0.2), 2.8), height * rows + 0.6)
    axes = list(drawn.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set(color="#CCCCCC", linewidth=0.6)
    for ax in axes[count:]:
        ax.set_axis_off()
    return drawn, axes


def _bar(drawn: "Figure", image: Any, axes: "list[Axes]") -> None:
    height = drawn.get_size_inches()[1]
    bar = drawn.colorbar(image, ax=axes, shrink=min(0.8, 4 / height), aspect=22, pad=0.03, anchor=(0, 1))
    bar.ax.tick_params(labelsize=7, color=GREY, labelcolor=INK)
    bar.outline.set_visible(False)


def _caption(drawn: "Figure", text: str) -> None:
    drawn.suptitle(text, fontsize=9, color=INK)


def _of(shown: int, total: int, what: str) -> str:
    counted = str(total) if shown == total else f"{shown} of {total}"
    return f"{counted} {what}" + ("s" if total != 1 else "")
