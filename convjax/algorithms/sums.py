"""Sums of rows, of several arrays in one pass.

XLA's CPU compiler makes each sum in a loop of its own, over single elements where it fuses what is added into it. Loops
of several results it has in variadic reductions alone, and vectorises them over channels only where the reduction
itself is unrolled.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax import lax

# Rows that are added in one unrolled reduction: of more, what is computed for them is not unrolled any more.
_MOST_ROWS = 8


def sums_of_rows(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """A M C each, all of one shape: A C, the sums over M; stretches of neighbouring rows are added first.

    Of a single array every other row is summed apart, so that there are two results.
    """
    parts = 1 if len(arrays) > 1 else 2
    A, M, C = arrays[0].shape
    rows = divisor(max(1, M // parts), _MOST_ROWS)
    if M % parts or rows == 1:
        return [x.sum(1) for x in arrays]
    cut = [x.reshape(A, M // (rows * parts), rows, parts, C)[:, :, :, i] for x in arrays for i in range(parts)]
    sums = [y.sum(1) for y in sum_together(cut, (2,))]
    return sums if parts == 1 else [sums[0] + sums[1]]


def sum_together(operands: Sequence[jax.Array], axes: Sequence[int]) -> list[jax.Array]:
    """One pass that keeps the sums of all operands."""
    zeros = (np.zeros((), operands[0].dtype),) * len(operands)
    return list(lax.reduce(tuple(operands), zeros, _add_each, axes))


def _add_each(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return tuple(p + q for p, q in zip(a, b, strict=True))


def divisor(n: int, most: int) -> int:
    """The largest divisor of `n` that is no larger than `most`."""
    return max(d for d in range(1, min(n, most) + 1) if n % d == 0)
