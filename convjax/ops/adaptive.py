"""Adaptive poolings: as many bins as are asked for, of as nearly equal size as the input allows."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from convjax import window_primitive
from convjax.ops.arguments import channels_first, per_axis, spatial_axes, with_batch
from convjax.ops.bins import along, flat_positions, require_elements, tiling
from convjax.problem import Ints, require_positive
from convjax.request import AlgorithmLike, request

OutputSize = int | Sequence[int | None]


def adaptive_avg_pool(
    x: jax.Array, output_size: OutputSize, *, layout: str | None = None, algorithm: AlgorithmLike = None
) -> jax.Array:
    """The mean of every bin, of which there are `output_size`.

    y[n, i, c] = mean of x[n, j, c] over floor(i size / output) <= j < ceil((i + 1) size / output)

    Neighbouring bins may share elements; where there are more bins than elements, all do.

    Args:
        x: (N, *size, C), or (*size, C) without a batch; channels first under `layout`. Floating point or complex.
        output_size: bins per spatial axis, None for as many as elements; an int means as many axes as x has between
            batch and channels.
        layout: None for channels last, or "NCW", "NCHW", "NCDHW".
        algorithm: of the sums, see `conv_general_dilated`.

    Returns:
        (N, *output, C) of x's dtype; half precisions are summed and divided in float32.

    Raises:
        ValueError: an output size below 1, an empty spatial axis, or axes that do not fit.
        TypeError: x is an integer array, whose mean is not one.

    Example:
        >>> import jax.numpy as jnp
        >>> adaptive_avg_pool(jnp.arange(7.0)[:, None], 5)[:, 0]
        Array([0.5, 1.5, 3. , 4.5, 5.5], dtype=float32)

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.AdaptiveAvgPool2d.html
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(f"x is {x.dtype}, whose averages are fractions: cast it to a floating dtype first")
    pool = _read(x, output_size, layout)
    sums = pool.x.astype(jnp.promote_types(x.dtype, jnp.float32))
    asked = request(algorithm, "sum")
    window, count = [1] * len(pool.bins), np.ones((1,) * sums.ndim, np.int64)
    for place, bins in enumerate(pool.bins):
        axis = pool.first + place
        count = count * along(bins.lengths, axis, sums.ndim)
        if bins.alike:
            window[place] = bins.longest
            continue
        # An axis at a time: copies of shared elements along one axis are summed before those along the next are made.
        real = along(bins.real, axis, sums.ndim)
        copies = jnp.where(real, bins.side_by_side(sums, axis), jnp.zeros((), sums.dtype))
        one = tuple(bins.longest if other == place else 1 for other in range(len(pool.bins)))
        sums = window_primitive.reduce(copies, tiling(copies, pool.first, one).problem("sum"), asked)
    if max(window) > 1:
        sums = window_primitive.reduce(sums, tiling(sums, pool.first, tuple(window)).problem("sum"), asked)
    return pool.finish((sums / count.astype(sums.real.dtype)).astype(x.dtype))


def adaptive_max_pool(
    x: jax.Array,
    output_size: OutputSize,
    *,
    return_indices: bool = False,
    layout: str | None = None,
    algorithm: AlgorithmLike = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """The largest element of every bin, of which there are `output_size`.

    y[n, i, c] = max of x[n, j, c] over floor(i size / output) <= j < ceil((i + 1) size / output)

    NaN wins wherever it stands. The first of equal elements, row-major in the bin, is the one whose index is returned
    and that the gradient goes to.

    Args:
        x: (N, *size, C), or (*size, C) without a batch; channels first under `layout`. Any real dtype.
        output_size, layout: as `adaptive_avg_pool`.
        return_indices: whether to return as well where the maxima stand.
        algorithm: see `conv_general_dilated`.

    Returns:
        (N, *output, C) of x's dtype; with `return_indices` also int32 flat positions in the plane.

    Raises:
        ValueError: as `adaptive_avg_pool`.
        TypeError: x is complex, which has no order.

    Example:
        >>> import jax.numpy as jnp
        >>> y, i = adaptive_max_pool(jnp.array([1.0, 5.0, 2.0, 2.0])[:, None], 3, return_indices=True)
        >>> y[:, 0], i[:, 0]
        (Array([5., 5., 2.], dtype=float32), Array([1, 1, 2], dtype=int32))

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.AdaptiveMaxPool2d.html
    """
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"x is {x.dtype}, which has no order: take its absolute value first")
    pool = _read(x, output_size, layout)
    copies = pool.x
    for axis, bins in enumerate(pool.bins, pool.first):
        copies = copies if bins.alike else bins.side_by_side(copies, axis)
    window = tuple(bins.longest for bins in pool.bins)
    problem, asked = tiling(copies, pool.first, window).problem("max"), request(algorithm, "max")
    y = pool.finish(window_primitive.reduce(copies, problem, asked))
    if not return_indices:
        return y
    starts = [along(bins.starts, axis, copies.ndim) for axis, bins in enumerate(pool.bins, pool.first)]
    taps = window_primitive.arg(copies, problem, asked)
    return y, pool.finish(flat_positions(taps, window, starts, tuple(bins.size for bins in pool.bins)))


@dataclasses.dataclass(frozen=True)
class Bins:
    """The bins of one axis: bin i is floor(i size / count) .. ceil((i + 1) size / count)."""

    size: int
    count: int

    @property
    def alike(self) -> bool:
        """Whether the bins tile the axis."""
        return self.size % self.count == 0

    @property
    def starts(self) -> np.ndarray:
        return (np.arange(self.count) * self.size // self.count).astype(np.int32)

    @property
    def lengths(self) -> np.ndarray:
        ends: np.ndarray = -(-np.arange(1, self.count + 1) * self.size // self.count)
        return ends - self.starts

    @property
    def longest(self) -> int:
        return int(self.lengths.max())

    @property
    def real(self) -> np.ndarray:
        """Which of the elements `side_by_side` are in the bins, and no repetition."""
        return (np.arange(self.longest) < self.lengths[:, None]).reshape(-1)

    def side_by_side(self, x: jax.Array, axis: int) -> jax.Array:
        """Along `axis` the bins one after another, each as long as the longest: its last element is repeated."""
        taps = np.minimum(np.arange(self.longest), self.lengths[:, None] - 1)
        return jnp.take(x, (self.starts[:, None] + taps).reshape(-1), axis, mode="clip")


@dataclasses.dataclass(frozen=True)
class _Pool:
    """An adaptive pooling's arguments, read: x with a batch, its spatial axes from `first`, and their bins."""

    x: jax.Array
    unbatched: bool
    first: int
    bins: tuple[Bins, ...]

    def finish(self, y: jax.Array) -> jax.Array:
        return y[0] if self.unbatched else y


def _read(x: jax.Array, output_size: OutputSize, layout: str | None) -> _Pool:
    ndim = spatial_axes(x, output_size, layout)
    x, unbatched = with_batch(x, ndim)
    first = 2 if channels_first(layout, ndim) else 1
    size = x.shape[first : first + ndim]
    require_elements(x.shape, size)
    output = per_axis("output_size", _without_none(output_size, size), ndim)
    require_positive("output_size", output)
    return _Pool(x, unbatched, first, tuple(map(Bins, size, output)))


def _without_none(output_size: OutputSize, size: Ints) -> int | Sequence[int]:
    if not isinstance(output_size, Sequence):
        return output_size
    return [n if count is None else count for count, n in zip(output_size, size, strict=True)]
