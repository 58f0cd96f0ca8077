"""The partial inverse of max pooling: every maximum back where it stood, and zeros elsewhere."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import sizes
from convjax.ops.arguments import Padding, as_array, is_same, padding_pairs, per_axis, positive_per_axis
from convjax.ops.windows import Planes, read_planes, require_elements, require_int32
from convjax.problem import Ints, Pads, require_positive


def max_unpool(
    y: jax.Array,
    indices: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    output_size: int | Sequence[int] | None = None,
    layout: str | None = None,
) -> jax.Array:
    """The partial inverse of `max_pool`: y where its indices say, and 0 elsewhere.

    x[n, indices[n, o, c], c] = y[n, o, c], the plane of x numbered row-major

    Where windows share an index, the last of them in row-major order is written and the gradient goes to it alone.
    Nothing is added up, so values and gradients have the same bits on every run, on every device.

    Args:
        y: (N, *windows, C), or (*windows, C) without a batch; channels first under `layout`. Any dtype.
        indices: flat positions in the unpadded plane, as `max_pool` returns them; int32 or int64, of y's shape.
        window, strides: of the pooling; None is the window.
        padding: of the pooling, as `max_pool`. The numbers of "SAME" and "SAME_LOWER" depend on output_size, which must
            be given with them.
        output_size: of x, an int or one per spatial axis, less than a stride from the default: several sizes pool to
            the same windows.
        layout: None for channels last ("NWC", "NHWC", "NDHWC"), or "NCW", "NCHW", "NCDHW".

    Returns:
        (N, *output, C) of y's dtype, where output = (windows - 1) strides - lo - hi + window by default. An index out
        of the plane that cannot be seen, under `jit` or a `vmap` of the indices, is written nowhere.

    Raises:
        ValueError: sizes that do not fit together, or an index out of the plane.
        TypeError: indices of another dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> max_unpool(jnp.array([5.0, 2.0])[:, None], jnp.array([1, 2])[:, None], 2)[:, 0]
        Array([0., 5., 2., 0.], dtype=float32)

    Source:
        Zeiler and Fergus, Visualizing and understanding convolutional networks, arXiv:1311.2901, section 2.1.
    """
    y = as_array("y", y)
    planes = read_planes(y, window, layout, "y")
    check_indices(indices, y, "y")
    require_elements(y.shape, planes.size, "y")
    taps = positive_per_axis("window", window, planes.ndim)
    steps = positive_per_axis("strides", window if strides is None else strides, planes.ndim)
    wanted = None if output_size is None else per_axis("output_size", output_size, planes.ndim)
    size = unpooled_size(planes.size, taps, steps, _pads(padding, wanted, taps, steps), wanted)
    return unpool(planes, indices, size)


def unpooled_size(windows: Ints, window: Ints, strides: Ints, padding: Pads, output_size: Ints | None) -> Ints:
    """The size asked for, which must be less than a stride from the default; or the default."""
    lows, highs = zip(*padding, strict=True)
    default = tuple(map(sizes.transposed, windows, window, strides, lows, highs))
    if output_size is None:
        if min(default) < 1:
            raise ValueError(f"output_size would be {default} by default: give one of at least 1 on every axis")
        return default
    for axis, (n, usual, s) in enumerate(zip(output_size, default, strides, strict=True)):
        if abs(n - usual) >= s:
            raise ValueError(
                f"output_size {n} on spatial axis {axis} must be between {usual - s + 1} and {usual + s - 1}, "
                f"less than the stride {s} from the default {usual}"
            )
    require_positive("output_size", output_size)
    return output_size


def check_indices(indices: jax.Array, y: jax.Array, name: str) -> None:
    if not hasattr(indices, "dtype"):
        raise TypeError(f"indices must be an array, got {type(indices).__name__}")
    if indices.shape != y.shape:
        raise ValueError(f"indices of shape {indices.shape} must have the shape of {name}, {y.shape}")
    if indices.dtype not in (jnp.int32, jnp.int64):
        raise TypeError(f"indices are {indices.dtype}, but must be int32 or int64, as max_pool returns them")


def unpool(planes: Planes, indices: jax.Array, size: Ints) -> jax.Array:
    """The planes' elements at `indices`, which have the shape of what was read, in planes of `size`."""
    _check_range(indices, size)
    require_int32(size, beside=math.prod(planes.size))
    indices = indices[None] if planes.unbatched else indices
    return planes.finish(_unpool(planes.x, indices, size, planes.first))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _unpool(y: jax.Array, indices: jax.Array, size: Ints, first: int) -> jax.Array:
    before, after = y.shape[:first], y.shape[first + len(size) :]
    planes: Callable[..., jax.Array] = functools.partial(_unpool_plane, size=math.prod(size))
    for _ in before:
        planes = jax.vmap(planes)
    for _ in after:
        planes = jax.vmap(planes, -1, -1)
    flat = (*before, math.prod(y.shape[first : first + len(size)]), *after)
    return planes(y.reshape(flat), indices.reshape(flat)).reshape(*before, *size, *after)


def _unpool_plane(y: jax.Array, indices: jax.Array, size: int) -> jax.Array:
    """One plane of `size` elements from its windows, numbered row-major.

    A scatter writes equal positions in any order. So the last window at every position is found first, by a maximum,
    and all others get positions past the end, where nothing is written: each its own, for the derivatives to be
    those of distinct positions.
    """
    number = lax.iota(jnp.int32, y.size)
    nowhere = size + number
    position = jnp.where((indices >= 0) & (indices < size), indices, nowhere).astype(jnp.int32)
    last = jnp.full(size, -1, jnp.int32).at[position].max(number, mode="drop")
    written = last.at[position].get(mode="fill", fill_value=-1) == number
    position = jnp.where(written, position, nowhere)
    return jnp.zeros(size, y.dtype).at[position].set(y, mode="drop", unique_indices=True)


def _pads(padding: Padding, size: Ints | None, window: Ints, strides: Ints) -> Pads:
    """(lo, hi) an axis, of the pooling of planes of `size` where that is given."""
    named = isinstance(padding, str)
    if is_same(padding) and size is None:
        raise ValueError(f"padding {padding!r} depends on the size of what was pooled: give it as output_size")
    pads = padding_pairs(padding, size or window, window, strides)
    for axis, ((lo, hi), k) in enumerate(zip(pads, window, strict=True)):
        if not named and (min(lo, hi) < 0 or max(lo, hi) > k // 2):
            raise ValueError(
                f"padding ({lo}, {hi}) on spatial axis {axis} must be between 0 and half the window, {k // 2}"
            )
    return pads


def _check_range(indices: jax.Array, size: Ints) -> None:
    """Refuses indices out of the plane where their values are known."""
    if isinstance(indices, jax.core.Tracer):
        return
    values, plane = np.asarray(indices), math.prod(size)
    outside = values[(values < 0) | (values >= plane)]
    if outside.size:
        raise ValueError(
            f"indices hold {outside[0]}, but must be at least 0 and below {plane}, the elements of a plane of "
            f"{' x '.join(map(str, size))}"
        )
