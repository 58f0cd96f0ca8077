"""Grey-scale morphology with a learnable element: the window's extremum of x plus or minus the element."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from convjax import window_primitive
from convjax.algorithms.window.geometry import better, real_taps
from convjax.dtypes import accumulator
from convjax.layout import pad, window_slice
from convjax.ops.arguments import Padding, as_array
from convjax.ops.operands import of_one_dtype
from convjax.ops.windows import Windows, read_windows
from convjax.problem import WindowSpec
from convjax.request import request

# Most taps that are compared in one fused loop, and how many at a time where there are more: compiling takes too long.
_MOST_UNROLLED = 25
_AT_A_TIME = 8


def dilation2d(
    x: jax.Array,
    w: jax.Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    layout: str | None = None,
) -> jax.Array:
    """Grey-scale dilation: the largest of x plus w in every window.

    y[n, o, c] = max over taps t of x[n, o s + t d - lo, c] + w[t, c]

    NaN wins wherever it stands, and padding never wins. The gradients of x and of w go to the first of equal sums,
    row-major in the window, as in `max_pool`. Half precisions are compared by their sums in float32; sums of
    integers wrap as their dtype does.

    Args:
        x: (N, H, W, C), or (H, W, C) without a batch; channels first under `layout`. Any real dtype.
        w: (R, S, C), the structuring element, in every layout; of x's dtype, or integers beside fractions.
        strides: elements between windows.
        padding, dilation, layout: as `max_pool`.

    Returns:
        (N, H', W', C) of x's dtype, of the size that `max_pool` gives.

    Raises:
        ValueError: sizes that do not fit together, or a window without any element of x.
        TypeError: x and w differ in precision, or are not real.

    Example:
        >>> import jax.numpy as jnp
        >>> x, w = jnp.array([[1.0, 5.0, 2.0, 2.0]])[..., None], jnp.array([[0.0, 1.0]])[..., None]
        >>> dilation2d(x, w)[..., 0]
        Array([[6., 5., 3.]], dtype=float32)

    Source:
        Haralick, Sternberg and Zhuang, Image analysis using mathematical morphology, IEEE TPAMI 9(4), 1987,
        section III, with the element read forwards as in TensorFlow's `tf.nn.dilation2d`.
    """
    return _extremum("max", x, w, strides, padding, dilation, layout)


def erosion2d(
    x: jax.Array,
    w: jax.Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    layout: str | None = None,
) -> jax.Array:
    """Grey-scale erosion: the smallest of x minus the reversed w in every window.

    y[n, o, c] = min over taps t of x[n, o s + t d - lo, c] - w[k - 1 - t, c], with k = (R, S)

    The dual of `dilation2d`, as TensorFlow's `tf.nn.erosion2d` is: erosion2d(x, w) = -dilation2d(-x, w[::-1, ::-1]),
    values and gradients. Otherwise as `dilation2d`; the first of equal differences is the first of x in the window.

    Args:
        x, w, strides, padding, dilation, layout: as `dilation2d`.

    Returns:
        As `dilation2d`.

    Raises:
        ValueError, TypeError: as `dilation2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> x, w = jnp.array([[1.0, 5.0, 2.0, 2.0]])[..., None], jnp.array([[0.0, 1.0]])[..., None]
        >>> erosion2d(x, w)[..., 0]
        Array([[0., 2., 1.]], dtype=float32)

    Source:
        As `dilation2d`.
    """
    return _extremum("min", x, w, strides, padding, dilation, layout)


def _extremum(
    operation: str,
    x: jax.Array,
    w: jax.Array,
    strides: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
    layout: str | None,
) -> jax.Array:
    """The max of x plus w, or the min of x minus reversed w, read from both at the winning tap.

    The winner does not vary, so the result is linear in both and has derivatives of any order and mode.
    """
    x, w = _operands(x, w)
    pool = read_windows(x, w.shape[:2], strides, padding, dilation, False, layout)
    channel_axis = _channel_axis(pool.first)
    if pool.x.shape[channel_axis] != w.shape[2]:
        raise ValueError(f"w of shape {w.shape} is for {w.shape[2]} channels, but x has {pool.x.shape[channel_axis]}")
    if 0 in pool.size:
        raise ValueError(f"x of shape {x.shape} has no elements on a spatial axis: each needs at least 1")

    element = w if operation == "max" else -jnp.flip(w, (0, 1))
    taps = element.reshape(-1, w.shape[2]).astype(accumulator(x.dtype))  # T C
    return pool.finish(pool.each(functools.partial(_best, operation, taps)))


def _best(operation: str, taps: jax.Array, pool: Windows) -> jax.Array:
    """The best sum of every window."""
    problem = pool.problem(operation)
    winner = _winner(problem, pool.first, lax.stop_gradient(pool.x), lax.stop_gradient(taps))
    channel = lax.broadcasted_iota(jnp.int32, winner.shape, _channel_axis(pool.first))
    best = _take(problem, pool.x, winner).astype(taps.dtype) + taps[winner, channel]
    return best.astype(pool.x.dtype)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _winner(problem: WindowSpec, first: int, x: jax.Array, taps: jax.Array) -> jax.Array:
    """The winning tap of every window, int32: the first NaN, else the first of equals, of those on elements of x."""
    spatial = slice(first, first + 2)
    window, counts = problem.window[spatial], problem.windows_shape[spatial]
    strides, dilation = problem.strides[spatial], problem.window_dilation[spatial]
    spans = [*problem.windows_shape]
    spans[spatial] = [(n - 1) * s + 1 for n, s in zip(counts, strides, strict=True)]
    padded = pad(x, problem.padding, [0] * x.ndim)
    real = [jnp.asarray(real_taps(problem, axis)) for axis in (first, first + 1)]

    def sums(tap: jax.Array | int) -> jax.Array:
        start: list[jax.Array | int] = [0] * x.ndim
        start[spatial] = tap // window[1] * dilation[0], tap % window[1] * dilation[1]
        seen = window_slice(lax.dynamic_slice(padded, start, spans), first, (0, 0), counts, strides)
        return seen.astype(taps.dtype) + _along(taps[tap], _channel_axis(first))

    def consider(tap: jax.Array | int, best: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        value, winner = best
        candidate = sums(tap)
        wins = (winner < 0) | better(problem, candidate, value)
        wins = wins & _along(real[0][tap // window[1]], first) & _along(real[1][tap % window[1]], first + 1)
        return jnp.where(wins, candidate, value), jnp.where(wins, jnp.asarray(tap, jnp.int32), winner)

    some = sums(0)  # the first real tap takes its place, whatever it is
    none = jnp.full_like(some, -1, dtype=jnp.int32)
    unroll = problem.taps if problem.taps <= _MOST_UNROLLED else _AT_A_TIME
    return lax.fori_loop(0, problem.taps, consider, (some, none), unroll=unroll)[1]


def _take(problem: WindowSpec, x: jax.Array, winner: jax.Array) -> jax.Array:
    """Every window's element of x at its winning tap."""
    problem = dataclasses.replace(problem, operation="take")
    # To shard_map the primitive varies as x does alone, but the winner may vary with w: so must x.
    x = x + jnp.zeros_like(winner, x.dtype, shape=(1,) * x.ndim)
    return window_primitive.take_p.bind(x, winner, problem=problem, request=request(None, "take"))


def _along(vector: jax.Array, axis: int) -> jax.Array:
    """A vector as an array of rank 4 along `axis`."""
    return jnp.expand_dims(vector, [a for a in range(4) if a != axis])


def _channel_axis(first: int) -> int:
    return 1 if first == 2 else 3


def _operands(x: jax.Array, w: jax.Array) -> list[jax.Array]:
    """x and w in one dtype that is real."""
    w = as_array("w", w)
    if w.ndim != 3:
        raise ValueError(f"w of shape {w.shape} must have 3 axes: R, S and the channels of x")
    x, w = of_one_dtype(x=x, w=w)
    if not jnp.issubdtype(x.dtype, jnp.floating) and not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"x is {x.dtype}, which has no order or no sums: cast it to a real dtype")
    return [x, w]
