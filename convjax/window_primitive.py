"""The window primitives: reductions over windows and the maps that differentiate them.

max and min differentiate through the winner's tap: `take` carries a tangent to the windows, `put` carries a
cotangent back, and each is the other's transpose. Both are linear in their value and use the same taps, so
derivatives of any order and mode exist, the first tie wins everywhere, and the index that pooling returns is
where its gradient goes. Beside the value they are given the taps, or x and its maxima, in which the taps are found by
comparison: the cheaper way is chosen. `sum` is linear, and its transpose is a sum over the dilated cotangent.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.extend.core import Primitive
from jax.extend.core.primitives import pad_p, reduce_window_max_p, reduce_window_sum_p
from jax.interpreters import ad, batching, mlir

from convjax import sizes
from convjax.algorithms import named
from convjax.algorithms.window.geometry import COMBINED, few_tiles
from convjax.algorithms.window.mask import Mask
from convjax.choose import INCUMBENT, least_seconds, unusable
from convjax.dtypes import accumulator
from convjax.lowering import Bound, Filled, bind_eagerly, compiled_here, lower, lowered_for
from convjax.measure import decide
from convjax.platforms import PLATFORMS, default_platform
from convjax.problem import WindowSpec
from convjax.request import Request, Wish
from convjax.rewrite import makers, with_equations
from convjax.target import Target
from convjax.window_stages import stages

extremum_p = Primitive("convjax_window_extremum")
sum_p = Primitive("convjax_window_sum")
arg_p = Primitive("convjax_window_arg")
take_p = Primitive("convjax_window_take")
put_p = Primitive("convjax_window_put")
PRIMITIVES = (extremum_p, sum_p, arg_p, take_p, put_p)


def reduce(x: jax.Array, problem: WindowSpec, request: Request) -> jax.Array:
    """The maximum, minimum or sum of every window of x; of sizes that are not known, `jax.export`'s symbols, by lax."""
    if not sizes.are_numbers(x):
        geometry = (problem.window, problem.strides, problem.padding)
        dilations = (problem.base_dilation, problem.window_dilation)
        return lax.reduce_window(x, problem.identity, COMBINED[problem.operation], *geometry, *dilations)
    primitive = sum_p if problem.operation == "sum" else extremum_p
    return primitive.bind(x, problem=problem, request=request)


def arg(x: jax.Array, problem: WindowSpec, request: Request) -> jax.Array:
    """The winning tap of every window, int32, for a `max` or `min` problem. Taps do not vary with x."""
    return arg_p.bind(lax.stop_gradient(x), problem=_as(problem, f"arg{problem.operation}"), request=request)


def _as(problem: WindowSpec, operation: str) -> WindowSpec:
    return dataclasses.replace(problem, operation=operation)


# What stands in front of sums.


def unpadded(jaxpr: core.Jaxpr) -> core.Jaxpr:
    """The jaxpr where sums over windows of what is padded with zeros, as gradients of sums are, pad it themselves.

    Where a gradient's zeros are known, most windows need not be added up.
    """
    pads = makers(jaxpr, pad_p)
    equations = [_unpadded(eqn, pads) if eqn.primitive is sum_p else eqn for eqn in jaxpr.eqns]
    return with_equations(jaxpr, equations, unread=pad_p)


def _unpadded(eqn: core.JaxprEqn, pads: Mapping[core.Var, core.JaxprEqn]) -> core.JaxprEqn:
    (x,), problem = eqn.invars, eqn.params["problem"]
    pad = pads.get(x) if isinstance(x, core.Var) else None
    if pad is None or not isinstance(pad.invars[1], core.Literal) or pad.invars[1].val != 0:
        return eqn
    inside: Any = pad.invars[0].aval
    padded: Any = x.aval
    config = [tuple(map(int, axis)) for axis in pad.params["padding_config"]]
    cropped = any(min(lo, hi) < 0 < max(pair) for (lo, hi, _), pair in zip(config, problem.padding, strict=True))
    if cropped or set(problem.base_dilation) != {1} or inside.weak_type != padded.weak_type:
        return eqn
    padding = [(lo + a, hi + b) for (lo, hi, _), (a, b) in zip(config, problem.padding, strict=True)]
    gaps = tuple(gap + 1 for *_, gap in config)
    problem = dataclasses.replace(problem, shape=inside.shape, padding=tuple(padding), base_dilation=gaps)
    return eqn.replace(invars=[pad.invars[0]], params=eqn.params | {"problem": problem})


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
    return _lax_type(x, problem).update(dtype=jnp.dtype(jnp.int32))  # as weak as x, for what is taken or put by it


