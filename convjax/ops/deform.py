"""Deformable convolution: every tap is sampled where an offset puts it, then contracted as a 1x1 convolution."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convjax import sizes
from convjax.dtypes import accumulator
from convjax.ops.arguments import (
    Padding,
    as_array,
    channels_first,
    integer,
    padding_pairs,
    positive_per_axis,
    with_batch,
)
from convjax.ops.conv import PrecisionLike, conv
from convjax.request import AlgorithmLike


def deform_conv2d(
    x: jax.Array,
    offset: jax.Array,
    w: jax.Array,
    *,
    mask: jax.Array | None = None,
    bias: jax.Array | None = None,
    strides: int | Sequence[int] = 1,
    padding: Padding = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    offset_groups: int = 1,
    layout: str | None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """Cross-correlation of x with w whose taps are moved by `offset` and, with `mask`, weighed by it.

    y[n, i, j, k] = bias[k] + sum over taps t and channels c of mask[n, i, j, t] x(n, p, c) w[t, c, k]
    p = (i, j) s + t d - lo + offset[n, i, j, t]

    x(n, p, c) is bilinear between elements; all beyond x is 0. N batch, C input channels, K output channels,
    G groups, O offset groups: channel c moves with offset group c // (C // O). Offsets of 0 and masks of 1
    give `conv`.

    Where p meets an element exactly, the derivative by its offset is that towards larger positions. A NaN offset
    gives NaN, an infinite one 0. NaN and infinity in x count where their weight is not 0.

    Args:
        x: (N, H, W, C), or (H, W, C) without a batch; channels first under `layout`.
        offset: (N, H', W', O R S 2), its features ordered by offset group, tap row-major, (dy, dx), in elements;
            in x's layout, and without a batch as x is. Of any floating dtype.
        w: (R, S, C // G, K), in every layout.
        mask: (N, H', W', O R S), as offset; None is 1 everywhere.
        bias: (K,).
        strides, padding, dilation, groups: as `conv`; elements that negative padding crops can still be sampled.
        offset_groups: O.
        layout: None for channels last ("NHWC"), or "NCHW".
        precision, preferred_element_type: as `conv`.
        algorithm: see `conv_general_dilated`; for the 1x1 convolution of the samples, R S C channels in G groups.

    Returns:
        (N, H', W', K) in x's layout, of the size and dtype that `conv` gives. Half precisions are interpolated
        in float32.

    Raises:
        ValueError: as `conv`; an offset or mask of another shape; offset groups that do not divide the channels.
        TypeError: as `conv`; or x, offset or mask is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.arange(1.0, 10.0).reshape(3, 3, 1)
        >>> half_a_row_down = jnp.broadcast_to(jnp.array([0.5, 0.0]), (3, 3, 2))
        >>> deform_conv2d(x, half_a_row_down, jnp.ones((1, 1, 1, 1)))[..., 0]
        Array([[2.5, 3.5, 4.5],
               [5.5, 6.5, 7.5],
               [3.5, 4. , 4.5]], dtype=float32)

    Source:
        Dai et al., Deformable convolutional networks, arXiv:1703.06211, equations 2 to 4; the mask: Zhu et al.,
        Deformable ConvNets v2, arXiv:1811.11168, equation 1.
    """
    x, offset, w = as_array("x", x), as_array("offset", offset), as_array("w", w)
    mask = None if mask is None else as_array("mask", mask)
    if w.ndim != 4:
        raise ValueError(f"w of shape {w.shape} must have 4 axes for deform_conv2d: R, S, C // groups, K")
    _check_floating(x=x, offset=offset, mask=mask)
    # What is deformed: it refuses what does not fit together, and its output is as large as ours.
    plain = jax.eval_shape(
        lambda x, w: conv(
            x,
            w,
            bias=bias,
            strides=strides,
            padding=padding,
            dilation=dilation,
            groups=groups,
            layout=layout,
            preferred_element_type=preferred_element_type,
        ),
        x,
        w,
    )
    first = channels_first(layout, 2)
    _check_groups(x.shape, offset_groups, channel_axis=-3 if first else -1)
    taps = w.shape[0] * w.shape[1]
    for name, array, numbers in (("offset", offset, 2), ("mask", mask, 1)):
        _check_features(name, array, plain.shape, -3 if first else -1, offset_groups, taps, numbers)

    x, added = with_batch(x, 2)
    if added:
        offset, mask = offset[None], None if mask is None else mask[None]
    if first:
        x, offset = jnp.moveaxis(x, 1, -1), jnp.moveaxis(offset, 1, -1)
        mask = None if mask is None else jnp.moveaxis(mask, 1, -1)
    rows, columns = _positions(x.shape[1:3], offset, w.shape[:2], strides, padding, dilation, offset_groups)
    planes = x.reshape(*x.shape[:3], offset_groups, x.shape[3] // offset_groups)  # N H W O C/O
    samples = _sample(planes, rows, columns)  # N H' W' T O C/O
    if mask is not None:
        weight = jnp.swapaxes(mask.reshape(*mask.shape[:3], offset_groups, taps), 3, 4)  # N H' W' T O
        samples = samples * weight[..., None]

    # The channels of a group hold its taps, so that one tap's channels stay together as they do in w.
    split = samples.astype(x.dtype).reshape(*samples.shape[:4], groups, x.shape[3] // groups)
    y = conv(
        jnp.swapaxes(split, 3, 4).reshape(*samples.shape[:3], taps * x.shape[3]),  # N H' W' G T C/G
        w.reshape(1, 1, taps * w.shape[2], w.shape[3]),
        bias=bias,
        groups=groups,
        precision=precision,
        preferred_element_type=preferred_element_type,
        algorithm=algorithm,
    )
    y = jnp.moveaxis(y, -1, 1) if first else y
    return y[0] if added else y


def _positions(
    size: Sequence[int],
    offset: jax.Array,
    kernel: Sequence[int],
    strides: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
    offset_groups: int,
) -> tuple[jax.Array, jax.Array]:
    """Row and column of every sample in x, each N H' W' T O, in float32 or wider."""
    strides, dilation = positive_per_axis("strides", strides, 2), positive_per_axis("dilation", dilation, 2)
    extent = tuple(map(sizes.dilated, kernel, dilation))
    (top, _), (left, _) = padding_pairs(padding, tuple(size), extent, strides)
    taps = np.indices(kernel).reshape(2, -1)  # row and column of every tap, row-major
    rows = np.arange(offset.shape[1])[:, None] * strides[0] - top + taps[0] * dilation[0]  # H' T
    columns = np.arange(offset.shape[2])[:, None] * strides[1] - left + taps[1] * dilation[1]  # W' T

    moved = offset.reshape(*offset.shape[:3], offset_groups, taps.shape[1], 2)
    moved = jnp.swapaxes(moved, 3, 4).astype(accumulator(offset.dtype))  # N H' W' T O 2
    return (
        moved[..., 0] + rows[None, :, None, :, None].astype(moved.dtype),
        moved[..., 1] + columns[None, None, :, :, None].astype(moved.dtype),
    )


@jax.checkpoint  # otherwise the four corners of every sample are kept for the gradient
@jax.jit
def _sample(planes: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """Bilinear samples of planes N H W O C/O at positions N H' W' T O; all beyond the plane is 0."""
    batch, height, width, offset_groups, channels = planes.shape
    wide = planes.astype(accumulator(planes.dtype))
    if not planes.size:
        return jnp.zeros((*y.shape, channels), wide.dtype)
    flat = wide.reshape(batch, height * width, offset_groups, channels)
    y, x = jnp.clip(y, -2, height + 1), jnp.clip(x, -2, width + 1)  # as far out as any, and finite
    top, left = jnp.floor(y), jnp.floor(x)
    total = jnp.zeros((), wide.dtype)
    for row, row_weight in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, column_weight in ((left, 1 - (x - left)), (left + 1, x - left)):
            weight = row_weight * column_weight
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            at = _clamped(row, height) * width + _clamped(column, width)
            corner = _gather(flat, at)
            counts = inside[..., None] & (jnp.isfinite(corner) | (weight != 0)[..., None])
            total = total + weight[..., None] * jnp.where(counts, corner, 0)
    return total


def _clamped(index: jax.Array, size: int) -> jax.Array:
    return jnp.clip(index.astype(jnp.int32), 0, size - 1)


def _gather(flat: jax.Array, at: jax.Array) -> jax.Array:
    """Elements N H' W' T O C of flat N (H W) O C at the indices N H' W' T O."""

    def of_plane(plane: jax.Array, at: jax.Array) -> jax.Array:
        return plane.at[at].get(mode="promise_in_bounds")

    of_image = jax.vmap(of_plane, in_axes=(1, 3), out_axes=3)
    return jax.vmap(of_image)(flat, at)


def _check_floating(**operands: jax.Array | None) -> None:
    for name, array in operands.items():
        if array is not None and not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{name} is {array.dtype}, but samples between elements are fractions: cast it to a float")


def _check_groups(shape: Sequence[int], offset_groups: int, channel_axis: int) -> None:
    channels = shape[channel_axis]
    if integer("offset_groups", offset_groups) < 1:
        raise ValueError(f"offset_groups must be at least 1, got {offset_groups}")
    if channels % offset_groups:
        raise ValueError(f"offset_groups={offset_groups} must divide the {channels} channels of x")


def _check_features(
    name: str,
    array: jax.Array | None,
    output: Sequence[int],
    channel_axis: int,
    offset_groups: int,
    taps: int,
    numbers: int,
) -> None:
    due = list(output)
    due[channel_axis] = offset_groups * taps * numbers
    if array is not None and array.shape != tuple(due):
        raise ValueError(
            f"{name} of shape {array.shape} must be {tuple(due)}: at every output {numbers} for each of {taps} taps "
            f"in each of {offset_groups} offset groups"
        )
