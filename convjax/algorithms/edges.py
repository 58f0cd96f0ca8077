"""Outputs along the edges apart from those within, so that only slabs of x are ever padded.

A padded copy of x costs as much as many a fused loop that then reads it. An output that no padding touches
can be computed from x as it is.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
from jax import lax

from convjax.problem import Pads

Compute = Callable[[jax.Array, Pads], jax.Array]


@dataclasses.dataclass(frozen=True)
class Slab:
    """Outputs from `begin` to `end` along an axis, which see elements of x from `start` to `stop`.

    Attributes:
        padding: what they see beside those; negative where all that they see is padding.
    """

    begin: int
    end: int
    start: int
    stop: int
    padding: tuple[int, int]

    @property
    def is_clear(self) -> bool:
        return self.padding == (0, 0)


def slabs(size: int, padding: tuple[int, int], *, reach: int, step: int, count: int) -> list[Slab]:
    """What needs padding before it, none, and behind it, along an axis of x of `size`; one if all of it does.

    Args:
        reach: elements that an output looks at, `step` after those of the last.
        count: outputs, as many as there is room for or fewer.
    """
    lo, hi = padding
    clear = min(-(-max(lo, 0) // step), count)  # the first output clear of the padding before
    last = min(max((lo + size - reach) // step + 1, clear), count) if hi > 0 else count
    if clear == last:
        return [Slab(0, count, 0, size, padding)]

    def slab(begin: int, end: int) -> Slab:
        start, stop = begin * step - lo, (end - 1) * step - lo + reach
        lower = min(max(start, 0), size)
        upper = min(max(stop, lower), size)
        return Slab(begin, end, lower, upper, (lower - start, stop - upper))

    cuts = [(0, clear), (clear, last), (last, count)]
    return [slab(begin, end) for begin, end in cuts if begin < end]


def edges_apart(
    compute: Compute,
    x: jax.Array,
    padding: Pads,
    *,
    first: int,
    reach: Sequence[int],
    strides: Sequence[int],
) -> jax.Array:
    """`compute(x, padding)` in parts: on every axis what needs padding before it, none, and behind it.

    Args:
        compute: takes a slab of x with its own padding and returns the windows that fit it. It looks at one window
            of `reach` elements for every output, `strides` apart, on the axes of x and of the result from `first`.
    """

    def part(x: jax.Array, padding: Pads, axis: int) -> jax.Array:
        if axis == len(padding):
            return compute(x, padding)
        parts = []
        count = (x.shape[first + axis] + sum(padding[axis]) - reach[axis]) // strides[axis] + 1
        for slab in slabs(x.shape[first + axis], padding[axis], reach=reach[axis], step=strides[axis], count=count):
            seen = lax.slice_in_dim(x, slab.start, slab.stop, axis=first + axis)
            beside = (*padding[:axis], slab.padding, *padding[axis + 1 :])
            parts.append(part(seen, beside, axis + 1) if slab.is_clear else compute(seen, beside))
        return lax.concatenate(parts, first + axis)

    return part(x, padding, 0)
