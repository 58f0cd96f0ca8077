"""What the lowering rules of all convjax primitives share."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from convjax.algorithms.fusion import apart, when_needed
from convjax.algorithms.protocol import Algorithm, ComputesDivided, ReadsReversed, describe
from convjax.problem import ConvSpec, Problem, WindowSpec
from convjax.request import Policy
from convjax.target import Target, compiling_for


@dataclasses.dataclass(frozen=True)
class Bound:
    """An algorithm bound to its problem; equal where both are, so that equal problems lower to one function.

    Attributes:
        target: what it is lowered for; None outside of lowerings.
    """

    algorithm: Algorithm
    problem: Problem
    target: Target | None = None

    def __call__(self, *operands: jax.Array) -> jax.Array:
        if self.target and self.target.divided and isinstance(self.algorithm, ComputesDivided):
            return self.algorithm.of_divided(self.problem, *operands)
        return self.algorithm(self.problem, *operands)

    @property
    def __name__(self) -> str:
        """What profiles and HLO call the computation."""
        return describe(self.algorithm)


@dataclasses.dataclass(frozen=True)
class OfReversed:
    """A convolution's algorithm bound to its problem, on rhs reversed along its spatial axes."""

    algorithm: Algorithm
    problem: ConvSpec
    target: Target | None = None

    def __call__(self, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        if isinstance(self.algorithm, ReadsReversed):
            return self.algorithm.of_reversed(self.problem, lhs, rhs)
        bound = Bound(self.algorithm, self.problem, self.target)
        return bound(lhs, when_needed(lhs, self._reversed, rhs))

    def _reversed(self, rhs: jax.Array) -> jax.Array:
        return lax.rev(rhs, self.problem.dimension_numbers[1][2:])

    @property
    def __name__(self) -> str:
        return describe(self.algorithm)


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


def lower(ctx: Any, target: Target, fn: Bound | OfReversed | Filled, *operands: Any, in_memory: bool = False) -> Any:
    """Lowers `fn` in the place of a primitive, its result kept `in_memory` if asked; profiles show it by its name.

    The algorithm sees plain local arrays: inside shard_map its intermediates need not say which mesh axes
    they vary over, since the primitive's own type rule has said so for the result.
    """
    if not isinstance(fn, Filled):
        fn = dataclasses.replace(fn, target=target)
    # XLA of jaxlib 0.10 pads an array that is divided along its rows once, whatever the padding holds, so that two
    # poolings of it would share theirs: behind a barrier it is another array. Convolutions have none: among several
    # mesh axes XLA divides some wrongly behind a barrier that it divides rightly without.
    shares_padding = target.divided and isinstance(fn, Bound) and isinstance(fn.problem, WindowSpec)

    def run(*arrays: jax.Array) -> jax.Array:
        if shares_padding:
            arrays = lax.optimization_barrier(arrays)
        with compiling_for(target):
            result = _jitted(fn)(*arrays)
            return apart(lambda x: x, result) if in_memory else result

    plain = local(ctx)
    # A program may be lowered where x64 is not enabled any more.
    wide = any(jax.dtypes.canonicalize_dtype(a.dtype) != a.dtype for a in (*plain.avals_in, *plain.avals_out))
    with jax.enable_x64(True) if wide else contextlib.nullcontext():
        return mlir.lower_fun(run, multiple_results=False)(plain, *operands)


def local(ctx: mlir.LoweringRuleContext) -> mlir.LoweringRuleContext:
    """`ctx` of plain local arrays, which do not say along which axes of a mesh they vary or are divided."""

    def plain(aval: Any) -> Any:
        return jax.core.ShapedArray(aval.shape, aval.dtype)

    return ctx.replace(avals_in=list(map(plain, ctx.avals_in)), avals_out=list(map(plain, ctx.avals_out)))


def lowered_for(ctx: mlir.LoweringRuleContext, platform: str, policy: Policy) -> Target:
    """What becomes of the program that `ctx` lowers."""
    exported = ctx.module_context.lowering_parameters.for_export
    here = compiled_here(platform, policy)
    return dataclasses.replace(here, divided=is_divided(ctx), portable=here.portable or exported)


def compiled_here(platform: str, policy: Policy) -> Target:
    """What a program is compiled for on one device of `platform`, as far as is known before it is lowered."""
    kept = all(getattr(jax.config, name) for name in ("jax_enable_compilation_cache", "jax_compilation_cache_dir"))
    return Target(platform, portable=policy.portable or kept)


def is_divided(ctx: mlir.LoweringRuleContext) -> bool:
    """Whether XLA divides the program among devices: along any axis of a mesh that shard_map does not hold."""
    context = ctx.module_context.axis_context
    if isinstance(context, mlir.SPMDAxisContext):
        return any(size > 1 and axis not in context.manual_axes for axis, size in context.mesh.shape.items())
    return context.num_devices > 1


@functools.lru_cache(maxsize=4096)
def _jitted(fn: Bound | OfReversed | Filled) -> Callable[..., Any]:
    return jax.jit(fn)


def bind_eagerly(primitive: Primitive, *operands: Any, **params: Any) -> Any:
    """An eager call: one jitted program per problem, kept; under `jax.disable_jit` too, as jax's own primitives are."""
    with jax.disable_jit(False):
        return _program(primitive, tuple(sorted(params.items())))(*operands)


@functools.lru_cache(maxsize=4096)
def _program(primitive: Primitive, params: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    def bound(*operands: Any) -> Any:
        return primitive.bind(*operands, **dict(params))

    # So `jax_debug_nans` knows jax's own: what it would call again without jit, to find the primitive, is one.
    bound.__name__ = bound.__qualname__ = primitive.name
    bound._apply_primitive = True  # type: ignore[attr-defined]
    return jax.jit(bound)
