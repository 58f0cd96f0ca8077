"""Taps added to the outputs alone at which they meet an element of x, so that x is never padded.

y[n, o, g, k] = sum over t, c of x[n, o s + t d - lo, g, c] w[t, g, c, k], over the taps t that fall into x at o

A padded copy of x takes as long as a fused loop over few taps that then reads it. Outputs along leading axes are cut
into pieces that meet the same taps. Along the last axis the products of each tap are padded instead, which is fused:
where a row begins and ends, vector code masks what it reads.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from convjax import layout
from convjax.algorithms.numerics import accumulator
from convjax.problem import ConvSpec

# Products and pads written out in one expression: more compile too slowly, or are not vectorised.
_MOST_PRODUCTS, _MOST_PADS = 150, 30


def is_clipped(problem: ConvSpec) -> bool:
    """Whether `problem` is padded, and little enough is written out where it need not be."""
    dilated, padded = max(problem.lhs_dilation, default=1) > 1, any(lo > 0 or hi > 0 for lo, hi in problem.padding)
    if problem.empty or dilated or not padded:
        return False
    pieces = [_pieces(problem, axis) for axis in range(problem.ndim - 1)]
    products = math.prod(sum(len(piece.taps) for piece in along) for along in pieces) * problem.kernel[-1] * problem.C
    pads = math.prod(map(len, pieces)) * problem.kernel[-1]
    return products <= _MOST_PRODUCTS and pads <= _MOST_PADS


def sum_of_clipped_taps(problem: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """Unpadded C N S G by S C G (K): 1 N S G (K)."""
    w = beside_x(problem, w.astype(accumulator(problem)), problem.ndim)
    # XLA keeps a constant of many uses out of a fused loop, and LLVM does not vectorise one that reads it from memory.
    zeros = itertools.cycle((0.0, -0.0))

    def joined(pieces: list[Span]) -> jax.Array:
        """The outputs of `pieces` of leading axes, with all of later ones."""
        axis = len(pieces)
        if axis < problem.ndim - 1:
            return lax.concatenate([joined([*pieces, piece]) for piece in _pieces(problem, axis)], 2 + axis)
        sums = []
        for last in _met(problem, axis):
            products = _products_within(problem, x, w, [*pieces, last])
            if products:
                y, outputs = functools.reduce(jnp.add, products), problem.output[axis]
                beside = [(0, 0)] * y.ndim
                beside[2 + axis] = (last.begin, outputs - last.end)
                sums.append(y if last.size == outputs else layout.pad(y, beside, [0] * y.ndim, next(zeros)))
        if not sums:
            spatial = (*(piece.size for piece in pieces), problem.output[axis])
            return jnp.zeros((1, problem.N, *spatial, *w.shape[3 + 2 * problem.ndim :]), w.dtype)
        return functools.reduce(jnp.add, sums)

    return joined([])


def beside_x(problem: ConvSpec, w: jax.Array, axes: int) -> jax.Array:
    """w of so many kernel axes with the axes 1 N S of products before G.

    This also keeps XLA from merging the slice that cuts a block's weights with those that cut its taps: the block is
    copied and lies together, where its rows do not collide in the cache.
    """
    return lax.expand_dims(w, range(axes + 1, axes + 3 + problem.ndim))


def products(problem: ConvSpec, x: jax.Array, w: jax.Array) -> list[jax.Array]:
    """C N S G by C 1 1 1.. G (K): those of every channel, 1 N S G (K)."""
    return [(x[c : c + 1, ..., None] if problem.K > 1 else x[c : c + 1]) * w[c] for c in range(problem.C)]


@dataclasses.dataclass(frozen=True)
class Span:
    """Outputs along an axis, and taps of which each meets an element of x at all of them."""

    begin: int
    end: int
    taps: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.end - self.begin


def _products_within(problem: ConvSpec, x: jax.Array, w: jax.Array, spans: Sequence[Span]) -> list[jax.Array]:
    """The products of all taps that outputs within `spans` meet."""
    dtype, sizes, found = accumulator(problem), [span.size for span in spans], []
    for tap in itertools.product(*(span.taps for span in spans)):
        axes = zip(spans, tap, problem.strides, problem.rhs_dilation, problem.padding, strict=True)
        start = [span.begin * s + t * d - lo for span, t, s, d, (lo, _) in axes]
        met = layout.window_slice(x.astype(dtype), 2, start, sizes, problem.strides)
        found += products(problem, met, w[tap])
    return found


def _met(problem: ConvSpec, axis: int) -> list[Span]:
    """For every tap along an axis, the outputs at which it meets an element of x: 0 <= o s + t d - lo < n."""
    n, s, d = problem.input[axis], problem.strides[axis], problem.rhs_dilation[axis]
    met = []
    for t in range(problem.kernel[axis]):
        before = problem.padding[axis][0] - t * d
        begin, end = max(0, -(-before // s)), min(problem.output[axis], (n - 1 + before) // s + 1)
        met.append(Span(begin, end, (t,)) if begin < end else Span(0, 0, ()))
    return met


def _pieces(problem: ConvSpec, axis: int) -> list[Span]:
    """All outputs along an axis, cut wherever the taps change that they meet."""
    met = _met(problem, axis)
    cuts = sorted({0, problem.output[axis], *(end for span in met for end in (span.begin, span.end))})
    return [
        Span(begin, end, tuple(t for span in met if span.begin <= begin < span.end for t in span.taps))
        for begin, end in itertools.pairwise(cuts)
    ]
