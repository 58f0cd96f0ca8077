"""Poolings as people call them: each reads its arguments into one window problem and binds its primitive."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import sizes, window_primitive
from convjax.dtypes import accumulator
from convjax.ops.arguments import Padding, channels_first, padding_pairs, positive_per_axis, spatial_axes, with_batch
from convjax.problem import Ints, Pads, WindowSpec
from convjax.request import AlgorithmLike, request


def max_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    layout: str | None = None,
    algorithm: AlgorithmLike = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """The largest element of every window.

    y[n, o, c] = max over taps t of x[n, o s + t d - lo, c]

    NaN wins wherever it stands. The first of equal elements, row-major, is the one whose index is returned
    and that the gradient goes to. Padding never wins.

    Args:
        x: (N, *spatial, C), or (*spatial, C) without a batch; channels first under `layout`. Any real dtype.
        window: taps per spatial axis; an int means as many axes as x has between batch and channels.
        strides: elements between windows; None is the window.
        padding: as `conv`; numbers at most half the dilated window.
        dilation: elements between taps.
        ceil_mode: whether a last window may overhang the end, if it starts inside x or its low padding.
        return_indices: whether to return as well where the maxima stand.
        layout: None for channels last, or "NCW", "NCHW", "NCDHW".
        algorithm: see `conv_general_dilated`.

    Returns:
        (N, *output, C) of x's dtype; with `return_indices` also int32 flat positions in the unpadded plane.

    Raises:
        ValueError: sizes that do not fit together, or a window without any element of x.

    Example:
        >>> import jax.numpy as jnp
        >>> y, i = max_pool(jnp.array([1.0, 5.0, 2.0, 2.0])[:, None], 2, return_indices=True)
        >>> y[:, 0], i[:, 0]
        (Array([5., 2.], dtype=float32), Array([1, 2], dtype=int32))
    """
    pool = read_windows(x, window, strides, padding, dilation, ceil_mode, layout)
    y, indices = _extremum("max", pool, return_indices, algorithm)
    return (y, indices) if indices is not None else y


def min_pool(
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
    """The smallest element of every window; otherwise as `max_pool`.

    Example:
        >>> import jax.numpy as jnp
        >>> min_pool(jnp.array([1.0, 5.0, 2.0, 2.0])[:, None], 2)[:, 0]
        Array([1., 2.], dtype=float32)
    """
    pool = read_windows(x, window, strides, padding, dilation, ceil_mode, layout)
    return _extremum("min", pool, False, algorithm)[0]


def sum_pool(
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
    """The sum of every window; arguments as `max_pool`.

    Example:
        >>> import jax.numpy as jnp
        >>> sum_pool(jnp.array([1.0, 5.0, 2.0, 2.0])[:, None], 2)[:, 0]
        Array([6., 4.], dtype=float32)
    """
    pool = read_windows(x, window, strides, padding, dilation, ceil_mode, layout)
    return pool.finish(window_primitive.reduce(pool.x, pool.problem("sum"), request(algorithm, "sum")))


def avg_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    layout: str | None = None,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """The mean of every window.

    y[n, o, c] = 1 / D[o] sum over taps t of x[n, o s + t d - lo, c]

    D counts the window's cells in x and its padding, or in x alone; the overhang of ceil mode never counts.

    Args:
        x, window, strides, padding, dilation, ceil_mode, layout, algorithm: as `max_pool`. x is floating point.
        count_include_pad: whether cells of padding count in D.
        divisor_override: D itself, whatever lies in the window.

    Returns:
        (N, *output, C) of x's dtype; half precisions are summed in float32.

    Raises:
        ValueError: as `max_pool`, or a divisor below 1.
        TypeError: x is an integer array, whose mean is not one.

    Example:
        >>> import jax.numpy as jnp
        >>> avg_pool(jnp.arange(1.0, 6.0)[:, None], 2, ceil_mode=True)[:, 0]
        Array([1.5, 3.5, 5. ], dtype=float32)
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(f"x is {x.dtype}, whose averages are fractions: cast it to a floating dtype first")
    if divisor_override is not None and divisor_override < 1:
        raise ValueError(f"divisor_override must be at least 1, got {divisor_override}")
    pool = read_windows(x, window, strides, padding, dilation, ceil_mode, layout)
    wide = dataclasses.replace(
        pool, x=pool.x.astype(accumulator(x.dtype))
    )  # a sum may overflow where the mean does not
    sums = window_primitive.reduce(wide.x, wide.problem("sum"), request(algorithm, "sum"))
    counts = pool.counts(include_padding=count_include_pad)
    divisor = counts.astype(np.float64) if divisor_override is None else divisor_override
    return pool.finish((sums / divisor).astype(x.dtype))


