"""A long line in overlapping blocks, each convolved by a short transform whose wrapped outputs are dropped.

A. Oppenheim, R. Schafer, Discrete-Time Signal Processing, section 8.7.3. Overlap-add, its transpose, adds the tails of
blocks instead; both take log2 of the block's length in place of the line's.
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
from convjax.problem import ConvSpec

# Blocks read this many times what they share with the next, which is near the least work an output.
_BLOCK = 4


@dataclasses.dataclass(frozen=True)
class OverlapSave(Rewritten):
    """Blocks of a line as members of the batch.

    Attributes:
        by: the algorithm of the blocks.
    """

    name: ClassVar[str] = "overlap_save"
    revision: ClassVar[int] = 2

    def rewritten(self, problem: ConvSpec) -> ConvSpec:
        return _blocks(problem)

    def refused(self, problem: ConvSpec) -> Reasons:
        if problem.ndim != 1:
            return (f"a line has one spatial axis, the problem has {problem.ndim}",)
        if problem.strides[0] > 1:
            return (f"stride {problem.strides[0]}: blocks would compute what is dropped",)
        if _reach(problem) < 2:
            return ("a single tap: blocks do not overlap",)
        if _count(problem) < 2:
            return (f"{problem.output[0]} outputs fill less than two blocks of {_outputs(problem)}",)
        return ()

    def cost(self, problem: ConvSpec) -> Cost:
        moved = math.prod(_blocks(problem).lhs_shape) * itemsize(problem.lhs_dtype)
        return self.cost_with(problem, 2 * moved, moved, calls=2)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        blocks, count, outputs = _blocks(problem), _count(problem), _outputs(problem)
        shared = _reach(problem) - 1
        # One block more than there are, whose beginning is the overlap of the last.
        x = layout.arrange_lhs(problem, lhs, "NSGC")
        x = layout.pad_spatial(problem, x, first=1, size=[(count + 1) * outputs])
        x = x.reshape(problem.N, count + 1, outputs, problem.G, problem.C)
        x = lax.concatenate([x[:, :-1], x[:, 1:, :shared]], 2)  # N B (outputs + shared) G C
        w = layout.arrange_rhs(problem, rhs, "SCGK")
        y = self.by(blocks, x.reshape(blocks.lhs_shape), w.reshape(blocks.rhs_shape))
        y = y.reshape(problem.N, count * outputs, problem.G, problem.K)
        return layout.restore_out(problem, lax.slice_in_dim(y, 0, problem.output[0], axis=1), "NSGK")


def _reach(problem: ConvSpec) -> int:
    """Elements from a window's first tap to its last."""
    return sizes.dilated(problem.kernel[0], problem.rhs_dilation[0])


def _outputs(problem: ConvSpec) -> int:
    """Outputs of one block, at least as many as blocks share elements: block and overlap are a power of two."""
    return (1 << (_BLOCK * (_reach(problem) - 1) - 1).bit_length()) - (_reach(problem) - 1)


def _count(problem: ConvSpec) -> int:
    return -(-problem.output[0] // _outputs(problem))


def _blocks(problem: ConvSpec) -> ConvSpec:
    size = _outputs(problem) + _reach(problem) - 1
    return layout.channels_last(
        problem,
        problem.N * _count(problem),
        (size,),
        problem.kernel,
        problem.C,
        rhs_dilation=problem.rhs_dilation,
    )
