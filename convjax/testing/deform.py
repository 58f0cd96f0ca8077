"""Deformable convolution in float64, sample by sample, from the definition."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from convjax.testing.positions import require_shape, window_count


def reference_deform_conv2d(
    x: Any,
    offset: Any,
    w: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[tuple[int, int]] = ((0, 0), (0, 0)),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    offset_groups: int = 1,
) -> np.ndarray:
    """What `deform_conv2d` says, channels last, one sample of one channel at a time.

    Args:
        x: (N, H, W, C).
        offset: (N, H', W', offset_groups R S 2).
        w: (R, S, C // groups, K).
        mask: (N, H', W', offset_groups R S), or None.
        bias: (K,), or None.
        strides, dilation: one an axis.
        padding: (lo, hi) an axis.
        groups, offset_groups: how many.

    Returns:
        (N, H', W', K), float64.
    """
    x, offset, w = (np.asarray(a).astype(np.float64) for a in (x, offset, w))
    (batch, *size, channels), (*kernel, inputs, outputs) = x.shape, w.shape
    height, width = (
        window_count(n, k, s, pads, 1, d)
        for n, k, s, pads, d in zip(size, kernel, strides, padding, dilation, strict=True)
    )
    taps = kernel[0] * kernel[1]
    require_shape("offset", offset, (batch, height, width, offset_groups * taps * 2))
    y = np.zeros((batch, height, width, outputs))
    for n, i, j, r, s, c in np.ndindex(batch, height, width, *kernel, channels):
        number = c // (channels // offset_groups) * taps + r * kernel[1] + s
        dy, dx = offset[n, i, j, 2 * number : 2 * number + 2]
        sample = _bilinear(
            x[n, :, :, c],
            i * strides[0] - padding[0][0] + r * dilation[0] + dy,
            j * strides[1] - padding[1][0] + s * dilation[1] + dx,
        )
        weight = 1.0 if mask is None else float(np.asarray(mask)[n, i, j, number])
        per_group = outputs // groups
        first = c // inputs * per_group
        y[n, i, j, first : first + per_group] += weight * sample * w[r, s, c % inputs, first : first + per_group]
    return y if bias is None else y + np.asarray(bias).astype(np.float64)


def _bilinear(plane: np.ndarray, y: float, x: float) -> float:
    """The plane at (y, x): the tent-weighted sum of the elements less than 1 away on both axes."""
    height, width = plane.shape
    if math.isnan(y) or math.isnan(x):
        return math.nan
    if y <= -1 or y >= height or x <= -1 or x >= width:
        return 0.0
    total = 0.0
    for row in range(max(0, math.ceil(y) - 1), min(height, math.floor(y) + 2)):
        for column in range(max(0, math.ceil(x) - 1), min(width, math.floor(x) + 2)):
            weight = max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column))
            if weight:
                total += weight * float(plane[row, column])
    return total
