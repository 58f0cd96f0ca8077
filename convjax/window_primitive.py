"""The window primitives: reductions over windows and the maps that differentiate them.

max and min differentiate through the winner's tap: `take` carries a tangent to the windows, `put` carries a
cotangent back, and each is the other's transpose. Both are linear in their value and use the same taps, so
derivatives of any order and mode exist, the first tie wins everywhere, and the index that pooling returns is
where its gradient goes. `sum` is linear, and its transpose is a sum over the dilated cotangent.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.extend.core.primitives import reduce_window_max_p, reduce_window_sum_p
from jax.interpreters import ad, batching, mlir

from convjax import sizes
from convjax.dtypes import accumulator
from convjax.lowering import PLATFORMS, Bound, Filled, bind_eagerly, lower
from convjax.measure import decide
from convjax.problem import WindowSpec
from convjax.request import Request
from convjax.window_stages import stages

extremum_p = Primitive("convjax_window_extremum")
sum_p = Primitive("convjax_window_sum")
arg_p = Primitive("convjax_window_arg")
take_p = Primitive("convjax_window_take")
put_p = Primitive("convjax_window_put")
PRIMITIVES = (extremum_p, sum_p, arg_p, take_p, put_p)

# Elements of a tile whose winner is found anew for each of them sooner than read from memory.
_FEW = 4


def reduce(x: jax.Array, problem: WindowSpec, request: Request) -> jax.Array:
    """The maximum, minimum or sum of every window of x."""
    primitive = sum_p if problem.operation == "sum" else extremum_p
    return primitive.bind(x, problem=problem, request=request)


def arg(x: jax.Array, problem: WindowSpec, request: Request) -> jax.Array:
    """The winning tap of every window, int32, for a `max` or `min` problem. Taps do not vary with x."""
    return arg_p.bind(lax.stop_gradient(x), problem=_as(problem, f"arg{problem.operation}"), request=request)


def _as(problem: WindowSpec, operation: str) -> WindowSpec:
    return dataclasses.replace(problem, operation=operation)


# Types: lax's own rules for windows, which also carry sharding and the axes that shard_map varies.


def _lax_type(x: Any, problem: WindowSpec) -> Any:
    lax_primitive = reduce_window_sum_p if problem.operation == "sum" else reduce_window_max_p
    aval, _ = lax_primitive.abstract_eval(
        x,
        window_dimensions=problem.window,
        window_strides=problem.strides,
        padding=problem.padding,
        base_dilation=problem.base_dilation,
        window_dilation=problem.window_dilation,
    )
    return aval


def _reduce_type(x: Any, *, problem: WindowSpec, request: Request) -> Any:
    return _lax_type(x, problem)


def _arg_type(x: Any, *, problem: WindowSpec, request: Request) -> Any:
    return _lax_type(x, problem).update(dtype=jnp.dtype(jnp.int32), weak_type=False)


def _take_type(t: Any, taps: Any, *, problem: WindowSpec, request: Request) -> Any:
    return _lax_type(t, problem)


def _put_type(g: Any, taps: Any, *, problem: WindowSpec, request: Request) -> Any:
    return g.update(shape=problem.shape, weak_type=False)


# Derivatives.


def tangent(t: jax.Array, x: jax.Array, *, problem: WindowSpec, request: Request) -> jax.Array:
    """What the tangent t of x makes of every window's maximum or minimum."""
    derived = request.transposed(0)
    return _followed(take_p, "take", t, _winners(x, problem, derived), derived)


def gradient(g: jax.Array, x: jax.Array, *, problem: WindowSpec, request: Request) -> jax.Array:
    """What the cotangent g of every window's maximum or minimum makes of x."""
    derived = request.transposed(0)
    return _followed(put_p, "put", g, _winners(x, problem, derived)[::-1], derived)


def _winners(x: jax.Array, problem: WindowSpec, request: Request) -> list[tuple[WindowSpec, jax.Array]]:
    """The stages of the problem, each with the winning taps of its windows."""
    x = lax.stop_gradient(x)
    found: list[tuple[WindowSpec, jax.Array]] = []
    for stage in stages(problem):
        x = reduce(x, found[-1][0], request) if found else x
        found.append((stage, arg(x, stage, request)))
    return found


def _followed(
    primitive: Primitive,
    operation: str,
    value: jax.Array,
    found: Sequence[tuple[WindowSpec, jax.Array]],
    request: Request,
) -> jax.Array:
    """`value` taken or put through all stages, added up in one accumulator."""
    dtype = value.dtype
    wide = accumulator(dtype) if len(found) > 1 else dtype
    value = value if wide == dtype else value.astype(wide)
    for stage, taps in found:
        problem = dataclasses.replace(stage, operation=operation, dtype=wide.name)
        value = primitive.bind(value, taps, problem=problem, request=request)
    return value if wide == dtype else value.astype(dtype)


