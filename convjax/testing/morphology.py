"""Grey-scale dilation and erosion and their gradients in float64, window by window, from the definitions."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from convjax.testing.positions import require_shape, window_count

Operation = Literal["dilation", "erosion"]
Index = tuple[int, ...]


def reference_morphology(
    operation: Operation,
    x: Any,
    w: Any,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[tuple[int, int]] = ((0, 0), (0, 0)),
    dilation: Sequence[int] = (1, 1),
) -> np.ndarray:
    """What `dilation2d` or `erosion2d` says, channels last.

    Args:
        operation: "dilation" or "erosion".
        x: (N, H, W, C).
        w: (R, S, C).
        strides, dilation: one an axis.
        padding: (lo, hi) an axis.

    Returns:
        (N, H', W', C), float64.
    """
    x, w = np.asarray(x).astype(np.float64), np.asarray(w).astype(np.float64)
    y = np.full(_output_shape(x, w, strides, padding, dilation), np.nan)
    for where, at, tap in _winners(operation, x, w, y.shape, strides, padding, dilation):
        y[where] = x[at] + w[tap] if operation == "dilation" else x[at] - w[tap]
    return y


def reference_morphology_vjp(
    operation: Operation,
    x: Any,
    w: Any,
    cotangent: Any,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[tuple[int, int]] = ((0, 0), (0, 0)),
    dilation: Sequence[int] = (1, 1),
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of x and w, float64: each window's cotangent goes to its first winner, row-major in x."""
    x, w = np.asarray(x).astype(np.float64), np.asarray(w).astype(np.float64)
    shape = _output_shape(x, w, strides, padding, dilation)
    g = np.asarray(cotangent).astype(np.float64)
    require_shape("cotangent", g, shape)
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    for where, at, tap in _winners(operation, x, w, shape, strides, padding, dilation):
        dx[at] += g[where]
        dw[tap] += g[where] if operation == "dilation" else -g[where]
    return dx, dw


def _output_shape(
    x: np.ndarray,
    w: np.ndarray,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> Index:
    height, width = (
        window_count(n, k, s, pads, 1, d)
        for n, k, s, pads, d in zip(x.shape[1:3], w.shape[:2], strides, padding, dilation, strict=True)
    )
    return x.shape[0], height, width, x.shape[3]


def _winners(
    operation: Operation,
    x: np.ndarray,
    w: np.ndarray,
    shape: Index,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> Iterator[tuple[Index, Index, Index]]:
    """For every output its index, and those of the element of x and of w that win there."""
    rows, columns, _ = w.shape
    for where in np.ndindex(*shape):
        n, i, j, c = where
        best, winner = 0.0, None
        for r, s in np.ndindex(rows, columns):
            row = i * strides[0] + r * dilation[0] - padding[0][0]
            column = j * strides[1] + s * dilation[1] - padding[1][0]
            if not (0 <= row < x.shape[1] and 0 <= column < x.shape[2]):
                continue
            at = (n, row, column, c)
            tap = (r, s, c) if operation == "dilation" else (rows - 1 - r, columns - 1 - s, c)
            candidate = x[at] + w[tap] if operation == "dilation" else x[at] - w[tap]
            beyond = candidate > best if operation == "dilation" else candidate < best
            if winner is None or beyond or (np.isnan(candidate) and not np.isnan(best)):
                best, winner = candidate, (where, at, tap)
        if winner is not None:
            yield winner
