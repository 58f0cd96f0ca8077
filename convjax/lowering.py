"""What the lowering rules of all convjax primitives share."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from convjax.algorithms.protocol import Algorithm
from convjax.problem import Problem

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@dataclasses.dataclass(frozen=True)
class Bound:
    """An algorithm bound to its problem; equal where both are, so that equal problems lower to one function."""

    algorithm: Algorithm
    problem: Problem

    def __call__(self, *operands: jax.Array) -> jax.Array:
        return self.algorithm(self.problem, *operands)

    @property
    def __name__(self) -> str:
        """What profiles and HLO call the computation."""
        return str(self.algorithm)


@dataclasses.dataclass(frozen=True)
class Filled:
    """What an empty problem computes: nothing was summed, so every element is the identity."""

    shape: tuple[int, ...]
    dtype: str
    value: Any = 0

    def __call__(self, *operands: jax.Array) -> jax.Array:
        return jnp.full(self.shape, self.value, self.dtype)

    @property
    def __name__(self) -> str:
        return "empty"


def lower(ctx: Any, fn: Bound | Filled, *operands: Any, materialized_on: str | None = None) -> Any:
    """Lowers `fn` in the place of a primitive; profiles show it by its name.

    The algorithm sees plain local arrays: inside shard_map its intermediates need not say which mesh axes
    they vary over, since the primitive's own type rule has said so for the result.
    """

    def run(*arrays: jax.Array) -> jax.Array:
        result = _jitted(fn)(*arrays)
        return result if materialized_on is None else materialize(result, materialized_on)

    plain = ctx.replace(avals_in=[_plain(a) for a in ctx.avals_in], avals_out=[_plain(a) for a in ctx.avals_out])
    return mlir.lower_fun(run, multiple_results=False)(plain, *operands)


@functools.lru_cache(maxsize=4096)
def _jitted(fn: Bound | Filled) -> Callable[..., Any]:
    return jax.jit(fn)


def bind_eagerly(primitive: Primitive, *operands: Any, **params: Any) -> Any:
    """An eager call: one jitted program per problem, kept."""
    return _program(primitive, tuple(sorted(params.items())))(*operands)


@functools.lru_cache(maxsize=4096)
def _program(primitive: Primitive, params: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    return jax.jit(functools.partial(primitive.bind, **dict(params)))


def _plain(aval: Any) -> Any:
    return jax.core.ShapedArray(aval.shape, aval.dtype)


def materialize(x: jax.Array, platform: str) -> jax.Array:
    """x as an array in memory, which XLA will not compute again inside each of its consumers.

    XLA's CPU compiler of jaxlib 0.10 drops optimization barriers before it fuses, so there the barrier is a
    conditional whose predicate it cannot know.
    """
    if platform != "cpu":
        return lax.optimization_barrier(x)
    always = lax.index_in_dim(x.reshape(-1), 0, keepdims=False) < np.iinfo(np.int32).max
    return lax.cond(always, lambda x: x, jnp.zeros_like, x)
