"""Windows that stand anywhere: copied side by side they tile an array, which the window primitives then reduce."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from convjax.ops.pool import Windows
from convjax.problem import Ints


def tiling(x: jax.Array, first: int, window: Ints) -> Windows:
    """Windows that tile the spatial axes of x, which start at `first`."""
    ones, none = (1,) * len(window), ((0, 0),) * len(window)
    return Windows(x, False, first, window, window, ones, none, none)


def flat_positions(taps: jax.Array, window: Ints, starts: Sequence[np.ndarray | jax.Array], size: Ints) -> jax.Array:
    """Where each window's tap stands in a plane of `size`, row-major, int32; starts broadcast to the windows."""
    flat = jnp.zeros(taps.shape, jnp.int32)
    for tap, start, n in zip(jnp.unravel_index(taps, window), starts, size, strict=True):
        flat = flat * n + start + tap
    return flat


def along(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """A vector as an array of rank `ndim` along `axis`."""
    return values.reshape([-1 if a == axis else 1 for a in range(ndim)])


def require_elements(shape: Ints, size: Ints, name: str = "x") -> None:
    if not size:
        raise ValueError(f"{name} of shape {shape} has no spatial axis: it must have one between batch and channels")
    if 0 in size:
        raise ValueError(f"{name} of shape {shape} has no elements on a spatial axis: each needs at least 1")
