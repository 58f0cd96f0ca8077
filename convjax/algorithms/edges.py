"""Outputs along the edges apart from those within, so that only slabs of x are ever padded.

A padded copy of x costs as much as many a fused loop that then reads it. An output that no padding touches
can be computed from x as it is.
"""

from collections.abc import Callable, Sequence

import jax
from jax import lax

from convjax.problem import Pads

Compute = Callable[[jax.Array, Pads], jax.Array]


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
        (lo, hi), size, step = padding[axis], x.shape[first + axis], strides[axis]
        count = (lo + size + hi - reach[axis]) // step + 1
        begin = min(-(-max(lo, 0) // step), count)  # the first output clear of the padding before
        end = max((lo + size - reach[axis]) // step + 1, begin) if hi > 0 else count
        if begin == end:
            return compute(x, padding)

        def slab(begin: int, end: int) -> tuple[jax.Array, Pads]:
            """The part of x that outputs from `begin` to `end` see, and the padding they see beside it."""
            start, stop = begin * step - lo, (end - 1) * step - lo + reach[axis]
            lower = min(max(start, 0), size)
            upper = min(max(stop, lower), size)
            beside = (lower - start, stop - upper)  # negative where all of the slab is padding
            return lax.slice_in_dim(x, lower, upper, axis=first + axis), (*padding[:axis], beside, *padding[axis + 1 :])

        parts = [part(*slab(begin, end), axis + 1)]
        if begin > 0:
            parts.insert(0, compute(*slab(0, begin)))
        if end < count:
            parts.append(compute(*slab(end, count)))
        return lax.concatenate(parts, first + axis)

    return part(x, padding, 0)
