"""Multiply-adds of many groups of few channels: groups lie along vectors, a few input channels are added at a time.

y[n, k, o, g] = sum over t, c of x[n, c, o s + t d, g] w[t, c, k, g]

Where a group's output channels lie along vectors instead, every element of x is first spread over a few lanes.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from convjax import layout
from convjax.algorithms.fusion import apart
from convjax.algorithms.numerics import accumulator
from convjax.algorithms.protocol import Cost
from convjax.problem import ConvSpec

# Groups that fill vectors by themselves, and taps that are worth transposing x and y for.
MANY_GROUPS, _FEWEST_TAPS = 16, 5
# Terms of one fused loop: with more, rows of x push each other out of the first cache; and the most written out.
_TERMS, _MOST_TERMS = 36, 64
# Channels of a turn of several: of one XLA computes the place of every element, and its loop is not vectorised.
_PAIR = 2


def fill_vectors(problem: ConvSpec) -> bool:
    """Whether groups do, and taps are many enough to gain by it and few enough to be written out for a turn."""
    worth = _FEWEST_TAPS <= problem.taps <= _MOST_TERMS // _PAIR and not problem.empty
    return worth and problem.G >= MANY_GROUPS and min(problem.C, problem.K) > 1


def sum_over_channels(problem: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """Unpadded N C S G by S C K G: N K S G, in the accumulator's dtype."""
    n, dtype, step = problem.ndim, accumulator(problem), _step(problem)

    def terms(x: jax.Array, w: jax.Array) -> jax.Array:
        """The sum over all taps and channels of the operands."""
        products = []
        for tap in layout.taps(problem):
            offset = [t * d for t, d in zip(tap, problem.rhs_dilation, strict=True)]
            seen = layout.window_slice(x, 2, offset, problem.output, problem.strides)
            weights = lax.expand_dims(w[tap], (1, *range(3, 3 + n)))  # C 1 K 1.. G
            products += [seen[:, c, None] * weights[c] for c in range(weights.shape[0])]
        # One addition waits for the last: many terms are two sums that are added side by side.
        return functools.reduce(jnp.add, [functools.reduce(jnp.add, products[i::2]) for i in range(2)])

    def total(x: jax.Array, w: jax.Array) -> jax.Array:
        if step == problem.C:
            return terms(x, w)

        def channels(first: jax.Array | int, count: int) -> jax.Array:
            return terms(
                lax.dynamic_slice_in_dim(x, first, count, axis=1), lax.dynamic_slice_in_dim(w, first, count, axis=n)
            )

        rest = problem.C % step
        start = channels(problem.C - step - rest, step + rest)
        return lax.fori_loop(0, problem.C // step - 1, lambda turn, y: y + channels(turn * step, step), start)

    # Transposed inside the loops that add, elements would be fetched one by one for every term.
    return apart(total, layout.pad_spatial(problem, x, first=2).astype(dtype), w.astype(dtype))


def sum_over_channels_cost(problem: ConvSpec) -> Cost:
    size, turns = accumulator(problem).itemsize, problem.C // _step(problem)
    out = size * math.prod(problem.output_shape)
    lhs = size * problem.N * problem.G * problem.C * math.prod(layout.padded_size(problem))
    strided = 2.0 if set(problem.strides) != {1} else 1.0
    return Cost(
        vector=0.2 * strided * problem.products,
        bytes=problem.bytes + 2 * lhs + out * (1 + turns),  # the sum is found in a cache from turn to turn
        workspace=lhs + out,
        calls=6.0 + 3 * (turns - 1),
    )


def _step(problem: ConvSpec) -> int:
    """Channels that a turn adds."""
    return problem.C if problem.taps * problem.C <= _TERMS else _PAIR
