"""Sizes along one axis: the formulas that operations, gradients and calculators share.

n input size, k kernel taps, s stride, d dilation, (lo, hi) padding; every quantity counts elements.
"""

from typing import Any


def are_numbers(*arrays: Any) -> bool:
    """Whether all sizes of these are known, which those of `jax.export.symbolic_shape` are not."""
    return all(isinstance(n, int) for array in arrays for n in array.shape)


def dilated(size: int, dilation: int) -> int:
    """Extent of `size` elements spread `dilation` apart: d(k - 1) + 1, and 0 for none."""
    return 0 if size == 0 else dilation * (size - 1) + 1


def windows(extent: int, kernel_extent: int, stride: int) -> int:
    """How many windows of `kernel_extent` fit in `extent`, `stride` apart; never negative."""
    return max(0, (extent - kernel_extent) // stride + 1)


def ceil_windows(size: int, kernel_extent: int, stride: int, lo: int, hi: int) -> int:
    """Windows in ceil mode: the last may overhang, but must start inside the input or its low padding."""
    count = -((kernel_extent - size - lo - hi) // stride) + 1
    if (count - 1) * stride >= size + lo:
        count -= 1
    return max(0, count)


def left_over(extent: int, kernel_extent: int, stride: int, count: int) -> int:
    """Cells of `extent` behind the last of `count` windows; below 0 where that overhangs the end."""
    return extent - ((count - 1) * stride + kernel_extent if count else 0)


def same_padding(size: int, kernel_extent: int, stride: int, odd_at_end: bool = True) -> tuple[int, int]:
    """Padding that makes ceil(n / s) windows; the odd cell goes to the end, or to the start."""
    total = max(0, (-(-size // stride) - 1) * stride + kernel_extent - size)
    small, large = total // 2, total - total // 2
    return (small, large) if odd_at_end else (large, small)


def paddings(size: int, count: int, kernel_extent: int, stride: int) -> range:
    """Every sum of low and high padding, at least 0, that makes `count` windows, at least 1."""
    least = transposed(count, kernel_extent, stride, size, 0)
    return range(max(0, least), least + stride)


def strides(size: int, count: int, kernel_extent: int, least: int, most: int, longest: int) -> range:
    """Strides up to `longest` that make `count` windows, at least 1, by padding that sums to `least` .. `most`."""
    room = size + most - kernel_extent
    if room < 0:
        return range(0)
    if count > 1:
        longest = min(longest, room // (count - 1))
    return range(max(1, (size + least - kernel_extent) // count + 1), longest + 1)


def all_hold_elements(size: int, count: int, taps: int, stride: int, dilation: int, lo: int) -> bool:
    """Whether a tap of each of `count` windows stands on an element, none on padding alone."""
    if count and (count - 1) * stride >= lo + size:
        return False
    early = range(-lo, 0, stride)[:count]  # of all that start later the first tap is on an element
    return all(start % dilation <= min(size - 1, start + (taps - 1) * dilation) for start in early)


def transposed(count: int, kernel_extent: int, stride: int, lo: int, hi: int) -> int:
    """The least size that, padded by (lo, hi), has `count` windows; may be negative where padding is large."""
    return (count - 1) * stride + kernel_extent - lo - hi
