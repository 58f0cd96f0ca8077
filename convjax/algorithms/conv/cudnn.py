"""What cuDNN has for a convolution, as XLA's GPU compiler finds it: seen on an H100 and an H200, jax 0.11.2.

Matrix units do dense convolutions, their gradients, and groups of several channels. Depthwise layers have kernels of
their own, of few sizes. The rest is done one output after another.
"""

import math

from convjax import sizes
from convjax.algorithms.protocol import Cost
from convjax.dtypes import itemsize
from convjax.problem import ConvSpec

# Results of each channel up to which a layer counts as depthwise, and is none of matrix products.
_FEW = 16
# Taps that the kernel of no layer has.
_TAPS = 64
# Input channels, and output channels of an input gradient, that matrix units take as long for as for fewer.
_INPUTS, _GRADIENTS = 10, 32
# How much slower they are in the weight gradient of a transposed layer, at least, and of a dilated one.
_TRANSPOSED, _DILATED = 100, 10
# Groups that depthwise kernels take as long for as for fewer.
_GROUPS = 32
# Elements a side of the depthwise kernels of two axes, and of those whose weight gradients in 32 bits there are.
_SIDES, _GRADIENT_SIDES = (1, 3, 5, 7), (1, 3, 5)


def cudnn_cost(problem: ConvSpec) -> Cost:
    """By matrix units, by a depthwise kernel, or one output after another."""
    if _is_general(problem):
        return Cost(scalar=problem.products, bytes=problem.bytes)
    if _is_depthwise(problem):
        few = 1.0 if problem.batch_groups > 1 else max(1.0, _GROUPS / problem.G)
        return Cost(vector=few * (0.6 if problem.K == 1 else 1.5) * problem.products, bytes=problem.bytes)
    return Cost(library=_slower(problem) * problem.products / math.prod(problem.lhs_dilation), bytes=problem.bytes)


def _slower(problem: ConvSpec) -> float:
    """How much slower matrix units are than where all channels fill them."""
    dilated = max(problem.lhs_dilation, default=1) > 1
    if is_long(problem):
        return _TRANSPOSED if dilated else _DILATED if set(problem.strides) != {1} else 1.0
    if problem.ndim != 2:  # of one axis and of three, few channels have not been seen to be slow
        return 1.0
    return max(1.0, _GRADIENTS / max(1, problem.K) if dilated else _INPUTS / max(1, problem.C))


def _is_depthwise(problem: ConvSpec) -> bool:
    """Whether it is of single channels, or the gradient of their weights, which sums over a batch."""
    of_weights = problem.N == problem.K == 1 and (problem.batch_groups > 1 or is_long(problem))
    return problem.G > 1 and ((problem.C == 1 and problem.K <= _FEW) or of_weights)


def is_long(problem: ConvSpec) -> bool:
    """Whether the kernel is long as the cotangent is that it is in a weight gradient, along all of its input."""
    sizes_along = zip(
        problem.input, problem.kernel, problem.lhs_dilation, problem.rhs_dilation, problem.padding, strict=True
    )
    return problem.taps > _TAPS and all(
        2 * sizes.dilated(k, d) > sizes.dilated(n, b) + lo + hi for n, k, b, d, (lo, hi) in sizes_along
    )


def _is_general(problem: ConvSpec) -> bool:
    """Whether there is neither a call by matrix units nor a depthwise kernel for it.

    XLA does not see a weight gradient that is strided, as a dilated layer's is, or a depthwise one whose input is
    dilated, as a transposed layer's. The strided one of planes without groups is a convolution that cuDNN has.
    """
    strided, dilated = set(problem.strides) != {1}, set(problem.lhs_dilation) != {1}
    if is_long(problem) and strided and (problem.ndim != 2 or problem.G > 1):
        return True
    if is_long(problem) and dilated and _is_depthwise(problem):
        return True
    if not _is_depthwise(problem):
        return False
    of_weights = problem.batch_groups > 1 or problem.C > 1
    sides = _GRADIENT_SIDES if of_weights and itemsize(problem.lhs_dtype) >= 4 else _SIDES
    size = problem.output if of_weights else problem.kernel
    return problem.ndim != 2 or size[0] != size[1] or size[0] not in sides
