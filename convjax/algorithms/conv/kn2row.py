"""Products of x with all taps at once, added to the outputs that they belong to: for few output channels.

y[n, o, g, k] = sum over t of z[t, g, k, n, o + t d - lo], z[t, g, k, n, i] = sum over c of w[t, g, c, k] x[n, i, g, c]

One output channel of a hundred taps is a product of a hundred rows, and what is added is small. A. Vasudevan, A.
Anderson, D. Gregg, Parallel Multi Channel Convolution using General Matrix Multiplication, arXiv:1704.04428.
"""

import dataclasses
import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import layout
from convjax.algorithms.numerics import accumulator, direct_error
from convjax.algorithms.products import grouping_work, product_work, rows_by_columns
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.dtypes import dtype_of
from convjax.problem import ConvSpec

# Taps of one product; of larger kernels those of the first axis are looped over, so that z stays in cache.
_WRITTEN = 16
_MOST_WRITTEN = 32
# Elements from which on a row is long enough for vectors.
_ROW = 32


@dataclasses.dataclass(frozen=True)
class Kn2row:
    """Rows of the product are taps and output channels, columns the positions of x."""

    name: ClassVar[str] = "kn2row"
    version: ClassVar[int] = 3
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = ()
    __str__ = describe

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        if problem.empty:
            return ("there is nothing to multiply: an operand or the output is empty",)
        if set(problem.strides + problem.lhs_dilation) - {1}:
            strided = f"strides {problem.strides}, input dilation {problem.lhs_dilation}"
            return (f"every position of x is multiplied, of which outputs meet few ({strided})",)
        written = problem.taps // _turns(problem)
        if written > _MOST_WRITTEN:
            return (
                f"{written} taps beyond the first axis: above {_MOST_WRITTEN} shifted sums compiling takes too long",
            )
        return ()

    def cost(self, problem: ConvSpec) -> Cost:
        rows, turns = problem.taps * problem.K, _turns(problem)
        positions = problem.N * math.prod(problem.input)
        products = problem.G * rows * positions
        size = accumulator(problem).itemsize
        z = size * products
        slower, moved = grouping_work(problem)
        row = problem.input[-1] if problem.ndim else 1
        moved += 2 * size * math.prod(problem.output_shape)  # the result is turned
        # So is a kernel whose inputs are first; another is slower to read by several taps than by one.
        often = 5 if layout.channel_order(problem) == "GCK" else 3 if problem.taps > 1 else 0
        moved += often * size * math.prod(problem.rhs_shape)
        return Cost(
            gemm=min(slower, 1.3) * product_work(products * problem.C, rows // turns, problem.C),
            vector=3 * products * max(1.0, _ROW / row) ** 0.5,
            bytes=problem.bytes + moved + 2 * z,
            workspace=z / turns,
            calls=3 + 2 * turns,
        )

    def gpu_cost(self, problem: ConvSpec) -> Cost | None:
        """Of the weight gradients of depthwise layers, where it was seen to be the fastest."""
        if problem.G == 1 or problem.N * problem.K > 1:
            return None
        products = problem.G * problem.taps * math.prod(problem.input)
        z = accumulator(problem).itemsize * products
        turns = _turns(problem)
        return Cost(gemm=products * problem.C, bytes=problem.bytes + 2 * z, workspace=z / turns, calls=3 + 2 * turns)

    def error(self, problem: ConvSpec) -> float:
        return direct_error(problem)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        x = layout.arrange_lhs(problem, lhs, "GNSC").reshape(problem.G, -1, problem.C)
        w = layout.arrange_rhs(problem, rhs, "GSKC")
        y = _sum(problem, x, w) if _turns(problem) == 1 else _sum_of_rows(problem, x, w)
        return layout.restore_out(problem, y, "GKNS").astype(dtype_of(problem.output_dtype))


def _turns(problem: ConvSpec) -> int:
    """Turns of the loop over taps of the first axis; 1 where all are written out."""
    return 1 if problem.taps <= _WRITTEN else problem.kernel[0]


def _sum(problem: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """G positions C by G S K C: G K N S."""
    return _added(problem, x, w, [_around(problem, a) for a in range(problem.ndim)])


def _sum_of_rows(problem: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """The same, in turns, one for each tap of the first axis."""
    taps, dilation, size, outputs = problem.kernel[0], problem.rhs_dilation[0], problem.input[0], problem.output[0]
    lo, reach = problem.padding[0][0], (taps - 1) * dilation
    around = [[(0, 0)], *(_around(problem, a) for a in range(1, problem.ndim))]

    def add(tap: jax.Array, y: jax.Array) -> jax.Array:
        z = _added(problem, x, lax.dynamic_slice_in_dim(w, tap, 1, axis=1), around)
        at = (taps - 1 - tap) * dilation
        z += lax.dynamic_slice_in_dim(y, at, size, axis=3)
        return lax.dynamic_update_slice_in_dim(y, z, at, axis=3)

    # All that x reaches along the first axis, of which the outputs are a part or more.
    shape = (problem.G, problem.K, problem.N, size + reach, *problem.output[1:])
    y = lax.fori_loop(0, taps, add, jnp.zeros(shape, accumulator(problem)))
    rest = [(0, 0)] * (problem.ndim - 1)
    return layout.pad(y, [(0, 0)] * 3 + [(lo - reach, outputs - size - lo), *rest], [0] * y.ndim)


def _around(problem: ConvSpec, axis: int) -> list[tuple[int, int]]:
    """For each tap along an axis, what its products with all of x are padded by to be its share of the outputs."""
    k, d, (lo, _) = problem.kernel[axis], problem.rhs_dilation[axis], problem.padding[axis]
    return [(lo - t * d, problem.output[axis] - problem.input[axis] - lo + t * d) for t in range(k)]


def _added(problem: ConvSpec, x: jax.Array, w: jax.Array, around: list[list[tuple[int, int]]]) -> jax.Array:
    """The products of x with every tap of w, padded by what `around` has for it along every axis, and added up."""
    rows = w.reshape(problem.G, -1, problem.C)
    z = rows_by_columns(problem, rows, x, accumulator(problem), order="GKC")  # G (S K) positions
    z = z.reshape(problem.G, -1, problem.K, problem.N, *problem.input)
    terms = []
    for i, tap in enumerate(np.ndindex(*map(len, around))):
        beside = [pads[t] for pads, t in zip(around, tap, strict=True)]
        terms.append(layout.pad(z[:, i], [(0, 0)] * 3 + beside, [0] * (z.ndim - 1)))
    return functools.reduce(jnp.add, terms)
