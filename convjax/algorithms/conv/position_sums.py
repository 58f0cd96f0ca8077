"""Depthwise weight gradients: a few outputs, each the sum of an output map's products, made in as few passes as fit.

Elements of a stretch of a row are added first, for several positions in one loop that holds their sums in registers
and reads each element once, and what is left of the rows in the same way. XLA has such loops of several results in
variadic reductions alone, and vectorises them over channels only where the reduction itself is unrolled.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax.problem import ConvSpec

# Elements of a stretch, and products written out in a whole program: more compile too slowly.
_LONGEST, _MOST_PRODUCTS = 16, 350
# Products in a loop that LLVM unrolls, and sums that stay in registers beside what is multiplied.
_UNROLLED, _MOST_SUMS = 98, 12
# Rows that are added at a time once stretches are; what is left of them is added by a plain sum.
_FEW_ROWS = 8


def is_looped(problem: ConvSpec) -> bool:
    """Whether the first axis of the output is looped over, with the positions of the others written out."""
    return problem.ndim > 1 and math.prod(problem.output) * min(problem.kernel[-1], _LONGEST) > _MOST_PRODUCTS


def stretch_length(problem: ConvSpec) -> int:
    """Elements of a row that are added at a time, a divisor of the row where one is long enough."""
    row, most = problem.kernel[-1], max(1, min(_LONGEST, _MOST_PRODUCTS // _written(problem)))
    divisor = _divisor(row, most)
    return divisor if 2 * divisor >= min(row, most) else most


def passes_over_operands(problem: ConvSpec) -> int:
    """How often both operands are read."""
    turns = problem.output[0] if is_looped(problem) else 1
    return turns * -(-_written(problem) // _sums_a_pass(stretch_length(problem)))


def _written(problem: ConvSpec) -> int:
    return math.prod(problem.output[is_looped(problem) :])


def _sums_a_pass(length: int) -> int:
    return max(1, min(_MOST_SUMS, _UNROLLED // length))


def position_sums(windows: Sequence[jax.Array], w: jax.Array, length: int) -> jax.Array:
    """The sum of every window's products with w, over all axes but the last: C S G by C S G: len(windows) G."""
    row = w.shape[-2]
    whole = row // length * length
    head, tail = ([lax.slice_in_dim(a, *span, axis=-2) for a in (*windows, w)] for span in ((0, whole), (whole, row)))
    y = _whole_stretches(head[:-1], head[-1], length)
    return y if whole == row else y + _whole_stretches(tail[:-1], tail[-1], row - whole)


def _whole_stretches(windows: Sequence[jax.Array], w: jax.Array, length: int) -> jax.Array:
    turns = next((n for n in range(2, length) if length % n == 0), length)
    terms = length // turns

    def products(window: jax.Array) -> jax.Array:
        """C stretches turns G, the terms of a turn added up."""
        cut = [[lax.slice_in_dim(a, i, None, terms, axis=-2) for a in (window, w)] for i in range(terms)]
        y = functools.reduce(jnp.add, [x_i * w_i for x_i, w_i in cut])
        return y.reshape(w.shape[0], -1, turns, w.shape[-1])

    count = -(-len(windows) // _sums_a_pass(length))
    sums: list[jax.Array] = []
    for i in range(count):
        part = windows[len(windows) * i // count : len(windows) * (i + 1) // count]
        sums += _fewer_rows(sum_together([products(window) for window in part], (2,)))
    return jnp.sum(jnp.stack(sums, axis=2), axis=(0, 1), dtype=w.dtype)


def _fewer_rows(sums: list[jax.Array]) -> list[jax.Array]:
    """Each C rows G with its rows added in passes over all, as far as they have small divisors."""
    C, rows, G = sums[0].shape
    n = _divisor(rows, _FEW_ROWS)
    if n == 1:
        return sums
    return _fewer_rows(sum_together([a.reshape(C, rows // n, n, G) for a in sums], (2,)))


def sum_together(operands: Sequence[jax.Array], axes: Sequence[int]) -> list[jax.Array]:
    """One pass that keeps the sums of all operands."""
    zeros = (np.zeros((), operands[0].dtype),) * len(operands)
    return list(lax.reduce(tuple(operands), zeros, _add_each, axes))


def _add_each(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return tuple(p + q for p, q in zip(a, b, strict=True))


def _divisor(n: int, most: int) -> int:
    return max(d for d in range(1, min(n, most) + 1) if n % d == 0)
