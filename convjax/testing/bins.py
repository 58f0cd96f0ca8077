"""Adaptive and fractional pooling and their gradients in float64, region by region of every plane.

Everything is channels last: x (N, *size, C), values (N, *output, C).
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from convjax.testing.positions import require_shape

Operation = Literal["avg", "max"]
Index = tuple[int, ...]
# For a plane (n, c) and a position in its output, the cells of every axis that the position is pooled from.
Regions = Iterator[tuple[int, int, Index, list[range]]]


def adaptive_regions(shape: Sequence[int], output: Sequence[int]) -> Regions:
    """Bin i of an axis holds every cell j that shares a piece of the line with [i n / o, (i + 1) n / o)."""
    size = shape[1:-1]
    axes = []
    for n, o in zip(size, output, strict=True):
        bins = []
        for i in range(o):
            held = [j for j in range(n) if (j + 1) * o > i * n and j * o < (i + 1) * n]
            bins.append(range(held[0], held[-1] + 1))
        axes.append(bins)
    for n, c in itertools.product(range(shape[0]), range(shape[-1])):
        for position in np.ndindex(*output):
            yield n, c, position, [bins[i] for bins, i in zip(axes, position, strict=True)]


def fractional_regions(shape: Sequence[int], window: Sequence[int], output: Sequence[int], samples: Any) -> Regions:
    """Windows at PyTorch's starts, computed in the dtype of `samples` (N, C, axes), which are in the axes' order."""
    samples = np.asarray(samples)
    for n, c in itertools.product(range(shape[0]), range(shape[-1])):
        axes = []
        for size, k, o, u in zip(shape[1:-1], window, output, samples[n, c], strict=True):
            starts = []
            for i in range(o - 1):
                a = samples.dtype.type(size - k) / samples.dtype.type(o - 1)
                starts.append(int((samples.dtype.type(i) + u) * a) - int(u * a))
            axes.append([range(s, s + k) for s in [*starts, size - k]])
        for position in np.ndindex(*output):
            yield n, c, position, [windows[i] for windows, i in zip(axes, position, strict=True)]


def reference_bins(
    operation: Operation, x: Any, output: Sequence[int], regions: Regions
) -> tuple[np.ndarray, np.ndarray]:
    """The mean or the maximum of every region, float64, and the maxima's flat positions: the first NaN, or the first
    of the largest; -1 for means.
    """
    x = np.asarray(x).astype(np.float64)
    y = np.full((x.shape[0], *output, x.shape[-1]), np.nan)
    indices = np.full(y.shape, -1)
    for n, c, position, region in regions:
        cells = list(itertools.product(*region))
        values = [x[(n, *cell, c)] for cell in cells]
        if operation == "avg":
            y[(n, *position, c)] = sum(values) / len(values)
            continue
        nans = [i for i, value in enumerate(values) if value != value]
        won = nans[0] if nans else values.index(max(values))
        y[(n, *position, c)] = values[won]
        indices[(n, *position, c)] = np.ravel_multi_index(cells[won], x.shape[1:-1])
    return y, indices


def reference_bins_vjp(operation: Operation, x: Any, cotangent: Any, regions: Regions) -> np.ndarray:
    """The gradient of x, float64: a mean's cotangent spread evenly, a maximum's where the first of them stands."""
    x, g = np.asarray(x).astype(np.float64), np.asarray(cotangent).astype(np.float64)
    dx = np.zeros_like(x)
    for n, c, position, region in regions:
        cells = list(itertools.product(*region))
        received = g[(n, *position, c)]
        if operation == "avg":
            for cell in cells:
                dx[(n, *cell, c)] += received / len(cells)
            continue
        values = [x[(n, *cell, c)] for cell in cells]
        nans = [i for i, value in enumerate(values) if value != value]
        dx[(n, *cells[nans[0] if nans else values.index(max(values))], c)] += received
    return dx


def reference_unpool(y: Any, indices: Any, size: Sequence[int]) -> np.ndarray:
    """y (N, *windows, C) written in row-major order at flat positions of planes of `size`, float64."""
    y, indices = np.asarray(y).astype(np.float64), np.asarray(indices)
    require_shape("indices", indices, y.shape)
    x = np.zeros((y.shape[0], *size, y.shape[-1]))
    for at in np.ndindex(*y.shape):
        x[(at[0], *np.unravel_index(indices[at], tuple(size)), at[-1])] = y[at]
    return x


def reference_unpool_vjp(indices: Any, size: Sequence[int], cotangent: Any) -> np.ndarray:
    """The gradient of y, float64: what arrives where its element was written, and nothing for one overwritten."""
    indices, g = np.asarray(indices), np.asarray(cotangent).astype(np.float64)
    writer: dict[Index, Index] = {}
    for at in np.ndindex(*indices.shape):
        writer[at[0], at[-1], int(indices[at])] = at
    dy = np.zeros(indices.shape)
    for (n, c, flat), at in writer.items():
        dy[at] = g[(n, *np.unravel_index(flat, tuple(size)), c)]
    return dy
