"""oneDNN's direct convolution, which jaxlib brings: blocks of outputs in registers, depthwise ones and groups' too.

E. Georganas et al., Anatomy of High-Performance Deep Learning Convolutions on SIMD Architectures, SC 2018.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from convjax import layout
from convjax.algorithms import onednn
from convjax.algorithms.numerics import direct_error
from convjax.algorithms.products import product_work
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.dtypes import itemsize
from convjax.problem import ConvSpec

_MOST_ELEMENTS = 2**31 - 1
# Multiply-adds of a product that one takes the time of: of many channels, and of depthwise layers.
_DENSE, _DEPTHWISE = 0.95, 2.2
# The same of a weight gradient, which is no kernel that oneDNN has blocks of registers for.
_FEW_OUTPUTS, _FEW_OUTPUTS_OF_GROUPS = 4.0, 20.0
# The same of a single channel, beside which there is one of zeros.
_ONE_CHANNEL = 4.0
# How many times as long they take where windows do not overlap.
_PATCHES = 1.1
# How much less of that time products by padding take, most of which are left out.
_PADDING = 0.75
# Taps that take twice as long as one does for each: a long kernel is read from memory again and again.
_LONG = 800
# Outputs of a row that fill its registers, where a kernel is longer than they are.
_ROW = 8


def _work(problem: ConvSpec) -> float:
    """Multiply-adds of a product that the call takes the time of: vectors are of a group's outputs, or of groups."""
    if problem.G > 1 and problem.C == problem.K == 1:
        row = problem.output[-1] if problem.has_few_outputs else _ROW
        return _DEPTHWISE * max(1.0, _ROW / row) * problem.products
    filled = product_work(problem.products, problem.K)
    if problem.has_few_outputs:
        return (_FEW_OUTPUTS if problem.G == 1 else _FEW_OUTPUTS_OF_GROUPS) * filled
    if problem.C == 1 and problem.G == 1:
        return _ONE_CHANNEL * filled
    spans = ((o - 1) * s + 1 for o, s in zip(problem.output, problem.strides, strict=True))
    within = math.prod(min(1.0, n / span) for n, span in zip(problem.input, spans, strict=True))
    filled *= 1 - _PADDING * (1 - within)
    if problem.G > 1:
        return (1.0 + 3.0 / problem.C) * filled
    patches = _PATCHES if problem.taps > 1 and problem.strides == problem.kernel else 1.0
    return _DENSE * (1 + problem.taps / _LONG) * patches * filled


@dataclasses.dataclass(frozen=True)
class OneDNN:
    """One call; operands are read as they lie, and brought into oneDNN's order where that is another."""

    name: ClassVar[str] = "onednn"
    version: ClassVar[int] = 1
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = ()
    opaque: ClassVar[bool] = True
    __str__ = describe

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        if platform != "cpu":
            return ("it is for CPUs",)
        if why := onednn.missing():
            return (why,)
        reasons = []
        if {problem.lhs_dtype, problem.rhs_dtype, problem.output_dtype} != {"float32"}:
            reasons.append("it is called for float32 alone")
        if problem.empty:
            reasons.append("an operand or the output is empty: there is nothing to compute")
        if not 1 <= problem.ndim <= 3:
            reasons.append(f"it has 1 to 3 spatial axes, not {problem.ndim}")
        if max(problem.lhs_dilation, default=1) > 1:
            reasons.append("the input is dilated")
        if max(map(math.prod, (problem.lhs_shape, problem.rhs_shape, problem.output_shape))) > _MOST_ELEMENTS:
            reasons.append(f"it counts to {_MOST_ELEMENTS} elements")
        return tuple(reasons)

    def cost(self, problem: ConvSpec) -> Cost:
        """Of one call, its kernel packed anew each time: by gather where its input channels come last."""
        size = itemsize(problem.rhs_dtype)
        kernel = size * math.prod(problem.rhs_shape)
        moved = (4 if layout.channel_order(problem) == "GKC" else 2) * kernel
        for numbers, shape in ((0, problem.lhs_shape), (2, problem.output_shape)):
            feature = problem.dimension_numbers[numbers][1]
            moved += 4 * size * math.prod(shape) * (feature <= problem.ndim)  # channels are brought to the end
        return Cost(gemm=_work(problem), bytes=problem.bytes + moved, workspace=kernel, calls=6)

    def error(self, problem: ConvSpec) -> float:
        return direct_error(problem)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        """Channels come last in lhs and in the result: elsewhere oneDNN 3.7 has products that leave results unwritten.

        A line is a plane of one row, for which it has depthwise kernels. A single channel gets one of zeros beside it,
        since oneDNN 3.7 may read more than it.
        """
        problem, lhs = layout.without_cropped(problem, lhs)
        x = layout.arrange_lhs(problem, lhs, "NSGC").reshape(problem.N, *problem.input, problem.G * problem.C)
        padding = problem.padding
        if any(min(pair) < 0 for pair in padding):  # all of x is cropped, and of its padding too
            x, padding = layout.pad_spatial(problem, x, first=1), ((0, 0),) * problem.ndim
        kernel, strides, dilation = problem.dimension_numbers[1], problem.strides, problem.rhs_dilation
        if problem.ndim == 1:
            x, rhs, padding = x[:, None], rhs[None], ((0, 0), *padding)
            features, channels, taps = kernel
            kernel, strides, dilation = (features + 1, channels + 1, 0, taps + 1), (1, *strides), (1, *dilation)
        if x.shape[-1] == 1:
            x, rhs = (jnp.concatenate([a, jnp.zeros_like(a)], axis) for a, axis in ((x, -1), (rhs, kernel[1])))
        last = (0, x.ndim - 1, *range(1, x.ndim - 1))
        y = onednn.convolution(
            x,
            rhs,
            numbers=(last, kernel, last),
            padding=padding,
            strides=strides,
            dilation=dilation,
            groups=problem.G,
        )
        return layout.restore_out(problem, y.reshape(problem.N, *problem.output, problem.G, problem.K), "NSGK")
