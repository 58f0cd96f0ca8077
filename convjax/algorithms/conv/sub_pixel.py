"""Convolution of a dilated input as one of the input as it is: the phases of the output become channels.

y[n, b q + p, g, k] = sum over j, c of x[n, q + j - lo', g, c] w[b j + b - 1 - p, g, c, k]

With (p, k) as output channels this is a convolution of ceil(k / b) taps, the mirror image of `space_to_depth`. W. Shi
et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network,
arXiv:1609.05158. The kernel is filled up with zeros to whole phases, and the output begins up to b - 1 elements early.
"""

import dataclasses
import math
from typing import ClassVar

import jax
from jax import lax

from convjax import layout
from convjax.algorithms.conv.rewritten import Rewritten, added
from convjax.algorithms.protocol import Cost, Reasons, gpu_cost
from convjax.dtypes import itemsize
from convjax.problem import ConvSpec, Ints


@dataclasses.dataclass(frozen=True)
class SubPixel(Rewritten):
    """Every b-th output from each start as a channel of its own.

    Attributes:
        by: the algorithm of the convolution of the input as it is.
    """

    name: ClassVar[str] = "sub_pixel"
    revision: ClassVar[int] = 3

    def rewritten(self, problem: ConvSpec) -> ConvSpec:
        return _undilated(problem)

    def refused(self, problem: ConvSpec) -> Reasons:
        if set(problem.lhs_dilation) <= {1}:
            return ("the input is not dilated: there is one phase",)
        axes = zip(problem.lhs_dilation, problem.strides, problem.rhs_dilation, strict=True)
        if any(b > 1 and (s > 1 or d > 1) for b, s, d in axes):
            return (
                f"an axis of dilated input is strided {problem.strides} or its kernel {problem.rhs_dilation} dilated",
            )
        return ()

    def cost(self, problem: ConvSpec) -> Cost:
        moved = math.prod(_undilated(problem).output_shape) * itemsize(problem.output_dtype)
        cropped = _interleaved_size(problem) != problem.output  # a copy after the one that interleaves
        turned = 2 * math.prod(problem.rhs_shape) * itemsize(problem.rhs_dtype)
        interleaved = (4 if cropped else 2) * moved * max(1.0, 8 / problem.K)
        return self.cost_with(problem, interleaved + turned, moved, calls=2)

    def gpu_cost(self, problem: ConvSpec) -> Cost | None:
        if problem.has_few_outputs and problem.ndim > 1:  # weight gradients have been measured on lines alone
            return None
        inner = gpu_cost(self.by, _undilated(problem))
        moved = math.prod(_undilated(problem).output_shape) * itemsize(problem.output_dtype)
        turned = 2 * math.prod(problem.rhs_shape) * itemsize(problem.rhs_dtype)
        return inner and added(inner, 2 * moved + turned, held=moved, calls=2)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        problem, lhs = layout.without_cropped(problem, lhs)
        undilated, n, phases = _undilated(problem), problem.ndim, problem.lhs_dilation
        w = layout.arrange_rhs(problem, rhs, "SCGK")
        filled = [(0, j * b - k) for j, b, k in zip(undilated.kernel, phases, problem.kernel, strict=True)]
        w = layout.pad(w, [*filled, (0, 0), (0, 0), (0, 0)], [0] * w.ndim)
        w = w.reshape(*_interleaved(undilated.kernel, phases), problem.C, problem.G, problem.K)
        w = lax.rev(w, tuple(range(1, 2 * n, 2)))  # tap b - 1 - p at phase p
        w = lax.transpose(w, [*range(0, 2 * n, 2), 2 * n, 2 * n + 1, *range(1, 2 * n, 2), 2 * n + 2])  # J.. C G b.. K
        x = layout.arrange_lhs(problem, lhs, "NSGC").reshape(undilated.lhs_shape)
        y = self.by(undilated, x, w.reshape(undilated.rhs_shape))
        y = y.reshape(problem.N, *undilated.output, problem.G, *phases, problem.K)
        pairs = [axis for a in range(n) for axis in (1 + a, 2 + n + a)]
        y = lax.transpose(y, [0, *pairs, 1 + n, 2 + 2 * n])  # N Q b .. G K
        y = y.reshape(problem.N, *_interleaved_size(problem), problem.G, problem.K)
        return layout.restore_out(problem, layout.window_slice(y, 1, _early(problem), problem.output, (1,) * n), "NSGK")


def _undilated(problem: ConvSpec) -> ConvSpec:
    taps, padding = list(problem.kernel), list(problem.padding)
    for a, (b, k, early) in enumerate(zip(problem.lhs_dilation, problem.kernel, _early(problem), strict=True)):
        if b > 1:
            taps[a] = -(-k // b)
            lo = (problem.padding[a][0] + early - (b - 1)) // b
            outputs = -(-(problem.output[a] + early) // b)
            padding[a] = (lo, outputs + taps[a] - 1 - lo - problem.input[a])
    phases = math.prod(problem.lhs_dilation)
    return layout.channels_last(
        problem,
        problem.N,
        problem.input,
        tuple(taps),
        problem.C,
        strides=problem.strides,
        padding=tuple(padding),
        rhs_dilation=problem.rhs_dilation,
        rhs_shape=(*taps, problem.C, problem.G * phases * problem.K),
    )


def _interleaved_size(problem: ConvSpec) -> Ints:
    """Outputs made, some of them before the first or behind the last that is asked for."""
    return tuple(q * b for q, b in zip(_undilated(problem).output, problem.lhs_dilation, strict=True))


def _early(problem: ConvSpec) -> Ints:
    """Outputs made before the first, so that tap 0 belongs to the last phase and no phase needs a tap more."""
    return tuple((b - 1 - lo) % b for b, (lo, _) in zip(problem.lhs_dilation, problem.padding, strict=True))


def _interleaved(taps: Ints, phases: Ints) -> Ints:
    return tuple(n for pair in zip(taps, phases, strict=True) for n in pair)
