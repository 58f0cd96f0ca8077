"""The convolution primitive: lax's own, with the algorithm chosen when it is lowered, and of reversed kernels too.

Typing is delegated to `lax.conv_general_dilated_p`. The transposes and batchings of a convolution are
again convolutions, and lax knows them; the rules here trace lax's rule and replay it with `conv_p` in the
place of lax's primitive, so that no derivative formula is written twice. Choosing in the lowering rule means
choosing after AD, vmap, remat, scan and shard_map have happened, for the exact problem and platform.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.extend.core import Primitive
from jax.extend.core.primitives import conv_general_dilated_p, rev_p
from jax.interpreters import ad, batching, mlir

from convjax.lowering import Bound, Filled, OfReversed, bind_eagerly, lower, lowered_for
from convjax.measure import decide
from convjax.platforms import PLATFORMS
from convjax.problem import ConvSpec
from convjax.request import Request
from convjax.rewrite import Replacement, makers, replay, with_equations
from convjax.sizes import are_numbers
from convjax.target import Target

conv_p = Primitive("convjax_conv")


def conv(lhs: jax.Array, rhs: jax.Array, request: Request, **params: Any) -> jax.Array:
    """`lax.conv_general_dilated(lhs, rhs, **params)` by the algorithm that `request` leads to.

    Of sizes that are not known, `jax.export`'s symbols, it stays lax's own.
    """
    if not are_numbers(lhs, rhs):
        return lax.conv_general_dilated(lhs, rhs, **params)
    traced = jax.make_jaxpr(lambda lhs, rhs: lax.conv_general_dilated(lhs, rhs, **params))(lhs, rhs)
    return replay(traced, _convs(request), lhs, rhs)[0]


def problem_of(lhs: Any, rhs: Any, params: dict[str, Any]) -> ConvSpec:
    """The problem that a convolution equation with these operands (or avals) and parameters states."""
    preferred = params["preferred_element_type"]
    dims = params["dimension_numbers"]
    return ConvSpec(
        lhs_shape=tuple(lhs.shape),
        rhs_shape=tuple(rhs.shape),
        lhs_dtype=jnp.dtype(lhs.dtype).name,
        rhs_dtype=jnp.dtype(rhs.dtype).name,
        strides=tuple(map(int, params["window_strides"])),
        padding=tuple((int(lo), int(hi)) for lo, hi in params["padding"]),
        lhs_dilation=tuple(map(int, params["lhs_dilation"])),
        rhs_dilation=tuple(map(int, params["rhs_dilation"])),
        dimension_numbers=(tuple(dims.lhs_spec), tuple(dims.rhs_spec), tuple(dims.out_spec)),
        feature_groups=int(params["feature_group_count"]),
        batch_groups=int(params["batch_group_count"]),
        precision=_precision(params["precision"]),
        preferred_element_type=None if preferred is None else jnp.dtype(preferred).name,
    )


def _precision(precision: Any) -> str | None:
    """The name of the higher of two; the presets that dots know are to lax's convolutions the default."""
    if isinstance(precision, tuple):
        precision = max(precision, key=lambda p: p.value)
    if precision is None or isinstance(precision, lax.Precision):
        return precision and precision.name.lower()
    return "default"


def _convs(request: Request, rhs_reversed: bool = False) -> dict[Primitive, Replacement]:
    """Replaces lax's convolution by ours under `request`."""
    return {conv_general_dilated_p: lambda lhs, rhs, **params: [bind(lhs, rhs, request, rhs_reversed, **params)]}


def bind(lhs: jax.Array, rhs: jax.Array, request: Request, rhs_reversed: bool = False, **params: Any) -> jax.Array:
    """The primitive, on the parameters of lax's; on rhs reversed along its spatial axes, if asked."""
    return conv_p.bind(lhs, rhs, request=request, rhs_reversed=rhs_reversed, **params)


def unreversed(jaxpr: core.Jaxpr) -> core.Jaxpr:
    """The jaxpr where convolutions of reversed kernels, as input gradients are, reverse them themselves.

    A reversal in front of a convolution is a pass over the kernel that few algorithms need, and XLA makes all of a
    program at its start, to be kept until they are used.
    """
    reversals = makers(jaxpr, rev_p)
    equations = [_unreversed(eqn, reversals) if eqn.primitive is conv_p else eqn for eqn in jaxpr.eqns]
    return with_equations(jaxpr, equations, unread=rev_p)


