"""Patches, their sum and unshared kernels in float64, one output position and one tap after another.

Everything is channels last, or channels first where asked; padding is one (lo, hi) pair an axis, negative to crop.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from convjax.testing.positions import wide_dtype, window_count

Index = tuple[Any, ...]
Pairs = Sequence[tuple[int, int]]


def reference_unfold(
    x: Any, kernel: Sequence[int], strides: Sequence[int], padding: Pairs, dilation: Sequence[int], first: bool = False
) -> np.ndarray:
    """The patches of x (N, *size, C), or (N, C, *size) if `first`.

    Returns:
        (N, *output, T C), feature t C + c; or (N, C T, *output), feature c T + t, if `first`.
    """
    x = _wide(np.moveaxis(x, 1, -1) if first else x)
    size, channels = x.shape[1:-1], x.shape[-1]
    taps = int(np.prod(kernel))
    output = tuple(map(window_count, size, kernel, strides, padding, (1,) * len(size), dilation))
    columns = np.zeros((x.shape[0], *output, taps * channels), x.dtype)
    for position, tap, element in _meetings(size, output, kernel, strides, padding, dilation):
        for c in range(channels):
            columns[:, *position, _feature(tap, c, taps, channels, first)] = x[:, *element, c]
    return np.moveaxis(columns, -1, 1) if first else columns


def reference_fold(
    columns: Any,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    first: bool = False,
) -> np.ndarray:
    """The sum of patches, as `reference_unfold` returns them, where they stand in an input of `size`."""
    columns = _wide(np.moveaxis(columns, 1, -1) if first else columns)
    taps = int(np.prod(kernel))
    channels = columns.shape[-1] // taps
    x = np.zeros((columns.shape[0], *size, channels), columns.dtype)
    for position, tap, element in _meetings(size, columns.shape[1:-1], kernel, strides, padding, dilation):
        for c in range(channels):
            x[:, *element, c] += columns[:, *position, _feature(tap, c, taps, channels, first)]
    return np.moveaxis(x, -1, 1) if first else x


def reference_conv_local(
    x: Any, w: Any, kernel: Sequence[int], strides: Sequence[int], padding: Pairs, dilation: Sequence[int]
) -> np.ndarray:
    """x (N, *size, C) by the kernel of each position, w (*output, T C, K).

    Returns:
        (N, *output, K).
    """
    x, w = _wide(x), _wide(w)
    *output, _, outputs = w.shape
    channels = x.shape[-1]
    y = np.zeros((x.shape[0], *output, outputs), x.dtype)
    for position, tap, element in _meetings(x.shape[1:-1], output, kernel, strides, padding, dilation):
        for c in range(channels):
            y[:, *position] += np.outer(x[:, *element, c], w[*position, tap * channels + c])
    return y


def _meetings(
    size: Sequence[int],
    output: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
) -> Iterator[tuple[Index, int, Index]]:
    """Each output position, the row-major number of a tap, and the element that they meet."""
    for position in np.ndindex(*output):
        for number, tap in enumerate(np.ndindex(*kernel)):
            axes = zip(position, strides, tap, dilation, padding, strict=True)
            element = tuple(o * s + t * d - lo for o, s, t, d, (lo, _) in axes)
            if all(0 <= i < n for i, n in zip(element, size, strict=True)):
                yield position, number, element


def _feature(tap: int, channel: int, taps: int, channels: int, first: bool) -> int:
    return channel * taps + tap if first else tap * channels + channel


def _wide(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(wide_dtype(array.dtype.name))
