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
from jax import lax

from convjax import layout, sizes
from convjax.algorithms.conv.many_groups import fill_vectors, sum_over_channels, sum_over_channels_cost
from convjax.algorithms.conv.multiply_add import multiply_add, multiply_add_cost, multiply_add_gpu_cost
from convjax.algorithms.fusion import when_needed
from convjax.algorithms.numerics import accumulator, direct_error
from convjax.algorithms.products import grouping_work, product_work, rows_by_columns
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.dtypes import dtype_of
from convjax.problem import ConvSpec

_MOST_PRODUCTS = 128
# Rows of a product batched over taps up to which it reads w as fast as memory brings it.
_FEW_ROWS = 32


@dataclasses.dataclass(frozen=True)
class Shift:
    """One term a tap, either a multiply-add or a matrix product.

    Attributes:
        by: "multiply" for few channels a group (depthwise), where one fused loop adds all taps; "dot" for
            many, where each tap is a product of N S x C by C x K.
    """

    by: Literal["multiply", "dot"] = "dot"

    name: ClassVar[str] = "shift"
    version: ClassVar[int] = 15
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = ()
    __str__ = describe

    @property
    def amplification(self) -> float:
        return 0.0 if self.by == "multiply" else 1.0

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        if self.by == "multiply" and problem.C * problem.K > 64:
            return (f"{problem.C} x {problem.K} channels a group are a matrix product, not a multiply-add: by='dot'",)
        if self.by == "dot" and problem.taps > _MOST_PRODUCTS:
            return (f"{problem.taps} taps would be as many matrix products, more than {_MOST_PRODUCTS}",)
        return ()

    def cost(self, problem: ConvSpec) -> Cost:
        if self.by == "dot":
            return _dots_cost(problem)
        return sum_over_channels_cost(problem) if fill_vectors(problem) else multiply_add_cost(problem)

    def gpu_cost(self, problem: ConvSpec) -> Cost | None:
        of_weights = problem.C > 1 and problem.taps >= math.prod(problem.output)  # each tap a loop over channels
        if self.by == "dot" or of_weights:
            return None
        return multiply_add_gpu_cost(problem)

    def gathers(self, problem: ConvSpec) -> bool:
        return self.by == "multiply" and problem.has_few_outputs

    def error(self, problem: ConvSpec) -> float:
        return direct_error(problem)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return self._convolved(problem, lhs, rhs, step=1)

    def of_reversed(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return self._convolved(problem, lhs, rhs, step=-1)

    def _convolved(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array, step: int) -> jax.Array:
        """The result for rhs read with `step` along its spatial axes."""
        compute: Callable[[ConvSpec, jax.Array, jax.Array], jax.Array]
        if self.by == "dot":
            compute = functools.partial(_products_of_all_taps if _is_batched(problem) else _dots, step=step)
            x_order, w_order, y_order = "GNSC", "S" + _kernel_order(problem), "GNSK"
        elif fill_vectors(problem):
            compute, x_order, w_order, y_order = sum_over_channels, "NCSG", "SCKG", "NKSG"
        else:
            compute, x_order, w_order, y_order = multiply_add, "CNSG", "SCGK", "NSGK"
        x, w = layout.arrange_lhs(problem, lhs, x_order), layout.arrange_rhs(problem, rhs, w_order)
        if self.by == "multiply" and step < 0:  # w has few channels
            w = lax.rev(w, range(problem.ndim))
        return layout.restore_out(problem, compute(problem, x, w), y_order).astype(dtype_of(problem.output_dtype))


def _dots(problem: ConvSpec, x: jax.Array, w: jax.Array, step: int) -> jax.Array:
    """G N S C by S G C K, or S G K C, whose taps are read with `step`: G N S K, one product a tap."""
    taps = layout.taps(problem)
    of_taps = [w[taps[0]]] if len(taps) == 1 else when_needed(x, lambda w: [w[tap] for tap in taps], w)
    x = layout.pad_spatial(problem, x, first=2)
    products = []
    for tap, columns in zip(taps[::step], of_taps, strict=True):
        offset = [t * d for t, d in zip(tap, problem.rhs_dilation, strict=True)]
        shifted = layout.window_slice(x, 2, offset, problem.output, problem.strides)
        products.append(rows_by_columns(problem, shifted, columns, accumulator(problem), _kernel_order(problem)))
    return functools.reduce(jnp.add, products)


def _kernel_order(problem: ConvSpec) -> str:
    """As it lies where the kernel is large beside what it meets: turning it around takes as long as the products."""
    return layout.channel_order(problem) if problem.taps == 1 or _is_batched(problem) else "GCK"


def _is_batched(problem: ConvSpec) -> bool:
    """Whether one product batched over taps, which reads w as it lies, moves about as much beside w as w is large."""
    if problem.taps == 1 or problem.empty:
        return False
    rows = 1 if _one_element(problem) else math.prod(problem.output)
    few = 2 * problem.N * rows * (problem.C + problem.K) <= 3 * problem.C * problem.K
    # Where a product of each tap would read w as it lies as well, partial sums are worth only few rows.
    return rows == 1 or (few and layout.channel_order(problem) == "GKC")


def _one_element(problem: ConvSpec) -> bool:
    """Whether x has a single position, so that every output meets one tap at most."""
    return math.prod(problem.input) == 1 < math.prod(problem.output)


def _products_of_all_taps(problem: ConvSpec, x: jax.Array, w: jax.Array, step: int) -> jax.Array:
    """As `_dots`, by one batched product that reads w, by far the largest, as it lies."""
    if _one_element(problem):
        seen = jnp.broadcast_to(x, (problem.taps, *x.shape))
    else:
        x = layout.pad_spatial(problem, x, first=2)
        if math.prod(problem.output) == 1:
            x = layout.window_slice(x, 2, [0] * problem.ndim, problem.kernel, problem.rhs_dilation)
            seen = jnp.moveaxis(x.reshape(problem.G, problem.N, problem.taps, problem.C), 2, 0)[::step]
        else:
            taps = layout.taps(problem)[::step]
            offsets = [[t * d for t, d in zip(tap, problem.rhs_dilation, strict=True)] for tap in taps]
            seen = jnp.stack([layout.window_slice(x, 2, o, problem.output, problem.strides) for o in offsets])
    seen = seen.reshape(problem.taps * problem.G, -1, problem.C)
    w = w.reshape(problem.taps * problem.G, *w.shape[-2:])
    order, dtype = _kernel_order(problem), accumulator(problem)
    if not _one_element(problem) and order == "GKC" and seen.shape[1] < problem.K:
        # With the kernel first only the smaller operand is brought into another order. Turned around before the sum,
        # the product would be the other one again.
        y = rows_by_columns(problem, w, seen, dtype, "GKC").reshape(problem.taps, problem.G, problem.K, -1)
        y = y.sum(0, dtype=dtype).swapaxes(1, 2)
        return y.reshape(problem.G, problem.N, *problem.output, problem.K)
    y = rows_by_columns(problem, seen, w, dtype, order)
    if _one_element(problem):
        y = y.reshape(problem.taps, problem.G, problem.N, problem.K)[::step]
        return _placed(problem, y.reshape(*problem.kernel, *y.shape[1:]))
    y = y.reshape(problem.taps, problem.G, problem.N, *problem.output, problem.K)
    return y.sum(0, dtype=dtype)


def _placed(problem: ConvSpec, products: jax.Array) -> jax.Array:
    """S G N K, of all taps, to G N S K: output o is the product of the tap t for which o s + t d = lo, or zero."""
    n = problem.ndim
    y = lax.rev(jnp.moveaxis(products, (n, n + 1), (0, 1)), range(2, 2 + n))
    around = [
        (lo - (sizes.dilated(k, d) - 1), (o - 1) * s - lo)
        for k, d, o, s, (lo, _) in zip(
            problem.kernel, problem.rhs_dilation, problem.output, problem.strides, problem.padding, strict=True
        )
    ]
    y = layout.pad(y, [(0, 0), (0, 0), *around, (0, 0)], [0, 0, *(d - 1 for d in problem.rhs_dilation), 0])
    return layout.window_slice(y, 2, [0] * n, problem.output, problem.strides)


def _dots_cost(problem: ConvSpec) -> Cost:
    size = accumulator(problem).itemsize
    if _is_batched(problem):
        rows = problem.N * problem.G * (1 if _one_element(problem) else math.prod(problem.output))
        made = size * problem.taps * rows * (problem.C + problem.K)
        gemm = product_work(problem.taps * rows * problem.C * problem.K, problem.C, problem.K)
        slowly = rows > _FEW_ROWS and not _one_element(problem)
        read = 2 * size * math.prod(problem.rhs_shape) if slowly else 0
        return Cost(gemm=gemm, bytes=problem.bytes + read + 2 * made, workspace=made, calls=3)
    out = size * problem.N * math.prod(problem.output) * problem.G
    slower, moved = grouping_work(problem)
    grown = layout.padded_size(problem) != problem.input
    padded = 2 * size * problem.N * problem.G * problem.C * math.prod(layout.padded_size(problem)) if grown else 0
    copied = 0 if problem.taps == 1 and set(problem.strides) <= {1} else 2 * out * problem.C
    sliced = 0 if problem.taps == 1 else 2 * size * math.prod(problem.rhs_shape)
    return Cost(
        gemm=slower * product_work(problem.products, problem.C, problem.K),
        bytes=problem.bytes
        + moved
        + sliced
        + padded
        + problem.taps * copied
        + (problem.taps - 1) * 3 * out * problem.K,
        workspace=padded / 2 + copied / 2 + out * problem.K,
        calls=2 * problem.taps,
    )
