"""Poolings as people call them: maxima, minima, sums and means of windows."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np

from convjax.dtypes import accumulator
from convjax.ops.arguments import (
    Padding,
    integer,
    require_averages,
    require_bool,
    require_ordered,
    require_sums,
)
from convjax.ops.windows import read_windows
from convjax.request import AlgorithmLike


class _Options(TypedDict, total=False):
    strides: int | Sequence[int] | None
    padding: Padding
    dilation: int | Sequence[int]
    ceil_mode: bool
    layout: str | None
    algorithm: AlgorithmLike


@overload
def max_pool(
    x: jax.Array, window: int | Sequence[int], *, return_indices: Literal[False] = False, **options: Unpack[_Options]
) -> jax.Array: ...
@overload
def max_pool(
    x: jax.Array, window: int | Sequence[int], *, return_indices: Literal[True], **options: Unpack[_Options]
) -> tuple[jax.Array, jax.Array]: ...
@overload
def max_pool(
    x: jax.Array, window: int | Sequence[int], *, return_indices: bool, **options: Unpack[_Options]
) -> jax.Array | tuple[jax.Array, jax.Array]: ...
def max_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    layout: str | None = None,
    algorithm: AlgorithmLike = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """The largest element of every window.

    y[n, o, c] = max over taps t of x[n, o s + t d - lo, c]

    NaN wins wherever it stands. The first of equal elements, row-major, is the one whose index is returned
    and that the gradient goes to. Padding never wins.

    Args:
        x: (N, *spatial, C), or (*spatial, C) without a batch; channels first under `layout`. Any real dtype.
        window: taps per spatial axis. An int means as many axes as x has between batch and channels, where x of three
            axes has a batch; `(2, 2)` or a layout says that it is one image.
        strides: elements between windows; None is the window.
        padding: as `conv`; numbers at most half the dilated window.
        dilation: elements between taps.
        ceil_mode: whether a last window may overhang the end, if it starts inside x or its low padding.
        return_indices: whether to return as well where the maxima stand.
        layout: None for channels last ("NWC", "NHWC", "NDHWC"), or "NCW", "NCHW", "NCDHW".
        algorithm: see `conv_general_dilated`. {"dgrad": "mask"} finds the maxima in the gradient by comparison with x,
            where otherwise their taps are kept, unless keeping x is predicted to be clearly faster.

    Returns:
        (N, *output, C) of x's dtype; with `return_indices` also int32 flat positions in the unpadded plane.

    Raises:
        ValueError: sizes that do not fit together, a window without any element of x, or indices asked for of a plane
            of more elements than int32 numbers.
        TypeError: x is complex, which has no order.

    Example:
        >>> import jax.numpy as jnp
        >>> y, i = max_pool(jnp.array([1.0, 5.0, 2.0, 2.0])[:, None], 2, return_indices=True)
        >>> y[:, 0], i[:, 0]
        (Array([5., 2.], dtype=float32), Array([1, 2], dtype=int32))
    """
    x = require_ordered(x)
    pool = read_windows(x, window, strides, padding, dilation, ceil_mode, layout)
    require_bool("return_indices", return_indices)
    y = pool.finish(pool.reduce("max", algorithm))
    return (y, pool.finish(pool.flat_positions(pool.argmax(algorithm)))) if return_indices else y


def min_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    layout: str | None = None,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """The smallest element of every window; arguments, ties, NaN and errors as `max_pool`.

    y[n, o, c] = min over taps t of x[n, o s + t d - lo, c]

    Example:
        >>> import jax.numpy as jnp
        >>> min_pool(jnp.array([1.0, 5.0, 2.0, 2.0])[:, None], 2)[:, 0]
        Array([1., 2.], dtype=float32)
    """
    x = require_ordered(x)
    pool = read_windows(x, window, strides, padding, dilation, ceil_mode, layout)
    return pool.finish(pool.reduce("min", algorithm))


def sum_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    layout: str | None = None,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """The sum of every window.

    y[n, o, c] = sum over taps t of x[n, o s + t d - lo, c], and 0 outside

    Args:
        x, window, strides, padding, dilation, ceil_mode, layout, algorithm: as `max_pool`. x is any dtype but bool.

    Returns:
        (N, *output, C) of x's dtype; half precisions are summed in float32, integers wrap around as their dtype does.

    Raises:
        ValueError: as `max_pool`.
        TypeError: x is bool, which has no sums.

    Example:
        >>> import jax.numpy as jnp
        >>> sum_pool(jnp.array([1.0, 5.0, 2.0, 2.0])[:, None], 2)[:, 0]
        Array([6., 4.], dtype=float32)
    """
    x = require_sums(x)
    pool = read_windows(x, window, strides, padding, dilation, ceil_mode, layout)
    return pool.finish(pool.reduce("sum", algorithm))


def avg_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    layout: str | None = None,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """The mean of every window.

    y[n, o, c] = 1 / D[o] sum over taps t of x[n, o s + t d - lo, c]

    D counts the window's cells in x and its padding, or in x alone; the overhang of ceil mode never counts.

    Args:
        x, window, strides, padding, dilation, ceil_mode, layout, algorithm: as `max_pool`. x is floating point or
            complex.
        count_include_pad: whether cells of padding count in D.
        divisor_override: D itself, whatever lies in the window.

    Returns:
        (N, *output, C) of x's dtype; half precisions are summed in float32.

    Raises:
        ValueError: as `max_pool`, or a divisor below 1.
        TypeError: x is an integer array, whose mean is not one.

    Example:
        >>> import jax.numpy as jnp
        >>> avg_pool(jnp.arange(1.0, 6.0)[:, None], 2, ceil_mode=True)[:, 0]
        Array([1.5, 3.5, 5. ], dtype=float32)
    """
    x = require_averages(x)
    if divisor_override is not None and integer("divisor_override", divisor_override) < 1:
        raise ValueError(f"divisor_override must be at least 1, got {divisor_override}")
    require_bool("count_include_pad", count_include_pad)
    pool = read_windows(x, window, strides, padding, dilation, ceil_mode, layout)
    # A sum may overflow where the mean does not.
    sums = dataclasses.replace(pool, x=pool.x.astype(accumulator(pool.x.dtype))).reduce("sum", algorithm)
    divisor: Any = pool.counts(include_padding=count_include_pad) if divisor_override is None else divisor_override
    return pool.finish((sums / np.asarray(divisor, jnp.finfo(sums.dtype).dtype)).astype(pool.x.dtype))
