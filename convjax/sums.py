"""Sums over the rows of maps, several in one equation, of which CPUs make one pass (`algorithms/sums.py`).

Sums are joined for what they read, and otherwise have nothing to do with each other: every rule takes apart those that
are mapped, known, read or differentiated and those that are not.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.extend.core import Primitive
from jax.extend.core.primitives import reduce_sum_p
from jax.interpreters import ad, batching, mlir
from jax.interpreters import partial_eval as pe

from convjax.algorithms.sums import sums_of_rows
from convjax.lowering import bind_eagerly, is_divided, local
from convjax.problem import Ints

# Of arrays of one shape and dtype, over axes that follow each other and end before the last.
sums_p = Primitive("convjax_sums")
sums_p.multiple_results = True


def _each(*arrays: jax.Array, axes: Ints) -> list[jax.Array]:
    return [lax.reduce_sum(x, axes) for x in arrays]


def _in_one_pass(*arrays: jax.Array, axes: Ints) -> list[jax.Array]:
    shape = arrays[0].shape
    kept, last = shape[: axes[0]], shape[axes[-1] + 1 :]
    rows = (math.prod(kept), math.prod(shape[axis] for axis in axes), math.prod(last))
    return [y.reshape(*kept, *last) for y in sums_of_rows([x.reshape(rows) for x in arrays])]


def _type(*arrays: Any, axes: Ints) -> Any:
    return [reduce_sum_p.abstract_eval(x, axes=axes, out_sharding=None)[0] for x in arrays]


def _apart(flags: Sequence[bool], sums: Callable[[bool, list[int]], Sequence[Any]]) -> list[Any]:
    """The results of `sums(flag, numbers)` for the numbers of either flag, in the order of all."""
    found: dict[int, Any] = {}
    for flag in (True, False):
        numbers = [i for i, other in enumerate(flags) if other == flag]
        if numbers:
            found.update(zip(numbers, sums(flag, numbers), strict=True))
    return [found[i] for i in range(len(flags))]


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, axes: Ints) -> Any:
    sums = sums_p.bind(*primals, axes=axes)
    moved = [
        ad.Zero(y.aval.to_tangent_aval()) if type(t) is ad.Zero else lax.reduce_sum(t, axes)
        for y, t in zip(sums, tangents, strict=True)
    ]
    return sums, moved


def _transpose(cotangents: Sequence[Any], *arrays: Any, axes: Ints) -> list[Any]:
    rule = ad.primitive_transposes[reduce_sum_p]
    return [rule(ct, x, axes=axes, out_sharding=None)[0] for ct, x in zip(cotangents, arrays, strict=True)]


def _batch(arrays: Sequence[Any], dims: Sequence[Any], *, axes: Ints) -> Any:
    def sums(mapped: bool, numbers: list[int]) -> Sequence[Any]:
        if not mapped:
            return sums_p.bind(*(arrays[i] for i in numbers), axes=axes)
        fronts = [jnp.moveaxis(arrays[i], dims[i], 0) for i in numbers]
        return sums_p.bind(*fronts, axes=tuple(axis + 1 for axis in axes))

    mapped = [d is not None for d in dims]
    return _apart(mapped, sums), [0 if m else None for m in mapped]


def _partial_eval(trace: Any, *arrays: Any, axes: Ints) -> list[Any]:
    """Computes what is known, and leaves the rest for later."""

    def sums(known: bool, numbers: list[int]) -> Sequence[Any]:
        those = [arrays[i] for i in numbers]
        if known:
            return sums_p.bind(*(x.pval.get_known() for x in those), axes=axes)
        return trace.default_process_primitive(sums_p, those, {"axes": axes})

    return _apart([x.is_known() for x in arrays], sums)


def _dce(used: Sequence[bool], *rest: Any) -> tuple[list[bool], core.JaxprEqn | None]:
    """Without the sums that nothing reads. jax 0.12 has an argument more before the equation."""
    eqn = rest[-1]
    kept = [i for i, is_used in enumerate(used) if is_used]
    if not kept:
        return [False] * len(used), None
    invars, outvars = ([atoms[i] for i in kept] for atoms in (eqn.invars, eqn.outvars))
    return list(used), eqn.replace(invars=invars, outvars=outvars)


def _lower_on_cpu(ctx: mlir.LoweringRuleContext, *arrays: Any, axes: Ints) -> Any:
    # Cut into stretches, rows that XLA divides among devices would be gathered first.
    if is_divided(ctx):
        return mlir.lower_fun(_each, multiple_results=True)(ctx, *arrays, axes=axes)
    return mlir.lower_fun(_in_one_pass, multiple_results=True)(local(ctx), *arrays, axes=axes)


sums_p.def_abstract_eval(_type)
sums_p.def_impl(functools.partial(bind_eagerly, sums_p))
ad.primitive_jvps[sums_p] = _jvp
ad.primitive_transposes[sums_p] = _transpose
batching.primitive_batchers[sums_p] = _batch
pe.custom_partial_eval_rules[sums_p] = _partial_eval
pe.dce_rules[sums_p] = _dce
mlir.register_lowering(sums_p, mlir.lower_fun(_each, multiple_results=True))
mlir.register_lowering(sums_p, _lower_on_cpu, platform="cpu")
