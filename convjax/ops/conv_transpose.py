"""Transposed convolution: the adjoint of `conv`, stated as one convolution over a dilated input."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from convjax import sizes
from convjax.ops.arguments import (
    Padding,
    channels_first,
    is_same,
    padding_pairs,
    per_axis,
    positive_per_axis,
    with_batch,
)
from convjax.ops.conv import PrecisionLike, conv_general_dilated
from convjax.ops.operands import (
    add_bias,
    check_bias,
    check_groups,
    dimension_numbers,
    kernel_axes,
    of_one_dtype,
    of_rank,
    passing_options_to,
    result_dtype,
)
from convjax.ops.pad import PaddingMode, pad_by_mode, padding_modes
from convjax.problem import Ints, Pads
from convjax.request import AlgorithmLike


def conv_transpose(
    x: jax.Array,
    w: jax.Array,
    *,
    bias: jax.Array | None = None,
    strides: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    output_padding: int | Sequence[int] = 0,
    output_size: int | Sequence[int] | None = None,
    layout: str | None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """The transpose of `conv` with the same w: what `conv` reads from an element, it adds to it.

    y[n, o s + t d - lo, k] = bias[k] + sum over positions o, taps t and channels c of x[n, o, c] w[t, c, k]

    for every o and t whose target lies inside y. N batch, C input and K output channels, G groups; group g of the
    output reads group g of the input, and the groups' outputs stand one after another.

    Args:
        x: (N, *spatial, C), or (*spatial, C) without a batch; channels first under `layout`.
        w: (*kernel, C, K // G), in every layout. PyTorch's (C, K // G, *kernel) needs only its axes moved.
        bias: (K,), added to the result in its dtype.
        strides: elements of y between the targets of neighbouring elements of x, at least 1.
        padding: the padding of the convolution that is transposed, in all forms of `conv`: numbers crop y at the ends
            of each axis (negative: extend it), as PyTorch's do.
        padding_mode: of the convolution that is transposed: what was cropped is added back where the padding came
            from; "zeros" drops it.
        dilation: elements of y between the targets of neighbouring taps, at least 1.
        groups: G.
        output_padding: how much longer than the least possible y is at the end of each axis, computed like the rest;
            below the larger of stride and dilation. Several sizes convolve to the same one; this tells them apart.
        output_size: the spatial sizes of y instead, e.g. of what was convolved.
        layout: None for channels last ("NWC", "NHWC", "NDHWC"), or "NCW", "NCHW", "NCDHW".
        precision, preferred_element_type, algorithm: as `conv`.

    Returns:
        (N, *output, K) in x's layout, where output = (n - 1) s - lo - hi + d (k - 1) + 1 + output_padding, and for
        "SAME" and "SAME_LOWER" output = n s; of an empty axis comes an empty one.

    Raises:
        ValueError: shapes, groups or sizes that do not fit together, naming both numbers.
        TypeError: as `conv`.

    Example:
        >>> import jax.numpy as jnp
        >>> x, w = jnp.array([1.0, 2.0]).reshape(2, 1), jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
        >>> conv_transpose(x, w, strides=2)[:, 0]
        Array([1., 2., 5., 4., 6.], dtype=float32)
        >>> conv_transpose(x, w, strides=2, padding="SAME")[:, 0]
        Array([1., 2., 5., 4.], dtype=float32)

    Source:
        Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv:1603.07285, section 4.
    """
    ndim = kernel_axes(w, "C and K // groups")
    x, added = with_batch(x, ndim)
    x, w = of_one_dtype(x=x, w=w)
    strides, dilation = positive_per_axis("strides", strides, ndim), positive_per_axis("dilation", dilation, ndim)
    first = channels_first(layout, ndim)
    bias = _check_operands(x, w, bias, groups, x.shape[1 if first else -1], preferred_element_type)

    size = x.shape[2:] if first else x.shape[1:-1]
    extent = tuple(sizes.dilated(k, d) for k, d in zip(w.shape[:ndim], dilation, strict=True))
    output, widths = transposed_size(size, extent, strides, dilation, padding, output_padding, output_size)
    modes = padding_modes(padding_mode, ndim)
    # Along the axes of other modes the margins are computed too, and added back afterwards.
    cropped = tuple(pair if mode == "zeros" else (0, 0) for pair, mode in zip(widths, modes, strict=True))
    computed = tuple(n + sum(pair) - sum(crop) for n, pair, crop in zip(output, widths, cropped, strict=True))

    # Profiles and `count` see it; without a stride nothing else tells it from a convolution.
    with jax.named_scope("conv_transpose"):
        y = conv_general_dilated(
            x,
            _kernel_of_adjoint(w, groups),
            (1,) * ndim,
            padding_of_adjoint(size, computed, extent, strides, cropped),
            lhs_dilation=strides,
            rhs_dilation=dilation,
            dimension_numbers=dimension_numbers(ndim, first),
            feature_group_count=groups,
            precision=precision,
            preferred_element_type=preferred_element_type,
            algorithm=algorithm,
        )
    if any(mode != "zeros" for mode in modes):
        y = _add_margins(y, output, widths, modes, 2 if first else 1)
    if bias is not None:
        y = add_bias(y, bias, axis=1 if first else ndim + 1)
    return y[0] if added else y


@passing_options_to(conv_transpose)
def conv_transpose1d(x: jax.Array, w: jax.Array, **options: Any) -> jax.Array:
    """`conv_transpose` over one spatial axis: x (N, W, C), w (R, C, K // G).

    Everything else, results and errors included, is as `conv_transpose` says.

    Example:
        >>> import jax.numpy as jnp
        >>> conv_transpose1d(jnp.ones((2, 5, 4)), jnp.ones((4, 4, 6)), strides=2, padding=1).shape
        (2, 10, 6)
    """
    return conv_transpose(x, of_rank("conv_transpose1d", 1, "C, K // groups", w), **options)


@passing_options_to(conv_transpose)
def conv_transpose2d(x: jax.Array, w: jax.Array, **options: Any) -> jax.Array:
    """`conv_transpose` over two spatial axes: x (N, H, W, C), w (R, S, C, K // G).

    Everything else, results and errors included, is as `conv_transpose` says.

    Example:
        >>> import jax.numpy as jnp
        >>> conv_transpose2d(jnp.ones((1, 50, 50, 2)), jnp.ones((3, 5, 2, 1)), strides=(2, 1), padding=(4, 2),
        ...                  dilation=(3, 1)).shape
        (1, 97, 50, 1)
    """
    return conv_transpose(x, of_rank("conv_transpose2d", 2, "C, K // groups", w), **options)


@passing_options_to(conv_transpose)
def conv_transpose3d(x: jax.Array, w: jax.Array, **options: Any) -> jax.Array:
    """`conv_transpose` over three spatial axes: x (N, D, H, W, C), w (Q, R, S, C, K // G).

    Everything else, results and errors included, is as `conv_transpose` says.

    Example:
        >>> import jax.numpy as jnp
        >>> conv_transpose3d(jnp.ones((1, 4, 6, 6, 8)), jnp.ones((2, 2, 2, 8, 4)), strides=2).shape
        (1, 8, 12, 12, 4)
    """
    return conv_transpose(x, of_rank("conv_transpose3d", 3, "C, K // groups", w), **options)


def _check_operands(
    x: jax.Array, w: jax.Array, bias: jax.Array | None, groups: int, channels: int, preferred: Any
) -> jax.Array | None:
    """The bias, as an array, of operands that fit together."""
    inputs, outputs = w.shape[-2], w.shape[-1] * max(groups, 1)
    check_groups(groups, channels, outputs)
    if inputs != channels:
        raise ValueError(f"w of shape {w.shape} takes {inputs} channels, but x has {channels}: w needs {channels}")
    return check_bias(bias, outputs, result_dtype(x.dtype, preferred))


def transposed_size(
    size: Ints,
    extent: Ints,
    strides: Ints,
    dilation: Ints,
    padding: Padding,
    output_padding: int | Sequence[int],
    output_size: int | Sequence[int] | None,
) -> tuple[Ints, Pads]:
    """The spatial sizes of y, and the padding of the convolution from there to x.

    `output_size` takes the place of the least size and `output_padding`.
    """
    ndim = len(size)
    extra = per_axis("output_padding", output_padding, ndim)
    wanted = None if output_size is None else per_axis("output_size", output_size, ndim)
    if wanted is not None and any(extra):
        raise ValueError(f"output_size {wanted} and output_padding {extra} say the same thing: give one of them")
    for e, s, d in zip(extra, strides, dilation, strict=True):
        if not 0 <= e < max(s, d):
            raise ValueError(
                f"output_padding {e} must be at least 0 and below the larger of stride {s} and dilation {d}"
            )

    if is_same(padding):
        if any(extra):
            raise ValueError(
                f"padding {padding!r} makes n s elements: leave output_padding {extra} out or pad by numbers"
            )
        longest = tuple(n * s for n, s in zip(size, strides, strict=True))
        output = longest if wanted is None else wanted
        ranges = [(most - s + 1, most) for most, s in zip(longest, strides, strict=True)]
        widths = padding_pairs(padding, output, extent, strides)
    else:
        widths = padding_pairs(padding, size, extent, strides)
        least = [
            sizes.transposed(n, e, s, *pair) if n else 0  # of nothing comes nothing, as in `conv`
            for n, e, s, pair in zip(size, extent, strides, widths, strict=True)
        ]
        longest = tuple(n + e if of else 0 for of, n, e in zip(size, least, extra, strict=True))
        output = longest if wanted is None else wanted
        ranges = [(n, n + s - 1 if of else 0) for of, n, s in zip(size, least, strides, strict=True)]

    for axis, (n, pair, (low, high)) in enumerate(zip(output, widths, ranges, strict=True)):
        fewest = min(size[axis], 1)
        most = n if wanted is None else high
        if most < fewest:
            raise ValueError(
                f"padding {pair} leaves {most} elements of spatial axis {axis}: "
                f"crop {1 - most} fewer of the {most + sum(pair)}"
            )
        if wanted is not None and not max(low, fewest) <= n <= high:
            raise ValueError(
                f"output_size {n} of spatial axis {axis} must be {max(low, fewest)} to {high}: "
                f"no other size convolves to the {size[axis]} elements of x"
            )
    return output, widths


def padding_of_adjoint(size: Ints, output: Ints, extent: Ints, strides: Ints, widths: Pads) -> Pads:
    """The padding of x, dilated by the strides, under which windows stand where y's elements are."""
    pads = []
    for n, m, e, s, (lo, _) in zip(size, output, extent, strides, widths, strict=True):
        before = e - 1 - lo
        pads.append((before, m + e - 1 - before - sizes.dilated(n, s)))
    return tuple(pads)


def _kernel_of_adjoint(w: jax.Array, groups: int) -> jax.Array:
    """(*kernel, C, K // G) to (*kernel, C // G, K), the taps reversed."""
    *kernel, channels, outputs = w.shape
    w = lax.rev(w, range(len(kernel))).reshape(*kernel, groups, channels // groups, outputs)
    return jnp.moveaxis(w, -3, -2).reshape(*kernel, channels // groups, groups * outputs)


def _add_margins(y: jax.Array, size: Ints, widths: Pads, modes: Sequence[str], first: int) -> jax.Array:
    """y with its margins added to the elements that `pad_by_mode` copies there: that padding's transpose."""
    shape = (*y.shape[:first], *size, *y.shape[first + len(size) :])
    kept = tuple(pair if mode != "zeros" else (0, 0) for pair, mode in zip(widths, modes, strict=True))
    unpadded = jax.typeof(y).update(shape=shape)  # y's own type, which carries the axes that shard_map varies it over
    return jax.linear_transpose(lambda x: pad_by_mode(x, kept, modes, first)[0], unpadded)(y)[0]
