"""A convolution over volumes as one over planes: the taps of the first axis become channels.

y[n, z, o, g, k] = sum over t, (r, c) of x[n, z s + r d - lo, o + t, g, c] w[r, t, g, c, k]

Every output plane z is a member of the batch that sees the planes its taps r meet side by side.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from convjax import layout
from convjax.algorithms.conv.rewritten import Rewritten
from convjax.algorithms.protocol import Cost, Reasons
from convjax.dtypes import itemsize
from convjax.problem import ConvSpec

# Depth taps copied side by side.
_MOST_TAPS = 16


@dataclasses.dataclass(frozen=True)
class FoldDepth(Rewritten):
    """Depth's taps and planes folded into channels and batch.

    Attributes:
        by: the algorithm of the planes.
    """

    name: ClassVar[str] = "fold_depth"

    def rewritten(self, problem: ConvSpec) -> ConvSpec:
        return _planes(problem)

    def refused(self, problem: ConvSpec) -> Reasons:
        if problem.ndim < 3:
            return (f"{problem.ndim} spatial axes have no depth to fold",)
        if problem.kernel[0] > _MOST_TAPS:
            return (f"{problem.kernel[0]} taps along depth: more than {_MOST_TAPS} copies of x",)
        return ()

    def cost(self, problem: ConvSpec) -> Cost:
        moved = math.prod(_planes(problem).lhs_shape) * itemsize(problem.lhs_dtype)
        return self.cost_with(problem, 2 * moved * max(1.0, 16 / problem.C), moved, calls=2)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        planes, n = _planes(problem), problem.ndim
        depth, taps = problem.output[0], problem.kernel[0]
        x = layout.arrange_lhs(problem, lhs, "NSGC")
        unpadded = ((0, 0),) * (n - 1)
        interior = [0, problem.lhs_dilation[0] - 1] + [0] * (n + 1)
        x = layout.pad(x, [(0, 0), problem.padding[0], *unpadded, (0, 0), (0, 0)], interior)
        slices = [
            layout.window_slice(x, 1, [r * problem.rhs_dilation[0]], [depth], [problem.strides[0]]) for r in range(taps)
        ]
        x = jnp.stack(slices, axis=-2)  # N Z S G R C
        w = layout.arrange_rhs(problem, rhs, "SCGK")
        w = lax.transpose(w, [*range(1, n), 0, n, n + 1, n + 2])  # S R C G K
        y = self.by(planes, x.reshape(planes.lhs_shape), w.reshape(planes.rhs_shape))
        y = y.reshape(problem.N, *problem.output, problem.G, problem.K)
        return layout.restore_out(problem, y, "NSGK")


def _planes(problem: ConvSpec) -> ConvSpec:
    return layout.channels_last(
        problem,
        problem.N * problem.output[0],
        problem.input[1:],
        problem.kernel[1:],
        problem.kernel[0] * problem.C,
        strides=problem.strides[1:],
        padding=problem.padding[1:],
        lhs_dilation=problem.lhs_dilation[1:],
        rhs_dilation=problem.rhs_dilation[1:],
    )