def _sum_transpose(cotangent: Any, x: Any, *, problem: WindowSpec, request: Request) -> list[Any]:
    padding = []
    for n, bd, s, k, wd, (lo, _), count in zip(
        problem.shape,
        problem.base_dilation,
        problem.strides,
        problem.window,
        problem.window_dilation,
        problem.padding,
        problem.windows_shape,
        strict=True,
    ):
        reach = sizes.dilated(k, wd) - 1
        total = sizes.dilated(n, bd) + reach - sizes.dilated(count, s)
        padding.append((reach - lo, total - (reach - lo)))
    adjoint = dataclasses.replace(
        problem,
        shape=problem.windows_shape,
        strides=problem.base_dilation,
        base_dilation=problem.strides,
        padding=tuple(padding),
    )
    return [reduce(cotangent, adjoint, request.transposed(0))]


def _linear_jvp(primitive: Primitive, t: jax.Array, _: jax.Array, taps: jax.Array, **params: Any) -> jax.Array:
    return primitive.bind(t, taps, **params)


def _adjoint(primitive: Primitive, operation: str, cotangent: Any, value: Any, taps: jax.Array, **params: Any) -> Any:
    """The transpose of `take` is `put` with the same taps, and the other way round."""
    if type(cotangent) is ad.Zero:
        return [ad.Zero(value.aval), None]
    problem = _as(params["problem"], operation)
    return [primitive.bind(cotangent, taps, problem=problem, request=params["request"]), None]


ad.defjvp(extremum_p, tangent)
ad.deflinear2(sum_p, _sum_transpose)
ad.defjvp(take_p, functools.partial(_linear_jvp, take_p), None)
ad.defjvp(put_p, functools.partial(_linear_jvp, put_p), None)
ad.primitive_transposes[take_p] = functools.partial(_adjoint, put_p, "put")
ad.primitive_transposes[put_p] = functools.partial(_adjoint, take_p, "take")


# Batching: one more axis, of which every window takes one element.


def _batch(
    primitive: Primitive, operands: Sequence[Any], dims: Sequence[Any], *, problem: WindowSpec, request: Request
) -> Any:
    if len(operands) == 1:
        (x,), (axis,) = operands, dims
        batched = _with_axis(problem, axis, x.shape[axis])
        return primitive.bind(x, problem=batched, request=request), axis
    size = next(x.shape[d] for x, d in zip(operands, dims, strict=True) if d is not None)
    operands = [batching.bdim_at_front(x, d, size) for x, d in zip(operands, dims, strict=True)]
    return primitive.bind(*operands, problem=_with_axis(problem, 0, size), request=request), 0


def _with_axis(problem: WindowSpec, axis: int, size: int) -> WindowSpec:
    def inserted(values: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
        return (*values[:axis], value, *values[axis:])

    return dataclasses.replace(
        problem,
        shape=inserted(problem.shape, size),
        window=inserted(problem.window, 1),
        strides=inserted(problem.strides, 1),
        padding=inserted(problem.padding, (0, 0)),
        base_dilation=inserted(problem.base_dilation, 1),
        window_dilation=inserted(problem.window_dilation, 1),
    )


def _lower(platform: str, ctx: Any, *operands: Any, problem: WindowSpec, request: Request) -> Any:
    finds_taps = problem.operation.startswith("arg")
    if problem.empty:
        (out,) = ctx.avals_out
        return lower(ctx, Filled(out.shape, out.dtype.name, 0 if finds_taps else problem.identity), *operands)
    # Fused into `put`, taps are found anew each time they are read: for every window that an element may lie in, and
    # for every element of a tile. In tiles of few elements that costs less than an array of taps in memory.
    tiles = problem.strides == problem.window and problem.taps <= _FEW
    bound = Bound(decide(problem, request, platform).algorithm, problem)
    return lower(ctx, bound, *operands, in_memory=finds_taps and not tiles)


for _primitive, _type in zip(PRIMITIVES, (_reduce_type, _reduce_type, _arg_type, _take_type, _put_type), strict=True):
    _primitive.def_abstract_eval(_type)
    _primitive.def_impl(functools.partial(bind_eagerly, _primitive))
    batching.primitive_batchers[_primitive] = functools.partial(_batch, _primitive)
    for _platform in PLATFORMS:
        mlir.register_lowering(_primitive, functools.partial(_lower, _platform), platform=_platform)
