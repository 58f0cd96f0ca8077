"""Keeping the steps of an algorithm apart, where XLA would fuse them and compute the earlier anew for every use."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def apart(compute: Callable[..., Any], *operands: Any) -> Any:
    """`compute(*operands)` of operands in memory: what made them is not fused into it.

    XLA's CPU compiler of jaxlib 0.10 drops optimization barriers before it fuses, so there the barrier is a
    conditional around `compute` whose predicate it cannot know.
    """

    def in_conditional(*operands: Any) -> Any:
        first = jax.tree.leaves(operands)[0]
        if first.size == 0 or first.ndim == 0:
            return compute(*operands)
        # One element of every batch element: none moves where they are divided over devices, and in the middle it is
        # not padding, whose value XLA would know.
        middle = [0, *(n // 2 for n in first.shape[1:])]
        column = lax.slice(first, middle, [first.shape[0], *(i + 1 for i in middle[1:])])
        always = lax.convert_element_type(jnp.any(column != 0), jnp.int32) < 2

        def never(*operands: Any) -> Any:
            return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(compute, *operands))

        return lax.cond(always, compute, never, *operands)

    def behind_barrier(*operands: Any) -> Any:
        return compute(*lax.optimization_barrier(operands))

    return lax.platform_dependent(*operands, cpu=in_conditional, default=behind_barrier)
