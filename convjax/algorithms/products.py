"""Matrix products for every group, as plain two-dimensional ones where there is one group.

A batch axis of size 1 and several contracted axes cost XLA's CPU compiler a third of the speed, so both are
reshaped away first.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import layout
from convjax.algorithms import onednn
from convjax.dtypes import itemsize
from convjax.problem import ConvSpec

# Rows and columns that the matrix product's inner kernel holds in registers.
_TILE = 16
# Products that a long contraction is cut into.
_MOST_PARTS = 8
# Multiply-adds for each element of a large matrix, up to which a product takes the time of reading or writing it: rows
# that meet a matrix that is read, terms of one that is written. Large is one of so many elements or more.
_FEW_ROWS, _FEW_TERMS, _LARGE = 32, 16, 2**17


def product_work(macs: float, *sides: int) -> float:
    """Multiply-adds that a product takes the time of: its sides are filled up to whole tiles."""
    return macs * math.prod(-(-side // _TILE) * _TILE / side for side in sides)


def grouping_work(problem: ConvSpec) -> tuple[float, float]:
    """What groups cost: the factor on batched products, and the bytes moved to bring groups to the front and back."""
    return (2.0, 2.0 * problem.bytes) if problem.G > 1 else (1.0, 0.0)


def turning_work(problem: ConvSpec) -> float:
    """Bytes moved, element by element, to bring a kernel's output channels behind its input channels."""
    if layout.channel_order(problem) == "GCK" or min(problem.C, problem.K) == 1:
        return 0.0
    return 6.0 * itemsize(problem.rhs_dtype) * math.prod(problem.rhs_shape)


def rows_by_columns(problem: ConvSpec, x: jax.Array, w: jax.Array, dtype: np.dtype, order: str = "GCK") -> jax.Array:
    """G .. C by w, whose axes are in `order`, G C K or G K C, contracted over C: G .. K."""
    rows = x.shape[1:-1]
    axes = (1, order.index("C") - 1)
    y = contract(problem, x.reshape(x.shape[0], -1, x.shape[-1]), w, dtype, axes)
    return y.reshape(x.shape[0], *rows, w.shape[order.index("K")])


def columns_by_columns(problem: ConvSpec, x: jax.Array, w: jax.Array, dtype: np.dtype) -> jax.Array:
    """G .. N by G .. K, contracted over everything between: G N K."""
    x, w = (a.reshape(a.shape[0], -1, a.shape[-1]) for a in (x, w))
    return contract(problem, x, w, dtype, axes=(0, 0))


def columns_by_columns_in_parts(problem: ConvSpec, x: jax.Array, w: jax.Array, dtype: np.dtype) -> jax.Array:
    """1 C .. N by 1 C .. K, contracted: 1 N K; as a sum of products over parts of C, which threads share out.

    There are as many as write a quarter of what is read.
    """
    if _by_onednn(x, w, dtype):  # which shares them out itself
        return columns_by_columns(problem, x, w, dtype)
    read, written = x.size + w.size, x.shape[-1] * w.shape[-1]
    most = max(1, min(_MOST_PARTS, read // max(1, 4 * written)))
    parts = max(n for n in range(1, most + 1) if x.shape[1] % n == 0)
    x, w = (a.reshape(parts, -1, a.shape[-1]) for a in (x, w))
    return columns_by_columns(problem, x, w, dtype).sum(0, dtype=dtype, keepdims=True)


def contract(problem: ConvSpec, x: jax.Array, w: jax.Array, dtype: np.dtype, axes: tuple[int, int]) -> jax.Array:
    """Contracts one axis of each, counted behind the group axis.

    Columns by oneDNN, if at hand, which transposes neither. Rows not: alone oneDNN is faster there too, but in networks
    XLA's products are, around which it fuses.
    """
    a, b = axes
    if axes == (0, 0) and _by_onednn(x, w, dtype):
        return onednn.product(x, w, axes) if x.shape[0] > 1 else onednn.product(x[0], w[0], axes)[None]
    dot = functools.partial(lax.dot_general, precision=problem.precision, preferred_element_type=dtype)
    if x.shape[0] > 1:
        return dot(x, w, (((a + 1,), (b + 1,)), ((0,), (0,))))
    x, w = x[0], w[0]
    if axes == (1, 1) and x.shape[0] <= _FEW_ROWS and w.size >= _LARGE and w.shape[0] % 2 == 0:
        return _in_halves(dot, w, x, 1).T[None]
    if axes == (1, 0) and x.shape[1] <= _FEW_TERMS and x.shape[0] * w.shape[1] >= _LARGE and x.shape[0] % 2 == 0:
        return _in_halves(dot, x, w, 0)[None]
    return dot(x, w, (((a,), (b,)), ((), ())))[None]


def _by_onednn(x: jax.Array, w: jax.Array, dtype: np.dtype) -> bool:
    return {x.dtype, w.dtype, np.dtype(dtype)} == {np.dtype(np.float32)} and x.size * w.size > 0 and onednn.is_at_hand()


def _in_halves(dot: Callable[..., jax.Array], x: jax.Array, w: jax.Array, axis: int) -> jax.Array:
    """R C by w, contracted over its `axis`: R ... Threads read and write a half each, not all of it packed by one."""
    halves = x.reshape(2, -1, x.shape[1])
    y = dot(halves, jnp.broadcast_to(w, (2, *w.shape)), (((2,), (axis + 1,)), ((0,), (0,))))
    return y.reshape(x.shape[0], -1)
