"""Sizes along one axis, known beforehand: what an operation makes of one, and which convolutions make another of it.

The numbers and the refusals are those of the operations: both read their arguments by the same functions.
"""

import bisect
import dataclasses
import heapq
from collections.abc import Iterator, Sequence
from typing import Literal, TypedDict, Unpack, overload

from convjax import sizes
from convjax.ops.arguments import Padding, is_same, listed, padding_pairs, per_axis, positive_per_axis
from convjax.ops.conv_transpose import transposed_size
from convjax.ops.operands import kernel_padding
from convjax.ops.windows import window_padding
from convjax.problem import Ints, Pads

# As the operations take it, or the (lo, hi) pair of the one axis.
AxisPadding = str | int | Sequence[int | Sequence[int]]


class _Options(TypedDict, total=False):
    padding: AxisPadding
    dilation: int


class _ConvOptions(_Options, total=False):
    stride: int
    ceil_mode: bool


class _PoolOptions(_Options, total=False):
    stride: int | None
    ceil_mode: bool


class _TransposeOptions(_Options, total=False):
    stride: int
    output_padding: int
    output_size: int | None


@dataclasses.dataclass(frozen=True)
class OutputSize:
    """What an operation makes of one axis.

    Attributes:
        size: elements of the output.
        padding: (lo, hi), whatever form it was given in.
        remainder: cells at the end of the padded input that no window reads, since a further stride does not fit. Of
            a transposed convolution, cells at the end of the output, before it is cropped, that nothing is added to.
        overhang: cells behind the padded input that the last window of ceil mode reaches.
        unused: elements of the input itself behind the last window: what the remainder holds beyond the padding.

    Example:
        >>> made = conv_output_size(9, 3, stride=4, padding=(0, 1), full_output=True)
        >>> made.size, made.remainder, made.unused  # one of the three cells left over is padding
        (2, 3, 2)
    """

    size: int
    padding: tuple[int, int]
    remainder: int
    overhang: int = 0
    unused: int = dataclasses.field(default=0, repr=False, compare=False)  # follows from the size of the input


@overload
def conv_output_size(
    size: int, kernel: int, *, full_output: Literal[False] = False, **options: Unpack[_ConvOptions]
) -> int: ...
@overload
def conv_output_size(
    size: int, kernel: int, *, full_output: Literal[True], **options: Unpack[_ConvOptions]
) -> OutputSize: ...
def conv_output_size(
    size: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: AxisPadding = "VALID",
    dilation: int = 1,
    ceil_mode: bool = False,
    full_output: bool = False,
) -> int | OutputSize:
    """How many elements `conv` makes of an axis.

    floor((n + lo + hi - d (k - 1) - 1) / s) + 1, in ceil mode with ceil in the place of floor, and one less where the
    last window would start behind the input and its low padding

    Args:
        size: n, elements of the axis.
        kernel: k, taps.
        stride: s, elements between windows.
        padding: one number for both ends, a (lo, hi) pair, negative to crop, or "SAME", "SAME_LOWER", "VALID",
            "FULL", "CAUSAL".
        dilation: d, elements between taps.
        ceil_mode: whether a last window may overhang the end, as `pool_output_size`; `conv` has no such mode.
        full_output: whether to return an `OutputSize`, which says the resolved padding and what is left over as well.

    Returns:
        The size, or the `OutputSize` that holds it.

    Raises:
        ValueError: as `conv`: numbers below 1, or an axis that leaves no room for the kernel.
        TypeError: a number that is no integer.

    Example:
        >>> conv_output_size(224, 7, stride=2, padding=3)
        112
        >>> conv_output_size(10, 3, stride=2, full_output=True)
        OutputSize(size=4, padding=(0, 0), remainder=1, overhang=0)

    Source:
        Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv:1603.07285, section 2.
    """
    n, k, s, d = _numbers(size, "kernel", kernel, stride, dilation)
    extent = sizes.dilated(k, d)
    ((lo, hi),) = padding_pairs(_of_one_axis(padding), (n,), (extent,), (s,))
    count = sizes.ceil_windows(n, extent, s, lo, hi) if ceil_mode else sizes.windows(n + lo + hi, extent, s)
    found = _output_size(count, n, extent, s, (lo, hi))
    kernel_padding((n,), (k,), (s,), (d,), ((lo, hi + found.overhang),))  # refuses what conv refuses
    return found if full_output else found.size


