"""`pad` of PyTorch: constants on any axes, and the other modes of `convjax.pad` on the spatial ones."""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from convjax.functional.arguments import LAYOUTS, require_no_bools, require_one_way
from convjax.layout import pad as pad_axes
from convjax.ops.arguments import as_array, number, per_axis
from convjax.ops.pad import pad as pad_spatial
from convjax.problem import Ints, Pads

_MODES = ("constant", "reflect", "replicate", "circular")


def pad(
    input: jax.Array,
    pad: Sequence[int],
    mode: Literal["constant", "reflect", "replicate", "circular"] = "constant",
    value: float | None = None,
    *,
    algorithm: None = None,
) -> jax.Array:
    """PyTorch's `pad`: cells added at the ends of the last axes, or cropped where negative.

    Of a line a b c, padded by 2 at each end: "constant" v v a b c v v, "reflect" c b a b c b a, "replicate"
    a a a b c c c, "circular" b c a b c a b. Where one end is cropped, "reflect" and "replicate" fill the other before
    that and "circular" after it.

    Args:
        input: any shape in mode "constant"; else (N, C, *spatial), or (C, *spatial) without a batch.
        pad: (lo, hi) of the last axis, then of the last but one, and so on, flattened; outside of mode "constant"
            for every spatial axis, 1 to 3 of them.
        mode: what the cells hold. "reflect" takes fewer cells than the axis is long, "circular" as many as are left
            of it.
        value: of the cells in mode "constant"; None is 0.
        algorithm: None: cells are copied in one way.

    Returns:
        input with every padded axis n long n + lo + hi, in its dtype.

    Raises:
        ValueError: numbers that do not fit the axes or their sizes, or a value that the mode or the dtype has no
            place for.
        TypeError: pad or value that hold no numbers, or bool to reflect or replicate.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, 2.0, 3.0]])
        >>> pad(x, (1, 2), value=9.0)
        Array([[9., 1., 2., 3., 9., 9.]], dtype=float32)
        >>> pad(x, (-1, 2), "reflect")
        Array([[2., 3., 2., 1.]], dtype=float32)

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.pad.html
    """
    require_one_way("pad", algorithm)
    input = as_array("input", input)
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(_MODES)}, got {mode!r}")
    pairs = _pairs(pad, input.ndim)
    fill = 0.0 if value is None else number("value", value)
    if mode == "constant":
        _check_crops(input.shape, pairs)
        every = [(0, 0)] * (input.ndim - len(pairs)) + [*pairs]
        return pad_axes(input, every, [0] * input.ndim, _of_dtype(fill, input.dtype))
    if fill != 0:
        raise ValueError(f"value must be left out in mode {mode!r}, which copies cells of input, got {value}")
    _check_axes(input.shape, len(pairs), mode)
    layout = LAYOUTS[len(pairs)]
    if mode == "circular":
        _check_crops(input.shape, pairs)
        _check_circle(input.shape, pairs)
        return pad_spatial(input, pairs, mode=mode, layout=layout)
    _check_copies(input, pairs, mode)
    filled = pad_spatial(input, [(max(lo, 0), max(hi, 0)) for lo, hi in pairs], mode=mode, layout=layout)
    return pad_spatial(filled, [(min(lo, 0), min(hi, 0)) for lo, hi in pairs], layout=layout)


def _pairs(pad: Sequence[int], ndim: int) -> Pads:
    """(lo, hi) of the padded axes, in the order of the axes."""
    if not isinstance(pad, Sequence):
        raise TypeError(f"pad must be a sequence of integers, (lo, hi) of the last axis first, got {pad!r}")
    require_no_bools("pad", pad)
    widths = per_axis("pad", pad, len(pad))
    if len(widths) % 2:
        raise ValueError(f"pad must hold two numbers for each axis, got {len(widths)}: {widths}")
    if len(widths) > 2 * ndim:
        raise ValueError(f"pad holds {len(widths)} numbers, but input has {ndim} axes: give at most {2 * ndim}")
    return tuple(zip(widths[-2::-2], widths[::-2], strict=True))


def _of_dtype(number: float, dtype: np.dtype) -> object:
    """The number in `dtype`: cut to an integer for integers, refused where it overflows."""
    if dtype == jnp.bool_:
        return bool(number)
    if jnp.issubdtype(dtype, jnp.integer):
        limits = jnp.iinfo(dtype)
        if not limits.min <= number <= limits.max:  # nor is NaN
            raise ValueError(f"value {number} must be between {limits.min} and {limits.max} for an input of {dtype}")
        return int(number)
    largest = float(jnp.finfo(dtype).max)
    if math.isfinite(number) and abs(number) > largest:
        raise ValueError(f"value {number} must be at most {largest} in magnitude for an input of {dtype}")
    return number


def _check_axes(shape: Ints, padded: int, mode: str) -> None:
    if padded not in LAYOUTS or len(shape) not in (padded + 1, padded + 2):
        raise ValueError(
            f"pad holds {2 * padded} numbers for an input of shape {shape}, but mode {mode!r} pads all spatial axes, "
            "1 to 3 of them: 2 numbers for 2 or 3 axes, 4 for 3 or 4, 6 for 4 or 5"
        )


def _check_crops(shape: Ints, pairs: Pads) -> None:
    for n, (lo, hi) in _padded(shape, pairs):
        if n + min(lo, 0) + min(hi, 0) < 0:
            raise ValueError(f"pad ({lo}, {hi}) crops more than the {n} elements of its axis of input of shape {shape}")


def _check_circle(shape: Ints, pairs: Pads) -> None:
    for n, (lo, hi) in _padded(shape, pairs):
        left = n + min(lo, 0) + min(hi, 0)
        if max(lo, hi) > left:
            raise ValueError(
                f"pad ({lo}, {hi}) must be at most {left} in mode 'circular', what is left of the {n} elements of its "
                f"axis of input of shape {shape}"
            )


def _check_copies(input: jax.Array, pairs: Pads, mode: str) -> None:
    """What "reflect" and "replicate" ask for."""
    shape = input.shape
    if input.dtype == jnp.bool_:
        raise TypeError(f"input is bool, which PyTorch does not {mode}: cast it, or call convjax.pad")
    if 0 in shape[-len(pairs) - 1 :]:
        raise ValueError(f"input of shape {shape} has an empty axis: in mode {mode!r} only N may be 0")
    for n, (lo, hi) in _padded(shape, pairs):
        if n + lo + hi < 1:
            raise ValueError(
                f"pad ({lo}, {hi}) leaves {n + lo + hi} of the {n} elements of its axis of input of shape {shape}: "
                f"mode {mode!r} must leave at least 1"
            )
        if mode == "reflect" and max(lo, hi) >= n:
            raise ValueError(
                f"pad ({lo}, {hi}) must be below {n} in mode 'reflect', the elements of its axis of input of shape "
                f"{shape}"
            )


def _padded(shape: Ints, pairs: Pads) -> list[tuple[int, tuple[int, int]]]:
    """The size and (lo, hi) of every padded axis."""
    return list(zip(shape[len(shape) - len(pairs) :], pairs, strict=True))
