"""`lp_pool1d` to `lp_pool3d` of PyTorch, read onto `convjax.lp_pool`."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convjax.dtypes import accumulator
from convjax.functional.arguments import AXES, LAYOUTS, check_axes, per_axis, windows
from convjax.functional.pool import check_averaged, check_ordered
from convjax.ops.arguments import require_bool
from convjax.ops.lp import lp_pool, magnitude
from convjax.ops.pool import max_pool, min_pool, sum_pool
from convjax.ops.windows import read_windows
from convjax.problem import Ints
from convjax.request import AlgorithmLike


def lp_pool1d(
    input: jax.Array,
    norm_type: float,
    kernel_size: int,
    stride: int | Sequence[int] | None = None,
    ceil_mode: bool = False,
    *,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """PyTorch's `lp_pool1d`; all as `lp_pool2d`, over one spatial axis.

    Args:
        input: (N, C, W), or (C, W) without a batch.
        norm_type, stride, ceil_mode, algorithm: as `lp_pool2d`.
        kernel_size: S, an int and no list.

    Example:
        >>> import jax.numpy as jnp
        >>> lp_pool1d(jnp.array([[3.0, 4.0, 0.0, 1.0]]), 2, 2)
        Array([[5., 1.]], dtype=float32)
    """
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode, algorithm)


def lp_pool2d(
    input: jax.Array,
    norm_type: float,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    ceil_mode: bool = False,
    *,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """PyTorch's `lp_pool2d`: the p-norm of every window over two spatial axes.

    y[n, c, o] = (sum over taps t of |input[n, c, o stride + t]|^p)^(1 / p)

    A window that overhangs input in ceil mode counts as if it were full: PyTorch multiplies the mean of its powers by
    the number of all taps, and y is larger by (taps / elements)^(1 / p). PyTorch takes powers of input itself, so that
    with p not an even integer it knows no norm of a window with a negative element: that norm is `convjax.lp_pool`'s,
    of the elements that there are. N batch, C channels, H W space, R S taps.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch; floating point.
        norm_type: p, not 0 but maybe below; infinity for the largest of the absolute values, minus infinity for the
            smallest.
        kernel_size: R and S, at least 1: an int, or one an axis.
        stride: elements between windows, at least 1: an int, a list of one, or one an axis; None or an empty list is
            kernel_size.
        ceil_mode, algorithm: as `max_pool2d`.

    Returns:
        (N, C, *output) of input's dtype; half precisions are summed in float32. The gradient is 0 where all elements
        of a window are.

    Raises:
        ValueError: sizes that do not fit together, naming both numbers; an empty axis other than N; a norm_type of 0.
        TypeError: input that is not floating point, or arguments of the wrong kind.

    Example:
        >>> import jax.numpy as jnp
        >>> lp_pool2d(jnp.ones((1, 4, 5)), 1, 2, ceil_mode=True)
        Array([[[4., 4., 4.],
                [4., 4., 4.]]], dtype=float32)

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.lp_pool2d.html
    """
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode, algorithm)


def lp_pool3d(
    input: jax.Array,
    norm_type: float,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    ceil_mode: bool = False,
    *,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """PyTorch's `lp_pool3d`; all as `lp_pool2d`, over three spatial axes.

    Args:
        input: (N, C, D, H, W), or (C, D, H, W) without a batch; no smaller than kernel_size.
        norm_type, kernel_size, stride, ceil_mode, algorithm: as `lp_pool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> lp_pool3d(jnp.ones((1, 2, 4, 5, 6)), 3, (2, 1, 4))[0, 0, 0, 0]
        Array([2.], dtype=float32)
    """
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode, algorithm)


def _lp_pool(
    ndim: int,
    input: jax.Array,
    norm_type: float,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    ceil_mode: bool,
    algorithm: AlgorithmLike,
) -> jax.Array:
    name, input = f"lp_pool{ndim}d", jnp.asarray(input)
    check_axes(name, input, AXES[ndim])
    _check_norm(norm_type)
    if ndim == 1 and isinstance(kernel_size, Sequence):
        raise TypeError(f"kernel_size of {name} must be an integer, got {kernel_size!r}")
    window, strides = windows(per_axis("kernel_size", kernel_size, ndim), stride, ndim)
    require_bool("ceil_mode", ceil_mode)
    options: Any = {"strides": strides, "ceil_mode": ceil_mode, "layout": LAYOUTS[ndim]}
    if math.isinf(norm_type):
        real = jnp.abs(input) if jnp.iscomplexobj(input) else input
        check_ordered(name, real)
        extremum: Any = max_pool if norm_type > 0 else min_pool
        return extremum(magnitude(real), window, algorithm=algorithm, **options)
    check_averaged(name, input, window)
    y = _norm(input, window, norm_type, algorithm=algorithm, **options)
    pool = read_windows(input, window, strides, 0, 1, ceil_mode, LAYOUTS[ndim])
    full = math.prod(window) / pool.counts(include_padding=False)
    if norm_type != 1 and np.all(full == 1):
        return y
    # Of a window with a negative element PyTorch has the norm where p is even.
    known = True if norm_type % 2 == 0 else min_pool(input, window, **options) >= 0
    if norm_type == 1:  # its powers are input itself, whose derivative at 0 is 1
        y = jnp.where(known & (y > 0), sum_pool(input, window, **options), y)
    wide = accumulator(y.dtype)
    factor = jnp.where(known, pool.finish(jnp.asarray(full ** (1 / norm_type), wide)), 1)
    return (y.astype(wide) * factor).astype(y.dtype)


def _norm(input: jax.Array, window: Ints, p: float, **options: Any) -> jax.Array:
    if p > 0:
        return lp_pool(input, window, p=p, **options)
    wide = input.astype(accumulator(input.dtype))
    # Beside a 0 the norm is 0, and so is its gradient: through the reciprocal it would be no number.
    zero = wide == 0
    y = 1 / lp_pool(1 / jnp.where(zero, 1, wide), window, p=-p, **options)
    of_zeros = max_pool(zero, window, **{name: option for name, option in options.items() if name != "algorithm"})
    return jnp.where(of_zeros & ~jnp.isnan(y), 0, y).astype(input.dtype)


def _check_norm(norm_type: float) -> None:
    if not isinstance(norm_type, int | float | np.number):
        raise TypeError(f"norm_type must be a real number, got {norm_type!r}")
    if norm_type == 0 or math.isnan(norm_type):
        raise ValueError(f"norm_type must be a number other than 0, got {norm_type}")
