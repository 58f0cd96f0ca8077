"""Contractions of many groups of few channels: the positions of an output one after another.

A loop over the channels of all groups is fastest where the elements contracted divide into its turns. Where not, it is
a batched product, and a product of few rows is several times as fast where what it contracts lies along its rows, so w
is turned around, once for all positions. Groups that are narrower than a vector are joined, and what crosses them is
dropped.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import layout
from convjax.algorithms.bands import KEPT_BYTES
from convjax.algorithms.conv.group_loops import LEAST_CHANNELS, can_sum_places, place_sums, terms_of_turn
from convjax.algorithms.conv.sides import Axis
from convjax.algorithms.numerics import accumulator
from convjax.algorithms.products import product_work, rows_by_columns
from convjax.algorithms.protocol import Cost
from convjax.problem import ConvSpec

# Channels from which on one of many groups is wide.
WIDE_GROUP = 32
# Columns of a product over joined groups: narrower ones are hardly faster.
_JOINED_COLUMNS = 16
# Products written out in a turn of the loop over the first axis, each of which has a window of x in memory.
_MOST_IN_TURN = 9


def joined_groups(problem: ConvSpec) -> int:
    """How many groups enter one product, which takes as long for fewer."""
    most = max(1, _JOINED_COLUMNS // max(problem.N, problem.K, 1))
    return max(j for j in range(1, most + 1) if problem.G % j == 0)


def are_narrow(problem: ConvSpec, axes: Sequence[Axis]) -> bool:
    """Whether groups are, and what is contracted are elements of w through windows of x, few of them in a turn."""
    if problem.G == 1 or problem.ndim == 0 or max(problem.N, problem.K) >= WIDE_GROUP:
        return False
    return all(axis.windowed == "x" for axis in axes) and math.prod(problem.output[1:]) <= _MOST_IN_TURN


def positions_in_turn(problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """The result, S G N K in the accumulator's dtype."""
    return (_sums_in_turn if _are_sums(problem) else _products_in_turn)(problem, lhs, rhs)


def positions_in_turn_cost(problem: ConvSpec) -> Cost:
    return (_sums_cost if _are_sums(problem) else _products_cost)(problem)


def _are_sums(problem: ConvSpec) -> bool:
    return min(problem.N, problem.K) >= LEAST_CHANNELS and can_sum_places(problem.taps)


def _sums_in_turn(problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    dtype, n = accumulator(problem), problem.ndim
    x, w = layout.arrange_lhs(problem, lhs, "CSGN"), layout.arrange_rhs(problem, rhs, "CSGK")
    x = layout.pad_spatial(problem, lax.collapse(x, 1 + n).astype(dtype), first=1)
    w = w.reshape(1, problem.C, problem.taps, -1).astype(dtype)

    def position(index: jax.Array) -> jax.Array:
        """G N K."""
        seen = _window(problem, x, jnp.unravel_index(index, problem.output), first=1)
        return place_sums(seen.reshape(1, problem.C, problem.taps, -1), w, problem.G)[0]

    # In a loop: turns written out are computed at the same time, and push each other out of the cache.
    y = lax.map(position, jnp.arange(math.prod(problem.output)))
    return y.reshape(*problem.output, problem.G, problem.N, problem.K)


def _sums_cost(problem: ConvSpec) -> Cost:
    size, positions = accumulator(problem).itemsize, math.prod(problem.output)
    x = size * problem.N * problem.G * problem.C * math.prod(layout.padded_size(problem))
    window = size * problem.N * problem.G * problem.C * problem.taps
    turns = size * problem.G * problem.N * problem.K * problem.C * problem.taps / terms_of_turn(problem.taps)
    seen = 2 * window + size * math.prod(problem.rhs_shape)
    return Cost(
        vector=0.12 * problem.products,
        bytes=problem.bytes + 2 * x + 0.4 * positions * (seen + 2 * turns),  # most of it is in the cache
        workspace=x + window + turns,
        calls=4.0 * positions,
    )


def _window(problem: ConvSpec, x: jax.Array, position: Sequence[Any], first: int) -> jax.Array:
    """What the output at `position` sees of x, padded, whose spatial axes start at `first`."""
    start: list[Any] = [0] * x.ndim
    size = list(x.shape)
    axes = zip(position, problem.strides, problem.kernel, problem.rhs_dilation, strict=True)
    for axis, (o, s, k, d) in enumerate(axes, first):
        start[axis], size[axis] = o * s, (k - 1) * d + 1
    seen = lax.dynamic_slice(x, start, size)
    return layout.window_slice(seen, first, [0] * problem.ndim, problem.kernel, problem.rhs_dilation)


def _products_in_turn(problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    dtype, joined = accumulator(problem), joined_groups(problem)
    x, w = layout.arrange_lhs(problem, lhs, "CSGN"), layout.arrange_rhs(problem, rhs, "CSGK")
    x, w = (a.reshape(*a.shape[:-2], problem.G // joined, -1) for a in (x, w))
    x = layout.pad_spatial(problem, jnp.moveaxis(x, -2, 0), first=2)  # G C S N
    w = jnp.moveaxis(w, (-2, -1), (0, 1)).reshape(w.shape[-2], w.shape[-1], -1)  # G K (C S)

    def product(position: Sequence[Any]) -> jax.Array:
        """G K N."""
        seen = _window(problem, x, position, first=2)
        return rows_by_columns(problem, w, seen.reshape(x.shape[0], -1, x.shape[-1]), dtype)

    def turn(first: jax.Array) -> jax.Array:
        """The positions whose first coordinate is `first`; in a loop, so that windows of one turn alone take memory."""
        return jnp.stack([product([first, *others]) for others in np.ndindex(*problem.output[1:])])

    y = lax.map(turn, jnp.arange(problem.output[0]))
    y = y.reshape(*problem.output, -1, joined, problem.K, joined, problem.N)
    y = jnp.stack([y[..., i, :, i, :] for i in range(joined)], axis=-3)  # what crosses groups is not asked for
    return y.reshape(*problem.output, problem.G, problem.K, problem.N).swapaxes(-1, -2)


def _products_cost(problem: ConvSpec) -> Cost:
    size, joined, positions = accumulator(problem).itemsize, joined_groups(problem), math.prod(problem.output)
    lhs = size * problem.N * problem.G * problem.C * math.prod(layout.padded_size(problem))
    rhs = size * math.prod(problem.rhs_shape)
    window = size * problem.N * problem.G * problem.C * problem.taps
    # Between the elements of a dilated window lie others, which come into the cache with them.
    seen = 1 + (problem.rhs_dilation[-1] if problem.rhs_dilation[-1] > 1 else 1)
    held = lhs + rhs + window * math.prod(problem.output[1:])
    fresh = 10 * held if held >= KEPT_BYTES else 0  # the faults of fresh pages cost five times as much as writing them
    return Cost(
        gemm=1.5 * joined * product_work(problem.products, joined * problem.N, joined * problem.K),
        bytes=problem.bytes + 2 * (lhs + rhs) + positions * seen * window + fresh,
        workspace=held,
        calls=4.0 + 2 * positions + problem.output[0],
    )
