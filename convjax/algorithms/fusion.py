"""Keeping the steps of an algorithm apart, where XLA would fuse them and compute the earlier anew for every use, or
compute all that waits for nothing before everything else.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from convjax.target import target

# Bytes of what is made of a kernel from which on it is made when its convolution begins: XLA's CPU scheduler would do
# so for all kernels of a network at its start, and memory for all of them is cleared at every call.
_LARGE = 2**20


def apart(compute: Callable[..., Any], *operands: Any) -> Any:
    """`compute(*operands)` of operands in memory: what made them is not fused into it."""
    return _once_there(jax.tree.leaves(operands)[0], compute, *operands)


def when_needed(x: jax.Array, compute: Callable[..., Any], *operands: Any) -> Any:
    """`compute(*operands)`, of a kernel, on CPUs once the x that it is for is there, if the result is not small."""
    if not target().is_cpu:
        return compute(*operands)
    made = jax.tree.leaves(jax.eval_shape(compute, *operands))
    large = sum(a.size * a.dtype.itemsize for a in made) >= _LARGE
    return _once_there(x, compute, *operands) if large else compute(*operands)


def to_be_written(shape: tuple[int, ...], along: int, x: jax.Array, axis: int) -> jax.Array:
    """An array of x's dtype for a loop that writes all of it, made once x is there.

    XLA would make one of zeros at a program's start, for all loops together, and copy it for each of them. Its axis
    `along` is x's `axis`, that of the batch.
    """
    if x.size == 0:
        return jnp.zeros(shape, x.dtype)
    return lax.broadcast_in_dim(_column(x, axis), shape, [along])


def _column(x: jax.Array, axis: int) -> jax.Array:
    """One element of x for each index of the batch's axis: none moves where batches are divided over devices.

    In the middle it is not padding, whose value XLA would know.
    """
    start = [0 if a == axis else n // 2 for a, n in enumerate(x.shape)]
    limit = [n if a == axis else start[a] + 1 for a, n in enumerate(x.shape)]
    return lax.slice(x, start, limit).reshape(-1)


def _once_there(first: jax.Array, compute: Callable[..., Any], *operands: Any) -> Any:
    """`compute(*operands)` once `first` is there.

    XLA's CPU compiler of jaxlib 0.10 drops optimization barriers before it fuses, so there the barrier is a
    conditional around `compute` whose predicate it cannot know; of a program that is divided among devices all would
    have to agree on it, which is not worth their waiting.
    """
    if target().divided or not target().is_cpu:
        _, operands = lax.optimization_barrier((first, operands))
        return compute(*operands)
    if first.size == 0 or first.ndim == 0:
        return compute(*operands)
    always = lax.convert_element_type(jnp.any(_column(first, 0) != 0), jnp.int32) < 2

    def never(*operands: Any) -> Any:
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(compute, *operands))

    return lax.cond(always, compute, never, *operands)
