"""Strided convolution as one of stride 1: the phases of x become channels.

y[n, o, g, k] = sum over q, p, c of x[n, (o + q) s + p - lo, g, c] w[q s + p, g, c, k]

With (p, c) as channels this is a convolution of ceil(k / s) taps. Patches, whose stride is their size, are left with
one tap, i.e. a reshape and one matrix product; a stem of few channels gets s^2 times as many. The kernel is filled up
with zeros to whole strides.
"""

import dataclasses
import math
from typing import ClassVar

import jax
from jax import lax

from convjax import layout
from convjax.algorithms.conv.rewritten import Rewritten, added
from convjax.algorithms.products import turning_work
from convjax.algorithms.protocol import Cost, Reasons, gpu_cost
from convjax.dtypes import itemsize
from convjax.problem import ConvSpec, Ints


@dataclasses.dataclass(frozen=True)
class SpaceToDepth(Rewritten):
    """Every s-th element from each start as a channel of its own.

    Attributes:
        by: the algorithm of the convolution of stride 1.
    """

    name: ClassVar[str] = "space_to_depth"
    revision: ClassVar[int] = 4

    def rewritten(self, problem: ConvSpec) -> ConvSpec:
        return _unstrided(problem)

    def refused(self, problem: ConvSpec) -> Reasons:
        if set(problem.strides) <= {1}:
            return ("no axis is strided: there is one phase",)
        if any(s > 1 and d > 1 for s, d in zip(problem.strides, problem.rhs_dilation, strict=True)):
            return (f"an axis is both strided and dilated (strides {problem.strides}, {problem.rhs_dilation})",)
        return ()

    def cost(self, problem: ConvSpec) -> Cost:
        held = _held(problem)
        padded = any(map(any, problem.padding))  # a copy before the one that rearranges
        # Runs shorter than a vector are moved element by element, as slowly as 16 channels; no run at full speed.
        rearranged = (4 if padded else 2) * max(1.5, 16 / problem.C) * held + turning_work(problem)
        return self.cost_with(problem, rearranged, held, calls=3)

    def gpu_cost(self, problem: ConvSpec) -> Cost | None:
        if problem.has_few_outputs:  # a weight gradient of a dilated layer, which this makes no better known to cuDNN
            return None
        inner = gpu_cost(self.by, _unstrided(problem))
        held = _held(problem)
        return inner and added(inner, 2 * held, held=held, calls=1)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        unstrided, n, strides = _unstrided(problem), problem.ndim, problem.strides
        size = [q * s for q, s in zip(unstrided.input, strides, strict=True)]
        x = layout.pad_spatial(problem, layout.arrange_lhs(problem, lhs, "NSGC"), first=1, size=size)
        x = x.reshape(problem.N, *_interleaved(unstrided.input, strides), problem.G, problem.C)
        blocks, phases = range(1, 2 * n, 2), range(2, 2 * n + 1, 2)
        x = lax.transpose(x, [0, *blocks, 2 * n + 1, *phases, 2 * n + 2])  # N L.. G s.. C
        w = layout.arrange_rhs(problem, rhs, "SCGK")
        filled = [(0, q * s - k) for q, s, k in zip(unstrided.kernel, strides, problem.kernel, strict=True)]
        w = layout.pad(w, [*filled, (0, 0), (0, 0), (0, 0)], [0] * w.ndim)
        w = w.reshape(*_interleaved(unstrided.kernel, strides), problem.C, problem.G, problem.K)
        blocks, phases = range(0, 2 * n, 2), range(1, 2 * n, 2)
        w = lax.transpose(w, [*blocks, *phases, 2 * n, 2 * n + 1, 2 * n + 2])  # Q.. s.. C G K
        y = self.by(unstrided, x.reshape(unstrided.lhs_shape), w.reshape(unstrided.rhs_shape))
        y = y.reshape(problem.N, *problem.output, problem.G, problem.K)
        return layout.restore_out(problem, y, "NSGK")


def _unstrided(problem: ConvSpec) -> ConvSpec:
    taps = tuple(-(-k // s) for k, s in zip(problem.kernel, problem.strides, strict=True))
    blocks = tuple(o + (q - 1) * d for o, q, d in zip(problem.output, taps, problem.rhs_dilation, strict=True))
    phases = math.prod(problem.strides)
    return layout.channels_last(problem, problem.N, blocks, taps, phases * problem.C, rhs_dilation=problem.rhs_dilation)


def _interleaved(blocks: Ints, strides: Ints) -> Ints:
    return tuple(n for pair in zip(blocks, strides, strict=True) for n in pair)


def _held(problem: ConvSpec) -> int:
    """Bytes of x rearranged."""
    return math.prod(_unstrided(problem).lhs_shape) * itemsize(problem.lhs_dtype)
