"""Products of groups of few channels as loops over the channels of all groups.

A matrix product of so few channels is mostly packing. A loop that XLA fuses reads the groups as they lie, and LLVM
vectorises it over a group's output channels where all that it adds up is written out.
"""

import functools

import jax
import jax.numpy as jnp

from convjax.algorithms.fusion import apart

# Output channels of a group that fill a vector, and channels of either kind with which sums over places are fast.
VECTOR, LEAST_CHANNELS = 8, 4
# Products that are written out; more compile slowly, and fewer leave most of the adding to a second loop.
_MOST_TERMS, _LEAST_TERMS = 16, 7


def channel_sums(v: jax.Array, filters: jax.Array) -> jax.Array:
    """P places (G C) by P G C K, contracted over C: P places (G K)."""
    P, G, C, K = filters.shape

    def total(v: jax.Array, filters: jax.Array) -> jax.Array:
        rows = v.reshape(P, -1, G, C)
        return jnp.sum(rows[..., None] * filters[:, None], axis=-2)

    # Transforms fused into the loop, or the loop into those that follow, would be computed for every use.
    return apart(total, v, filters).reshape(P, -1, G * K)


def can_sum_places(places: int) -> bool:
    """Whether so many places divide into turns that are worth a loop each."""
    return terms_of_turn(places) >= min(places, _LEAST_TERMS)


def place_sums(v: jax.Array, w: jax.Array, groups: int) -> jax.Array:
    """P C places (G N) by P C places (G K), contracted over C and places: P G N K.

    C, the batch of a weight gradient, is not cut: where it is divided among devices, its parts would be gathered.
    """
    P, C, places, _ = v.shape
    terms = terms_of_turn(places)

    def turns(v: jax.Array, w: jax.Array) -> jax.Array:
        """P C turns G N K."""
        v, w = (a.reshape(P, C, -1, terms, groups, a.shape[-1] // groups) for a in (v, w))
        return functools.reduce(jnp.add, [v[:, :, :, i, :, :, None] * w[:, :, :, i, :, None] for i in range(terms)])

    # Fused into the sum of turns, a turn's loop would be one over single elements.
    return apart(lambda y: jnp.sum(y, axis=(1, 2)), apart(turns, v, w))


def terms_of_turn(places: int) -> int:
    """Places that are added in a turn."""
    return max(n for n in range(1, min(places, _MOST_TERMS) + 1) if places % n == 0)
