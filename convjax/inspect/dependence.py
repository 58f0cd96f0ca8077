"""What the elements of a value see of one axis of the input, propagated through a jaxpr."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend import core

from convjax.inspect.law import ITSELF, STILL, Law
from convjax.problem import Ints

# Gives a value that depends on no argument.
Known = Callable[[], Any] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
    """Element (i, j, ...) sees the sum of lo .. hi and of what the laws of its axes say of i, j, ...

    That the axes add up is exact for windows, strides and padding along any of them. A value that sees nothing of
    the input has no field: None stands for it.

    Attributes:
        assumed: primitives on the way that were taken to see everything their operands see, without knowing.
        edges: primitives on the way that joined parts which see by different laws; the longest part's is given.
        margins: axes of most of whose indices it is the padding of a few, as what is added back to the ends of an axis.
    """

    lo: float
    hi: float
    laws: tuple[Law, ...]
    assumed: frozenset[str] = frozenset()
    edges: frozenset[str] = frozenset()
    margins: frozenset[int] = frozenset()

    def by(self, laws: Sequence[Law], lo: float = 0, hi: float = 0) -> "Field | None":
        """The field by other laws, and by lo .. hi besides; each law's first phase that sees anything is at 0."""
        lo, hi = self.lo + lo, self.hi + hi
        based = []
        for law in laws:
            (seen,) = np.nonzero(np.isfinite(law.lo))
            if not len(seen) or not math.isfinite(lo):
                return None
            first = float(law.lo[seen[0]]), float(law.hi[seen[0]])
            lo, hi = lo + first[0], hi + first[1]
            based.append(law if first == (0, 0) else law.moved(-first[0], -first[1]))
        if not math.isfinite(lo):
            return None
        return dataclasses.replace(self, lo=lo, hi=hi, laws=tuple(based), margins=frozenset())

    def along(self, laws: dict[int, Law], lo: float = 0, hi: float = 0) -> "Field | None":
        """The field with the laws of some axes replaced."""
        return self.by([laws.get(axis, law) for axis, law in enumerate(self.laws)], lo, hi)

    def over(self, axes: Sequence[int], shape: Ints) -> "Field | None":
        """What all elements along `axes` of a value of this shape see together."""
        hulls = [self.laws[axis].hull(shape[axis]) for axis in axes]
        return self.along(dict.fromkeys(axes, STILL), sum(lo for lo, _ in hulls), sum(hi for _, hi in hulls))

    def without(self, axes: Sequence[int]) -> "Field | None":
        """The field of index 0 of `axes`, which are dropped."""
        first = [self.laws[axis].at(np.zeros(1, int)) for axis in axes]
        kept = [law for axis, law in enumerate(self.laws) if axis not in axes]
        return self.by(kept, sum(float(lo[0]) for lo, _ in first), sum(float(hi[0]) for _, hi in first))

    def moves_along(self, shape: Ints) -> int | None:
        """The axis of a value of this shape along which most of the input goes by."""
        passed = [abs(law.shift) / law.period * n for law, n in zip(self.laws, shape, strict=True)]
        return int(np.argmax(passed)) if any(passed) else None

    def varies_along(self, shape: Ints, size: int) -> int | None:
        """The same axis, or where the `size` elements go by along none that along which most of them come and go.

        So it is where a row of the input is part of an axis, which goes through it again and again.
        """
        moving = self.moves_along(shape)
        if moving is not None:
            return moving
        spread = []
        for law, n in zip(self.laws, shape, strict=True):
            lo, hi = law.moved(self.lo, self.hi).at(np.arange(n if law.moves else 0))
            ends = np.unique(np.clip([lo, hi], 0, size - 1)[:, np.isfinite(lo)], axis=1)
            spread.append(float(np.ptp(ends)) if ends.shape[1] > 1 else 0.0)  # 0 where all see the same of the input
        return int(np.argmax(spread)) if any(spread) else None

    def noted(self, assumed: Iterable[str] = (), edges: Iterable[str] = ()) -> "Field":
        return dataclasses.replace(self, assumed=self.assumed | set(assumed), edges=self.edges | set(edges))

    def same(self, other: "Field | None") -> bool:
        return self is other or (
            other is not None
            and (self.lo, self.hi, len(self.laws)) == (other.lo, other.hi, len(other.laws))
            and all(map(Law.same, self.laws, other.laws))
        )


def union(a: Field | None, b: Field | None, shape: Ints, size: int, name: str) -> Field | None:
    """What either sees of an input axis of `size`, both being fields of values of this shape, combined by `name`.

    Where the laws differ along more than one axis or move at different strides, no law says it: every element is
    then taken to see what all see, which is exact if either sees the whole input axis, and noted if not. Of what is
    added to margins alone, the law is that of the others, which is noted too.
    """
    if a is None or b is None:
        return a or b
    a, b = a.noted(b.assumed, b.edges), b.noted(a.assumed, a.edges)
    differing = [axis for axis, laws in enumerate(zip(a.laws, b.laws, strict=True)) if not laws[0].same(laws[1])]
    if not differing and a.margins == b.margins:
        return dataclasses.replace(a, lo=min(a.lo, b.lo), hi=max(a.hi, b.hi))
    if a.margins or b.margins:
        return min(a, b, key=lambda field: len(field.margins)).noted(edges=[name])
    if len(differing) == 1:
        (axis,) = differing
        joined = a.laws[axis].moved(a.lo, a.hi).union(b.laws[axis].moved(b.lo, b.hi))
        if joined is not None:
            return dataclasses.replace(a, lo=0, hi=0).along({axis: joined})
    own = a.moves_along(shape), b.moves_along(shape)
    bounded = [axis for axis in differing if axis not in own]
    together = bounded or range(len(shape))
    a, b = a.over(together, shape), b.over(together, shape)
    if not bounded and not any(f is None or (f.lo <= 0 and f.hi >= size - 1) for f in (a, b)):
        a = a.noted([name])  # type: ignore[union-attr]
    return union(a, b, shape, size, name)


