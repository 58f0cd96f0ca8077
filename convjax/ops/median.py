"""Median pooling."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import window_primitive
from convjax.algorithms.window.geometry import real_taps, stacked_taps
from convjax.ops.arguments import Padding, require_ordered
from convjax.ops.windows import Windows, read_windows
from convjax.problem import WindowSpec
from convjax.request import AlgorithmLike, Request, request


def median_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    layout: str | None = None,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """The median of every window.

    y[n, o, c] = the ((m - 1) // 2)-th smallest, from 0, of the m elements x[n, o s + t d - lo, c] that exist

    Of an even number of elements it is the lower of the two in the middle, as in `torch.median`. Padding and the
    overhang of ceil mode do not count. A window that holds NaN gives NaN. The gradient goes to the first element,
    row-major, that equals the median.

    Args:
        x, window, strides, padding, dilation, ceil_mode, layout: as `max_pool`. Any real dtype.
        algorithm: of the selection of one element a window, given its tap; see `conv_general_dilated`.

    Returns:
        (N, *output, C) of x's dtype.

    Raises:
        ValueError: as `max_pool`.
        TypeError: x is complex.

    Example:
        >>> import jax.numpy as jnp
        >>> median_pool(jnp.array([9, 1, 5, 4, 8])[:, None], 3, strides=1, padding=1)[:, 0]
        Array([1, 5, 4, 5, 4], dtype=int32)

    Source:
        J. W. Tukey, Exploratory Data Analysis, 1977, chapter 7.
    """
    x = require_ordered(x)
    pool = read_windows(x, window, strides, padding, dilation, ceil_mode, layout)
    return pool.finish(pool.each(functools.partial(_median, request(algorithm, "take"))))


def _median(asked: Request, pool: Windows) -> jax.Array:
    winner = _winner(pool.problem("min"), lax.stop_gradient(pool.x))
    return window_primitive.take_p.bind(pool.x, winner, problem=pool.problem("take"), request=asked)


@functools.partial(jax.jit, static_argnums=0)
def _winner(problem: WindowSpec, x: jax.Array) -> jax.Array:
    """The tap of every window's median, int32: the first NaN, else the first of equals."""
    taps = stacked_taps(problem, x)  # T *windows, padding above all elements
    ordered = jnp.sort(taps, 0)
    nan = jnp.isnan(ordered[-1])  # sorted last
    real, counts = _real(problem)
    middle = (counts - 1) // 2
    median = ordered[0]
    for m in np.unique(middle):
        median = jnp.where(middle == m, ordered[m], median)
    wins = jnp.where(nan[None], jnp.isnan(taps), (taps == median[None]) & real)
    number = lax.broadcasted_iota(jnp.int32, taps.shape, 0)
    return jnp.min(jnp.where(wins, number, jnp.int32(problem.taps)), 0)


def _real(problem: WindowSpec) -> tuple[jax.Array, np.ndarray]:
    """Whether a tap stands on an element of x, by tap and window, and how many do by window; both broadcastable."""
    real, counts = jnp.ones((1,) * 2 * problem.ndim, bool), np.ones((1,) * problem.ndim, int)
    for axis in range(problem.ndim):
        inside = real_taps(problem, axis)
        if inside.all():  # of every window alike
            inside = np.ones((problem.window[axis], 1), bool)
        counts = counts * np.expand_dims(inside.sum(0), [a for a in range(problem.ndim) if a != axis])
        real = real & np.expand_dims(
            inside, [a for a in range(2 * problem.ndim) if a not in (axis, problem.ndim + axis)]
        )
    return real.reshape(problem.taps, *counts.shape), counts
