"""Patches of an input copied out as columns, and columns added back: im2col and col2im.

Both go one spatial axis at a time: a kernel of 31 x 31 taps takes 62 slices, not 961, and all but the first copies
are long runs.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from convjax import sizes
from convjax.dtypes import accumulator
from convjax.layout import pad, window_slice
from convjax.ops.arguments import (
    Padding,
    as_array,
    channels_first,
    listed,
    per_axis,
    positive_per_axis,
    spatial_axes,
    with_batch,
)
from convjax.ops.operands import kernel_padding
from convjax.problem import Ints, Pads


def unfold(
    x: jax.Array,
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    layout: str | None = None,
) -> jax.Array:
    """The patch of x that each output of a convolution sees, as one row of features (im2col).

    columns[n, o, t C + c] = x[n, o s + t d - lo, c], and 0 outside x

    N batch, C channels, T = prod(kernel_size) taps, t the row-major number of a tap. With w (*kernel, C, K),
    `unfold(x, kernel) @ w.reshape(-1, K)` is `conv(x, w)`.

    Args:
        x: (N, *spatial, C), or (*spatial, C) without a batch; channels first under `layout`. Any dtype.
        kernel_size: taps per spatial axis; an int means as many axes as x has between batch and channels, where
            x of three axes has a batch.
        strides: elements between patches, at least 1.
        padding: as `conv`; negative numbers crop.
        dilation: elements between taps, at least 1.
        layout: None for channels last ("NWC", "NHWC", "NDHWC"), or "NCW", "NCHW", "NCDHW".

    Returns:
        (N, *output, T C) of x's dtype. With channels first (N, C T, *output), feature c T + t: PyTorch's order, which
        flattens *output as well. The gradients of half precisions are summed in float32.

    Raises:
        ValueError: sizes that do not fit together, naming both numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> unfold(jnp.arange(5.0)[:, None], 3, strides=2)
        Array([[0., 1., 2.],
               [2., 3., 4.]], dtype=float32)

    Source:
        K. Chellapilla, S. Puri, P. Simard, High Performance Convolutional Neural Networks for Document
        Processing, 2006.
    """
    x = as_array("x", x)
    ndim = _axes_of("kernel_size", kernel_size, x, layout)
    x, added = with_batch(x, ndim)
    size = x.shape[2:] if channels_first(layout, ndim) else x.shape[1:-1]
    columns = _read(size, kernel_size, strides, padding, dilation, layout).columns(x)
    return columns[0] if added else columns


def fold(
    columns: jax.Array,
    output_size: int | Sequence[int],
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    layout: str | None = None,
) -> jax.Array:
    """The adjoint of `unfold`: every column added back to where its patch came from (col2im).

    x[n, i, c] = sum over o and t with o s + t d - lo = i of columns[n, o, t C + c]

    What overlaps is added, what lies in the padding is dropped, and what no patch covers or was cropped is 0.
    `fold(unfold(x))` is x times the number of patches that cover each element; divide by
    `fold(unfold(ones_like(x)))` to get x back.

    Args:
        columns: (N, *output, T C), or (*output, T C) without a batch; (N, C T, *output) under a channels-first
            `layout`: as `unfold` returns them. Any dtype but bool.
        output_size: the spatial sizes of x, the input of `unfold`.
        kernel_size, strides, padding, dilation, layout: of `unfold`.

    Returns:
        (N, *output_size, C) in `layout`, of the dtype of columns; half precisions are summed in float32.

    Raises:
        ValueError: columns that `unfold` does not make from an input of output_size, saying what it would make.
        TypeError: columns are bool.

    Example:
        >>> import jax.numpy as jnp
        >>> fold(jnp.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]), 5, 3, strides=2)[:, 0]
        Array([0., 1., 4., 3., 4.], dtype=float32)
    """
    columns = as_array("columns", columns)
    if isinstance(listed(kernel_size), Sequence):
        ndim = _axes_of("kernel_size", kernel_size, columns, layout)
    else:
        ndim = _axes_of("output_size", output_size, columns, layout)
    size = per_axis("output_size", output_size, ndim)
    if min(size) < 0:
        raise ValueError(f"output_size must be at least 0 on every axis, got {size}")
    patches = _read(size, kernel_size, strides, padding, dilation, layout)
    patches.check(columns)
    columns, added = with_batch(columns, ndim)
    x = patches.image(columns)
    return x[0] if added else x


@dataclasses.dataclass(frozen=True)
class _Patches:
    """Where the patches of an input stand: per spatial axis its size and the numbers of its windows."""

    size: Ints
    kernel: Ints
    strides: Ints
    padding: Pads
    dilation: Ints
    channels_first: bool

    @property
    def ndim(self) -> int:
        return len(self.size)

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    @property
    def padded(self) -> Ints:
        return tuple(n + lo + hi for n, (lo, hi) in zip(self.size, self.padding, strict=True))

    @property
    def output(self) -> Ints:
        extent = map(sizes.dilated, self.kernel, self.dilation)
        return tuple(map(sizes.windows, self.padded, extent, self.strides))

    @functools.partial(jax.jit, static_argnums=0)
    def columns(self, x: jax.Array) -> jax.Array:
        """The patches of x, which has a batch."""
        batch, channels = x.shape[0], x.shape[1 if self.channels_first else -1]
        shape = self._shape(batch, self.output, channels * self.taps)
        if 0 in self.output:
            return jnp.zeros(shape, x.dtype)
        y = self._pad(x.astype(accumulator(x.dtype)), self.padding)  # the gradient adds in this dtype
        for axis in reversed(range(self.ndim)):  # the last first: its taps come to stand last
            at, stacked = self._places(axis)
            k, o, s, d = self.kernel[axis], self.output[axis], self.strides[axis], self.dilation[axis]
            y = jnp.stack([window_slice(y, at, [t * d], [o], [s]) for t in range(k)], axis=stacked)
        return y.astype(x.dtype).reshape(shape)  # from N *output *kernel C, or N C *kernel *output

    @functools.partial(jax.jit, static_argnums=0)
    def image(self, columns: jax.Array) -> jax.Array:
        """The sum of the patches where they stand: the steps of `columns` transposed, last to first."""
        batch, channels = columns.shape[0], columns.shape[1 if self.channels_first else -1] // self.taps
        if 0 in self.output:
            return jnp.zeros(self._shape(batch, self.size, channels), columns.dtype)
        features = (channels, *self.kernel) if self.channels_first else (*self.kernel, channels)
        x = columns.reshape(self._shape(batch, self.output, *features)).astype(accumulator(columns.dtype))
        for axis, (o, s, d) in enumerate(zip(self.output, self.strides, self.dilation, strict=True)):
            at, stacked = self._places(axis)
            pads, gaps = [(0, 0)] * (x.ndim - 1), [0] * (x.ndim - 1)
            gaps[at] = s - 1
            spread = []
            for t, patches in enumerate(jnp.unstack(x, axis=stacked)):
                pads[at] = (t * d, self.padded[axis] - t * d - sizes.dilated(o, s))
                spread.append(pad(patches, pads, gaps))
            x = functools.reduce(jnp.add, spread)
        return self._pad(x, [(-lo, -hi) for lo, hi in self.padding]).astype(columns.dtype)

    def check(self, columns: jax.Array) -> None:
        """Raises unless `columns` are what this makes of some x."""
        if columns.dtype == jnp.bool_:
            raise TypeError("columns are bool, which have no sum: cast them to an integer or floating dtype first")
        if columns.ndim not in (self.ndim + 1, self.ndim + 2):
            raise ValueError(
                f"columns of shape {columns.shape} must have {self.ndim + 2} axes for {self.ndim} spatial axes, "
                f"or {self.ndim + 1} without a batch"
            )
        *rest, a = columns.shape[columns.ndim - self.ndim - 1 :]
        (features, *found) = (*rest, a) if self.channels_first else (a, *rest)
        if tuple(found) != self.output:
            raise ValueError(
                f"columns of shape {columns.shape} have {tuple(found)} patches, but an input of output_size "
                f"{self.size} with kernel_size {self.kernel}, strides {self.strides}, padding {self.padding} and "
                f"dilation {self.dilation} has {self.output}"
            )
        if features % self.taps:
            raise ValueError(
                f"columns of shape {columns.shape} have {features} features, which must be a multiple of the "
                f"{self.taps} taps of kernel_size {self.kernel}"
            )

    def _shape(self, batch: int, spatial: Ints, *features: int) -> Ints:
        return (batch, *features, *spatial) if self.channels_first else (batch, *spatial, *features)

    def _places(self, axis: int) -> tuple[int, int]:
        """Where a spatial axis stands, and where its taps do, while the axes behind it have theirs already."""
        return (self.ndim + 1, 2) if self.channels_first else (1 + axis, self.ndim + 1)

    def _pad(self, x: jax.Array, padding: Sequence[tuple[int, int]]) -> jax.Array:
        before, after = (2, 0) if self.channels_first else (1, 1)
        return pad(x, [(0, 0)] * before + [*padding] + [(0, 0)] * after, [0] * x.ndim)


def _axes_of(name: str, value: int | Sequence[int], x: jax.Array, layout: str | None) -> int:
    """The number of spatial axes, from the argument called `name` as `spatial_axes` reads it."""
    ndim = spatial_axes(x, value, layout)
    if not 1 <= ndim <= 3:
        raise ValueError(f"{name}={value} for an array of shape {x.shape} is for {ndim} spatial axes, not for 1 to 3")
    return ndim


def _read(
    size: Ints,
    kernel_size: int | Sequence[int],
    strides: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
    layout: str | None,
) -> _Patches:
    ndim = len(size)
    kernel = positive_per_axis("kernel_size", kernel_size, ndim)
    steps, gaps = positive_per_axis("strides", strides, ndim), positive_per_axis("dilation", dilation, ndim)
    widths = kernel_padding(size, kernel, steps, gaps, padding)
    return _Patches(size, kernel, steps, widths, gaps, channels_first(layout, ndim))
