"""Poolings over all spatial axes at once."""

import jax
import jax.numpy as jnp

from convjax.dtypes import accumulator
from convjax.ops.arguments import as_array, require_averages, require_bool
from convjax.ops.pool import max_pool
from convjax.ops.windows import Planes, read_planes, require_elements


def global_avg_pool(x: jax.Array, *, layout: str | None = None, keepdims: bool = False) -> jax.Array:
    """The mean of every channel over all spatial axes.

    y[n, c] = mean over positions i of x[n, i, c]

    No window says how many axes are spatial. A layout does; without one, x of three axes or more has a batch and all
    axes between it and the channels are spatial, and x of two axes is a line without a batch.

    Args:
        x: (N, *spatial, C), or (*spatial, C) without a batch; channels first under `layout`. Floating point or
            complex.
        layout: None for channels last ("NWC", "NHWC", "NDHWC"), or "NCW", "NCHW", "NCDHW".
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
    x = require_averages(x)
    planes = _read(x, layout, keepdims)
    mean = jnp.mean(planes.x.astype(accumulator(planes.x.dtype)), planes.axes, keepdims=keepdims)
    return planes.finish(mean.astype(planes.x.dtype))


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
        TypeError: x is complex, which has no order.

    Example:
        >>> import jax.numpy as jnp
        >>> global_max_pool(jnp.arange(8).reshape(1, 2, 2, 2))
        Array([[6, 7]], dtype=int32)
    """
    planes = _read(x, layout, keepdims)
    y = max_pool(planes.x, planes.size, layout=layout)
    return planes.finish(y if keepdims else jnp.squeeze(y, planes.axes))


def _read(x: jax.Array, layout: str | None, keepdims: bool) -> Planes:
    require_bool("keepdims", keepdims)
    x = as_array("x", x)
    planes = read_planes(x, None, layout)
    require_elements(x.shape, planes.size)
    return planes
