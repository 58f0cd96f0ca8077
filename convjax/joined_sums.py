"""Sums of a program that read the same array put into one equation: the statistics that layers normalise by, and the
gradients of a scale, a shift and a mean.

Networks have them beside their convolutions, of arrays that are computed where they are added. XLA's CPU compiler makes
each in a pass of its own, element by element. A lone sum of what is computed for it alone becomes an equation too,
which is vectorised.
"""

import collections
import dataclasses
import graphlib
import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.extend import core
from jax.extend.core.primitives import broadcast_in_dim_p, reduce_sum_p

from convjax import sizes
from convjax.inspect.primitives import ELEMENTWISE
from convjax.problem import Ints
from convjax.rewrite import donated
from convjax.sums import sums_p

# Rows, and elements of a map, below which a sum is not worth another form.
_FEW_ROWS, _SMALL = 32, 2**14
# Sums that one loop holds in registers beside what is added.
_MOST = 4
# What XLA fuses into a sum, and what calls such.
_FUSED = ELEMENTWISE | {"broadcast_in_dim", "convert_element_type"}
_CALLS = frozenset(["custom_jvp_call", "jit", "pjit"])
# Arrays that are looked through for what a sum reads.
_SEEN = 16

Makers = Mapping[core.Var, core.JaxprEqn]


@dataclasses.dataclass
class _Group:
    """Sums that become one equation.

    Attributes:
        members: the numbers of their equations.
        reads: the arrays, as large as what is added, that they read or that make what they read.
    """

    members: list[int]
    reads: set[core.Var]


def joined(jaxpr: core.Jaxpr) -> core.Jaxpr:
    """The jaxpr with one equation for sums over the same axes of what one array becomes, element by element.

    Where equations may not change places, since a function that is called writes over what others read, it stays.
    """
    groups = [] if donated(jaxpr) else _groups(jaxpr)
    return jaxpr.replace(eqns=list(_in_order(jaxpr.eqns, groups))) if groups else jaxpr


def _groups(jaxpr: core.Jaxpr) -> list[list[int]]:
    """The numbers of the equations that become one.

    A sum is as deep as the longest chain of sums that it waits for. Those of a group are equally deep, so that none
    waits for another, by way of other groups neither.
    """
    equations = jaxpr.eqns
    makers = {var: eqn for eqn in equations for var in eqn.outvars}
    readers = collections.Counter(var for eqn in equations for var in _variables(eqn.invars))
    readers.update(_variables(jaxpr.outvars))
    depths: dict[core.Var, int] = {}
    depth_of_effects = 0
    found: dict[Any, list[_Group]] = {}
    for i, eqn in enumerate(equations):
        depth = max((depths.get(var, 0) for var in _variables(eqn.invars)), default=0)
        if eqn.effects:
            depth = depth_of_effects = max(depth, depth_of_effects)
        is_sum = _is_sum(eqn)
        depths.update(dict.fromkeys(eqn.outvars, depth + is_sum))
        if is_sum and readers[eqn.outvars[0]]:
            reads = _reads(eqn.invars[0], makers)
            alike = found.setdefault((depth, _shape(eqn.invars[0]), eqn.params["axes"], eqn.ctx), [])
            for group in alike:
                if len(group.members) < _MOST and not reads.isdisjoint(group.reads):
                    group.members.append(i)
                    group.reads |= reads
                    break
            else:
                alike.append(_Group([i], reads))
    groups = [group.members for alike in found.values() for group in alike]

    def is_worth_it(group: Sequence[int]) -> bool:
        """A lone sum is vectorised as it is where it reads memory: what no such equation makes, or is read again."""
        x: Any = equations[group[0]].invars[0]
        return len(group) > 1 or (_maker(x, makers) is not None and readers[x] == 1)

    return list(filter(is_worth_it, groups))


