"""What receptive fields are: boxes of the input that move with the output; and those of layers, by formula."""

import dataclasses
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

from convjax import sizes
from convjax.ops.arguments import integer, listed, positive_integer
from convjax.problem import Ints

# First and last element seen, None where nothing is.
Bounds = tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class AxisField:
    """What outputs see along one axis of the input.

    With P entries in `bounds`, output q P + r, 0 <= r < P, sees the elements q shift + bounds[r]. P is 1 but behind
    transposed convolutions, repetitions and the like, whose outputs do not all see alike; and behind reshapes that make
    one axis of several, along which a row comes back, with a shift of 0, after its P elements.

    Attributes:
        input_axis: the axis of the input.
        input_size: its elements, None where they are not known.
        output_axis: the axis of the output that moves along it, None where there is none.
        shift: elements by which the field moves in P outputs.
        bounds: the first and last element that each of the outputs 0 .. P - 1 sees, None where it sees none.
    """

    input_axis: int
    input_size: int | None
    output_axis: int | None
    shift: int
    bounds: tuple[Bounds, ...]

    @property
    def size(self) -> int:
        """The most elements, from the first to the last, that an output sees."""
        return max((last - first + 1 for first, last in filter(None, self.bounds)), default=0)

    @property
    def stride(self) -> int | Fraction:
        """Elements by which the field moves from one output to the next, in the mean of P; 0 where it comes back."""
        stride = Fraction(self.shift, len(self.bounds))
        return int(stride) if stride.denominator == 1 else stride

    @property
    def offset(self) -> int:
        """The first element that output 0 sees, or the first output that sees any; negative in padding."""
        return next((seen[0] for seen in self.bounds if seen is not None), 0)

    def reach(self, position: int) -> range:
        """All that the output at `position` sees, elements in padding included."""
        q, r = divmod(position, len(self.bounds))
        bounds = self.bounds[r]
        return range(0) if bounds is None else range(q * self.shift + bounds[0], q * self.shift + bounds[1] + 1)

    def seen(self, position: int) -> range:
        """The elements of the input that the output at `position` sees."""
        reach = self.reach(position)
        stop = reach.stop if self.input_size is None else min(reach.stop, self.input_size)
        return range(max(reach.start, 0), max(reach.start, 0, stop))


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """The elements of the input that an output sees: a box that moves with the output.

    Along each spatial axis output o sees the elements from o stride + offset to o stride + offset + size - 1. Where
    they are below 0 or at least the input's size, they stand for padding.

    Attributes:
        axes: what is seen along each spatial axis of the input.
        assumed: primitives on the way that no rule knows, or whose operands see in ways that no law describes: their
            results were taken to see all that their operands see. Empty where the field is exact.
        edges: primitives on the way that joined parts which see differently, as padding by reflected elements does:
            the field is that of outputs away from the edges.

    Example:
        >>> field = stacked_receptive_field([(3, 2), (3, 1, 2)])
        >>> print(field)
        11 from 0, stride 2
        >>> field.box(4)
        (slice(8, 19, None),)
    """

    axes: tuple[AxisField, ...]
    assumed: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()

    @property
    def size(self) -> Ints:
        """Elements seen along each spatial axis."""
        return tuple(axis.size for axis in self.axes)

    @property
    def stride(self) -> tuple[int | Fraction, ...]:
        """Elements by which the field moves from one output to the next, along each spatial axis."""
        return tuple(axis.stride for axis in self.axes)

    @property
    def offset(self) -> Ints:
        """First element that output 0 sees along each spatial axis."""
        return tuple(axis.offset for axis in self.axes)

    def box(self, *positions: int) -> tuple[slice, ...]:
        """The part of the input that the output at these positions, one a spatial axis, sees."""
        if len(positions) != len(self.axes):
            raise ValueError(f"box takes one position for each of {len(self.axes)} spatial axes, got {len(positions)}")
        seen = [axis.seen(position) for axis, position in zip(self.axes, positions, strict=True)]
        return tuple(slice(part.start, part.stop) for part in seen)

    def __str__(self) -> str:
        def by(values: Iterable[object]) -> str:
            return "x".join(map(str, values))

        text = f"{by(self.size)} from {by(self.offset)}, stride {by(self.stride)}"
        return text + (f", taking {', '.join(self.assumed)} to see everything" if self.assumed else "")


def stacked_receptive_field(layers: Iterable[Sequence[Any]]) -> ReceptiveField:
    """The receptive field, along one axis, of layers one after another, each (kernel, stride, dilation, padding).

    The formula is that of `receptive_field`. Stride and dilation may be left out, being 1, and padding, being 0; it
    is a number or a pair (low, high).

    Raises:
        ValueError: a layer that is not 1 to 4 numbers, or a kernel, stride or dilation below 1.
        TypeError: a number that is no integer.

    Example:
        >>> stacked_receptive_field([(3, 1, 1), (3, 1, 2), (3, 1, 3)]).size
        (13,)
    """
    size, stride, offset = 1, 1, 0
    for layer in layers:
        layer = listed(layer)
        if not isinstance(layer, Sequence) or not 1 <= len(layer) <= 4:
            raise ValueError(f"a layer is (kernel, stride, dilation, padding), of which it may lack the last: {layer}")
        *numbers, padding = list(layer) + [1, 1, 0][len(layer) - 1 :]
        names = ("kernel", "stride", "dilation")
        kernel, step, dilation = (positive_integer(name, n) for name, n in zip(names, numbers, strict=True))
        offset -= stride * _low(padding)
        size += stride * (sizes.dilated(kernel, dilation) - 1)
        stride *= step
    return ReceptiveField((AxisField(0, None, 0, stride, ((offset, offset + size - 1),)),))


def _low(padding: Any) -> int:
    """The low end of padding by a number or a pair of them."""
    padding = listed(padding)
    pair = padding if isinstance(padding, Sequence) and not isinstance(padding, str) else (padding, padding)
    if len(pair) != 2:
        raise ValueError(f"padding must be a number or a pair (low, high), got {padding!r}")
    low, _ = (integer("padding", end) for end in pair)
    return low
