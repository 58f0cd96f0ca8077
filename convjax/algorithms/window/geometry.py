"""Where windows lie: padding with the identity, each tap's slice, and the order in which elements win."""

import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import dtypes, layout, sizes
from convjax.algorithms.numerics import epsilon
from convjax.dtypes import dtype_of
from convjax.problem import Ints, WindowSpec
from convjax.target import target

# Why an algorithm that is given taps refuses to find them.
NOT_COMPARED = "follows taps that are given, and compares nothing with the windows' values"

COMBINED = {"max": lax.max, "min": lax.min, "sum": lax.add}

# Most slices along one axis that are stacked.
_MOST_SLICES = 64

# Elements of a tile whose winner is found anew for each of them sooner than read from memory.
_FEW = 4


def padded(problem: WindowSpec, x: jax.Array, value: object = None) -> jax.Array:
    """x with its base dilation and padding written out, filled with the identity of the operation."""
    fill = problem.identity if value is None else value
    return layout.pad(x, problem.padding, [d - 1 for d in problem.base_dilation], fill)


def padded_shape(problem: WindowSpec) -> Ints:
    """Of `padded` x."""
    return tuple(
        max(sizes.dilated(n, bd) + lo + hi, 0)
        for n, bd, (lo, hi) in zip(problem.shape, problem.base_dilation, problem.padding, strict=True)
    )


def tap_slices(problem: WindowSpec, x: jax.Array) -> Iterator[jax.Array]:
    """For every tap, row-major, the element of padded x that each window has there."""
    for tap in np.ndindex(*problem.window):
        offset = [t * d for t, d in zip(tap, problem.window_dilation, strict=True)]
        yield layout.window_slice(x, 0, offset, problem.windows_shape, problem.strides)


def stacked_taps(problem: WindowSpec, x: jax.Array, value: object = None) -> jax.Array:
    """All `tap_slices` of x, padded with `value` or else the identity, along a new first axis.

    One axis after another: a window of 31 x 31 taps takes 62 slices, not 961. An axis of more taps is gathered, since
    that many slices compile too slowly. Behind its barrier x shares no padding with other poolings: see `lowering`.
    """
    x = padded(problem, lax.optimization_barrier(x), value)
    if problem.empty:
        return jnp.zeros((problem.taps, *problem.windows_shape), x.dtype)
    x = x[None]
    for axis in reversed(range(problem.ndim)):  # taps of the axes before come to stand outside
        k, d, s = problem.window[axis], problem.window_dilation[axis], problem.strides[axis]
        if k == s == 1:
            continue
        at = np.arange(k)[:, None] * d + np.arange(problem.windows_shape[axis]) * s
        if k > _MOST_SLICES:
            x = jnp.moveaxis(jnp.take(x, at, axis + 1, mode="clip"), axis + 1, 0)
            x = x.reshape(-1, *x.shape[2:])
        else:
            x = jnp.concatenate([layout.every(x, axis + 1, int(row[0]), s, len(row)) for row in at])
    return x


def better(problem: WindowSpec, a: jax.Array, b: jax.Array) -> jax.Array:
    """Whether a beats b: strictly beyond it, or NaN where b is not."""
    greatest = problem.operation.endswith("max")
    if not jnp.issubdtype(a.dtype, jnp.inexact):
        return a > b if greatest else a < b
    within = a <= b if greatest else a >= b  # false of a NaN
    return ~(within | jnp.isnan(b))


def combine(problem: WindowSpec) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """How a reduction combines two elements.

    A reduction by XLA's own maximum loses NaN on CPU once the input is large enough to be vectorised, so the order is
    spelled out, which on GPUs takes twice as long.
    """
    if problem.operation == "sum" or target().is_gpu:
        return COMBINED[problem.operation]
    return lambda a, b: lax.select(better(problem, b, a), b, a)


def real_taps(problem: WindowSpec, axis: int) -> np.ndarray:
    """Whether a tap stands on an element of x along `axis`, by tap and window."""
    taps, windows = np.arange(problem.window[axis]), np.arange(problem.windows_shape[axis])
    at = taps[:, None] * problem.window_dilation[axis] + windows * problem.strides[axis] - problem.padding[axis][0]
    inside: np.ndarray = (at >= 0) & (at < problem.shape[axis])
    return inside


def first_real_tap(problem: WindowSpec) -> np.ndarray:
    """Each window's first tap that is not padding: the winner where nothing beats the identity.

    Shape: broadcastable to the windows, int32. A window that holds padding alone has tap 0.
    """
    flat, real = np.zeros((1,) * problem.ndim, np.int32), np.ones((1,) * problem.ndim, bool)
    for axis, (n, k, s, d, (lo, _), count) in enumerate(
        zip(
            problem.shape,
            problem.window,
            problem.strides,
            problem.window_dilation,
            problem.padding,
            problem.windows_shape,
            strict=True,
        )
    ):
        start = np.arange(count) * s - lo  # in x, the position of tap 0
        first = np.maximum(-(start // d), 0)
        along = [-1 if a == axis else 1 for a in range(problem.ndim)]
        flat = flat * k + np.minimum(first, k - 1).astype(np.int32).reshape(along)
        real = real & ((first < k) & (start + first * d < n)).reshape(along)
    return np.where(real, flat, np.int32(0))


def sum_error(problem: WindowSpec) -> float:
    """Bound on the relative error: adding up rounds, in float32 or wider, and choosing does not."""
    added = problem.taps if problem.operation == "sum" else _overlap(problem) if problem.puts else 1
    if added == 1:
        return 0.0
    dtype = dtype_of(problem.dtype)
    wide = epsilon(accumulator(problem))
    return wide * (4.0 + 0.5 * added**0.5) + (epsilon(dtype) if epsilon(dtype) > wide else 0.0)


def _overlap(problem: WindowSpec) -> int:
    """Of how many windows an element may be part."""
    axes = zip(problem.window, problem.strides, problem.window_dilation, problem.windows_shape, strict=True)
    return math.prod(min(count, -(-k * math.gcd(s, d) // s)) for k, s, d, count in axes)


def few_tiles(problem: WindowSpec) -> bool:
    """Whether windows are tiles of so few elements that their winners are best found anew wherever they are read.

    Fused into what follows taps, the search is done for every window that an element may lie in, and for every element
    of a tile. In such tiles that costs less than an array of taps in memory.
    """
    return problem.strides == problem.window and problem.taps <= _FEW


def accumulator(problem: WindowSpec) -> np.dtype:
    """The dtype sums run in: float32 for half precisions, int32 for booleans, whose sums are true if any of them is."""
    dtype = dtype_of(problem.dtype)
    return np.dtype(np.int32) if dtype == np.bool_ else dtypes.accumulator(dtype)
