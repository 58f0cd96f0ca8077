"""Dilated convolution as an undilated one: the phases of x, which never meet, become members of the batch.

y[n, q d + p, g, k] = sum over t, c of x[n, (q + t) d + p - lo, g, c] w[t, g, c, k]

Outputs o = q d + p of one phase p read every d-th element of x. Where the stride divides the dilation, or the other way
round, elements that no output reads are left out first.
"""

import dataclasses
import math
from typing import ClassVar

import jax
from jax import lax

from convjax import layout, sizes
from convjax.algorithms.conv.rewritten import Rewritten
from convjax.algorithms.protocol import Cost, Reasons
from convjax.dtypes import itemsize
from convjax.problem import ConvSpec, Ints


@dataclasses.dataclass(frozen=True)
class SpaceToBatch(Rewritten):
    """One convolution of all phases at once.

    Attributes:
        by: the algorithm of the undilated convolution.
    """

    name: ClassVar[str] = "space_to_batch"
    revision: ClassVar[int] = 2

    def rewritten(self, problem: ConvSpec) -> ConvSpec:
        return _undilated(problem)

    def refused(self, problem: ConvSpec) -> Reasons:
        if set(problem.rhs_dilation) <= {1}:
            return ("the kernel is not dilated: there is one phase",)
        if any(s % d and d % s for s, d in zip(problem.strides, problem.rhs_dilation, strict=True)):
            return (f"strides {problem.strides} and dilations {problem.rhs_dilation} do not divide one another",)
        return ()

    def cost(self, problem: ConvSpec) -> Cost:
        undilated = _undilated(problem)
        moved = math.prod(undilated.lhs_shape) * itemsize(problem.lhs_dtype)
        moved += math.prod(undilated.output_shape) * itemsize(problem.output_dtype)
        return self.cost_with(problem, 4 * moved * max(1.0, 16 / problem.C), moved, calls=2)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        undilated, phases, n = _undilated(problem), _phases(problem), problem.ndim
        steps = [math.gcd(s, d) for s, d in zip(problem.strides, problem.rhs_dilation, strict=True)]
        rows = [size * p for size, p in zip(undilated.input, phases, strict=True)]
        size = [sizes.dilated(r, step) for r, step in zip(rows, steps, strict=True)]
        x = layout.pad_spatial(problem, layout.arrange_lhs(problem, lhs, "NSGC"), first=1, size=size)
        x = layout.window_slice(x, 1, [0] * n, rows, steps)
        split = [m for pair in zip(undilated.input, phases, strict=True) for m in pair]
        x = x.reshape(problem.N, *split, problem.G, problem.C)
        x = lax.transpose(x, [0, *range(2, 2 * n + 1, 2), *range(1, 2 * n, 2), 2 * n + 1, 2 * n + 2])  # N d.. Q.. G C
        w = layout.arrange_rhs(problem, rhs, "SCGK").reshape(undilated.rhs_shape)

        y = self.by(undilated, x.reshape(undilated.lhs_shape), w)
        y = y.reshape(problem.N, *phases, *undilated.output, problem.G, problem.K)
        interleaved = [axis for i in range(n) for axis in (1 + n + i, 1 + i)]
        y = lax.transpose(y, [0, *interleaved, 2 * n + 1, 2 * n + 2])  # N Q d .. G K
        whole = [size * p for size, p in zip(undilated.output, phases, strict=True)]
        y = y.reshape(problem.N, *whole, problem.G, problem.K)
        y = layout.window_slice(y, 1, [0] * n, problem.output, [1] * n)
        return layout.restore_out(problem, y, "NSGK")


def _phases(problem: ConvSpec) -> Ints:
    """Phases along every axis once the elements that no output reads are left out."""
    return tuple(d // math.gcd(s, d) for s, d in zip(problem.strides, problem.rhs_dilation, strict=True))


def _undilated(problem: ConvSpec) -> ConvSpec:
    phases = _phases(problem)
    strides = tuple(s // math.gcd(s, d) for s, d in zip(problem.strides, problem.rhs_dilation, strict=True))
    outputs = [-(-o // p) for o, p in zip(problem.output, phases, strict=True)]
    size = tuple((o - 1) * s + k for o, s, k in zip(outputs, strides, problem.kernel, strict=True))
    N = problem.N * math.prod(phases)
    return layout.channels_last(problem, N, size, problem.kernel, problem.C, strides=strides)
