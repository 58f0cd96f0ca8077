"""Convolutions as people call them: each reads its arguments into one problem and binds the primitive."""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from convjax import primitive
from convjax.ops.arguments import Padding, as_array, channels_first, positive_per_axis, with_batch
from convjax.ops.operands import (
    add_bias,
    check_bias,
    check_groups,
    dimension_numbers,
    kernel_axes,
    kernel_padding,
    of_one_dtype,
    of_rank,
    passing_options_to,
    result_dtype,
)
from convjax.ops.pad import PaddingMode, pad_by_mode, padding_modes
from convjax.problem import require_positive
from convjax.request import AlgorithmLike, request

PrecisionLike = str | lax.Precision | tuple[Any, Any] | None


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    *,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, argument for argument, by a chosen algorithm.

    Differentiable any number of times in either mode. Takes the place of lax's function in Flax's
    `conv_general_dilated=` constructor arguments.

    Args:
        lhs: input, rank n + 2.
        rhs: kernel, rank n + 2.
        window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count,
            batch_group_count, precision, preferred_element_type, out_sharding: as lax.
        algorithm: None to choose; a name, an algorithm, a sequence of them (the first that applies), or a
            mapping from "fprop", "dgrad", "wgrad" to one of these.

    Returns:
        The same shape and dtype as lax's function.

    Raises:
        ValueError: as lax; or the algorithm asked for is unknown or does not apply, with the reasons.

    Example:
        >>> import jax.numpy as jnp
        >>> x, w = jnp.ones((1, 3, 8, 8)), jnp.ones((5, 3, 3, 3))
        >>> conv_general_dilated(x, w, (1, 1), "VALID").shape
        (1, 5, 6, 6)
    """
    for name, values in (
        ("window_strides", window_strides),
        ("lhs_dilation", lhs_dilation),
        ("rhs_dilation", rhs_dilation),
    ):
        require_positive(name, () if values is None else values)
    return primitive.conv(
        as_array("lhs", lhs),
        as_array("rhs", rhs),
        request(algorithm, "conv"),
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )


def conv(
    x: jax.Array,
    w: jax.Array,
    *,
    bias: jax.Array | None = None,
    strides: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    layout: str | None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """Cross-correlation of x with w over 1, 2 or 3 spatial axes, as w's rank says.

    y[n, o, k] = bias[k] + sum over taps t and channels c of x[n, o s + t d - lo, c] w[t, c, k]

    N batch, C input channels, K output channels, G groups; group g of the output reads group g of the input.

    Args:
        x: (N, *spatial, C), or (*spatial, C) without a batch; channels first under `layout`.
        w: (*kernel, C // G, K), in every layout, of x's dtype. Where one holds integers and the other fractions, or one
            real and the other complex numbers, both are read as the latter.
        bias: (K,), added to the result in its dtype.
        strides: elements between windows, at least 1.
        padding: cells added (negative: cropped) at the ends of each axis: an int, one int per axis, (lo, hi)
            pairs, or "SAME", "SAME_LOWER", "VALID", "FULL", "CAUSAL".
        padding_mode: what the cells hold: "zeros", "reflect", "replicate", "circular", or one per axis.
        dilation: elements between taps, at least 1.
        groups: G.
        layout: None for channels last ("NWC", "NHWC", "NDHWC"), or "NCW", "NCHW", "NCDHW".
        precision: as lax; also bounds the stated error of the algorithms that may be chosen.
        preferred_element_type: dtype of sums and result, at least 32 bits for integers; None is that of x and w, half
            precisions summed in float32.
        algorithm: see `conv_general_dilated`.

    Returns:
        (N, *output, K) in x's layout, where output = floor((n + lo + hi - d (k - 1) - 1) / s) + 1.

    Raises:
        ValueError: shapes, groups or sizes that do not fit together, naming both numbers.
        TypeError: x and w of two precisions; sums or a bias that the result's dtype cannot hold.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.arange(1.0, 10.0).reshape(3, 3, 1)
        >>> w = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 2, 1, 1)
        >>> conv(x, w)[..., 0]
        Array([[37., 47.],
               [67., 77.]], dtype=float32)

    Source:
        Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv:1603.07285.
    """
    ndim = kernel_axes(w, "C // groups and K")
    x, added = with_batch(x, ndim)
    x, w = of_one_dtype(x=x, w=w)
    strides, dilation = positive_per_axis("strides", strides, ndim), positive_per_axis("dilation", dilation, ndim)
    first = channels_first(layout, ndim)
    bias = _check_operands(x, w, bias, groups, x.shape[1 if first else -1], preferred_element_type)

    size = x.shape[2:] if first else x.shape[1:-1]
    widths = kernel_padding(size, w.shape[:ndim], strides, dilation, padding)
    modes = padding_modes(padding_mode, ndim)
    x, widths = pad_by_mode(x, widths, modes, 2 if first else 1)

    y = conv_general_dilated(
        x,
        w,
        strides,
        widths,
        rhs_dilation=dilation,
        dimension_numbers=dimension_numbers(ndim, first),
        feature_group_count=groups,
        precision=precision,
        preferred_element_type=preferred_element_type,
        algorithm=algorithm,
    )
    if bias is not None:
        y = add_bias(y, bias, axis=1 if first else ndim + 1)
    return y[0] if added else y


@passing_options_to(conv)
def conv1d(x: jax.Array, w: jax.Array, **options: Any) -> jax.Array:
    """`conv` over one spatial axis: x (N, W, C), w (R, C // G, K).

    Everything else, results and errors included, is as `conv` says.

    Example:
        >>> import jax.numpy as jnp
        >>> conv1d(jnp.ones((2, 10, 4)), jnp.ones((3, 4, 6)), padding="CAUSAL").shape
        (2, 10, 6)
    """
    return conv(x, of_rank("conv1d", 1, "C // groups, K", w), **options)


@passing_options_to(conv)
def conv2d(x: jax.Array, w: jax.Array, **options: Any) -> jax.Array:
    """`conv` over two spatial axes: x (N, H, W, C), w (R, S, C // G, K).

    Everything else, results and errors included, is as `conv` says.

    Example:
        >>> import jax.numpy as jnp
        >>> conv2d(jnp.ones((2, 3, 10, 10)), jnp.ones((3, 3, 3, 5)), layout="NCHW").shape
        (2, 5, 8, 8)
    """
    return conv(x, of_rank("conv2d", 2, "C // groups, K", w), **options)


@passing_options_to(conv)
def conv3d(x: jax.Array, w: jax.Array, **options: Any) -> jax.Array:
    """`conv` over three spatial axes: x (N, D, H, W, C), w (Q, R, S, C // G, K).

    Everything else, results and errors included, is as `conv` says.

    Example:
        >>> import jax.numpy as jnp
        >>> conv3d(jnp.ones((1, 4, 10, 10, 5)), jnp.ones((2, 2, 2, 5, 4))).shape
        (1, 3, 9, 9, 4)
    """
    return conv(x, of_rank("conv3d", 3, "C // groups, K", w), **options)


@passing_options_to(conv)
def convolve(x: jax.Array, w: jax.Array, **options: Any) -> jax.Array:
    """True convolution: `conv` with w flipped along every spatial axis.

    y[n, o, k] = sum over taps t and channels c of x[n, o s - t d + (r - 1) d - lo, c] w[t, c, k], r taps an axis

    `scipy.signal.convolve`'s modes "full", "valid" and "same" are the paddings "FULL", "VALID" and "SAME_LOWER".

    Args:
        x, w, **options: as `conv`; padding is that of `conv` with the flipped kernel.

    Returns:
        (N, *output, K), as `conv`.

    Raises:
        ValueError: as `conv`.
        TypeError: as `conv`.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.arange(1.0, 10.0).reshape(3, 3, 1)
        >>> w = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 2, 1, 1)
        >>> convolve(x, w)[..., 0]
        Array([[23., 33.],
               [53., 63.]], dtype=float32)
    """
    w = as_array("w", w)
    return conv(x, lax.rev(w, range(w.ndim - 2)), **options)


def _check_operands(
    x: jax.Array, w: jax.Array, bias: jax.Array | None, groups: int, channels: int, preferred: Any
) -> jax.Array | None:
    """The bias, as an array, of operands that fit together."""
    inputs, outputs = w.shape[-2:]
    check_groups(groups, channels, outputs)
    if inputs != channels // groups:
        raise ValueError(
            f"w of shape {w.shape} takes {inputs} channels a group, but x has {channels} in {groups} groups: "
            f"w needs {channels // groups}"
        )
    return check_bias(bias, outputs, result_dtype(x.dtype, preferred))