@overload
def pool_output_size(
    size: int, window: int, *, full_output: Literal[False] = False, **options: Unpack[_PoolOptions]
) -> int: ...
@overload
def pool_output_size(
    size: int, window: int, *, full_output: Literal[True], **options: Unpack[_PoolOptions]
) -> OutputSize: ...
def pool_output_size(
    size: int,
    window: int,
    *,
    stride: int | None = None,
    padding: AxisPadding = "VALID",
    dilation: int = 1,
    ceil_mode: bool = False,
    full_output: bool = False,
) -> int | OutputSize:
    """How many elements `max_pool` and its like make of an axis; the formula is that of `conv_output_size`.

    Args:
        size, dilation, full_output: as `conv_output_size`.
        window: k, taps.
        stride: s, elements between windows; None is the window.
        padding: as `conv_output_size`; numbers from 0 to half the dilated window.
        ceil_mode: whether a last window may overhang the end, if it starts inside the axis or its low padding.

    Returns:
        As `conv_output_size`.

    Raises:
        ValueError: as `max_pool`; also a window that would hold no element.
        TypeError: a number that is no integer.

    Example:
        >>> pool_output_size(112, 3, stride=2, padding=1)
        56
        >>> pool_output_size(112, 3, stride=2, ceil_mode=True, full_output=True)
        OutputSize(size=56, padding=(0, 0), remainder=0, overhang=1)
    """
    n, k, s, d = _numbers(size, "window", window, window if stride is None else stride, dilation)
    asked, padded = window_padding((n,), (k,), (s,), (d,), _of_one_axis(padding), ceil_mode)
    extent = sizes.dilated(k, d)
    found = _output_size(sizes.windows(n + sum(padded[0]), extent, s), n, extent, s, asked[0])
    return found if full_output else found.size


@overload
def conv_transpose_output_size(
    size: int, kernel: int, *, full_output: Literal[False] = False, **options: Unpack[_TransposeOptions]
) -> int: ...
@overload
def conv_transpose_output_size(
    size: int, kernel: int, *, full_output: Literal[True], **options: Unpack[_TransposeOptions]
) -> OutputSize: ...
def conv_transpose_output_size(
    size: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: AxisPadding = "VALID",
    dilation: int = 1,
    output_padding: int = 0,
    output_size: int | None = None,
    full_output: bool = False,
) -> int | OutputSize:
    """How many elements `conv_transpose` makes of an axis.

    (n - 1) s - lo - hi + d (k - 1) + 1 + output_padding, and n s where padding is "SAME" or "SAME_LOWER"

    Args:
        size, kernel, stride, dilation, full_output: as `conv_output_size`.
        padding: of the convolution that is transposed, in the forms of `conv_output_size`: numbers crop the output.
        output_padding: elements beyond the least possible size, below the larger of stride and dilation.
        output_size: the size itself, to be checked.

    Returns:
        As `conv_output_size`.

    Raises:
        ValueError: as `conv_transpose`.
        TypeError: a number that is no integer.

    Example:
        >>> conv_transpose_output_size(5, 3, stride=2), conv_transpose_output_size(5, 3, stride=2, padding=2)
        (11, 7)
        >>> conv_transpose_output_size(7, 3, stride=2, padding="SAME", full_output=True)
        OutputSize(size=14, padding=(0, 1), remainder=0, overhang=0)

    Source:
        Dumoulin and Visin, arXiv:1603.07285, section 4.
    """
    n, k, s, d = _numbers(size, "kernel", kernel, stride, dilation)
    extent = sizes.dilated(k, d)
    (m,), (pair,) = transposed_size((n,), (extent,), (s,), (d,), _of_one_axis(padding), output_padding, output_size)
    found = dataclasses.replace(_output_size(n, m, extent, s, pair), size=m)
    return found if full_output else found.size


