"""Taylor series of the primitives, for `jax.experimental.jet`.

A convolution is bilinear: the terms of its result are those of a product of polynomials. Sums of windows are linear,
and so are tangents taken to the winners of windows and cotangents put back at them. A maximum's series is that of its
first winner, as its derivatives are, and where a winner stands does not vary. `lp_pool` of finite p has no
series: jet does not enter the rules of `jax.custom_jvp`.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import jet
from jax.extend.core import Primitive

from convjax.primitive import conv_p
from convjax.sums import sums_p
from convjax.window_primitive import arg_p, extremum_p, put_p, sum_p, take_p, tangent

Terms = Sequence[jax.Array]
# The value and the terms of orders 1 and up of a result.
Series = tuple[jax.Array, list[jax.Array]]


def _of_conv(primals: Terms, series: Sequence[Terms], **params: Any) -> Series:
    (x, w), (x_terms, w_terms) = primals, series
    x_terms, w_terms = [x, *x_terms], [w, *w_terms]

    def term(order: int) -> jax.Array:
        products = [conv_p.bind(x_terms[i], w_terms[order - i], **params) for i in range(order + 1)]
        return functools.reduce(jnp.add, products)

    value, *terms = map(term, range(len(x_terms)))
    return value, terms


def _of_linear(primitive: Primitive, primals: Terms, series: Sequence[Terms], **params: Any) -> Series:
    """Linear in the first operand; the others say where, and do not vary."""
    _, *where = primals
    return primitive.bind(*primals, **params), [primitive.bind(term, *where, **params) for term in series[0]]


def _of_sums(primals: Terms, series: Sequence[Terms], **params: Any) -> tuple[Terms, list[list[jax.Array]]]:
    sums = [sums_p.bind(*terms, **params) for terms in (primals, *zip(*series, strict=True))]
    return sums[0], [list(terms) for terms in zip(*sums[1:], strict=True)]


def _of_extremum(primals: Terms, series: Sequence[Terms], **params: Any) -> Series:
    (x,), (terms,) = primals, series
    return extremum_p.bind(x, **params), [tangent(term, x, **params) for term in terms]


def _of_constant(primals: Terms, series: Sequence[Terms], **params: Any) -> Series:
    value = arg_p.bind(*primals, **params)
    return value, [jnp.zeros_like(value) for _ in series[0]]


def _of_barrier(primals: Terms, series: Sequence[Terms], **params: Any) -> tuple[Terms, list[list[jax.Array]]]:
    return lax.optimization_barrier(primals), [[lax.optimization_barrier(term) for term in terms] for terms in series]


_rules: Any = jet.jet_rules
_rules[conv_p] = _of_conv
_rules[extremum_p] = _of_extremum
_rules[arg_p] = _of_constant
_rules[sums_p] = _of_sums
for _primitive in (sum_p, take_p, put_p):
    _rules[_primitive] = functools.partial(_of_linear, _primitive)
# Poolings over all elements of a window have a barrier, for which jax 0.10 to 0.12 have no rule, nor a public name.
_barrier_p = jax.make_jaxpr(lax.optimization_barrier)(jax.ShapeDtypeStruct((), "float32")).eqns[0].primitive
_rules.setdefault(_barrier_p, _of_barrier)
