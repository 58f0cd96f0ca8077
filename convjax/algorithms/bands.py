"""Loops over bands of large arrays, so that what an algorithm makes on the way stays in cache.

An array that is written whole and read back costs memory twice, and on CPU a fault for every page besides: XLA asks
the system for fresh pages at each call.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from convjax.problem import Problem

# Bytes of an array from which on the allocator asks the system for fresh pages at every call.
KEPT_BYTES = 2**25
# What `admitted_workspace` is in multiples of the operands and the result, and at least.
MOST_WORKSPACE, SMALL_WORKSPACE = 4, 2**22


def admitted_workspace(problem: Problem) -> int:
    """Bytes that an algorithm may need which is taken unasked."""
    return max(MOST_WORKSPACE * problem.bytes, SMALL_WORKSPACE)


@dataclasses.dataclass(frozen=True)
class Bands:
    """Blocks of `lengths` that cover axes of `sizes`; the last along an axis overlaps its neighbour where it must."""

    sizes: tuple[int, ...]
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, sizes: Sequence[int], wanted: float) -> "Bands":
        """Blocks of `wanted` elements or somewhat more, whole along the last axes, even where that is near."""
        lengths: list[int] = []
        for size in reversed(sizes):
            least = -(-size // max(1, int(size / max(1.0, wanted))))
            even = (n for n in range(max(1, least), min(2 * least, size) + 1) if size % n == 0)
            lengths.append(next(even, max(1, least)))
            wanted /= lengths[-1]
        return cls(tuple(sizes), tuple(reversed(lengths)))

    @property
    def count(self) -> int:
        return math.prod(self._counts)

    @property
    def _counts(self) -> tuple[int, ...]:
        return tuple(-(-size // length) for size, length in zip(self.sizes, self.lengths, strict=True))

    @property
    def overlap(self) -> float:
        """Elements of all blocks over those that they cover, 1 where blocks never overlap."""
        axes = zip(self._counts, self.lengths, self.sizes, strict=True)
        return math.prod(count * length / size if size else 1.0 for count, length, size in axes)

    def fold(self, step: Callable[[Any, list[jax.Array]], Any], start: Any) -> Any:
        """`step(result, offsets)` for the block at each of the offsets in turn, one an axis."""

        def at(index: Any, result: Any) -> Any:
            places = jnp.unravel_index(index, self._counts)
            axes = zip(places, self.sizes, self.lengths, strict=True)
            return step(result, [jnp.minimum(place * length, size - length) for place, size, length in axes])

        if self.count == 1:
            return at(0, start)
        return lax.fori_loop(0, self.count, at, start) if self.count else start

    def first_seen(self, offsets: list[jax.Array]) -> jax.Array | None:
        """Which elements of the block at `offsets` no earlier one held; None where blocks never overlap."""
        new = []
        for axis, (offset, size, length) in enumerate(zip(offsets, self.sizes, self.lengths, strict=True)):
            if size % length:
                at = offset + lax.broadcasted_iota(offset.dtype, self.lengths, axis)
                new.append(at >= -(-offset // length) * length)
        return functools.reduce(operator.and_, new) if new else None
