"""`unfold` and `fold` of PyTorch: those of `convjax` over two spatial axes, the positions flattened to one."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from convjax import sizes
from convjax.functional.arguments import check_axes, non_negative, per_axis, positive, require_one_way
from convjax.ops import patches
from convjax.problem import Ints


def unfold(
    input: jax.Array,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    stride: int | Sequence[int] = 1,
    *,
    algorithm: None = None,
) -> jax.Array:
    """PyTorch's `unfold`: the patches of an image as columns.

    columns[n, c T + t, o] = input[n, c, o stride + t dilation - padding], and 0 outside

    N batch, C channels, H W space, T = R S taps; t and o are numbered row-major.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch; floating, complex or bool.
        kernel_size: R and S, or one int for both.
        dilation: elements between taps, at least 1; an int or one an axis.
        padding: zeros at both ends, at least 0; an int or one an axis.
        stride: elements between patches, at least 1; an int or one an axis.
        algorithm: None: patches are read in one way.

    Returns:
        (N, C T, L) of input's dtype, L the number of patches.

    Raises:
        ValueError: sizes that do not fit together, naming both numbers; an empty axis other than N.
        TypeError: an integer dtype, for which PyTorch has no unfold.

    Example:
        >>> import jax.numpy as jnp
        >>> unfold(jnp.arange(6.0).reshape(1, 2, 3), 2)
        Array([[0., 1.],
               [1., 2.],
               [3., 4.],
               [4., 5.]], dtype=float32)

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.unfold.html
    """
    require_one_way("unfold", algorithm)
    _check_operand("unfold", input, "N, C, H, W")
    kernel, gaps, widths, strides = _read(kernel_size, dilation, padding, stride)
    columns = patches.unfold(input, kernel, strides=strides, padding=widths, dilation=gaps, layout="NCHW")
    return columns.reshape(*columns.shape[:-2], math.prod(columns.shape[-2:]))


def fold(
    input: jax.Array,
    output_size: int | Sequence[int],
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    stride: int | Sequence[int] = 1,
    *,
    algorithm: None = None,
) -> jax.Array:
    """PyTorch's `fold`: the columns of `unfold` added back to where they came from; what overlaps is summed.

    Args:
        input: (N, C T, L), or (C T, L) without a batch; floating or complex.
        output_size: H and W of the image, or one int for both.
        kernel_size, dilation, padding, stride, algorithm: of `unfold`.

    Returns:
        (N, C, H, W) of input's dtype; half precisions are summed in float32.

    Raises:
        ValueError: an input that `unfold` does not make from an image of output_size, saying what it would make.
        TypeError: an integer or bool dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> fold(jnp.ones((4, 2)), (2, 3), 2)
        Array([[[1., 2., 1.],
                [1., 2., 1.]]], dtype=float32)

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.fold.html
    """
    require_one_way("fold", algorithm)
    _check_operand("fold", input, "N, C taps, L")
    size = positive("output_size", per_axis("output_size", output_size, 2))
    kernel, gaps, widths, strides = _read(kernel_size, dilation, padding, stride)
    # Counted an axis at a time, never below 0: the product of two negative counts would pass for a count.
    padded = (n + 2 * p for n, p in zip(size, widths, strict=True))
    counts = tuple(map(sizes.windows, padded, map(sizes.dilated, kernel, gaps), strides))
    features, length = input.shape[-2:]
    if length != math.prod(counts):
        raise ValueError(
            f"input of shape {input.shape} has {length} blocks, but an image of output_size {size} with kernel_size "
            f"{kernel}, dilation {gaps}, padding {widths} and stride {strides} has {counts[0]} x {counts[1]}"
        )
    if features % math.prod(kernel):
        raise ValueError(
            f"input of shape {input.shape} has {features} features, which must be a multiple of the "
            f"{math.prod(kernel)} taps of kernel_size {kernel}"
        )
    columns = input.reshape(*input.shape[:-1], *counts)
    return patches.fold(columns, size, kernel, strides=strides, padding=widths, dilation=gaps, layout="NCHW")


def _read(
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int],
    padding: int | Sequence[int],
    stride: int | Sequence[int],
) -> tuple[Ints, Ints, Ints, Ints]:
    return (
        positive("kernel_size", per_axis("kernel_size", kernel_size, 2)),
        positive("dilation", per_axis("dilation", dilation, 2)),
        non_negative("padding", per_axis("padding", padding, 2)),
        positive("stride", per_axis("stride", stride, 2)),
    )


def _check_operand(name: str, input: jax.Array, axes: str) -> None:
    check_axes(name, input, axes)
    if jnp.issubdtype(input.dtype, jnp.integer):
        raise TypeError(
            f"input is {input.dtype}, for which PyTorch has no {name}: cast to a floating dtype, or call convjax.{name}"
        )
