"""Poolings that are no sum and no extremum, in float64, window by window: the elements there are, then NumPy."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

Index = tuple[Any, ...]
Reduce = Callable[[np.ndarray], np.ndarray]


def reference_pool(
    reduce: Reduce,
    x: Any,
    window: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    padding: Sequence[tuple[int, int]] | None = None,
    dilation: Sequence[int] | None = None,
    ceil_mode: bool = False,
) -> np.ndarray:
    """What `reduce` makes of every window of x (N, *size, C).

    Args:
        reduce: from the elements of a window that exist, row-major, (elements, N, C) to (N, C).
        x: (N, *size, C).
        window, strides, padding, dilation: one an axis; padding as (lo, hi), None for none. Strides are the window's.
        ceil_mode: whether a last window may overhang the end, if it starts inside x or its low padding.

    Returns:
        (N, *output, C), float64.
    """
    x = np.asarray(x).astype(np.float64)
    found = list(_windows(x.shape[1:-1], window, strides, padding, dilation, ceil_mode))
    counts = [max(o[axis] for o, _ in found) + 1 for axis in range(len(window))]
    y = np.zeros((x.shape[0], *counts, x.shape[-1]))
    for position, elements in found:
        y[:, *position] = reduce(np.stack([x[:, *element] for element in elements]))
    return y


def reference_first_vjp(reduce: Reduce, x: Any, cotangent: Any, window: Sequence[int], **options: Any) -> np.ndarray:
    """The gradient of x where `reduce` selects: each window's cotangent goes to its first NaN, else the first equal."""
    x, g = np.asarray(x).astype(np.float64), np.asarray(cotangent).astype(np.float64)
    dx = np.zeros_like(x)
    strides, padding, dilation = (options.get(name) for name in ("strides", "padding", "dilation"))
    ceil_mode = options.get("ceil_mode", False)
    for position, elements in _windows(x.shape[1:-1], window, strides, padding, dilation, ceil_mode):
        chosen = reduce(np.stack([x[:, *element] for element in elements]))
        for n, c in np.ndindex(*chosen.shape):
            values = [x[n, *element, c] for element in elements]
            same = [np.isnan(v) if np.isnan(chosen[n, c]) else v == chosen[n, c] for v in values]
            dx[n, *elements[same.index(True)], c] += g[n, *position, c]
    return dx


def reference_blur(x: Any, filter_size: Sequence[int], strides: Sequence[int], modes: Sequence[str]) -> np.ndarray:
    """x (N, *size, C) padded by NumPy's `modes`, f - 1 times averaged with its neighbour, then strided."""
    x = np.asarray(x).astype(np.float64)
    for axis, (f, s, mode) in enumerate(zip(filter_size, strides, modes, strict=True), 1):
        widths = [(0, 0)] * x.ndim
        widths[axis] = ((f - 1) // 2, f // 2)
        x = np.moveaxis(np.pad(x, widths, mode=mode), axis, 0)  # type: ignore[call-overload]
        for _ in range(f - 1):
            x = (x[:-1] + x[1:]) / 2
        x = np.moveaxis(x[::s], 0, axis)
    return x


def lp_norm(p: float) -> Reduce:
    return lambda v: np.max(np.abs(v), 0) if np.isinf(p) else np.sum(np.abs(v) ** p, 0) ** (1 / p)


def log_sum_exp(v: np.ndarray) -> np.ndarray:
    return np.logaddexp.reduce(v, 0)


def lower_median(v: np.ndarray) -> np.ndarray:
    middle = np.sort(v, 0)[(len(v) - 1) // 2]
    return np.where(np.isnan(v).any(0), np.nan, middle)


def _windows(
    size: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int] | None,
    padding: Sequence[tuple[int, int]] | None,
    dilation: Sequence[int] | None,
    ceil_mode: bool,
) -> Iterator[tuple[Index, list[Index]]]:
    """Every window's position and the elements that its taps meet, row-major."""
    axes = []
    for n, k, s, (lo, hi), d in zip(
        size, window, strides or window, padding or [(0, 0)] * len(size), dilation or [1] * len(size), strict=True
    ):
        axis = []
        for o in itertools.count():
            last = o * s + (k - 1) * d
            if ceil_mode and (o * s >= n + lo or last - s >= n + lo + hi - 1):  # the window before had reached the end
                break
            if not ceil_mode and last >= n + lo + hi:
                break
            axis.append([o * s + t * d - lo for t in range(k) if 0 <= o * s + t * d - lo < n])
        axes.append(axis)
    for position in itertools.product(*(range(len(axis)) for axis in axes)):
        yield position, list(itertools.product(*(axis[o] for axis, o in zip(axes, position, strict=True))))
