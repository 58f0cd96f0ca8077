"""Sum over kernel taps of the shifted input times that tap's weights; no patch is ever stored.

y[n, o, g, k] = sum over t, c of x[n, o s + t d, g, c] w[t, g, c, k]
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import ClassVar, Literal

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

# Terms written out in one fused expression; above it the loop over outer taps is rolled, or compiling takes for ever.
_UNROLLED = 64
_MOST_PRODUCTS = 128
# A turn of a loop costs as much as this many kernels, whatever it adds: one with many taps written out, and one with
# a single tap.
_CALLS_A_TURN = 100
_CALLS_A_SINGLE_TURN = 5


@dataclasses.dataclass(frozen=True)
class Shift:
    """One term a tap, either a multiply-add or a matrix product.

    Attributes:
        by: "multiply" for few channels a group (depthwise), where one fused loop adds all taps; "dot" for
            many, where each tap is a product of N S x C by C x K.
    """

    by: Literal["multiply", "dot"] = "dot"

    name: ClassVar[str] = "shift"
    version: ClassVar[int] = 1
    exact: ClassVar[bool] = True
    __str__ = describe

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        if self.by == "multiply" and problem.C * problem.K > 64:
            return (f"{problem.C} x {problem.K} channels a group are a matrix product, not a multiply-add: by='dot'",)
        if self.by == "dot" and problem.taps > _MOST_PRODUCTS:
            return (f"{problem.taps} taps would be as many matrix products, more than {_MOST_PRODUCTS}",)
        return ()

    def cost(self, problem: ConvSpec) -> Cost:
        size = accumulator(problem).itemsize
        out = problem.N * math.prod(problem.output) * problem.G
        dilated = problem.N * problem.G * problem.C * math.prod(_padded_size(problem))
        padded = 2 * size * dilated if dilated != math.prod(problem.lhs_shape) else 0
        if self.by == "multiply":
            outer = _rolled_axes(problem)
            turns = math.prod(problem.kernel[:outer])
            # A fused loop of multiply-adds outruns other vector code while a group's weights stay in registers.
            speed = 0.6 if problem.C * problem.K <= 16 else 1.0
            turn = _CALLS_A_TURN if 0 < outer < problem.ndim else _CALLS_A_SINGLE_TURN
            return Cost(
                vector=speed * problem.macs,
                bytes=problem.bytes + padded + 2 * size * out * problem.K * (turns - 1),
                workspace=padded / 2,
                calls=2 + turns * turn,
            )
        slower, moved = grouping_work(problem)
        copied = 0 if problem.taps == 1 and set(problem.strides) <= {1} else 2 * size * out * problem.C
        added = (problem.taps - 1) * 3 * size * out * problem.K
        return Cost(
            gemm=slower * product_work(problem.macs, problem.C, problem.K),
            bytes=problem.bytes + moved + padded + problem.taps * copied + added,
            workspace=padded / 2 + copied / 2 + size * out * problem.K,
            calls=2 * problem.taps,
        )

    def error(self, problem: ConvSpec) -> float:
        return direct_error(problem)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        dtype = accumulator(problem)
        order, first = ("NSGC", 1) if self.by == "multiply" else ("GNSC", 2)
        x = layout.pad_spatial(problem, layout.arrange_lhs(problem, lhs, order), first)
        w = layout.arrange_rhs(problem, rhs, "SGCK")
        term = _multiply if self.by == "multiply" else rows_by_columns
        outer = _rolled_axes(problem) if self.by == "multiply" else 0

        def add_inner(total: jax.Array | None, x: jax.Array, w: jax.Array) -> jax.Array:
            """Adds the taps of the inner axes, written out; x and w are sliced to one tap of the outer ones."""
            for tap in layout.taps(problem)[: math.prod(problem.kernel[outer:])]:
                inner = tap[outer:]
                offset = [0] * outer + [t * d for t, d in zip(inner, problem.rhs_dilation[outer:], strict=True)]
                shifted = layout.window_slice(x, first, offset, problem.output, problem.strides)
                product = term(problem, shifted, w[inner], dtype)
                total = product if total is None else total + product
            assert total is not None
            return total

        y = add_inner(None, x, w) if outer == 0 else _rolled(problem, x, w, dtype, outer, add_inner)
        return layout.restore_out(problem, y, order[:-1] + "K").astype(dtype_of(problem.output_dtype))


def _rolled(
    problem: ConvSpec,
    x: jax.Array,
    w: jax.Array,
    dtype: np.dtype,
    outer: int,
    add_inner: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Loops over the taps of the first `outer` kernel axes; each turn adds the taps of the inner ones."""
    kernel, dilation = problem.kernel[:outer], problem.rhs_dilation[:outer]
    extent = [(o - 1) * s + 1 for o, s in zip(problem.output, problem.strides, strict=True)][:outer]
    w = w.reshape(math.prod(kernel), *w.shape[outer:])

    def body(flat: jax.Array, total: jax.Array) -> jax.Array:
        tap = jnp.unravel_index(flat, kernel)
        start = [0] + [t * d for t, d in zip(tap, dilation, strict=True)] + [0] * (x.ndim - 1 - outer)
        block = lax.dynamic_slice(x, start, [x.shape[0], *extent, *x.shape[1 + outer :]])
        return add_inner(total, block, lax.dynamic_index_in_dim(w, flat, keepdims=False))

    zero = jnp.zeros((problem.N, *problem.output, problem.G, problem.K), dtype)
    return lax.fori_loop(0, math.prod(kernel), body, zero)


def _multiply(problem: ConvSpec, x: jax.Array, w: jax.Array, dtype: np.dtype) -> jax.Array:
    """N S G C by G C K: a broadcast multiply for each input channel."""
    x, w = x.astype(dtype), lax.expand_dims(w.astype(dtype), range(x.ndim - 2))
    return functools.reduce(jnp.add, [x[..., c, None] * w[..., c, :] for c in range(problem.C)])  # N S G K


def _rolled_axes(problem: ConvSpec) -> int:
    """How many leading kernel axes to loop over so that at most `_UNROLLED` terms are written out."""
    outer = 0
    while outer < problem.ndim and math.prod(problem.kernel[outer:]) * problem.C > _UNROLLED:
        outer += 1
    return outer


def _padded_size(problem: ConvSpec) -> list[int]:
    return [
        (n - 1) * d + 1 + lo + hi
        for n, d, (lo, hi) in zip(problem.input, problem.lhs_dilation, problem.padding, strict=True)
    ]
