"""Depthwise and small groups: taps times weights, added in one fused loop that holds the sum in registers.

What such a loop costs beside its arithmetic decides how it is cut:

- a padded copy of x takes as long as the loop itself where taps are few, so those of many groups are clipped
  (`clipped.py`);
- the rows of many taps push each other out of the first cache, so channels are then taken in blocks;
- where each product reads x and w anew, two outputs a turn share what they read (`output_pairs.py`);
- an expression of hundreds of terms compiles for ever, so the outer taps of such a kernel are looped over;
- a kernel larger than its input mostly meets padding, so the two change roles: convolution is commutative.

A GPU, whose threads have an output each, is given neither blocks nor pairs, and of lines no clipped taps.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import layout, sizes
from convjax.algorithms.conv.clipped import beside_x, is_clipped, products, sum_of_clipped_taps
from convjax.algorithms.conv.many_groups import MANY_GROUPS
from convjax.algorithms.conv.output_pairs import is_paired, padding_of_pairs, sum_in_pairs
from convjax.algorithms.fusion import apart
from convjax.algorithms.numerics import accumulator
from convjax.algorithms.protocol import Cost
from convjax.problem import ConvSpec
from convjax.target import target

# Terms written out in one fused expression; above it the loop over outer taps is rolled.
_UNROLLED = 64
# Terms up to which taps are clipped, and channels need no blocks.
_FEW = 25
# Taps of a line up to which a GPU pads as it reads; one of more reads a padded copy twice as fast.
_FEW_ON_LINE = 8
# Channels that a block should have at least, where taps are written out and where they are looped over, and the most
# blocks: each is an expression of its own.
_BLOCK, _ROLLED_BLOCK, _MOST_BLOCKS = 64, 256, 4
# Channels of blocks that one expression adds, and bytes of output from which on they are worth putting side by side.
_NARROW, _LARGE = (16, 48), 2**20
# A turn of a loop costs as much as this many kernels, whatever it adds: with many taps written out, with a single tap,
# with a single tap that has several channels, and with many taps of several.
_CALLS_A_TURN = 6
_CALLS_A_SINGLE_TURN = 0.02
_CALLS_A_TURN_OF_CHANNELS, _CALLS_A_TURN_OF_BOTH = 1, 3
# A running sum up to so many bytes stays in the second cache from turn to turn, and costs half.
_CACHED = 2**18


def multiply_add(problem: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """Unpadded C N S G by S C G K: N S G K, in the accumulator's dtype."""
    if _roles_change(problem):
        return _by_elements(problem, x, w)
    # A trailing axis of 1 makes XLA's loop slower, so K is left out where it is.
    w = w if problem.K > 1 else w[..., 0]
    in_blocks = not target().is_gpu and (_equal_blocks(problem) > 1 or _is_paired(problem))
    y = (_sum_by_blocks if in_blocks else _sum)(problem, x, w)
    return y.reshape(problem.N, *problem.output, problem.G, problem.K)


def multiply_add_cost(problem: ConvSpec) -> Cost:
    if _roles_change(problem):
        one = multiply_add_cost(_commuted(problem))
        every = {f: problem.N * getattr(one, f) for f in ("vector", "bytes", "workspace")}
        return dataclasses.replace(one, **every)
    size = accumulator(problem).itemsize
    outer = _rolled_axes(problem)
    work = _work(problem, outer)
    out = 2 * size * math.prod(problem.output_shape)
    turns = turns_over_taps(problem)
    if _is_clipped(problem):
        padded, joined, calls = 0, 0, 2.0
    else:
        lhs = problem.N * problem.G * problem.C * math.prod(layout.padded_size(problem))
        padded = 2 * size * lhs if layout.padded_size(problem) != problem.input else 0
        equal, paired = _equal_blocks(problem) > 1, _is_paired(problem)
        joined = out if equal or paired or _blocks(problem) > 1 else 0
        calls = 6.0 if equal else _blocks(problem) * (2 + turns * _calls_a_turn(problem))
        work, calls = (0.75 * work, 4.0) if paired else (work, calls)
    return Cost(
        vector=work * problem.products,
        bytes=problem.bytes + padded + joined + out * (turns - 1) * (0.5 if out <= 2 * _CACHED else 1.0),
        workspace=(padded + joined) / 2,
        calls=calls,
    )


def _work(problem: ConvSpec, outer: int) -> float:
    """Of a multiply-add, where `outer` kernel axes are looped over: a turn of one tap has only groups for vectors."""
    products = problem.C * problem.K
    if outer == problem.ndim > 0 and products > 1:
        return 4.0
    few = 1.0 if products == 1 else _few_lanes(problem)
    if outer == 0 and problem.C == problem.G == 1 < problem.K:
        return 0.25 * few  # an element of x is read once for all outputs of a position
    if outer in (0, problem.ndim):
        return few * (0.6 if products <= 16 else 0.7)
    return 0.9 if products == 1 else 0.4 * few


