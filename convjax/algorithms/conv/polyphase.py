"""Convolution of a dilated input without its zeros: one small convolution for each phase of the output.

y[n, o, g, k] = sum over t, c of x[n, (o s + t d - lo) / b, g, c] w[t, g, c, k], over the taps t for which b divides

With input dilation b, outputs o = P q + p of one phase p (P = b / gcd(b, s)) meet the same taps, t0, t0 + T, ... with
T = b / gcd(b, d); between them and x that is a convolution of stride s / gcd(b, s) and dilation d / gcd(b, d).
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from convjax import layout
from convjax.algorithms.conv.rewritten import Holding
from convjax.algorithms.conv.shift import Shift
from convjax.algorithms.numerics import direct_error
from convjax.algorithms.protocol import Algorithm, Cost, Reasons, gpu_cost, is_opaque, total_cost
from convjax.dtypes import itemsize
from convjax.problem import ConvSpec, Ints

# Phases written out; more compile too slowly.
_MOST_PHASES = 64
# Time of XLA's convolutions of many channels when several run side by side and threads wait less.
_SIDE_BY_SIDE, _MANY = 0.65, 64


@dataclasses.dataclass(frozen=True)
class Polyphase(Holding):
    """One convolution a phase, interleaved.

    Attributes:
        by: the algorithm of the phases; one that has a single tap where `by` needs more is a matrix product.
    """

    name: ClassVar[str] = "polyphase"
    revision: ClassVar[int] = 4

    @property
    def version(self) -> int:
        """Raised also with that of the products that stand in for `by`."""
        return super().version + (0 if isinstance(self.by, Shift) else Shift.version)

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        if set(problem.lhs_dilation) <= {1}:
            return ("the input is not dilated: there is one phase",)
        if problem.empty:
            return ("an operand or the output is empty: there is nothing to split",)
        phases = math.prod(axis.count for axis in _axes(problem))
        if phases > _MOST_PHASES:
            return (f"{phases} phases, more than {_MOST_PHASES}: it writes out one convolution each",)
        reasons = (self._of(phase).unsupported(phase.problem, platform) for phase in _phases(problem))
        return tuple(dict.fromkeys(itertools.chain.from_iterable(reasons)))

    def cost(self, problem: ConvSpec) -> Cost:
        """That of all phases, which run side by side and of which only the first reads x from memory, unless all are
        products or calls, and of interleaving them, for which calls write their results out.
        """
        out = math.prod(problem.output_shape) * itemsize(problem.output_dtype)
        lhs = math.prod(problem.lhs_shape) * itemsize(problem.lhs_dtype)
        costs = [self._of(phase).cost(phase.problem) for phase in _phases(problem)]
        total, held = total_cost(costs), max((cost.workspace for cost in costs), default=0.0)
        apart = is_opaque(self.by) or all(phase.problem.taps == 1 for phase in _phases(problem))
        found_in_cache = 0 if apart else max(len(costs) - 1, 0)
        interleaved = out * (3 if is_opaque(self.by) else 1)
        many = problem.G == 1 and min(problem.C, problem.K) >= _MANY
        return dataclasses.replace(
            total,
            library=total.library * (_SIDE_BY_SIDE if many else 1),
            bytes=total.bytes - found_in_cache * lhs + interleaved,
            workspace=out + held,
            calls=total.calls + 1,
        )

    def gpu_cost(self, problem: ConvSpec) -> Cost | None:
        """That of all phases: where they are loops over elements, one loop for all that reads x once."""
        costs = [gpu_cost(self._of(phase), phase.problem) for phase in _phases(problem)]
        known = [cost for cost in costs if cost is not None]
        if len(known) < len(costs):
            return None
        total, out = total_cost(known), math.prod(problem.output_shape) * itemsize(problem.output_dtype)
        if not total.library:
            return dataclasses.replace(total, bytes=problem.bytes, calls=2)
        return dataclasses.replace(
            total, bytes=total.bytes + out, workspace=total.workspace + out, calls=total.calls + 2
        )

    @property
    def amplification(self) -> float:
        """A single tap may be a product."""
        return max(1.0, super().amplification)

    def error(self, problem: ConvSpec) -> float:
        errors = (self._of(phase).error(phase.problem) for phase in _phases(problem))
        return max(errors, default=direct_error(problem))

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        problem, lhs = layout.without_cropped(problem, lhs)
        axes = _axes(problem)
        results = {phase.index: self._of(phase)(phase.problem, lhs, phase.kernel(rhs)) for phase in _phases(problem)}
        shape = dict(zip(problem.dimension_numbers[2][2:], (axis.outputs for axis in axes), strict=True))
        zeros = jnp.zeros([shape.get(i, n) for i, n in enumerate(problem.output_shape)], problem.output_dtype)

        def interleaved(index: Ints) -> jax.Array:
            """The results whose phases begin with `index`, the phases of all later axes interleaved."""
            if len(index) == len(axes):
                return results.get(index, zeros)
            along = problem.dimension_numbers[2][2 + len(index)]
            y = jnp.stack([interleaved((*index, p)) for p in range(axes[len(index)].count)], axis=along + 1)
            y = lax.collapse(y, along, along + 2)
            return lax.slice_in_dim(y, 0, problem.output[len(index)], axis=along)

        return interleaved(())

    def _of(self, phase: "_Phase") -> Algorithm:
        """`by`, or a matrix product where the phase has a single tap and `by` does not take it."""
        single = phase.problem.taps == 1 and self.by.unsupported(phase.problem, "cpu")
        return Shift("dot") if single else self.by


@dataclasses.dataclass(frozen=True)
class _AxisPhase:
    """What outputs P q + p meet along one axis: taps `first`, `first` + `step`, ..., from `start` in x on."""

    taps: int
    first: int
    step: int
    start: int


@dataclasses.dataclass(frozen=True)
class _Axis:
    """The phases along one axis; None where no tap meets an element of x."""

    count: int
    outputs: int
    stride: int
    dilation: int
    phases: tuple[_AxisPhase | None, ...]


@dataclasses.dataclass(frozen=True)
class _Phase:
    """One convolution: the phase's number along every axis, its problem, and the slice of rhs that is its kernel."""

    index: Ints
    problem: ConvSpec
    start: Ints
    step: Ints

    def kernel(self, rhs: jax.Array) -> jax.Array:
        return layout.window_slice(rhs, 0, self.start, self.problem.rhs_shape, self.step)


