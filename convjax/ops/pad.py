"""Padding the spatial axes by the modes that convolutions take."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from convjax.dtypes import accumulator
from convjax.layout import pad as pad_axes
from convjax.ops.arguments import Padding, as_array, channels_first, padding_pairs, spatial_axes, with_batch
from convjax.problem import Pads

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
_NUMPY_MODE = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
PADDING_MODES = ("zeros", *_NUMPY_MODE)


def padding_modes(mode: PaddingMode | Sequence[PaddingMode], ndim: int, name: str = "padding_mode") -> tuple[str, ...]:
    """One mode an axis, from the argument called `name`."""
    modes = tuple(mode) if isinstance(mode, Sequence) and not isinstance(mode, str) else (mode,) * ndim
    if len(modes) != ndim or any(m not in PADDING_MODES for m in modes):
        raise ValueError(
            f"{name} must be one of {', '.join(PADDING_MODES)}, or one for each of {ndim} axes, got {mode!r}"
        )
    return modes


def pad(
    x: jax.Array,
    widths: Padding,
    *,
    mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    layout: str | None = None,
) -> jax.Array:
    """x with cells added at the ends of its spatial axes, or taken away.

    Of a line a b c, padded by 2 at each end: "zeros" 0 0 a b c 0 0, "reflect" c b a b c b a, "replicate" a a a b c c c,
    "circular" b c a b c a b. A reflection or circle longer than the line goes on periodically.

    Args:
        x: (N, *spatial, C), or (*spatial, C) without a batch; channels first under `layout`. Any dtype.
        widths: an int, one int per spatial axis, or (lo, hi) pairs; negative crops. One int means as many axes as x
            has between batch and channels, where x of three axes has a batch.
        mode: what the cells hold, or one mode per spatial axis.
        layout: None for channels last ("NWC", "NHWC", "NDHWC"), or "NCW", "NCHW", "NCDHW".

    Returns:
        x with every spatial axis n long n + lo + hi, in its dtype. The gradients of half precisions are summed in
        float32.

    Raises:
        ValueError: widths that crop more than there is, or cells copied from an axis of size 0.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([1.0, 2.0, 3.0])[:, None]
        >>> pad(x, [(1, 2)], mode="reflect")[:, 0]
        Array([2., 1., 2., 3., 2., 1.], dtype=float32)
    """
    if isinstance(widths, str):
        raise ValueError(f"widths must be numbers, got {widths!r}: names belong to a kernel, as in conv's padding")
    x = as_array("x", x)
    ndim = spatial_axes(x, widths, layout)
    x, added = with_batch(x, ndim)
    first = 2 if channels_first(layout, ndim) else 1
    pairs = padding_pairs(widths, (0,) * ndim, (0,) * ndim, (1,) * ndim)
    y, left = pad_by_mode(x, pairs, padding_modes(mode, ndim, "mode"), first)
    y = pad_axes(y, [(0, 0)] * first + list(left) + [(0, 0)] * (x.ndim - first - ndim), [0] * x.ndim)
    return y[0] if added else y


def pad_by_mode(x: jax.Array, widths: Pads, modes: Sequence[str], first: int) -> tuple[jax.Array, Pads]:
    """x padded along the axes whose mode is not zeros, and the padding that is left for the operation.

    Negative widths crop. A reflection or circle longer than the input continues periodically.
    """
    left = []
    dtype = x.dtype
    for axis, ((lo, hi), mode) in enumerate(zip(widths, modes, strict=True), first):
        size = x.shape[axis]
        if size + min(lo, 0) + min(hi, 0) < 0:
            raise ValueError(f"padding ({lo}, {hi}) crops more than the {size} elements of spatial axis {axis - first}")
        if mode == "zeros":
            left.append((lo, hi))
            continue
        left.append((0, 0))
        x = lax.slice_in_dim(x, max(-lo, 0), size - max(-hi, 0), axis=axis)
        if (lo > 0 or hi > 0) and x.shape[axis] == 0:
            raise ValueError(f"padding_mode {mode!r} cannot fill ({lo}, {hi}) from an axis of size 0")
        pairs = [(max(lo, 0), max(hi, 0)) if a == axis else (0, 0) for a in range(x.ndim)]
        x = jnp.pad(x.astype(accumulator(dtype)), pairs, mode=_NUMPY_MODE[mode])  # the gradient adds in this dtype
    return x.astype(dtype), tuple(left)
