"""Adaptive poolings: as many bins as are asked for, of as nearly equal size as the input allows."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np

from convjax.dtypes import accumulator, extremes
from convjax.ops.arguments import listed, per_axis, require_averages, require_ordered
from convjax.ops.windows import Planes, Windows, read_planes, require_elements
from convjax.problem import require_positive
from convjax.request import AlgorithmLike, request

OutputSize = int | Sequence[int | None]


def adaptive_avg_pool(
    x: jax.Array, output_size: OutputSize, *, layout: str | None = None, algorithm: AlgorithmLike = None
) -> jax.Array:
    """The mean of every bin, of which there are `output_size`.

    y[n, i, c] = mean of x[n, j, c] over floor(i size / output) <= j < ceil((i + 1) size / output)

    Neighbouring bins may share elements; where there are more bins than elements, all do. Gradients have the same bits
    on every run, on every device.

    Args:
        x: (N, *size, C), or (*size, C) without a batch; channels first under `layout`. Floating point or complex.
        output_size: bins per spatial axis, None for as many as elements; an int means as many axes as x has between
            batch and channels, where x of three axes has a batch.
        layout: None for channels last ("NWC", "NHWC", "NDHWC"), or "NCW", "NCHW", "NCDHW".
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
    x = require_averages(x)
    request(algorithm, "sum")  # refuses unknown names, also where no bin needs a sum
    planes, bins = _read(x, output_size, layout)
    sums = planes.x.astype(accumulator(planes.x.dtype))
    window, count = [1] * planes.ndim, np.ones((1,) * sums.ndim, np.int64)
    for place, axis_bins in enumerate(bins):
        count = count * planes.along(axis_bins.lengths, place)
        if axis_bins.alike:
            window[place] = axis_bins.longest
            continue
        # An axis at a time: copies of shared elements along one axis are summed before those along the next are made.
        copies = axis_bins.side_by_side(sums, planes.axes[place], fill=0)
        one = tuple(axis_bins.longest if other == place else 1 for other in range(planes.ndim))
        sums = Windows.tiling(copies, planes.first, one).reduce("sum", algorithm)
    if max(window) > 1:
        sums = Windows.tiling(sums, planes.first, tuple(window)).reduce("sum", algorithm)
    return planes.finish((sums / count.astype(sums.real.dtype)).astype(planes.x.dtype))


class _Options(TypedDict, total=False):
    layout: str | None
    algorithm: AlgorithmLike


@overload
def adaptive_max_pool(
    x: jax.Array, output_size: OutputSize, *, return_indices: Literal[False] = False, **options: Unpack[_Options]
) -> jax.Array: ...
@overload
def adaptive_max_pool(
    x: jax.Array, output_size: OutputSize, *, return_indices: Literal[True], **options: Unpack[_Options]
) -> tuple[jax.Array, jax.Array]: ...
@overload
def adaptive_max_pool(
    x: jax.Array, output_size: OutputSize, *, return_indices: bool, **options: Unpack[_Options]
) -> jax.Array | tuple[jax.Array, jax.Array]: ...
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
    and that the gradient goes to. Gradients have the same bits on every run, on every device.

    Args:
        x: (N, *size, C), or (*size, C) without a batch; channels first under `layout`. Any real dtype.
        output_size, layout: as `adaptive_avg_pool`.
        return_indices: whether to return as well where the maxima stand.
        algorithm: see `conv_general_dilated`.

    Returns:
        (N, *output, C) of x's dtype; with `return_indices` also int32 flat positions in the plane.

    Raises:
        ValueError: as `adaptive_avg_pool`, or indices asked for of a plane of more elements than int32 numbers.
        TypeError: x is complex, which has no order.

    Example:
        >>> import jax.numpy as jnp
        >>> y, i = adaptive_max_pool(jnp.array([1.0, 5.0, 2.0, 2.0])[:, None], 3, return_indices=True)
        >>> y[:, 0], i[:, 0]
        (Array([5., 5., 2.], dtype=float32), Array([1, 1, 2], dtype=int32))

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.AdaptiveMaxPool2d.html
    """
    x = require_ordered(x)
    planes, bins = _read(x, output_size, layout)
    copies, (least, _) = planes.x, extremes(np.dtype(planes.x.dtype))
    for axis, axis_bins in zip(planes.axes, bins, strict=True):
        copies = copies if axis_bins.alike else axis_bins.side_by_side(copies, axis, fill=least)
    tiles = Windows.tiling(copies, planes.first, tuple(axis_bins.longest for axis_bins in bins))
    y = planes.finish(tiles.reduce("max", algorithm))
    if not return_indices:
        return y
    starts = [planes.along(axis_bins.starts, place) for place, axis_bins in enumerate(bins)]
    positions = planes.positions(tiles.argmax(algorithm), tiles.window, starts, tiles.dilation)
    return y, planes.finish(positions)


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

    def side_by_side(self, x: jax.Array, axis: int, fill: Any) -> jax.Array:
        """Along `axis` the bins one after another, each as long as the longest: shorter ones are filled up.

        The gradient adds up what an element receives from all its bins, a scatter in any order. Two numbers have the
        same sum in either; where an element can be in more bins, each bin reads a copy of its own.
        """
        taps = np.arange(self.longest)
        real = taps < self.lengths[:, None]
        at = self.starts[:, None] + taps
        wide = x.astype(accumulator(x.dtype))
        copies = 1
        if self.count > self.size:
            holders = Bins(self.count, self.size)  # element j is in the bins that bin j of these holds
            copies = holders.longest
            number = np.arange(self.count)[:, None] - holders.starts[np.minimum(at, self.size - 1)]
            at = at * copies + number
            shape = (*x.shape[: axis + 1], copies, *x.shape[axis + 1 :])
            wide = jnp.broadcast_to(jnp.expand_dims(wide, axis + 1), shape)
            wide = wide.reshape(*x.shape[:axis], self.size * copies, *x.shape[axis + 1 :])
        nowhere = self.size * copies + np.arange(at.size)
        at = np.where(real.reshape(-1), at.reshape(-1), nowhere)
        taken = jnp.take(wide, at, axis, unique_indices=copies > 1, mode="fill", fill_value=fill)
        return taken.astype(x.dtype)


def _read(x: jax.Array, output_size: OutputSize, layout: str | None) -> tuple[Planes, tuple[Bins, ...]]:
    planes = read_planes(x, output_size, layout)
    require_elements(x.shape, planes.size)
    given = listed(output_size)
    if isinstance(given, Sequence) and not isinstance(given, str):
        given = [n if count is None else count for count, n in zip(given, planes.size, strict=True)]
    output = per_axis("output_size", given, planes.ndim)
    require_positive("output_size", output)
    return planes, tuple(map(Bins, planes.size, output))