def _unreversed(eqn: core.JaxprEqn, reversals: Mapping[core.Var, core.JaxprEqn]) -> core.JaxprEqn:
    lhs, rhs = eqn.invars
    rhs_reversed = eqn.params["rhs_reversed"]
    spatial = _long(eqn.params["dimension_numbers"].rhs_spec[2:], rhs.aval)
    while isinstance(rhs, core.Var) and rhs in reversals:
        if _long(reversals[rhs].params["dimensions"], rhs.aval) != spatial:
            break
        (rhs,) = reversals[rhs].invars
        rhs_reversed = not rhs_reversed
    return eqn.replace(invars=[lhs, rhs], params=eqn.params | {"rhs_reversed": rhs_reversed})


def _long(axes: Sequence[int], aval: Any) -> set[int]:
    """The axes of more than one element."""
    return {axis for axis in axes if aval.shape[axis] > 1}


@conv_p.def_effectful_abstract_eval
def _type(lhs: Any, rhs: Any, *, request: Request, rhs_reversed: bool, **params: Any) -> Any:
    return conv_general_dilated_p.abstract_eval(lhs, rhs, **params)


conv_p.def_impl(functools.partial(bind_eagerly, conv_p))


def _transpose(
    operand: int, cotangent: Any, lhs: Any, rhs: Any, *, request: Request, rhs_reversed: bool, **params: Any
) -> Any:
    """Traces lax's own transpose with respect to `operand`, and replays it with `conv_p`."""
    linear = lhs if operand == 0 else rhs
    constant = rhs if operand == 0 else lhs

    def transposed(cotangent: jax.Array, constant: jax.Array) -> jax.Array:
        def conv(x: jax.Array) -> jax.Array:
            lhs, rhs = (x, constant) if operand == 0 else (constant, x)
            if rhs_reversed:
                rhs = lax.rev(rhs, params["dimension_numbers"].rhs_spec[2:])
            return lax.conv_general_dilated(lhs, rhs, **params)

        # The operand's own aval, not its bare shape: it carries the axes that shard_map varies it over.
        return jax.linear_transpose(conv, linear.aval)(cotangent)[0]

    traced = jax.make_jaxpr(transposed)(cotangent, constant)
    replayed = functools.partial(replay, traced, _convs(request.transposed(operand)))
    ours = jax.make_jaxpr(replayed)(cotangent, constant)
    return jax.core.eval_jaxpr(unreversed(ours.jaxpr), ours.consts, cotangent, constant)[0]


ad.defbilinear(conv_p, functools.partial(_transpose, 0), functools.partial(_transpose, 1))


def _batch(
    axis_data: Any, operands: Sequence[Any], dims: Sequence[Any], *, request: Request, rhs_reversed: bool, **params: Any
) -> Any:
    """Traces lax's own batching rule, and replays it with `conv_p`; no axis of a batch becomes a spatial one."""
    out_dim = None

    def batched(*operands: jax.Array) -> jax.Array:
        nonlocal out_dim
        out, out_dim = batching.fancy_primitive_batchers[conv_general_dilated_p](axis_data, operands, dims, **params)
        return out

    if not are_numbers(*operands):
        lhs, rhs = operands
        if rhs_reversed:
            axes = params["dimension_numbers"].rhs_spec[2:]
            rhs = lax.rev(rhs, [axis + (dims[1] is not None and axis >= dims[1]) for axis in axes])
        return batched(lhs, rhs), out_dim
    traced = jax.make_jaxpr(batched)(*operands)
    return replay(traced, _convs(request, rhs_reversed), *operands)[0], out_dim


batching.fancy_primitive_batchers[conv_p] = _batch


def _lower(platform: str, ctx: Any, lhs: Any, rhs: Any, *, request: Request, rhs_reversed: bool, **params: Any) -> Any:
    lhs_aval, rhs_aval = ctx.avals_in
    problem = problem_of(lhs_aval, rhs_aval, params)
    if problem.empty:
        return lower(ctx, Target(platform), Filled(problem.output_shape, problem.output_dtype), lhs, rhs)
    target = lowered_for(ctx, platform, request.policy)
    algorithm = decide(problem, request, target).algorithm
    return lower(ctx, target, (OfReversed if rhs_reversed else Bound)(algorithm, problem), lhs, rhs)


for _platform in PLATFORMS:
    mlir.register_lowering(conv_p, functools.partial(_lower, _platform), platform=_platform)