def _take_type(t: Any, *where: Any, problem: WindowSpec, request: Request) -> Any:
    return _lax_type(t, problem).update(weak_type=t.weak_type and where[0].weak_type)


def _put_type(g: Any, *where: Any, problem: WindowSpec, request: Request) -> Any:
    return g.update(shape=problem.shape, weak_type=g.weak_type and where[0].weak_type)


# Derivatives.


def tangent(t: jax.Array, x: jax.Array, *, problem: WindowSpec, request: Request) -> jax.Array:
    """What the tangent t of x makes of every window's maximum or minimum."""
    return _followed(take_p, "take", t, _winners(x, problem, request), request.transposed(0))


def gradient(g: jax.Array, x: jax.Array, *, problem: WindowSpec, request: Request) -> jax.Array:
    """What the cotangent g of every window's maximum or minimum makes of x."""
    return _followed(put_p, "put", g, _winners(x, problem, request)[::-1], request.transposed(0))


# The stages of a problem, each with where its windows' winners stand: (taps,), or (x, y) to be compared.
Winners = list[tuple[WindowSpec, tuple[jax.Array, ...]]]


def _winners(x: jax.Array, problem: WindowSpec, request: Request) -> Winners:
    x, derived = lax.stop_gradient(x), request.transposed(0)
    if _finds_by_comparison(problem, derived):
        return [(problem, (x, reduce(x, problem, request)))]
    found: Winners = []
    for stage in stages(problem):
        x = reduce(x, found[-1][0], derived) if found else x
        found.append((stage, (arg(x, stage, derived),)))
    return found


def _finds_by_comparison(problem: WindowSpec, request: Request) -> bool:
    """Whether winners are found by comparison: as is asked for, or where that is predicted to be clearly faster.

    What is kept for the backward pass follows from it, so it is decided here, for the default platform, and not when
    lowering.
    """
    saved = [_as(stage, operation) for stage in stages(problem) for operation in (f"arg{problem.operation}", "put")]
    comparing = [_as(problem, "put_equal")]
    if request.wish:
        compares = [(wish if isinstance(wish, str) else wish.name) == Mask.name for wish in request.wish]
        ways = zip(request.wish, compares, strict=True)
        first = next((c for wish, c in ways if _applies(wish, comparing if c else saved, request)), None)
        if first is not None or request.must:
            return compares[0] if first is None else first
    here = compiled_here(default_platform(), request.policy)
    by_comparing, by_taps = least_seconds([comparing, saved], request, here)
    return by_comparing < INCUMBENT * by_taps


def _applies(wish: Wish, problems: Sequence[WindowSpec], request: Request) -> bool:
    """Whether an algorithm that `wish` stands for computes each of the problems, within the limits in force."""
    here = compiled_here(default_platform(), request.policy)
    families = (named(problem.operation, wish) if isinstance(wish, str) else (wish,) for problem in problems)
    return all(
        any(not unusable(algorithm, problem, request, here) for algorithm in family)
        for problem, family in zip(problems, families, strict=True)
    )


def _followed(primitive: Primitive, operation: str, value: jax.Array, found: Winners, request: Request) -> jax.Array:
    """`value` taken or put through all stages, added up in one accumulator."""
    dtype = value.dtype
    wide = accumulator(dtype) if len(found) > 1 else dtype
    value = value if wide == dtype else value.astype(wide)
    for stage, where in found:
        name = operation if len(where) == 1 else f"{operation}_equal"
        problem = dataclasses.replace(stage, operation=name, dtype=wide.name)
        value = primitive.bind(value, *where, problem=problem, request=request)
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


