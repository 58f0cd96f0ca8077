"""One contraction per output position: for the few outputs and huge kernels that weight gradients are.

The gradient of w in y = conv(x, w) is itself a convolution, of x by the cotangent, whose "kernel" is as
large as the output map and whose output has as many positions as w has taps. Each of them is

y[n, o, g, k] = sum over t, c of x[n, o s + t d, g, c] w[t, g, c, k]
"""

import dataclasses
import math
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import layout
from convjax.algorithms.numerics import accumulator, direct_error
from convjax.algorithms.products import columns_by_columns, product_work
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.dtypes import dtype_of
from convjax.problem import ConvSpec

# Output positions written out, by kind of contraction; more compile too slowly.
_MOST_POSITIONS = {"reduce": 64, "dot": 32}
# Running sums that one variadic reduce keeps; more spill out of registers and compile slowly.
_MOST_SUMS = 64
# Sums that are worth making row by row, and the length of such a row.
_MOST_ROW_SUMS = 16
_LONG_ROW = 32


@dataclasses.dataclass(frozen=True)
class Positions:
    """All taps and channels of one output position contracted at once.

    Attributes:
        by: "reduce" for few channels a group (depthwise): one variadic reduction holds the running sums of
            all positions, so that x and w are read once; "dot" for many: one matrix product a position.
    """

    by: Literal["reduce", "dot"] = "dot"

    name: ClassVar[str] = "positions"
    version: ClassVar[int] = 1
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = ()
    __str__ = describe

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        reasons = []
        positions = math.prod(problem.output)
        if problem.empty:
            reasons.append("there is nothing to contract: an operand or the output is empty")
        most = _MOST_POSITIONS[self.by]
        if positions > most:
            reasons.append(f"{positions} output positions, more than {most}: it writes out one contraction each")
        if self.by == "reduce" and problem.N * problem.K > _MOST_SUMS:
            reasons.append(f"{problem.N} x {problem.K} outputs a position and group are a matrix product: by='dot'")
        return tuple(reasons)

    def cost(self, problem: ConvSpec) -> Cost:
        size, positions = accumulator(problem).itemsize, math.prod(problem.output)
        sliced = problem.G * problem.C * problem.N * problem.taps
        padded = 2 * size * math.prod(problem.lhs_shape) if any(map(any, problem.padding)) else 0
        if self.by == "reduce":
            passes = -(-positions * problem.N * problem.K // _MOST_SUMS)
            # Along rows alone XLA reads columns, and misses the cache at every step.
            work = 4 if problem.ndim == 1 else 2
            return Cost(
                vector=work * problem.products,
                bytes=passes * problem.bytes + padded,
                workspace=padded / 2,
                calls=1 + passes,
            )
        return Cost(
            gemm=product_work(problem.products, problem.N, problem.K),
            bytes=problem.bytes + padded + positions * 2 * size * sliced,
            workspace=padded / 2 + size * sliced,
            calls=2 * positions,
        )

    def error(self, problem: ConvSpec) -> float:
        return direct_error(problem)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        dtype = accumulator(problem)
        order = "CSGN" if self.by == "reduce" else "GCSN"
        first = 1 if self.by == "reduce" else 2
        x = layout.pad_spatial(problem, layout.arrange_lhs(problem, lhs, order), first)
        w = layout.arrange_rhs(problem, rhs, order[:-1] + "K")

        def window(position: tuple[int, ...]) -> jax.Array:
            offset = [o * s for o, s in zip(position, problem.strides, strict=True)]
            return layout.window_slice(x, first, offset, problem.kernel, problem.rhs_dilation)

        windows = [window(position) for position in np.ndindex(*problem.output)]
        if self.by == "reduce":
            y = _reduce(problem, windows, w, dtype)
        else:
            y = jnp.stack([columns_by_columns(problem, x_window, w, dtype) for x_window in windows])  # positions G N K
        y = y.reshape(*problem.output, problem.G, problem.N, problem.K)
        return layout.restore_out(problem, y, "SGNK").astype(dtype_of(problem.output_dtype))


def _reduce(problem: ConvSpec, windows: list[jax.Array], w: jax.Array, dtype: np.dtype) -> jax.Array:
    """Sums of x_window[.., n] * w over C and S, for every position and n, `_MOST_SUMS` at a time."""
    w = w.astype(dtype)  # C S G K
    products = [x[..., n, None].astype(dtype) * w for x in windows for n in range(problem.N)]  # each C S G K
    sums: list[jax.Array] = []
    step = max(1, _MOST_SUMS // problem.K)
    for i in range(0, len(products), step):
        sums += _sum_rows(problem, products[i : i + step])
    return jnp.stack(sums).reshape(len(windows), problem.N, problem.G, problem.K).swapaxes(1, 2)


def _sum_rows(problem: ConvSpec, products: list[jax.Array]) -> list[jax.Array]:
    """Each product summed over C and S.

    XLA shares a reduction out to threads by its results, so few long sums are first made along rows alone, with
    a result for every row, and the rows are added afterwards.
    """
    axes = tuple(range(1 + problem.ndim))
    if len(products) > _MOST_ROW_SUMS or problem.ndim == 0 or problem.kernel[-1] < _LONG_ROW:
        return _sum_together(products, axes)
    return _sum_together(_sum_together(products, axes[-1:]), axes[:-1])


def _sum_together(operands: list[jax.Array], axes: tuple[int, ...]) -> list[jax.Array]:
    """One pass that keeps the sums of all operands."""
    zeros = (np.zeros((), operands[0].dtype),) * len(operands)
    return list(lax.reduce(tuple(operands), zeros, _add_each, axes))


def _add_each(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return tuple(p + q for p, q in zip(a, b, strict=True))
