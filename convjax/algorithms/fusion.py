"""Keeping the steps of an algorithm apart, where XLA would fuse them and compute the earlier anew for every use, or
compute all that waits for nothing before everything else.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Bytes of what is made of a kernel from which on it is made when its convolution begins: XLA's CPU scheduler would do
# so for all kernels of a network at its start, and memory for all of them is cleared at every call.
_LARGE = 2**20


def apart(compute: Callable[..., Any], *operands: Any) -> Any:
    """`compute(*operands)` of operands in memory: what made them is not fused into it."""
    return _once_there(jax.tree.leaves(operands)[0], compute, *operands)


def when_needed(x: jax.Array, compute: Callable[..., Any], *operands: Any) -> Any:
    """`compute(*operands)`, of a kernel, once the x that it is for is there; at any time if the result is small."""
    made = jax.tree.leaves(jax.eval_shape(compute, *operands))
    large = sum(a.size * a.dtype.itemsize for a in made) >= _LARGE
    return _once_there(x, compute, *operands) if large else compute(*operands)


def _once_there(first: jax.Array, compute: Callable[..., Any], *operands: Any) -> Any:
    """`compute(*operands)` once `first` is there.

    XLA's CPU compiler of jaxlib 0.10 drops optimization barriers before it fuses, so there the barrier is a
    conditional around `compute` whose predicate it cannot know.
    """

    def in_conditional(first: jax.Array, operands: Any) -> Any:
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

    def behind_barrier(first: jax.Array, operands: Any) -> Any:
        _, operands = lax.optimization_barrier((first, operands))
        return compute(*operands)

    return lax.platform_dependent(first, operands, cpu=in_conditional, default=behind_barrier)
