"""A jaxpr as one list of steps: the functions that it calls are inlined, and what nothing uses is left out."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

from jax.extend import core

from convjax.inspect.layers import Path, labelled
from convjax.rewrite import ENTERED

# These evaluate what they hold some number of times, on operands of other shapes, or hold several functions.
LOOPS = frozenset(["scan", "while", "cond", "shard_map", "custom_linear_solve"])
CALLS = ENTERED - LOOPS
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")


@dataclasses.dataclass(eq=False)
class Value:
    """An array in a program.

    Attributes:
        aval: its type.
        argument: whether it stands outside the program: an argument or a constant.
    """

    aval: Any
    argument: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(getattr(self.aval, "shape", ()))

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * getattr(getattr(self.aval, "dtype", None), "itemsize", 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """An equation with the values that it reads and makes; `scope` is its name stack, with those of its callers."""

    eqn: core.JaxprEqn
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    scope: str

    @property
    def name(self) -> str:
        return self.eqn.primitive.name

    @functools.cached_property
    def layer(self) -> Path | None:
        """The layer that it stands in."""
        layer = labelled(self.scope)
        return None if layer is None else layer[0]

    @property
    def bodies(self) -> list[Any]:
        """The jaxprs that it holds."""
        return list(core.jaxprs_in_params(self.eqn.params))


def steps(jaxpr: Any, operands: Sequence[Value], scope: str = "") -> tuple[list[Step], list[Value]]:
    """The steps that the results of `jaxpr` on `operands` need, and these results."""
    inlined, results = _inlined(jaxpr, operands, scope)
    needed = set(results)
    kept = []
    for step in reversed(inlined):
        if step.eqn.effects or not needed.isdisjoint(step.results):
            needed.update(step.operands)
            kept.append(step)
    return kept[::-1], results


def arguments(jaxpr: Any) -> list[Value]:
    """A value for each argument of `jaxpr`."""
    return [Value(var.aval, argument=True) for var in _open(jaxpr).invars]


def _inlined(jaxpr: Any, operands: Sequence[Value], scope: str) -> tuple[list[Step], list[Value]]:
    jaxpr = _open(jaxpr)
    values = {var: Value(var.aval, argument=True) for var in jaxpr.constvars}
    values.update(zip(jaxpr.invars, operands, strict=True))

    def read(atom: Any) -> Value:
        return Value(atom.aval) if isinstance(atom, core.Literal) else values[atom]

    found: list[Step] = []
    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        where = "/".join(filter(None, [scope, str(eqn.source_info.name_stack)]))
        body = called(eqn)
        if body is not None:
            inner, results = _inlined(body, inputs, where)
            found += inner
        elif eqn.primitive.name == "name":
            results = inputs
        else:
            results = [Value(var.aval) for var in eqn.outvars]
            found.append(Step(eqn, tuple(inputs), tuple(results), where))
        values.update(zip(eqn.outvars, results, strict=True))
    return found, [read(atom) for atom in jaxpr.outvars]


def called(eqn: core.JaxprEqn) -> Any:
    """The function that an equation does nothing but call, None for other equations."""
    if eqn.primitive.name not in CALLS:
        return None
    body = next((eqn.params[name] for name in _BODIES if name in eqn.params), None)
    return body if body is not None and len(_open(body).invars) == len(eqn.invars) else None


def _open(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)
