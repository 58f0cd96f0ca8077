"""Lp pooling: the p-norm of every window."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from convjax import window_primitive
from convjax.algorithms.window.geometry import stacked_taps
from convjax.dtypes import accumulator
from convjax.ops.arguments import Padding, number, require_floating
from convjax.ops.windows import read_windows
from convjax.problem import WindowSpec
from convjax.request import AlgorithmLike, Request, request


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
    the overhang of ceil mode add nothing. NaN wins wherever it stands, else an infinity. What underflows times the
    window's largest |x| is lost from a gradient.

    Where the norm has no derivative, its derivatives of all orders are 0 instead: at a window of zeros alone, at an
    infinite one, and with regard to an element of 0 where |x|^p has no derivative of that order. For p = inf the
    gradient goes to the first of the largest |x|, row-major.

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
    return pool.finish(_norm(pool.problem("max"), p, request(algorithm, "max"), pool.x))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _norm(problem: WindowSpec, p: float, asked: Request, x: jax.Array) -> jax.Array:
    if math.isinf(p):
        return window_primitive.reduce(magnitude(x), problem, asked)
    wide = accumulator(x.dtype)
    largest = window_primitive.reduce(jnp.abs(lax.stop_gradient(x)), problem, asked).astype(wide)
    still = (largest == 0) | jnp.isinf(largest)
    scale = jnp.where(still, 1, largest)  # the norm does not vary with it, so it needs no derivative
    taps = stacked_taps(problem, x.astype(wide), 0)  # T *windows
    powers = _power(jnp.where(still[None], 1, taps), scale[None], p)
    y = scale * jnp.sum(powers, 0) ** (1 / p)
    return jnp.where(still, largest, y).astype(x.dtype)


def magnitude(x: jax.Array) -> jax.Array:
    """|x| of real x, whose derivative at 0 is 0, where that of `abs` is 1."""
    return x * lax.sign(x)


def _power(x: jax.Array, scale: jax.Array, p: float) -> jax.Array:
    """|x / scale|^p, whose derivatives at 0 are 0 where they are infinite."""
    if p % 2 == 0:
        return lax.integer_pow(x / scale, int(p))
    zero = x == 0
    return jnp.where(zero, 0, (jnp.where(zero, scale, jnp.abs(x)) / scale) ** p)
