"""Replaying a jaxpr with other primitives in the place of lax's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend import core

# What stands in for a primitive: called with the equation's operands and parameters, returns a list of results.
Replacement = Callable[..., Sequence[Any]]


def replay(closed: core.ClosedJaxpr, replacements: Mapping[core.Primitive, Replacement], *operands: Any) -> list[Any]:
    """Evaluates `closed` on `operands`, calling a replacement wherever its primitive stands.

    Calls of inner functions (`jit`) are entered; all other equations are bound as they are.
    """
    jaxpr = closed.jaxpr
    values: dict[core.Var, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, operands, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        if eqn.primitive in replacements:
            outputs = replacements[eqn.primitive](*inputs, **eqn.params)
        elif eqn.primitive.name in ("jit", "pjit"):
            outputs = replay(eqn.params["jaxpr"], replacements, *inputs)
        else:
            outputs = eqn.primitive.bind(*inputs, **eqn.params)
            if not eqn.primitive.multiple_results:
                outputs = [outputs]
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def retrace(
    fn: Callable[..., Any], replacements: Mapping[core.Primitive, Replacement], *operands: jax.Array
) -> list[Any]:
    """Calls `fn` on `operands` with the replacements in force; returns its results flat."""
    return replay(jax.make_jaxpr(fn)(*operands), replacements, *operands)