def _in_order(equations: Sequence[core.JaxprEqn], groups: Sequence[Sequence[int]]) -> Iterator[core.JaxprEqn]:
    """The equations, each group as one where its last stood, and behind it what waits for one of the group."""
    places = {i: group[-1] for group in groups for i in group}
    members = {group[-1]: group for group in groups}
    makers = {var: places.get(i, i) for i, eqn in enumerate(equations) for var in eqn.outvars}
    waits: dict[int, set[int]] = {}
    last_effect = None
    for i, eqn in enumerate(equations):
        waiting = waits.setdefault(places.get(i, i), set())
        waiting.update(makers[var] for var in _variables(eqn.invars) if var in makers)
        if eqn.effects:  # which keep their order
            waiting.update([] if last_effect is None else [last_effect])
            last_effect = i
    order = graphlib.TopologicalSorter(waits)
    order.prepare()
    ready: list[int] = []
    while order.is_active():
        for i in order.get_ready():
            heapq.heappush(ready, i)
        place = heapq.heappop(ready)
        yield _one([equations[i] for i in members[place]]) if place in members else equations[place]
        order.done(place)


def _one(equations: Sequence[core.JaxprEqn]) -> core.JaxprEqn:
    """All of them, at the first's place in the user's program."""
    return equations[0].replace(
        primitive=sums_p,
        params={"axes": equations[0].params["axes"]},
        invars=[eqn.invars[0] for eqn in equations],
        outvars=[eqn.outvars[0] for eqn in equations],
    )


def _variables(atoms: Iterable[core.Var | core.Literal]) -> Iterator[core.Var]:
    return (atom for atom in atoms if isinstance(atom, core.Var))


def _is_sum(eqn: core.JaxprEqn) -> bool:
    """Whether it adds the rows of a map of float32: over axes that follow each other and end before the last."""
    if eqn.primitive is not reduce_sum_p or eqn.params["out_sharding"] is not None:
        return False
    x: Any = eqn.invars[0].aval
    axes = eqn.params["axes"]
    if x.dtype != np.float32 or not sizes.are_numbers(x) or not axes:
        return False
    follow = tuple(axes) == tuple(range(axes[0], axes[-1] + 1)) and axes[-1] < x.ndim - 1
    return follow and math.prod(x.shape[axis] for axis in axes) >= _FEW_ROWS and x.size >= _SMALL


def _reads(x: core.Var | core.Literal, makers: Makers) -> set[core.Var]:
    """x and the nearest arrays of its shape that make it element by element."""
    found: dict[core.Var, None] = {}
    waiting = collections.deque([x])
    while waiting and len(found) < _SEEN:
        atom = waiting.popleft()
        if not isinstance(atom, core.Var) or atom in found or _shape(atom) != _shape(x):
            continue
        found[atom] = None
        maker = _maker(atom, makers)
        waiting.extend(maker.invars if maker else ())
    return set(found)


def _maker(atom: core.Var | core.Literal, makers: Makers) -> core.JaxprEqn | None:
    """The equation that makes an array element by element: of its like, scalars and what is broadcast to it."""
    eqn = makers.get(atom) if isinstance(atom, core.Var) else None
    if eqn is None or eqn.primitive is broadcast_in_dim_p or len(eqn.outvars) != 1 or not _is_fused(eqn):
        return None
    return eqn if all(_broadcasts(_shape(operand), _shape(atom)) for operand in eqn.invars) else None


def _is_fused(eqn: core.JaxprEqn) -> bool:
    if eqn.primitive.name in _CALLS:
        return all(_is_fused(inner) for body in core.jaxprs_in_params(eqn.params) for inner in body.eqns)
    return eqn.primitive.name in _FUSED


def _broadcasts(shape: Ints | None, to: Ints | None) -> bool:
    if shape is None or to is None or len(shape) != len(to):
        return shape == ()
    return all(n in (1, m) for n, m in zip(shape, to, strict=True))


def _shape(atom: core.Var | core.Literal) -> Ints | None:
    """None of what is no array."""
    return getattr(atom.aval, "shape", None)
