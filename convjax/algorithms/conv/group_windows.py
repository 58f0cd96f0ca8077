"""Contractions of groups of many channels: weight gradients of single examples, of ensembles, of wide groups.

The windows of a group lie side by side as the rows of one product, whose other operand lies as it is. A matrix product
reads rows twice as fast where what it contracts comes last, so channels are brought in front of the spatial axes before
windows are copied. That is done for a few groups at a time, so that windows stay in cache. A single group is done so
where it contracts few elements, as the last layers do of small pictures.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from convjax import layout
from convjax.algorithms.conv.sides import windows_along
from convjax.algorithms.fusion import to_be_written
from convjax.algorithms.numerics import accumulator
from convjax.algorithms.products import product_work, rows_by_columns
from convjax.algorithms.protocol import Cost
from convjax.problem import ConvSpec

# The windows of a turn stay in the caches of all cores.
_TURN_BYTES = 3e6
# Elements that are few to contract, in a single group and in each of several. The windows of more are copied more
# slowly than they are multiplied, most of all in a program that computes x again for every copy of it.
_FEW_ELEMENTS, _FEW_IN_GROUPS = 64, 16


def are_group_windows(problem: ConvSpec) -> bool:
    """Whether there are several windows of few elements, or in groups fewer windows than taps; and x is not dilated."""
    if problem.ndim == 0 or max(problem.lhs_dilation) > 1:
        return False
    elements, outputs = problem.C * problem.taps, math.prod(problem.output)
    few = elements <= (_FEW_ELEMENTS if problem.G == 1 else _FEW_IN_GROUPS)
    return outputs > 1 and (few or (problem.G > 1 and outputs < problem.taps))


def product_of_group_windows(problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """The result, G S N K in the accumulator's dtype."""
    dtype, turns, rows = accumulator(problem), _turns(problem), math.prod(problem.output) * problem.N
    groups = problem.G // turns
    # A turn takes every so many groups, not neighbours: where examples are divided among devices, none moves.
    x = layout.arrange_lhs(problem, lhs, "GCSN")
    x = x.reshape(groups, turns, *x.shape[1:])
    w = layout.arrange_rhs(problem, rhs, "CSGK")
    w = w.reshape(*w.shape[:-2], groups, turns, problem.K)

    def product(turn: int | jax.Array) -> jax.Array:
        part = jnp.moveaxis(lax.dynamic_index_in_dim(x, turn, axis=1, keepdims=False), -1, 1)
        seen = _windows(problem, layout.pad_spatial(problem, part, first=3))
        columns = jnp.moveaxis(lax.dynamic_index_in_dim(w, turn, axis=-2, keepdims=False), -2, 0)
        return rows_by_columns(problem, seen, columns.reshape(groups, -1, problem.K), dtype)

    def add(turn: jax.Array, y: jax.Array) -> jax.Array:
        return lax.dynamic_update_index_in_dim(y, product(turn), turn, axis=1)

    if turns == 1:
        y = product(0)
    else:
        y = to_be_written((groups, turns, rows, problem.K), 0, x.astype(dtype), 0)
        y = lax.fori_loop(0, turns, add, y)
    return y.reshape(problem.G, *problem.output, problem.N, problem.K)


def _windows(problem: ConvSpec, x: jax.Array) -> jax.Array:
    """What every output sees of G N C S: G (S N) (C taps)."""
    for axis in reversed(range(problem.ndim)):
        x = windows_along(problem, x, axis, problem.kernel[axis], front=1)
    return x.reshape(len(x), -1, problem.C * problem.taps)


def group_windows_cost(problem: ConvSpec) -> Cost:
    size, turns, rows = accumulator(problem).itemsize, _turns(problem), math.prod(problem.output) * problem.N
    x = size * problem.N * problem.G * problem.C * math.prod(layout.padded_size(problem))
    seen, result = problem.G * _windows_bytes(problem), size * math.prod(problem.output_shape)
    apart = 2 if problem.rhs_dilation[-1] > 1 else 1  # elements of a dilated window are copied one by one
    turned = 4 * (x + size * math.prod(problem.rhs_shape))
    batched = 1.25 if problem.G > 1 else 1.0
    return Cost(
        gemm=batched * product_work(problem.products, rows, problem.K),
        bytes=problem.bytes + turned + 2 * apart * seen * (1 + 1 / problem.output[0]) + 2 * result,
        workspace=(2 * x + seen) / turns + result,
        calls=5.0 * turns,
    )


def _windows_bytes(problem: ConvSpec) -> int:
    """Of all windows of one group."""
    return accumulator(problem).itemsize * math.prod(problem.output) * problem.N * problem.C * problem.taps


def _turns(problem: ConvSpec) -> int:
    """The number of equal turns whose windows are nearest to `_TURN_BYTES`."""
    whole = max(1, problem.G * _windows_bytes(problem))
    divisors = (turns for turns in range(1, problem.G + 1) if problem.G % turns == 0)
    return min(divisors, key=lambda turns: abs(math.log(whole / turns / _TURN_BYTES)))
