"""Patches copied out side by side, then one matrix product: y = patches (N S x T C) . w (T C x K).

K. Chellapilla, S. Puri, P. Simard, High Performance Convolutional Neural Networks for Document
Processing, 2006.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from convjax import layout
from convjax.algorithms.numerics import accumulator, direct_error
from convjax.algorithms.products import grouping_work, product_work, rows_by_columns
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.dtypes import dtype_of, itemsize
from convjax.problem import ConvSpec

# XLA indexes buffers with 32 bits in places; a patch matrix beyond that came out silently wrong elsewhere.
_MOST_ELEMENTS = 2**31 - 1
_MOST_TAPS = 128
# Channels up to which patches are copied axis by axis, and taps from which on they are because of what compiling takes.
_FEW_CHANNELS, _MANY_TAPS = 8, 49


@dataclasses.dataclass(frozen=True)
class Im2col:
    """The classic: memory for one large, regular product."""

    name: ClassVar[str] = "im2col"
    version: ClassVar[int] = 8
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = ()
    __str__ = describe

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        reasons = []
        if _elements(problem) > _MOST_ELEMENTS:
            reasons.append(f"the patches have {_elements(problem)} elements, more than {_MOST_ELEMENTS} can be indexed")
        if problem.taps > _MOST_TAPS:
            reasons.append(f"{problem.taps} taps: above {_MOST_TAPS} slices compiling takes too long")
        return tuple(reasons)

    def cost(self, problem: ConvSpec) -> Cost:
        _, moved = grouping_work(problem)
        slower = 1.3 if problem.G > 1 else 1.0  # less than other products of groups: patches are long rows
        if problem.dimension_numbers[0][1] <= problem.ndim:
            moved += 4 * itemsize(problem.lhs_dtype) * math.prod(problem.lhs_shape)  # channels are brought to the end
        if problem.dimension_numbers[2][0] > 0 and problem.N > 1 < math.prod(problem.output):
            moved += 2 * itemsize(problem.output_dtype) * math.prod(problem.output_shape)  # rows are put among images
        gemm = slower * product_work(problem.products, problem.taps * problem.C, problem.K)
        if problem.taps == 1 and set(problem.strides) == {1}:
            return Cost(gemm=gemm, bytes=problem.bytes + moved)
        patches, copied = (n * itemsize(problem.lhs_dtype) for n in (_elements(problem), _copied(problem)))
        if layout.channel_order(problem) == "GKC":  # a tap's weights are brought beside the next one's
            copied += 2 * itemsize(problem.rhs_dtype) * math.prod(problem.rhs_shape)
        return Cost(gemm=gemm, bytes=problem.bytes + moved + copied, workspace=patches, calls=6)

    def gathers(self, problem: ConvSpec) -> bool:
        return problem.has_few_outputs

    def error(self, problem: ConvSpec) -> float:
        return direct_error(problem)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return self._convolved(problem, lhs, rhs, step=1)

    def of_reversed(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return self._convolved(problem, lhs, rhs, step=-1)

    def _convolved(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array, step: int) -> jax.Array:
        """The result for rhs read with `step` along its spatial axes: what is copied of lhs stands in that order."""
        x = layout.pad_spatial(problem, layout.arrange_lhs(problem, lhs, "GNSC"), first=2)
        for axes in _passes(problem):
            x = _patches(problem, x, axes, step)
        # A large kernel whose channels are turned around takes as long as the product where positions are few.
        order = layout.channel_order(problem)
        w = layout.arrange_rhs(problem, rhs, "GSCK" if order == "GCK" else "GKSC")
        rows = problem.taps * problem.C
        w = w.reshape(problem.G, *((rows, problem.K) if order == "GCK" else (problem.K, rows)))
        y = rows_by_columns(problem, x, w, accumulator(problem), order)  # G N S K
        return layout.restore_out(problem, y, "GNSK").astype(dtype_of(problem.output_dtype))


def _passes(problem: ConvSpec) -> list[slice]:
    """The axes whose taps are copied at a time: all, or the last first, beside which the next are longer runs."""
    if problem.C <= _FEW_CHANNELS or problem.taps >= _MANY_TAPS:
        return [slice(axis, axis + 1) for axis in reversed(range(problem.ndim))]
    return [slice(0, problem.ndim)]


def _patches(problem: ConvSpec, x: jax.Array, axes: slice, step: int) -> jax.Array:
    """G N S C with the taps of `axes`, read with `step`, beside the channels: G N S (T C)."""
    dilation, output, strides = (of[axes] for of in (problem.rhs_dilation, problem.output, problem.strides))
    offsets = [[t * d for t, d in zip(tap, dilation, strict=True)] for tap in np.ndindex(*problem.kernel[axes])]
    first = 2 + axes.start
    return jnp.concatenate([layout.window_slice(x, first, o, output, strides) for o in offsets[::step]], axis=-1)


def _copied(problem: ConvSpec) -> float:
    """Elements that a plain copy would have time for: it is far from runs of channels, the shorter or farther apart."""
    size, channels, copied = [*layout.padded_size(problem)], problem.C, 0.0
    apart = 8 if max(problem.strides, default=1) > 1 else 6
    for axes in _passes(problem):
        size[axes], taps = problem.output[axes], math.prod(problem.kernel[axes])
        elements = problem.N * problem.G * math.prod(size) * taps * channels
        few = problem.C <= _FEW_CHANNELS
        copied += 4 * (1 + 2 / max(1, channels)) * elements if few else apart * product_work(elements, channels)
        channels *= taps
    return copied


def _elements(problem: ConvSpec) -> int:
    return problem.N * math.prod(problem.output) * problem.G * problem.C * problem.taps
