"""`max_pool1d` to `avg_pool3d` of PyTorch, read onto `convjax.max_pool` and `convjax.avg_pool`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from convjax.functional.arguments import (
    AXES,
    LAYOUTS,
    Pooled,
    check_axes,
    expanded,
    non_negative,
    positive,
    windows,
)
from convjax.ops import pool
from convjax.ops.arguments import require_bool
from convjax.problem import Ints
from convjax.request import AlgorithmLike


def max_pool1d(
    input: jax.Array,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    algorithm: AlgorithmLike = None,
) -> Pooled:
    """PyTorch's `max_pool1d`; all as `max_pool2d`, over one spatial axis.

    Args:
        input: (N, C, W), or (C, W) without a batch.
        kernel_size, stride, padding, dilation, ceil_mode, return_indices, algorithm: as `max_pool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> max_pool1d(jnp.array([[1.0, 5.0, 2.0, 2.0, 3.0]]), 2, ceil_mode=True)
        Array([[5., 2., 3.]], dtype=float32)
    """
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, algorithm)


def max_pool2d(
    input: jax.Array,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    algorithm: AlgorithmLike = None,
) -> Pooled:
    """PyTorch's `max_pool2d`: the largest element of every window over two spatial axes.

    y[n, c, o] = max over taps t of input[n, c, o stride + t dilation - padding]

    NaN wins wherever it stands. The first of equal elements, row-major, is the one whose index is returned and that
    the gradient goes to. N batch, C channels, H W space, R S taps.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch; floating or integer.
        kernel_size: R and S, at least 1: an int, a list of one, or one an axis.
        stride: elements between windows, at least 1, in the same forms; None or an empty list is kernel_size.
        padding: cells at both ends that never win, in the same forms; at least 0 and at most half the dilated window.
        dilation: elements between taps, at least 1, in the same forms.
        ceil_mode: whether a last window may overhang the end, if it starts inside input or its low padding.
        return_indices: whether to return as well where the maxima stand.
        algorithm: see `convjax.conv_general_dilated`.

    Returns:
        (N, C, *output) of input's dtype; with `return_indices` also int32 flat positions in the plane of input.

    Raises:
        ValueError: sizes that do not fit together, naming both numbers; an empty axis other than N; a window without
            any element of input.
        TypeError: bool or complex input, or arguments of the wrong kind.

    Example:
        >>> import jax.numpy as jnp
        >>> y, indices = max_pool2d(jnp.arange(12.0).reshape(1, 3, 4), 2, stride=1, return_indices=True)
        >>> y[0], indices[0]
        (Array([[ 5.,  6.,  7.],
               [ 9., 10., 11.]], dtype=float32), Array([[ 5,  6,  7],
               [ 9, 10, 11]], dtype=int32))

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.max_pool2d.html
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, algorithm)


def max_pool3d(
    input: jax.Array,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    algorithm: AlgorithmLike = None,
) -> Pooled:
    """PyTorch's `max_pool3d`; all as `max_pool2d`, over three spatial axes.

    Args:
        input: (N, C, D, H, W), or (C, D, H, W) without a batch.
        kernel_size, stride, padding, dilation, ceil_mode, return_indices, algorithm: as `max_pool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> max_pool3d(jnp.ones((1, 2, 4, 5, 6)), (2, 3, 3), padding=(0, 1, 1)).shape
        (1, 2, 2, 2, 2)
    """
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices, algorithm)


def avg_pool1d(
    input: jax.Array,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """PyTorch's `avg_pool1d`; all as `avg_pool2d`, over one spatial axis and without its divisor_override.

    Args:
        input: (N, C, W), or (C, W) without a batch.
        kernel_size, stride, padding, ceil_mode, count_include_pad, algorithm: as `avg_pool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> avg_pool1d(jnp.arange(1.0, 6.0)[None], 2, ceil_mode=True)
        Array([[1.5, 3.5, 5. ]], dtype=float32)
    """
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None, algorithm)


def avg_pool2d(
    input: jax.Array,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """PyTorch's `avg_pool2d`: the mean of every window over two spatial axes.

    y[n, c, o] = 1 / D[o] sum over taps t of input[n, c, o stride + t - padding], and 0 outside

    D counts the window's cells in input and its padding, or in input alone; the overhang of ceil mode never counts.
    N batch, C channels, H W space, R S taps.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch; floating point.
        kernel_size, stride, ceil_mode, algorithm: as `max_pool2d`.
        padding: zeros at both ends, at least 0 and at most half of kernel_size, in the same forms.
        count_include_pad: whether cells of padding count in D.
        divisor_override: D itself, whatever lies in the window; not 0.

    Returns:
        (N, C, *output) of input's dtype; half precisions are summed in float32.

    Raises:
        ValueError: sizes that do not fit together, naming both numbers; an empty axis other than N; a divisor of 0.
        TypeError: input that is not floating point, or arguments of the wrong kind.

    Example:
        >>> import jax.numpy as jnp
        >>> avg_pool2d(jnp.ones((1, 3, 3)), 2, padding=1)
        Array([[[0.25, 0.5 ],
                [0.5 , 1.  ]]], dtype=float32)

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.avg_pool2d.html
    """
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, algorithm)


def avg_pool3d(
    input: jax.Array,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """PyTorch's `avg_pool3d`; all as `avg_pool2d`, over three spatial axes.

    Args:
        input: (N, C, D, H, W), or (C, D, H, W) without a batch; no smaller than kernel_size, whatever its padding.
        kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, algorithm: as `avg_pool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> avg_pool3d(jnp.ones((1, 2, 4, 5, 6)), 2, ceil_mode=True, divisor_override=4)[0, 0, 0]
        Array([[2., 2., 2.],
               [2., 2., 2.],
               [1., 1., 1.]], dtype=float32)
    """
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, algorithm)


def _max_pool(
    ndim: int,
    input: jax.Array,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    ceil_mode: bool,
    return_indices: bool,
    algorithm: AlgorithmLike,
) -> Pooled:
    name = f"max_pool{ndim}d"
    check_axes(name, input, AXES[ndim])
    check_ordered(name, input)
    require_bool("ceil_mode", ceil_mode)
    window, strides = windows(kernel_size, stride, ndim)
    return pool.max_pool(
        input,
        window,
        strides=strides,
        padding=non_negative("padding", expanded("padding", padding, ndim)),
        dilation=positive("dilation", expanded("dilation", dilation, ndim)),
        ceil_mode=ceil_mode,
        return_indices=return_indices,
        layout=LAYOUTS[ndim],
        algorithm=algorithm,
    )


def _avg_pool(
    ndim: int,
    input: jax.Array,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    algorithm: AlgorithmLike,
) -> jax.Array:
    name = f"avg_pool{ndim}d"
    check_axes(name, input, AXES[ndim])
    window, strides = windows(kernel_size, stride, ndim)
    check_averaged(name, input, window)
    require_bool("ceil_mode", ceil_mode)
    require_bool("count_include_pad", count_include_pad)
    divisor = None if divisor_override is None else _divisor(divisor_override)
    y = pool.avg_pool(
        input,
        window,
        strides=strides,
        padding=non_negative("padding", expanded("padding", padding, ndim)),
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor_override=divisor and abs(divisor),
        layout=LAYOUTS[ndim],
        algorithm=algorithm,
    )
    return -y if divisor is not None and divisor < 0 else y


def check_ordered(name: str, input: jax.Array) -> None:
    if not jnp.issubdtype(input.dtype, jnp.floating) and not jnp.issubdtype(input.dtype, jnp.integer):
        raise TypeError(f"input is {input.dtype}, for which PyTorch has no {name}: cast it to a real dtype first")


def check_averaged(name: str, input: jax.Array, window: Ints) -> None:
    """What PyTorch asks of an input whose windows are averaged."""
    if not jnp.issubdtype(input.dtype, jnp.floating):
        raise TypeError(f"input is {input.dtype}, whose averages are fractions: cast it to a floating dtype first")
    size = input.shape[-len(window) :]
    if len(window) == 3 and any(n < k for n, k in zip(size, window, strict=True)):
        raise ValueError(
            f"input of spatial sizes {size} must be at least kernel_size {window} on every axis for {name}, whatever "
            "its padding: use a smaller kernel_size, or call the function of convjax"
        )


def _divisor(divisor: int) -> int:
    if isinstance(divisor, bool) or not isinstance(divisor, int | np.integer):
        raise TypeError(f"divisor_override must be an integer or None, got {divisor!r}")
    if divisor == 0:
        raise ValueError("divisor_override must not be 0")
    return int(divisor)