@dataclasses.dataclass(frozen=True)
class ConvArguments:
    """Arguments of `conv_output_size` that make a wanted size.

    Attributes:
        kernel, stride, dilation: as there.
        padding: (lo, hi).
        remainder: as `OutputSize`.

    Example:
        >>> conv_arguments_for(28, 14, kernel=3, limit=1)
        (ConvArguments(kernel=3, stride=2, padding=(1, 1), dilation=1, remainder=1),)
    """

    kernel: int
    stride: int
    padding: tuple[int, int]
    dilation: int
    remainder: int

    @property
    def keeps_size(self) -> bool:
        """Whether any size is kept: stride 1, and padding that makes up for the dilated kernel, K = 2 P + 1."""
        return self.stride == 1 and sum(self.padding) == sizes.dilated(self.kernel, self.dilation) - 1


def conv_arguments_for(
    size: int,
    output: int,
    *,
    kernel: int | None = None,
    stride: int | None = None,
    padding: AxisPadding | None = None,
    dilation: int | None = 1,
    limit: int = 10,
) -> tuple[ConvArguments, ...]:
    """Which convolutions make `output` elements of `size`, the simplest first: the inverse of `conv_output_size`.

    Those that keep every size come first (stride 1, K = 2 P + 1), then those that pad both ends alike, then the sum of
    kernel, stride, padding, dilation and remainder decides. What is pinned is kept; what is None is searched: kernels
    whose extent e = d (k - 1) + 1 is up to the larger size; strides up to e, which leave out no element, or up to the
    larger size where the kernel is pinned; padding below e at each end, under which every window reaches an element,
    the high end having at most one cell more, as "SAME" has.

    A pooling has the same sizes, but its padding is at most half its window. A transposed convolution from `output`
    to `size` takes the same arguments, with the remainder for its output_padding.

    Args:
        size, output: elements before and after, at least 1.
        kernel, stride, padding, dilation: what `conv_output_size` takes, or None to search.
        limit: how many to return at most.

    Returns:
        At most `limit` `ConvArguments`; none where no convolution does it.

    Raises:
        ValueError: numbers below 1, or padding that no kernel takes.
        TypeError: a number that is no integer.

    Example:
        >>> [(a.kernel, a.stride, a.padding) for a in conv_arguments_for(28, 28, limit=3)]
        [(1, 1, (0, 0)), (3, 1, (1, 1)), (5, 1, (2, 2))]
        >>> [(a.kernel, a.stride, a.padding) for a in conv_arguments_for(28, 14, limit=3)]
        [(2, 2, (0, 0)), (3, 2, (1, 1)), (4, 2, (1, 1))]
        >>> [(a.stride, a.padding) for a in conv_arguments_for(28, 28, kernel=4)]
        [(1, (1, 2))]
    """
    n, m, limit = _positive("size", size), _positive("output", output), _positive("limit", limit)
    pinned = {"kernel": kernel, "stride": stride, "dilation": dilation}
    kernel, stride, dilation = (i if i is None else _positive(name, i) for name, i in pinned.items())
    largest = max(n, m)
    kernel_padding((n,), (1,), (1,), (1,), _of_one_axis(0 if padding is None else padding))
    best: list[ConvArguments] = []

    def order(found: ConvArguments) -> tuple[bool, bool, int, int, int, int]:
        lo, hi = found.padding
        total = found.kernel + found.stride + abs(lo) + abs(hi) + found.dilation + found.remainder
        return not found.keeps_size, padding is None and lo != hi, total, found.dilation, found.kernel, found.stride

    def settled(*least: int) -> bool:
        """Whether arguments whose total, dilation, kernel and stride are `least` or more are not among the best."""
        return len(best) == limit and order(best[-1]) < (n != m, False, *least)

    for k, d in _kernels(kernel, dilation, largest):
        if settled(k + 2):
            break
        extent = sizes.dilated(k, d)
        strides = _strides(n, m, extent, padding, largest if kernel else extent)
        lo, hi = _known_padding(n, extent, padding)
        padded = n + lo + hi
        for s in (stride,) if stride else _simplest_first(strides, padded, m, extent):
            if settled(k + d + abs(lo) + abs(hi) + _cost(s, padded, m, extent), d, k, s):
                break
            for pair in _pads(n, m, extent, s, padding, 2 * limit):
                if sizes.windows(n + sum(pair), extent, s) == m:
                    left = sizes.left_over(n + sum(pair), extent, s, m)
                    bisect.insort(best, ConvArguments(k, s, pair, d, left), key=order)
            del best[limit:]
    return tuple(best)


