"""Where windows meet elements along one axis, by enumeration.

The references share this and nothing of the library's size arithmetic: they are the second opinion.
"""

from collections.abc import Sequence

import numpy as np

Meeting = tuple[int, slice, slice]


def window_count(
    size: int, kernel: int, stride: int, pads: tuple[int, int], dilation: int, kernel_dilation: int
) -> int:
    """How many windows start inside the dilated, padded (or cropped) axis and end inside it too."""
    length = (size - 1) * dilation + 1 if size else 0
    reach = (kernel - 1) * kernel_dilation + 1 if kernel else 0
    return len(range(0, length + sum(pads) - reach + 1, stride))


def meetings(
    outer: int, outer_step: int, inner: int, inner_step: int, lo: int, size: int, dilation: int
) -> list[Meeting]:
    """For each outer index, the inner indices that meet an element and the elements they meet.

    Output o and tap t meet at position o * stride + t * kernel_dilation - lo of the dilated axis; either may
    be the outer.
    """
    table = []
    for i in range(outer):
        positions = ((j, i * outer_step + j * inner_step - lo) for j in range(inner))
        hits = [(j, p // dilation) for j, p in positions if p % dilation == 0 and 0 <= p // dilation < size]
        table.append((i, _progression([j for j, _ in hits]), _progression([element for _, element in hits])))
    return table


def _progression(indices: Sequence[int]) -> slice:
    """The slice that takes exactly `indices`, which rise by equal steps."""
    if not indices:
        return slice(0, 0)
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    return slice(indices[0], indices[-1] + 1, step)


def wide_dtype(name: str) -> np.dtype:
    """The dtype in which the references compute for operands of dtype `name`."""
    if name.startswith(("int", "uint")):
        return np.dtype(np.uint64 if name == "uint64" else np.int64)
    if name == "bool":
        return np.dtype(np.bool_)
    return np.dtype(np.complex128 if name.startswith("complex") else np.float64)


def require_shape(name: str, array: np.ndarray, shape: Sequence[int]) -> None:
    if array.shape != tuple(shape):
        raise ValueError(f"{name} has shape {array.shape} but the problem says {tuple(shape)}")
