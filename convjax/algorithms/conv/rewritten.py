"""What algorithms share that rewrite a problem into others, one or several, which an algorithm they hold computes."""

import dataclasses
from typing import ClassVar

import jax

from convjax.algorithms.numerics import amplification, direct_error
from convjax.algorithms.protocol import Algorithm, ComputesDivided, Cost, Gathers, Reasons, describe, is_opaque
from convjax.problem import ConvSpec


@dataclasses.dataclass(frozen=True)
class Holding:
    """As exact and as repeatable as the algorithm it holds.

    Attributes:
        by: the algorithm of the problems that the original becomes.
        revision: of what is done around it.
    """

    by: Algorithm

    revision: ClassVar[int] = 1
    __str__ = describe

    @property
    def version(self) -> int:
        """Raised with the revision and with the held algorithm's version."""
        return self.revision + self.by.version

    @property
    def exact(self) -> bool:
        return self.by.exact

    @property
    def amplification(self) -> float:
        return amplification(self.by)

    @property
    def opaque(self) -> bool:
        return is_opaque(self.by)

    @property
    def varies_on(self) -> tuple[str, ...]:
        return self.by.varies_on

    def gathers(self, problem: ConvSpec) -> bool:
        return isinstance(self.by, Gathers) and self.by.gathers(problem)

    def of_divided(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        """With what the held algorithm does in programs that XLA divides among devices, if that is otherwise."""
        if not isinstance(self.by, ComputesDivided):
            return self(problem, lhs, rhs)
        return dataclasses.replace(self, by=_Divided(self.by))(problem, lhs, rhs)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Rewritten(Holding):
    """Bounds and refusals of the one rewritten problem are those of the original."""

    def rewritten(self, problem: ConvSpec) -> ConvSpec:
        """The problem that `by` computes."""
        raise NotImplementedError

    def refused(self, problem: ConvSpec) -> Reasons:
        """Why `problem` cannot be rewritten, if so."""
        raise NotImplementedError

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        if problem.empty:
            return ("an operand or the output is empty: there is nothing to rewrite",)
        return self.refused(problem) or self.by.unsupported(self.rewritten(problem), platform)

    def error(self, problem: ConvSpec) -> float:
        """Zeros that fill a kernel up add nothing to sums of products."""
        return direct_error(problem) if self.by.exact else self.by.error(self.rewritten(problem))

    def cost_with(self, problem: ConvSpec, moved: float, held: float, calls: int) -> Cost:
        """That of the rewritten problem, `moved` bytes more to and from memory, of which `held` are workspace."""
        return added(self.by.cost(self.rewritten(problem)), moved, held, calls)


@dataclasses.dataclass(frozen=True)
class _Divided(Holding):
    """The held algorithm as it is in divided programs."""

    name: ClassVar[str] = "divided"

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        return self.by.unsupported(problem, platform)

    def cost(self, problem: ConvSpec) -> Cost:
        return self.by.cost(problem)

    def error(self, problem: ConvSpec) -> float:
        return self.by.error(problem)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        assert isinstance(self.by, ComputesDivided)
        result: jax.Array = self.by.of_divided(problem, lhs, rhs)
        return result


def added(inner: Cost, moved: float, held: float, calls: int) -> Cost:
    """A cost with `moved` bytes more to and from memory, of which `held` are workspace, and more kernels."""
    return dataclasses.replace(
        inner, bytes=inner.bytes + moved, workspace=inner.workspace + held, calls=inner.calls + calls
    )
