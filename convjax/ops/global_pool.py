"""Poolings over all spatial axes at once."""

from typing import cast

import jax
import jax.numpy as jnp

from convjax.dtypes import accumulator
from convjax.ops.arguments import channels_first, spatial_axes, with_batch
from convjax.ops.pool import max_pool
from convjax.problem import Ints


def global_avg_pool(x: jax.Array, *, layout: str | None = None, keepdims: bool = False) -> jax.Array:
    """The mean of every channel over all spatial axes.

    y[n, c] = mean over positions i of x[n, i, c]

    No window says how many axes are spatial. A layout does; without one, x of three axes or more has a batch and all
    axes between it and the channels are spatial, and x of two axes is a line without a batch.

    Args:
        x: (N, *spatial, C), or (*spatial, C) without a batch; channels first under `layout`. Floating point or
            complex.
        layout: None for channels last, or "NCW", "NCHW", "NCDHW".
        keepdims: whether the spatial axes stay, with 1 element each.

    Returns:
        (N, C), or (N, 1, ..., C) with `keepdims`, of x's dtype; half precisions are summed in float32.

    Raises:
        ValueError: x has no spatial axis, or one without elements.
        TypeError: x is an integer array, whose mean is not one.

    Example:
        >>> import jax.numpy as jnp
        >>> global_avg_pool(jnp.arange(8.0).reshape(1, 2, 2, 2))
        Array([[3., 4.]], dtype=float32)

    Source:
        M. Lin, Q. Chen, S. Yan, Network In Network, arXiv:1312.4400, section 3.2.
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(f"x is {x.dtype}, whose averages are fractions: cast it to a floating dtype first")
    axes = _axes(x, layout)
    return jnp.mean(x.astype(accumulator(x.dtype)), axes, keepdims=keepdims).astype(x.dtype)


def global_max_pool(x: jax.Array, *, layout: str | None = None, keepdims: bool = False) -> jax.Array:
    """The largest element of every channel over all spatial axes.

    y[n, c] = max over positions i of x[n, i, c]

    NaN wins wherever it stands, and the gradient goes to the first of equal elements, row-major, as in `max_pool`.

    Args:
        x, layout, keepdims: as `global_avg_pool`. Any real dtype.

    Returns:
        (N, C), or (N, 1, ..., C) with `keepdims`, of x's dtype.

    Raises:
        ValueError: as `global_avg_pool`.

    Example:
        >>> import jax.numpy as jnp
        >>> global_max_pool(jnp.arange(8).reshape(1, 2, 2, 2))
        Array([[6, 7]], dtype=int32)
    """
    axes = _axes(x, layout)
    y = cast(jax.Array, max_pool(x, [x.shape[axis] for axis in axes], layout=layout))
    return y if keepdims else jnp.squeeze(y, axes)


def _axes(x: jax.Array, layout: str | None) -> Ints:
    """The spatial axes of x, which all have elements."""
    ndim = spatial_axes(x, None, layout)
    if ndim < 1:
        raise ValueError(f"x of shape {x.shape} has no spatial axis: it must have 2 axes or more")
    with_batch(x, ndim)
    end = x.ndim if channels_first(layout, ndim) else x.ndim - 1
    axes = tuple(range(end - ndim, end))
    if 0 in (x.shape[axis] for axis in axes):
        raise ValueError(f"x of shape {x.shape} has no elements on a spatial axis: each needs at least 1")
    return axes
