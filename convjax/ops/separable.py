"""Convolutions that keep channels apart: depthwise, and depthwise followed by a product over channels."""

from typing import Any

import jax

from convjax.ops.arguments import as_array, channels_first, with_batch
from convjax.ops.conv import PrecisionLike, conv
from convjax.ops.operands import kernel_axes, of_one_dtype, passing_options_to


@passing_options_to(conv, but=["groups"])
def depthwise_conv(x: jax.Array, w: jax.Array, **options: Any) -> jax.Array:
    """Convolves every channel by filters of its own.

    y[n, o, c M + m] = sum over taps t of x[n, o s + t d - lo, c] w[t, c, m]

    Args:
        x: (N, *spatial, C), or as `conv`.
        w: (*kernel, C, M) with M the channel multiplier.
        **options: as `conv`, without groups.

    Returns:
        (N, *output, C M).

    Raises:
        ValueError, TypeError: as `conv`.

    Example:
        >>> import jax.numpy as jnp
        >>> depthwise_conv(jnp.ones((1, 8, 8, 16)), jnp.ones((3, 3, 16, 2)), padding="SAME").shape
        (1, 8, 8, 32)
    """
    if "groups" in options:
        raise ValueError("depthwise_conv has one group a channel: leave groups out")
    w = as_array("w", w)
    _check_filters("w", w, x, options.get("layout"))
    *kernel, channels, multiplier = w.shape
    return conv(x, w.reshape(*kernel, 1, channels * multiplier), groups=channels, **options)


@passing_options_to(conv, but=["groups"])
def separable_conv(
    x: jax.Array,
    w_depthwise: jax.Array,
    w_pointwise: jax.Array,
    *,
    bias: jax.Array | None = None,
    layout: str | None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    **options: Any,
) -> jax.Array:
    """A depthwise convolution, then a product over channels: a convolution whose kernel is a product of the two.

    y[n, o, k] = bias[k] + sum over c, m of w_pointwise[c M + m, k] sum over taps t of x[n, o s + t d - lo, c]
    w_depthwise[t, c, m]

    Args:
        x: (N, *spatial, C), or as `conv`.
        w_depthwise: (*kernel, C, M) with M the channel multiplier.
        w_pointwise: (C M, K), or with an axis of 1 before it for each spatial axis.
        bias: (K,), added at the end.
        layout, precision: as `conv`, of both convolutions.
        preferred_element_type: dtype of the sums of both convolutions and of the result, and of what passes between
            them; None is x's dtype, half precisions summed in float32 and rounded after each.
        **options: strides, padding, padding_mode, dilation and algorithm as `conv`, of the depthwise convolution: the
            pointwise one sees one element, and its algorithm is always chosen. To name that too, call
            `depthwise_conv` and `conv`.

    Returns:
        (N, *output, K).

    Raises:
        ValueError: as `conv`; or w_pointwise does not take the C M channels, naming both numbers.
        TypeError: as `conv`.

    Example:
        >>> import jax.numpy as jnp
        >>> x, w = jnp.ones((1, 8, 8, 16)), jnp.ones((3, 3, 16, 2))
        >>> separable_conv(x, w, jnp.ones((32, 10)), strides=2, padding="SAME").shape
        (1, 4, 4, 10)

    Source:
        L. Sifre, Rigid-Motion Scattering for Image Classification, 2014; F. Chollet, Xception: Deep Learning with
        Depthwise Separable Convolutions, arXiv:1610.02357.
    """
    if "groups" in options:
        raise ValueError("separable_conv has one group a channel, then one in all: leave groups out")
    x, w_depthwise, w_pointwise = of_one_dtype(x=x, w_depthwise=w_depthwise, w_pointwise=w_pointwise)
    _check_filters("w_depthwise", w_depthwise, x, layout)
    w = _pointwise_kernel(w_pointwise, w_depthwise)
    both = {"layout": layout, "precision": precision, "preferred_element_type": preferred_element_type}
    y = depthwise_conv(x, w_depthwise, **both, **options)
    return conv(y, w.astype(y.dtype), bias=bias, **both)


def _check_filters(name: str, w: jax.Array, x: jax.Array, layout: str | None) -> None:
    ndim = kernel_axes(w, "C and M", name)
    channels = with_batch(x, ndim)[0].shape[1 if channels_first(layout, ndim) else -1]
    if w.shape[-2] != channels:
        raise ValueError(
            f"{name} of shape {w.shape} has filters for {w.shape[-2]} channels, but x has {channels}: "
            f"{name} needs {channels} before its last axis"
        )


def _pointwise_kernel(w: jax.Array, w_depthwise: jax.Array) -> jax.Array:
    """w as a kernel of one tap: (1, ..., C M, K)."""
    ones = (1,) * (w_depthwise.ndim - 2)
    inputs = w_depthwise.shape[-2] * w_depthwise.shape[-1]
    if w.ndim < 2 or w.shape[:-1] not in ((inputs,), (*ones, inputs)):
        due = ", ".join(map(str, (*ones, inputs)))
        raise ValueError(
            f"w_pointwise of shape {w.shape} must be ({inputs}, K) or ({due}, K): w_depthwise of shape "
            f"{w_depthwise.shape} makes {inputs} channels"
        )
    return w.reshape(*ones, *w.shape[-2:])
