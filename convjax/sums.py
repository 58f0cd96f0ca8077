"""Sums over the rows of maps, several in one equation, of which CPUs make one pass (`algorithms/sums.py`)."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax.extend.core import Primitive
from jax.extend.core.primitives import reduce_sum_p
from jax.interpreters import ad, batching, mlir

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


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, axes: Ints) -> Any:
    sums = sums_p.bind(*primals, axes=axes)
    moved = [
        ad.Zero(y.aval.to_tangent_aval()) if type(t) is ad.Zero else lax.reduce_sum(t, axes)
        for y, t in zip(sums, tangents, strict=True)
    ]
    return sums, moved


def _transpose(cotangents: Sequence[Any], *arrays: Any, axes: Ints) -> list[Any]:
    rule = ad.primitive_transposes[reduce_sum_p]
    return [
        rule(ct, x, axes=axes, out_sharding=None)[0] if ad.is_undefined_primal(x) else None
        for ct, x in zip(cotangents, arrays, strict=True)
    ]


def _batch(arrays: Sequence[Any], dims: Sequence[Any], *, axes: Ints) -> Any:
    size = next(x.shape[d] for x, d in zip(arrays, dims, strict=True) if d is not None)
    arrays = [batching.bdim_at_front(x, d, size) for x, d in zip(arrays, dims, strict=True)]
    return sums_p.bind(*arrays, axes=tuple(axis + 1 for axis in axes)), [0] * len(arrays)


def _lower_on_cpu(ctx: mlir.LoweringRuleContext, *arrays: Any, axes: Ints) -> Any:
    # Rows that XLA divides among devices it would gather to cut them into stretches.
    form = _each if is_divided(ctx) else _in_one_pass
    return mlir.lower_fun(form, multiple_results=True)(local(ctx), *arrays, axes=axes)


sums_p.def_abstract_eval(_type)
sums_p.def_impl(functools.partial(bind_eagerly, sums_p))
ad.primitive_jvps[sums_p] = _jvp
ad.primitive_transposes[sums_p] = _transpose
batching.primitive_batchers[sums_p] = _batch
mlir.register_lowering(sums_p, mlir.lower_fun(_each, multiple_results=True))
mlir.register_lowering(sums_p, _lower_on_cpu, platform="cpu")