def _linear_jvp(primitive: Primitive, operands: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
    """`take` and `put` are linear in their value; where winners stand does not vary."""
    _, *where = operands
    t = ad.instantiate_zeros(tangents[0])
    return primitive.bind(*operands, **params), primitive.bind(t, *where, **params)


_TRANSPOSED = {"take": "put", "put": "take", "take_equal": "put_equal", "put_equal": "take_equal"}


def _adjoint(
    primitive: Primitive, cotangent: Any, value: Any, *where: jax.Array, problem: WindowSpec, request: Request
) -> Any:
    """The transpose of `take` is `put` at the same taps, and the other way round.

    Of the derivatives of a pooling both are one pass. A `take` that is itself what was asked for has a gradient.
    """
    none = [None] * len(where)
    if type(cotangent) is ad.Zero:
        return [ad.Zero(value.aval), *none]
    adjoint = _as(problem, _TRANSPOSED[problem.operation])
    request = request.transposed(0) if request.role == "fprop" else request
    return [primitive.bind(cotangent, *where, problem=adjoint, request=request), *none]


ad.defjvp(extremum_p, tangent)
ad.deflinear2(sum_p, _sum_transpose)
for _primitive, _transpose in ((take_p, put_p), (put_p, take_p)):
    ad.primitive_jvps[_primitive] = functools.partial(_linear_jvp, _primitive)
    ad.primitive_transposes[_primitive] = functools.partial(_adjoint, _transpose)


# Batching: one more axis, of which every window takes one element.


def _batch(
    primitive: Primitive, operands: Sequence[Any], dims: Sequence[Any], *, problem: WindowSpec, request: Request
) -> Any:
    if not sizes.are_numbers(*operands):
        return _batch_of_symbols(primitive, operands, dims, problem, request)
    if len(operands) == 1:
        (x,), (axis,) = operands, dims
        batched = _with_axis(problem, axis, x.shape[axis])
        return primitive.bind(x, problem=batched, request=request), axis
    size = next(x.shape[d] for x, d in zip(operands, dims, strict=True) if d is not None)
    operands = [batching.bdim_at_front(x, d, size) for x, d in zip(operands, dims, strict=True)]
    return primitive.bind(*operands, problem=_with_axis(problem, 0, size), request=request), 0


def _batch_of_symbols(
    primitive: Primitive, operands: Sequence[Any], dims: Sequence[Any], problem: WindowSpec, request: Request
) -> Any:
    """Reductions by lax's own rule; what follows winners, of which lax has none, one example after another."""
    if primitive in (sum_p, extremum_p):
        (x,), (axis,) = operands, dims
        return reduce(x, _with_axis(problem, axis, x.shape[axis]), request), axis
    mapped = [jnp.moveaxis(x, d, 0) for x, d in zip(operands, dims, strict=True) if d is not None]

    def one(example: Sequence[jax.Array]) -> jax.Array:
        each = iter(example)
        every = [x if d is None else next(each) for x, d in zip(operands, dims, strict=True)]
        return primitive.bind(*every, problem=problem, request=request)

    return lax.map(one, mapped), 0


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
    finds_taps = problem.finds_taps
    if problem.empty:
        (out,) = ctx.avals_out
        filled = Filled(out.shape, out.dtype.name, 0 if finds_taps else problem.identity)
        return lower(ctx, Target(platform), filled, *operands)
    target = lowered_for(ctx, platform, request.policy)
    bound = Bound(decide(problem, request, target).algorithm, problem)
    return lower(ctx, target, bound, *operands, in_memory=finds_taps and not few_tiles(problem))


for _primitive, _type in zip(PRIMITIVES, (_reduce_type, _reduce_type, _arg_type, _take_type, _put_type), strict=True):
    _primitive.def_abstract_eval(_type)
    _primitive.def_impl(functools.partial(bind_eagerly, _primitive))
    batching.primitive_batchers[_primitive] = functools.partial(_batch, _primitive)
    for _platform in PLATFORMS:
        mlir.register_lowering(_primitive, functools.partial(_lower, _platform), platform=_platform)