def _kernels(kernel: int | None, dilation: int | None, largest: int) -> Iterator[tuple[int, int]]:
    """(kernel, dilation) as pinned, or every one whose extent is up to `largest`."""
    for k in (kernel,) if kernel else range(1, largest + 1):
        most = max(1, (largest - 1) // (k - 1)) if k > 1 else 1
        for d in (dilation,) if dilation else range(1, most + 1):
            if kernel or sizes.dilated(k, d) <= largest:
                yield k, d


def _strides(n: int, m: int, extent: int, padding: AxisPadding | None, longest: int) -> range:
    """Strides up to `longest` that make m windows under `padding`, or under one of those searched."""
    if is_same(padding):
        return sizes.strides(n, m, 1, 0, 0, longest)  # ceil(n / s) windows, whatever the kernel
    if padding is None:
        return sizes.strides(n, m, extent, 0, 2 * extent - 2, longest)
    known = sum(_known_padding(n, extent, padding))
    return sizes.strides(n, m, extent, known, known, longest)


def _known_padding(n: int, extent: int, padding: AxisPadding | None) -> tuple[int, int]:
    """What `padding` is whatever the stride; nothing where it is searched or follows the stride."""
    if padding is None or is_same(padding):
        return 0, 0
    (pair,) = padding_pairs(_of_one_axis(padding), (n,), (extent,), (1,))
    return pair


def _cost(stride: int, n: int, m: int, extent: int) -> int:
    """The stride and the padding that n elements need at least beside, or the remainder that they leave."""
    return stride + abs(sizes.transposed(m, extent, stride, n, 0))


def _simplest_first(strides: range, n: int, m: int, extent: int) -> Iterator[int]:
    """By their cost, which beyond 2 windows falls up to the stride that leaves no remainder and rises behind it."""
    falling = max(0, (n - extent) // (m - 1) - strides.start + 1) if m > 2 else 0
    return heapq.merge(reversed(strides[:falling]), strides[falling:], key=lambda s: _cost(s, n, m, extent))


def _pads(n: int, m: int, extent: int, stride: int, padding: AxisPadding | None, most: int) -> Pads:
    """The padding as pinned, or the first `most` that make m windows, each of which reaches an element."""
    if padding is not None:
        return padding_pairs(_of_one_axis(padding), (n,), (extent,), (stride,))
    sums = sizes.paddings(n, m, extent, stride)[:most]
    return tuple((p // 2, p - p // 2) for p in sums if p <= 2 * extent - 2)


def _output_size(count: int, size: int, extent: int, stride: int, padding: tuple[int, int]) -> OutputSize:
    """What is left when `count` windows stand in `size` elements and their padding."""
    left = sizes.left_over(size + sum(padding), extent, stride, count)
    unused = min(size, max(0, left - padding[1]))
    return OutputSize(count, padding, max(0, left), max(0, -left) if count else 0, unused)


def _numbers(size: int, name: str, taps: int, stride: int, dilation: int) -> Ints:
    """The numbers of every calculator, read as the operations read them; `name` is what the taps are called."""
    (n,) = per_axis("size", size, 1)
    if n < 0:
        raise ValueError(f"size must be at least 0, got {n}")
    return n, _positive(name, taps), _positive("stride", stride), _positive("dilation", dilation)


def _positive(name: str, number: int) -> int:
    return positive_per_axis(name, number, 1)[0]


def _of_one_axis(padding: AxisPadding) -> Padding:
    """`padding` as the operations read it where there is one axis."""
    padding = listed(padding)
    if isinstance(padding, str) or not isinstance(padding, Sequence) or len(padding) == 1:
        return padding
    return (padding,)  # type: ignore[return-value]