@dataclasses.dataclass(frozen=True)
class Step:
    """An equation, as its rule sees it.

    Attributes:
        eqn: the equation.
        known: of every operand, what gives its value if it depends on no argument.
        walk: the propagation that the equation is part of.
        scope: the names it stands under.
    """

    eqn: core.JaxprEqn
    known: Sequence[Known]
    walk: "Propagation"
    scope: str

    @property
    def name(self) -> str:
        return self.eqn.primitive.name

    @property
    def params(self) -> dict[str, Any]:
        return self.eqn.params

    @functools.cached_property
    def shapes(self) -> list[Ints]:
        """Of the operands."""
        return [tuple(getattr(atom.aval, "shape", ())) for atom in self.eqn.invars]

    @functools.cached_property
    def results(self) -> list[Ints]:
        """Shapes of the results."""
        return [tuple(getattr(var.aval, "shape", ())) for var in self.eqn.outvars]

    @property
    def jaxprs(self) -> list[core.Jaxpr]:
        """Those that the equation holds."""
        return list(core.jaxprs_in_params(self.params))

    def union(self, fields: Sequence[Field | None], shape: Ints) -> Field | None:
        combine = functools.partial(union, shape=shape, size=self.walk.size, name=self.name)
        return functools.reduce(combine, fields, None)

    def everything(self, fields: Sequence[Field | None], assumed: bool = True) -> list[Field | None]:
        """Every element of every result sees all that the operands see."""
        seen = [f and f.over(range(len(s)), s) for f, s in zip(fields, self.shapes, strict=True)]
        scalars = self.union([f and f.by(()) for f in seen], ())
        if scalars is not None and assumed:
            scalars = scalars.noted([self.name])
        return [scalars and scalars.by([STILL] * len(shape)) for shape in self.results]


# What an equation's results see, from what its operands do; one field stands for one result.
Rule = Callable[[Step, Sequence[Field | None]], Sequence[Field | None]]


@dataclasses.dataclass
class Propagation:
    """Propagates what is seen of one axis of the input, of `size` elements, through jaxprs.

    Attributes:
        rules: by the name of the primitive.
        size: elements of the input axis.
        through_statistics: whether reductions along the axis are seen, or stand for constants.
        slid: whether a convolution or a pooling slides along the axis.
        seen: of every equation walked, the innermost first: its scope, and what its results see.
    """

    rules: dict[str, Rule]
    size: int
    through_statistics: bool = True
    slid: bool = False
    seen: list[tuple[str, core.JaxprEqn, Sequence[Field | None]]] = dataclasses.field(default_factory=list)

    def run(
        self,
        jaxpr: core.Jaxpr,
        fields: Sequence[Field | None],
        known: Sequence[Known] = (),
        consts: Sequence[Any] = (),
        scope: str = "",
    ) -> tuple[list[Field | None], list[Known]]:
        """What the results of `jaxpr` see, whose operands see `fields`, and their values where they are known."""
        seen: dict[core.Var, Field | None] = dict(zip(jaxpr.invars, fields, strict=True))
        values: dict[core.Var, Known] = dict(zip(jaxpr.invars, known, strict=False))
        values |= {var: _constant(const) for var, const in zip(jaxpr.constvars, consts, strict=False)}
        for eqn in jaxpr.eqns:
            operands = [_read(atom, seen) for atom in eqn.invars]
            given = [_given(atom, values) for atom in eqn.invars]
            stack = "/".join(filter(None, (scope, str(eqn.source_info.name_stack))))
            step = Step(eqn, given, self, stack)
            results: Sequence[Field | None] = [None] * len(eqn.outvars)
            sees = any(field is not None for field in operands)
            if not sees:
                values |= _computed(step)
            if sees or (step.name in self.rules and step.jaxprs):
                results = self.rules.get(step.name, Step.everything)(step, operands)
            seen.update(zip(eqn.outvars, results, strict=True))
            self.seen.append((stack, eqn, results))
        return [_read(atom, seen) for atom in jaxpr.outvars], [_given(atom, values) for atom in jaxpr.outvars]


def itself(ndim: int, axis: int) -> Field:
    """What the input sees of one of its own axes."""
    return Field(0, 0, tuple(ITSELF if other == axis else STILL for other in range(ndim)))


def _read(atom: Any, seen: dict[core.Var, Field | None]) -> Field | None:
    return None if isinstance(atom, core.Literal) else seen.get(atom)


def _given(atom: Any, values: dict[core.Var, Known]) -> Known:
    return (lambda: atom.val) if isinstance(atom, core.Literal) else values.get(atom)


def _constant(const: Any) -> Known:
    """Indices are read; matrices of fractions are weights, whose zeros could have been anything."""
    dtype = getattr(const, "dtype", None)
    if dtype is None or (jnp.issubdtype(dtype, np.inexact) and const.ndim > 1):
        return None
    return lambda: const


def _computed(step: Step) -> dict[core.Var, Known]:
    """The results of an equation on known operands, computed when they are asked for."""
    eqn, given = step.eqn, step.known
    if any(g is None for g in given) or eqn.effects or (step.jaxprs and step.name not in ("jit", "pjit")):
        return {}

    @functools.cache
    def results() -> Sequence[Any]:
        operands = [g() for g in given]  # type: ignore[misc]
        computed = eqn.primitive.bind(*operands, **eqn.params)
        return computed if eqn.primitive.multiple_results else [computed]

    return {var: functools.partial(lambda i: results()[i], i) for i, var in enumerate(eqn.outvars)}
