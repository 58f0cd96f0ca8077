"""Padding the spatial axes by the modes that convolutions take."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from convjax.ops.arguments import channels_first
from convjax.problem import Pads

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
_NUMPY_MODE = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
PADDING_MODES = ("zeros", *_NUMPY_MODE)


def padding_modes(mode: PaddingMode | Sequence[PaddingMode], ndim: int) -> tuple[str, ...]:
    """One mode an axis."""
    modes = (mode,) * ndim if isinstance(mode, str) else tuple(mode)
    if len(modes) != ndim or any(m not in PADDING_MODES for m in modes):
        raise ValueError(
            f"padding_mode must be one of {', '.join(PADDING_MODES)}, or one for each of {ndim} axes, got {mode!r}"
        )
    return modes


def pad_by_mode(x: jax.Array, widths: Pads, modes: Sequence[str], layout: str | None = None) -> tuple[jax.Array, Pads]:
    """x padded along the axes whose mode is not zeros, and the padding that is left for the operation.

    Negative widths crop. A reflection or circle longer than the input continues periodically.
    """
    ndim = len(widths)
    first = 2 if channels_first(layout, ndim) else 1
    left = []
    for axis, ((lo, hi), mode) in enumerate(zip(widths, modes, strict=True), first):
        if mode == "zeros":
            left.append((lo, hi))
            continue
        left.append((0, 0))
        if (lo > 0 or hi > 0) and x.shape[axis] == 0:
            raise ValueError(f"padding_mode {mode!r} cannot fill ({lo}, {hi}) from an axis of size 0")
        x = lax.slice_in_dim(x, max(-lo, 0), x.shape[axis] - max(-hi, 0), axis=axis)
        pairs = [(max(lo, 0), max(hi, 0)) if a == axis else (0, 0) for a in range(x.ndim)]
        x = jnp.pad(x, pairs, mode=_NUMPY_MODE[mode])
    return x, tuple(left)
