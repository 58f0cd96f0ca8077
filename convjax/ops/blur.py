"""Blur pooling: a low-pass filter before the stride, so that what is dropped does not alias."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from convjax.ops.arguments import listed, positive_per_axis, require_averages
from convjax.ops.pad import PaddingMode
from convjax.ops.separable import depthwise_conv
from convjax.ops.windows import read_planes
from convjax.request import AlgorithmLike


def blur_pool(
    x: jax.Array,
    *,
    filter_size: int | Sequence[int] = 3,
    strides: int | Sequence[int] = 2,
    padding_mode: PaddingMode | Sequence[PaddingMode] = "reflect",
    layout: str | None = None,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """Every channel blurred by a binomial filter, then strided: pooling that hardly changes when its input is shifted.

    y[n, o, c] = sum over taps t of b[t] x[n, o s + t - (f - 1) // 2, c], b the product of C(f - 1, t) / 2^(f - 1)
    over the axes

    A depthwise convolution. To blur a maximum, as in the paper's MaxBlurPool, give `max_pool(x, 2, strides=1)`.

    Args:
        x: (N, *spatial, C) of 1 to 3 spatial axes, or (*spatial, C) without a batch; channels first under `layout`.
            Floating point or complex.
        filter_size: f, taps of the filter: an int or one per spatial axis. 1 does not blur.
        strides: elements between outputs: an int or one per spatial axis. Where both are ints and there is no layout,
            x of three axes or more has a batch.
        padding_mode: what the (f - 1) // 2 cells before x and the f // 2 behind it hold: "reflect", "replicate",
            "circular", "zeros", or one per axis. All but "zeros" keep a constant as it is.
        layout: None for channels last ("NWC", "NHWC", "NDHWC"), or "NCW", "NCHW", "NCDHW".
        algorithm: see `conv_general_dilated`.

    Returns:
        (N, *output, C) of x's dtype, where output = ceil(n / s); half precisions are summed in float32.

    Raises:
        ValueError: sizes or strides below 1, cells copied from an empty spatial axis, or other numbers of axes.
        TypeError: x is an integer array, whose averages are fractions.

    Example:
        >>> import jax.numpy as jnp
        >>> blur_pool(jnp.array([0.0, 4.0, 0.0, 4.0, 0.0])[:, None])[:, 0]
        Array([2., 2., 2.], dtype=float32)

    Source:
        R. Zhang, Making Convolutional Networks Shift-Invariant Again, arXiv:1904.11486.
    """
    x = require_averages(x)
    planes = read_planes(x, filter_size if isinstance(listed(filter_size), Sequence) else strides, layout)
    if planes.ndim > 3:
        raise ValueError(f"x of shape {x.shape} has {planes.ndim} spatial axes, but blur_pool takes 1 to 3")
    size = positive_per_axis("filter_size", filter_size, planes.ndim)
    kernel = functools.reduce(np.multiply.outer, map(_binomial, size))
    channels = planes.x.shape[planes.channel_axis]
    y = depthwise_conv(
        planes.x,
        jnp.broadcast_to(kernel[..., None, None], (*size, channels, 1)).astype(planes.x.dtype),
        strides=strides,
        padding=[((f - 1) // 2, f // 2) for f in size],
        padding_mode=padding_mode,
        layout=layout,
        algorithm=algorithm,
    )
    return planes.finish(y)


def _binomial(taps: int) -> np.ndarray:
    """The binomial coefficients of `taps`, normalized."""
    return np.array([math.comb(taps - 1, t) / 2 ** (taps - 1) for t in range(taps)])
