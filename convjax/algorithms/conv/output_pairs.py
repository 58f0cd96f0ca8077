"""Two outputs made in one turn of a loop, which share the weights and the x that their windows have in common.

A loop of one output a turn reads x and w for every product, and reads are what bounds it. XLA has loops of several
results in variadic reductions alone, and LLVM vectorises those over channels where the reduction is unrolled: it is
over the two halves of the taps, stacked, so that no product is made in vain.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import layout
from convjax.algorithms.conv.clipped import beside_x, products
from convjax.algorithms.numerics import accumulator
from convjax.algorithms.sums import sum_together
from convjax.problem import ConvSpec, Pads

# Terms of one output: of fewer, padding x costs what the loop saves; of more, it compiles in a second and longer.
_FEWEST, _MOST = 26, 48
# Channels below which windows and weights stay in the first cache, and reading them twice costs little.
_FEWEST_CHANNELS = 100


def is_paired(problem: ConvSpec) -> bool:
    """Whether outputs are made in pairs along the last axis."""
    if problem.ndim < 2 or problem.empty or problem.K > 1 or problem.G < _FEWEST_CHANNELS:
        return False
    dense = max(*problem.strides, *problem.rhs_dilation, *problem.lhs_dilation) == 1
    return dense and _FEWEST <= problem.taps * problem.C <= _MOST


def sum_in_pairs(problem: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """C N S G, padded by `padding_of_pairs`, by S C G: 1 N S G."""
    last, dtype = 1 + problem.ndim, accumulator(problem)
    turns = [*problem.output[:-1], -(-problem.output[-1] // 2)]
    steps = [1] * (problem.ndim - 1) + [2]
    w = beside_x(problem, w.astype(dtype), problem.ndim)
    pair = []
    for output in range(2):
        terms = []
        for *tap, t in np.ndindex(*problem.kernel):
            met = layout.window_slice(x.astype(dtype), 2, [*tap, t + output], turns, steps)
            terms += products(problem, met, w[*tap, t])
        half = len(terms) // 2
        pair.append(jnp.stack([_added(terms[:half]), _added(terms[half:])], axis=last + 1))
    y = jnp.stack(sum_together(pair, (last + 1,)), axis=last + 1)
    return lax.slice_in_dim(lax.collapse(y, last, last + 2), 0, problem.output[-1], axis=last)


def padding_of_pairs(problem: ConvSpec) -> Pads:
    """`problem`'s, with one more element behind where an output is left over."""
    *others, (lo, hi) = problem.padding
    return (*others, (lo, hi + problem.output[-1] % 2))


def _added(terms: list[jax.Array]) -> jax.Array:
    """In two sums side by side, since an addition waits for the one before."""
    return functools.reduce(jnp.add, terms[::2]) + functools.reduce(jnp.add, terms[1::2])
