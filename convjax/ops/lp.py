"""Lp pooling: the p-norm of every window."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import window_primitive
from convjax.algorithms.window.geometry import stacked_taps
from convjax.dtypes import accumulator
from convjax.ops.arguments import Padding, number, require_floating
from convjax.ops.windows import read_windows
from convjax.problem import WindowSpec
from convjax.request import AlgorithmLike, Request, request

Arrays = tuple[jax.Array, jax.Array]

# Even powers up to this one are products, higher ones exponentials.
_MOST_PRODUCTS = 2**16


def lp_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    p: float = 2.0,
    layout: str | None = None,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """The p-norm of every window.

    y[n, o, c] = (sum over taps t of |x[n, o s + t d - lo, c]|^p)^(1/p), and for p = inf their maximum

    Powers are taken of ratios to the window's largest |x|, so that no p over- or underflows on the way. Padding and
    the overhang of ceil mode add nothing. NaN wins wherever it stands, else an infinity. A ratio that underflows counts
    as 0 in derivatives by negative powers of it.

    For p = inf the gradient goes to the first of the largest |x|, row-major. Where the norm of another p has no
    derivative, its derivatives of all orders are 0 instead: at a window of zeros alone or of what is smaller than the
    least normal number, at one that holds an infinity, where the result overflows for p below 1, and with regard to an
    element of 0 where |x|^p has no derivative of that order.

    Args:
        x, window, strides, padding, dilation, ceil_mode, layout: as `max_pool`. x is floating point.
        p: above 0, and not traced; below 1 too, where it is no norm.
        algorithm: of the windows' maxima; see `conv_general_dilated`.

    Returns:
        (N, *output, C) of x's dtype; half precisions are computed in float32.

    Raises:
        ValueError: as `max_pool`, or p is not above 0.
        TypeError: x is not real floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([3.0, -4.0, 0.0, 0.0])[:, None]
        >>> lp_pool(1e30 * x, 2)[:, 0], lp_pool(x, 2, p=1)[:, 0], lp_pool(x, 2, p=jnp.inf)[:, 0]
        (Array([5.e+30, 0.e+00], dtype=float32), Array([7., 0.], dtype=float32), Array([4., 0.], dtype=float32))

    Source:
        P. Sermanet, S. Chintala, Y. LeCun, Convolutional Neural Networks Applied to House Numbers Digit
        Classification, arXiv:1204.3968.
    """
    x = require_floating("lp_pool", x)
    p = number("p", p)
    if not p > 0:
        raise ValueError(f"p must be above 0, got {p}")
    pool = read_windows(x, window, strides, padding, dilation, ceil_mode, layout)
    return pool.finish(_pooled(pool.problem("max"), p, request(algorithm, "max"), pool.x))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _pooled(problem: WindowSpec, p: float, asked: Request, x: jax.Array) -> jax.Array:
    if math.isinf(p):
        return window_primitive.reduce(magnitude(x), problem, asked)
    wide = accumulator(x.dtype)
    largest = window_primitive.reduce(jnp.abs(lax.stop_gradient(x)), problem, asked).astype(wide)
    still = (largest < jnp.finfo(wide).smallest_normal) | jnp.isinf(largest)
    taps = stacked_taps(problem, x.astype(wide), 0)  # T *windows
    y = _norm(jnp.where(still[None], 1, taps), jnp.where(still, 1, largest)[None], p)
    return jnp.where(still, largest, y[0]).astype(x.dtype)


def magnitude(x: jax.Array) -> jax.Array:
    """|x| of real x, whose derivative at 0 is 0, where that of `abs` is 1."""
    return x * lax.sign(x)


# Derivatives are those of the norm y and of its ratios a[q] = (|x| / y)^q, in terms of each other: derivatives of the
# powers and of the root would multiply p by 1 / p, either of which may be no number of the dtype.
@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _norm(x: jax.Array, scale: jax.Array, p: float) -> jax.Array:
    """The p-norm of x along its first axis, which is kept; `scale` is the largest |x|, with which it does not vary."""
    return scale * _sum(_power(x, scale, p, p)) ** _finite(1 / p, x.dtype)


@_norm.defjvp
def _norm_jvp(p: float, primals: Arrays, tangents: Arrays) -> tuple[jax.Array, jax.Array]:
    """d y = sum of a[p - 1] d |x|."""
    x, scale = primals
    return _norm(x, scale, p), _sum(_ratio(x, scale, p, p - 1) * _sign(x) * tangents[0])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _ratio(x: jax.Array, scale: jax.Array, p: float, q: float) -> jax.Array:
    """a[q], by x and its p-norm along the first axis; 0, with its derivatives, where that overflows for p below 1."""
    a = _power(jnp.abs(x), scale, p, q) * _sum(_power(x, scale, p, p)) ** _finite(-q / p, x.dtype)
    return a if p >= 1 else jnp.where(jnp.isinf(_norm(x, scale, p)), 0, a)


@_ratio.defjvp
def _ratio_jvp(p: float, q: float, primals: Arrays, tangents: Arrays) -> tuple[jax.Array, jax.Array]:
    """d a[q] = q / y (a[q - 1] d |x| - a[q] d y)."""
    (x, scale), a = primals, _ratio(*primals, p, q)
    if q == 0:
        return a, jnp.zeros_like(a)
    (y, dy), dx = _norm_jvp(p, primals, tangents), _sign(x) * tangents[0]
    return a, (_ratio(x, scale, p, q - 1) * dx - a * dy) / y * _finite(q, x.dtype)


def _power(x: jax.Array, scale: jax.Array, p: float, q: float) -> jax.Array:
    """|x / scale|^q; at 0 it is 0 where derivatives of |x|^p may be infinite or jump."""
    # XLA divides by multiplying with the reciprocal, which is no number where scale is near the largest or smallest.
    far = math.sqrt(float(jnp.finfo(x.dtype).max))
    room = jnp.where(scale > far, 2.0**-8, jnp.where(scale < 1 / far, 2.0**8, 1.0)).astype(x.dtype)
    # By the reciprocal the largest may come out below 1, of which a large power is 0.
    r = jnp.where(jnp.abs(x) == scale, _sign(x), (x * room) / (scale * room))
    if p % 2 == 0 and q <= _MOST_PRODUCTS:
        return lax.integer_pow(r, int(q))
    zero = (r if q < 0 else x) == 0
    return jnp.where(zero, 0, jnp.abs(jnp.where(zero, 1, r)) ** _finite(q, x.dtype))


def _sum(x: jax.Array) -> jax.Array:
    return jnp.sum(x, 0, keepdims=True)


def _sign(x: jax.Array) -> jax.Array:
    return jnp.where(x < 0, -1, 1).astype(x.dtype)


def _finite(exponent: float, dtype: np.dtype) -> float:
    """The number of `dtype` nearest to `exponent`."""
    most = float(jnp.finfo(dtype).max)
    return min(max(exponent, -most), most)