def _axes(problem: ConvSpec) -> list[_Axis]:
    axes = []
    for n, k, outputs, s, d, b, (lo, _) in zip(
        problem.input,
        problem.kernel,
        problem.output,
        problem.strides,
        problem.rhs_dilation,
        problem.lhs_dilation,
        problem.padding,
        strict=True,
    ):
        count, step = b // math.gcd(b, s), b // math.gcd(b, d)
        each, stride, dilation = -(-outputs // count), s // math.gcd(b, s), d // math.gcd(b, d)
        phases: list[_AxisPhase | None] = []
        for p in range(count):
            first = next((t for t in range(min(k, step)) if (p * s + t * d - lo) % b == 0), None)
            phase = None
            if first is not None:
                phase = _AxisPhase(-(-(k - first) // step), first, step, (p * s + first * d - lo) // b)
                stop = phase.start + (each - 1) * stride + (phase.taps - 1) * dilation
                phase = phase if phase.start < n and stop >= 0 else None
            phases.append(phase)
        axes.append(_Axis(count, each, stride, dilation, tuple(phases)))
    return axes


def _phases(problem: ConvSpec) -> Iterator[_Phase]:
    """Every phase that meets an element of x; the others are zeros."""
    axes = _axes(problem)
    spatial = problem.dimension_numbers[1][2:]
    for index in itertools.product(*(range(axis.count) for axis in axes)):
        chosen = [axis.phases[p] for axis, p in zip(axes, index, strict=True)]
        met = [phase for phase in chosen if phase is not None]
        if len(met) < len(chosen):
            continue
        shape, start, step = list(problem.rhs_shape), [0] * len(problem.rhs_shape), [1] * len(problem.rhs_shape)
        padding = []
        for at, axis, phase, n in zip(spatial, axes, met, problem.input, strict=True):
            shape[at], start[at], step[at] = phase.taps, phase.first, phase.step
            stop = phase.start + (axis.outputs - 1) * axis.stride + (phase.taps - 1) * axis.dilation + 1
            padding.append((-phase.start, stop - n))
        phase_problem = dataclasses.replace(
            problem,
            rhs_shape=tuple(shape),
            strides=tuple(axis.stride for axis in axes),
            padding=tuple(padding),
            lhs_dilation=(1,) * problem.ndim,
            rhs_dilation=tuple(axis.dilation for axis in axes),
        )
        yield _Phase(index, phase_problem, tuple(start), tuple(step))
