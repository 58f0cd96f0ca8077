"""Weight gradients of depthwise layers and of a single input channel: a few outputs, each the sum of an output map's
products, made in as few passes as fit.

Elements of a stretch of a row are added first, for several positions in one loop that holds their sums in registers
and reads each element once, and what is left of the rows in the same way. Vectors lie along groups, or along the output
channels that a single input channel meets: along the last axis of w, of which x has all or one.

XLA has such loops of several results in variadic reductions alone, and vectorises them over channels only where the
reduction itself is unrolled.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from convjax import layout
from convjax.algorithms.conv.sides import Axis, sides, windows
from convjax.algorithms.edges import slabs
from convjax.algorithms.numerics import accumulator
from convjax.algorithms.sums import divisor, sum_together
from convjax.problem import ConvSpec, Pads

# Elements of a stretch, and products written out in a whole program: more compile too slowly.
_LONGEST, _MOST_PRODUCTS = 16, 350
# Products in a loop that LLVM unrolls, and sums that stay in registers beside what is multiplied.
_UNROLLED, _MOST_SUMS = 98, 12
# Bytes of x from which on a padded copy takes longer than sums of a few slabs more.
_LARGE = 10 * 2**20
# Rows that are added at a time once stretches are; what is left of them is added by a plain sum.
_FEW_ROWS = 8


def is_looped(problem: ConvSpec) -> bool:
    """Whether the first axis of the output is looped over, with the positions of the others written out."""
    return problem.ndim > 1 and math.prod(problem.output) * min(problem.kernel[-1], _LONGEST) > _MOST_PRODUCTS


def stretch_length(problem: ConvSpec) -> int:
    """Elements of a row that are added at a time, a divisor of the row where one is long enough."""
    row, most = problem.kernel[-1], max(1, min(_LONGEST, _MOST_PRODUCTS // _written(problem)))
    even = divisor(row, most)
    return even if 2 * even >= min(row, most) else most


def passes_over_operands(problem: ConvSpec) -> int:
    """How often both operands are read."""
    turns = problem.output[0] if is_looped(problem) else 1
    return turns * -(-_written(problem) // _sums_a_pass(stretch_length(problem)))


def _written(problem: ConvSpec) -> int:
    return math.prod(problem.output[is_looped(problem) :])


def _sums_a_pass(length: int) -> int:
    return max(1, min(_MOST_SUMS, _UNROLLED // length))


def sums_by_slabs(problem: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """C S G by C S G (or C S 1 by C S K), x unpadded: positions and w's last axis, the sum of those of slabs of w, most
    of which x meets as it is.
    """

    def part(x: jax.Array, w: jax.Array, padding: Pads, axis: int) -> jax.Array:
        if axis == problem.ndim:
            within = layout.channels_last(
                problem,
                problem.N,
                x.shape[1:-1],
                w.shape[1:-1],
                problem.C,
                strides=problem.strides,
                rhs_dilation=problem.rhs_dilation,
                padding=padding,
            )
            dtype, x = accumulator(problem), layout.pad_spatial(within, x, first=1)
            return sums_by_stretches(within, sides(within), x.astype(dtype), w.astype(dtype)).reshape(-1, w.shape[-1])
        sums = []
        reach, step = (problem.output[axis] - 1) * problem.strides[axis] + 1, problem.rhs_dilation[axis]
        for slab in slabs(x.shape[1 + axis], padding[axis], reach=reach, step=step, count=w.shape[1 + axis]):
            seen = lax.slice_in_dim(x, slab.start, slab.stop, axis=1 + axis)
            met = lax.slice_in_dim(w, slab.begin, slab.end, axis=1 + axis)
            beside = (*padding[:axis], slab.padding, *padding[axis + 1 :])
            sums.append(part(seen, met, beside, axis + 1 if slab.is_clear else problem.ndim))
        return functools.reduce(jnp.add, sums)

    return part(x, w, problem.padding, 0)


def in_slabs(problem: ConvSpec, axes: tuple[Axis, ...]) -> bool:
    """Whether to sum apart what padding touches: where x is large, and a slab compiles quickly."""
    if not in_stretches(problem, axes) or math.prod(problem.output) > _MOST_SUMS or max(problem.lhs_dilation) > 1:
        return False
    large = accumulator(problem).itemsize * math.prod(problem.lhs_shape) >= _LARGE
    return large and any(lo > 0 or hi > 0 for lo, hi in problem.padding)


def sums_by_stretches(problem: ConvSpec, axes: tuple[Axis, ...], x: jax.Array, w: jax.Array) -> jax.Array:
    """C S G by C S G, or C S 1 by C S K: positions and w's last axis."""
    length = stretch_length(problem)
    if not is_looped(problem):
        return position_sums([*windows(axes, x, "x", 1, problem.kernel).values()], w, length)
    one_row = (dataclasses.replace(axes[0], starts=(0,)), *axes[1:])
    reach = (problem.kernel[0] - 1) * problem.rhs_dilation[0] + 1

    def along(o: jax.Array) -> jax.Array:
        """The positions whose first coordinate is `o`."""
        part = lax.dynamic_slice_in_dim(x, o * problem.strides[0], reach, axis=1)
        return position_sums([*windows(one_row, part, "x", 1, problem.kernel).values()], w, length)

    return lax.map(along, jnp.arange(problem.output[0]))


def in_stretches(problem: ConvSpec, axes: tuple[Axis, ...]) -> bool:
    """Whether vectors lie along groups of one output, or along the outputs of the only group.

    Those of the only group are not looped over: lax is faster, and where rows are divided the loop would gather x.
    """
    vectors = problem.K == 1 or (problem.G == 1 and not is_looped(problem))
    return problem.N == 1 and vectors and problem.ndim > 0 and all(axis.windowed == "x" for axis in axes)


def work_of_sums(problem: ConvSpec) -> float:
    """Of a multiply-add: outputs of the only group that fill no vector are slow."""
    return 0.2 if problem.G > 1 else 0.36 * max(1.0, 16 / problem.K) ** 0.75


def position_sums(windows: Sequence[jax.Array], w: jax.Array, length: int) -> jax.Array:
    """The sum of every window's products with w, over all axes but w's last: len(windows) by that."""
    row = w.shape[-2]
    whole = row // length * length
    head, tail = ([lax.slice_in_dim(a, *span, axis=-2) for a in (*windows, w)] for span in ((0, whole), (whole, row)))
    y = _whole_stretches(head[:-1], head[-1], length)
    return y if whole == row else y + _whole_stretches(tail[:-1], tail[-1], row - whole)


def _whole_stretches(windows: Sequence[jax.Array], w: jax.Array, length: int) -> jax.Array:
    turns = next((n for n in range(2, length) if length % n == 0), length)
    terms = length // turns

    def products(window: jax.Array) -> jax.Array:
        """C stretches turns and w's last axis, the terms of a turn added up."""
        cut = [[layout.every(a, -2, i, terms) for a in (window, w)] for i in range(terms)]
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
    n = divisor(rows, _FEW_ROWS)
    if n == 1:
        return sums
    return _fewer_rows(sum_together([a.reshape(C, rows // n, n, G) for a in sums], (2,)))