@dataclasses.dataclass(frozen=True)
class Windows:
    """A pooling's arguments, read: x with a batch, and per spatial axis the numbers of its windows."""

    x: jax.Array
    unbatched: bool
    first: int
    window: Ints
    strides: Ints
    dilation: Ints
    asked: Pads
    padding: Pads

    @property
    def ndim(self) -> int:
        return len(self.window)

    @property
    def size(self) -> Ints:
        return self.x.shape[self.first : self.first + self.ndim]

    def problem(self, operation: str) -> WindowSpec:
        """The window problem over all axes of x."""

        def everywhere(values: Sequence[int | tuple[int, int]], other: int | tuple[int, int]) -> tuple:  # type: ignore[type-arg]
            return (other,) * self.first + tuple(values) + (other,) * (self.x.ndim - self.first - self.ndim)

        return WindowSpec(
            operation=operation,
            shape=self.x.shape,
            dtype=self.x.dtype.name,
            window=everywhere(self.window, 1),
            strides=everywhere(self.strides, 1),
            padding=everywhere(self.padding, (0, 0)),
            base_dilation=(1,) * self.x.ndim,
            window_dilation=everywhere(self.dilation, 1),
        )

    def counts(self, include_padding: bool) -> np.ndarray:
        """Cells of every window that lie in x, or in x and its padding; broadcastable to the windows."""
        counts = np.ones((1,) * self.x.ndim, np.int64)
        for axis, (n, k, s, d, (lo, hi)) in enumerate(
            zip(self.size, self.window, self.strides, self.dilation, self.asked, strict=True), self.first
        ):
            low, high = (-lo, n + hi) if include_padding else (0, n)
            inside = _cells_within(low, high, self.problem("sum").windows_shape[axis], k, s, d, lo)
            counts = counts * inside.reshape([-1 if a == axis else 1 for a in range(self.x.ndim)])
        return counts

    def flat_positions(self, taps: jax.Array) -> jax.Array:
        """Where each window's tap stands in the unpadded plane, row-major, int32."""
        flat = jnp.zeros(taps.shape, jnp.int32)
        for axis, tap in enumerate(jnp.unravel_index(taps, self.window)):
            start = lax.broadcasted_iota(jnp.int32, taps.shape, self.first + axis) * self.strides[axis]
            flat = flat * self.size[axis] + start + tap * self.dilation[axis] - self.padding[axis][0]
        return flat

    def finish(self, y: jax.Array) -> jax.Array:
        return y[0] if self.unbatched else y


def _extremum(
    operation: str, pool: Windows, return_indices: bool, algorithm: AlgorithmLike
) -> tuple[jax.Array, jax.Array | None]:
    problem, asked = pool.problem(operation), request(algorithm, operation)
    y = pool.finish(window_primitive.reduce(pool.x, problem, asked))
    if not return_indices:
        return y, None
    taps = window_primitive.arg(pool.x, problem, asked)
    return y, pool.finish(pool.flat_positions(taps))


def read_windows(
    x: jax.Array,
    window: int | Sequence[int],
    strides: int | Sequence[int] | None,
    padding: Padding,
    dilation: int | Sequence[int],
    ceil_mode: bool,
    layout: str | None,
) -> Windows:
    ndim = spatial_axes(x, window, layout)
    x, unbatched = with_batch(x, ndim)
    taps = positive_per_axis("window", window, ndim)
    steps = positive_per_axis("strides", window if strides is None else strides, ndim)
    gaps = positive_per_axis("dilation", dilation, ndim)
    first = 2 if channels_first(layout, ndim) else 1
    asked, pads = window_padding(x.shape[first : first + ndim], taps, steps, gaps, padding, ceil_mode)
    return Windows(x, unbatched, first, taps, steps, gaps, asked, pads)


def window_padding(
    size: Ints, window: Ints, strides: Ints, dilation: Ints, padding: Padding, ceil_mode: bool
) -> tuple[Pads, Pads]:
    """(lo, hi) an axis as asked for, and so that it ends where the last window of ceil mode does.

    Refuses what leaves no window, or a window without elements.
    """
    extent = tuple(map(sizes.dilated, window, dilation))
    asked = padding_pairs(padding, size, extent, strides)
    pads = []
    places = zip(size, window, strides, dilation, extent, asked, strict=True)
    for axis, (n, k, s, d, e, (lo, hi)) in enumerate(places):
        if min(lo, hi) < 0 or (not isinstance(padding, str) and max(lo, hi) > e // 2):
            raise ValueError(
                f"padding ({lo}, {hi}) on spatial axis {axis} must be between 0 and half the dilated window, {e // 2}"
            )
        if n > 0 and not ceil_mode and n + lo + hi < e:
            raise ValueError(
                f"spatial axis {axis} has {n} elements, {n + lo + hi} with padding, fewer than the dilated window's "
                f"{e}: use a smaller window, more padding or ceil_mode"
            )
        count = sizes.ceil_windows(n, e, s, lo, hi) if ceil_mode else sizes.windows(n + lo + hi, e, s)
        if n > 0 and count == 0:
            raise ValueError(
                f"windows of extent {extent} do not fit into {size} with padding {asked}: the output would be empty; "
                "use a smaller window or more padding"
            )
        if not sizes.all_hold_elements(n, count, k, s, d, lo):
            raise ValueError(
                f"a window of {window} taps, dilation {dilation}, stride {strides} over {size} with padding {asked} "
                "holds no element of x: use less padding or dilation"
            )
        pads.append((lo, hi - sizes.left_over(n + lo + hi, e, s, count) if ceil_mode else hi))
    return asked, tuple(pads)


def _cells_within(low: int, high: int, count: int, taps: int, stride: int, dilation: int, lo: int) -> np.ndarray:
    """Of each of `count` windows along an axis, the taps that stand on `low` to `high` of x."""
    cells = np.arange(count)[:, None] * stride + np.arange(taps) * dilation - lo
    within: np.ndarray = np.sum((cells >= low) & (cells < high), axis=1)
    return within