def _few_lanes(problem: ConvSpec) -> float:
    """How much slower it is where the innermost axis, a group's outputs or groups of one, fills no vector."""
    return min(3.0, max(1.0, 8 / (problem.K if problem.K > 1 else problem.G)))


def multiply_add_gpu_cost(problem: ConvSpec) -> Cost:
    """As measured on GPUs, where every turn of a loop over taps reads x and the sums, and writes them."""
    if _roles_change(problem):
        one = multiply_add_gpu_cost(_commuted(problem))
        return dataclasses.replace(one, vector=problem.N * one.vector, bytes=problem.bytes)
    turns = turns_over_taps(problem)
    work = 0.5 if problem.ndim == 1 else 1.0
    return Cost(vector=work * problem.products, bytes=turns * problem.bytes, calls=turns)


def _by_elements(problem: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """Every element of x times the windows of w that meet it: C N S G by S C G K: N S G K."""
    commuted, images = _commuted(problem), jnp.moveaxis(w, (-3, -1), (0, 1))  # C K S G

    def member(x: jax.Array) -> jax.Array:
        return _sum(commuted, images, jnp.moveaxis(x, 0, -2))[0]  # K S G

    y = lax.rev(jax.vmap(member, in_axes=1)(x), range(2, 2 + problem.ndim))  # N K S G
    return jnp.moveaxis(y, 1, -1)


def _roles_change(problem: ConvSpec) -> bool:
    return not problem.empty and math.prod(problem.input) < problem.taps


def _commuted(problem: ConvSpec) -> ConvSpec:
    """`problem` for one element of its batch with w in the place of x; outputs come backwards.

    y[O - 1 - o] = sum over i, c of x[i, c] w[i b + o s - lo'], where x is dilated by b, and lo' = (O - 1) s - lo.
    """
    padding = []
    for o, s, (lo, _), n, b, k, d in zip(
        problem.output,
        problem.strides,
        problem.padding,
        problem.input,
        problem.lhs_dilation,
        problem.kernel,
        problem.rhs_dilation,
        strict=True,
    ):
        padding.append(((o - 1) * s - lo, sizes.dilated(n, b) - sizes.dilated(k, d) + lo))
    return layout.channels_last(
        problem,
        problem.K,
        problem.kernel,
        problem.input,
        problem.C,
        rhs_shape=(*problem.input, problem.C, problem.G),
        strides=problem.strides,
        padding=tuple(padding),
        lhs_dilation=problem.rhs_dilation,
        rhs_dilation=problem.lhs_dilation,
    )


def _sum(problem: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """Unpadded C N S G by S C G (K): 1 N S G (K)."""
    outer, on_gpu, on_line = _rolled_axes(problem), target().is_gpu, problem.ndim == 1
    if _is_clipped(problem) and not (on_gpu and on_line):
        return sum_of_clipped_taps(problem, x, w)
    count = 1 if on_gpu else _blocks(problem)
    bounds = [problem.G * i // count for i in range(count + 1)]
    blocks = []
    for begin, end in itertools.pairwise(bounds):
        x_block = lax.slice_in_dim(x, begin, end, axis=2 + problem.ndim)
        w_block = lax.slice_in_dim(w, begin, end, axis=1 + problem.ndim)
        x_block = layout.pad_spatial(problem, x_block, first=2)
        if on_gpu and on_line and problem.taps > _FEW_ON_LINE:
            x_block = lax.optimization_barrier(x_block)
        blocks.append(_rolled(problem, x_block, w_block, outer) if outer else _sum_of_taps(problem, x_block, w_block))
    return lax.concatenate(blocks, 2 + problem.ndim)


def _sum_by_blocks(problem: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """The same in one expression for all blocks of channels, which are put side by side afterwards."""
    n, blocks = problem.ndim, _equal_blocks(problem)

    def front(array: jax.Array, axis: int) -> jax.Array:
        return jnp.moveaxis(array.reshape(*array.shape[:axis], blocks, -1, *array.shape[axis + 1 :]), axis, 0)

    def side_by_side(y: jax.Array) -> jax.Array:
        return lax.collapse(jnp.moveaxis(y, 0, 2 + n), 2 + n, 4 + n)

    paired = _is_paired(problem)
    x = layout.pad_spatial(problem, x, first=2, padding=padding_of_pairs(problem) if paired else None)
    sums = functools.partial(sum_in_pairs if paired else _sum_of_taps, problem)
    if blocks == 1:
        return sums(x, w)
    y = jax.vmap(sums)(front(x, 2 + n), front(w, 1 + n))
    # Reductions of several results are never fused into what reads them.
    return side_by_side(y) if paired else apart(side_by_side, y)


def _sum_of_taps(problem: ConvSpec, x: jax.Array, w: jax.Array, outer: int = 0) -> jax.Array:
    """As many outputs as padded x has windows of w's taps; with `outer`, of one tap of as many leading axes."""
    dtype = accumulator(problem)
    kernel, dilation, strides = w.shape[: problem.ndim - outer], problem.rhs_dilation[outer:], problem.strides[outer:]
    spatial = x.shape[2 + outer : 2 + problem.ndim]
    count = list(map(sizes.windows, spatial, map(sizes.dilated, kernel, dilation), strides))
    w = beside_x(problem, w.astype(dtype), len(kernel))
    terms = []
    for tap in np.ndindex(*kernel):
        offset = [t * d for t, d in zip(tap, dilation, strict=True)]
        shifted = layout.window_slice(x.astype(dtype), 2 + outer, offset, count, strides)
        terms += products(problem, shifted, w[tap])
    # One addition waits for the last: many terms are two sums that are added side by side.
    return functools.reduce(jnp.add, [functools.reduce(jnp.add, terms[i::2]) for i in range(min(2, len(terms)))])


def _rolled(problem: ConvSpec, x: jax.Array, w: jax.Array, outer: int) -> jax.Array:
    """Loops over the taps of the first `outer` kernel axes; each turn adds the taps of the inner ones."""
    kernel, dilation, strides = problem.kernel[:outer], problem.rhs_dilation[:outer], problem.strides[:outer]
    # Of two rows XLA copies what a turn reads before it adds; of one it computes the place of every element instead,
    # and its loop is not vectorised.
    step = 2 if outer == 1 < problem.ndim else 1

    def terms(tap: Sequence[Any], rows: int) -> jax.Array:
        """Those of `rows` taps along the last of the looped axes, from `tap` on."""
        taps = (*(1 for _ in kernel[1:]), rows)
        begin = [t * d for t, d in zip(tap, dilation, strict=True)]
        extent = [
            (o - 1) * s + sizes.dilated(t, d)
            for o, s, t, d in zip(problem.output[:outer], strides, taps, dilation, strict=True)
        ]
        inner = [0] * (x.ndim - 2 - outer)
        block = lax.dynamic_slice(x, [0, 0, *begin, *inner], [*x.shape[:2], *extent, *x.shape[2 + outer :]])
        block = layout.window_slice(block, 2, [0] * (outer - 1), problem.output[: outer - 1], strides[:-1])
        w_block = lax.dynamic_slice(w, [*tap, *[0] * (w.ndim - outer)], [*taps, *w.shape[outer:]])
        return _sum_of_taps(problem, block, w_block.reshape(rows, *w.shape[outer:]), outer - 1)

    def body(turn: jax.Array, total: jax.Array) -> jax.Array:
        *tap, last = jnp.unravel_index(turn, (*kernel[:-1], kernel[-1] // step))
        return total + terms([*tap, last * step], step)

    rest = kernel[-1] % step
    zero = jnp.zeros((1, problem.N, *problem.output, *w.shape[problem.ndim + 1 :]), accumulator(problem))
    start = terms([kernel[-1] - rest], rest) if rest else zero
    return lax.fori_loop(0, math.prod(kernel) // step, body, start)


def _terms(problem: ConvSpec) -> int:
    return problem.taps * problem.C


def turns_over_taps(problem: ConvSpec) -> int:
    """Turns of the loop over the outer taps; 1 where all are written out."""
    return math.prod(problem.kernel[: _rolled_axes(problem)])


def _rolled_axes(problem: ConvSpec) -> int:
    """How many leading kernel axes to loop over so that at most `_UNROLLED` terms are written out."""
    outer = 0
    while outer < problem.ndim and math.prod(problem.kernel[outer:]) * problem.C > _UNROLLED:
        outer += 1
    return outer


def _calls_a_turn(problem: ConvSpec) -> float:
    if 0 < _rolled_axes(problem) < problem.ndim:
        return _CALLS_A_TURN if problem.C * problem.K == 1 else _CALLS_A_TURN_OF_BOTH
    return _CALLS_A_SINGLE_TURN if problem.C == 1 else _CALLS_A_TURN_OF_CHANNELS


def _is_clipped(problem: ConvSpec) -> bool:
    """Rows of few groups fill vectors together, but not where their products are padded."""
    return _terms(problem) <= _FEW and problem.G >= MANY_GROUPS and is_clipped(problem)


def _is_paired(problem: ConvSpec) -> bool:
    return is_paired(problem) and not _is_small(problem)


def _is_small(problem: ConvSpec) -> bool:
    return accumulator(problem).itemsize * math.prod(problem.output_shape) < _LARGE


def _equal_blocks(problem: ConvSpec) -> int:
    """Blocks of channels that one expression adds; 1 where each has its own, or the channels have no such divisor."""
    if _is_small(problem) or _blocks(problem) == 1 or _rolled_axes(problem) or _roles_change(problem):
        return 1
    least, most = _NARROW
    return next((b for b in range(1, problem.G + 1) if problem.G % b == 0 and least <= problem.G // b <= most), 1)


def _blocks(problem: ConvSpec) -> int:
    """Blocks of channels, 1 where taps are few enough for the cache."""
    if _terms(problem) <= _FEW:
        return 1
    least = _ROLLED_BLOCK if _rolled_axes(problem) else _BLOCK
    return max(1, min(_MOST_BLOCKS, problem.G, problem.G * problem.C // least))
