"""`conv1d` to `conv_transpose3d` of PyTorch, read onto `convjax.conv` and `convjax.conv_transpose`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from convjax.functional.arguments import LAYOUTS, expanded, non_negative, positive
from convjax.ops.arguments import as_array
from convjax.ops.conv import conv
from convjax.ops.conv_transpose import conv_transpose
from convjax.problem import Ints
from convjax.request import AlgorithmLike


def conv1d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """PyTorch's `conv1d`; all as `conv2d`, over one spatial axis.

    Args:
        input: (N, C, W), or (C, W) without a batch.
        weight: (K, C // G, S).
        bias, stride, padding, dilation, groups, algorithm: as `conv2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> conv1d(jnp.arange(1.0, 5.0).reshape(1, 1, 4), jnp.ones((1, 1, 2)), padding="same")
        Array([[[3., 5., 7., 4.]]], dtype=float32)
    """
    return _conv(1, input, weight, bias, stride, padding, dilation, groups, algorithm)


def conv2d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """PyTorch's `conv2d`: cross-correlation over two spatial axes.

    y[n, k, o] = bias[k] + sum over channels c, taps t of input[n, c, o stride + t dilation - padding] weight[k, c, t]

    N batch, C input channels, K output channels, G groups; H W space, R S taps.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch.
        weight: (K, C // G, R, S), of input's dtype.
        bias: (K,), of input's dtype.
        stride: elements between windows, at least 1: an int, a list of one, or one an axis.
        padding: zeros added at both ends, at least 0, in the same forms; or "valid" for none, or "same" for as many
            as keep the size, which takes a stride of 1 and puts an odd one at the end.
        dilation: elements between taps, at least 1, in the same forms.
        groups: G.
        algorithm: see `convjax.conv_general_dilated`.

    Returns:
        (N, K, *output) of input's dtype, where output = floor((n + 2 padding - dilation (taps - 1) - 1) / stride) + 1.
        Half precisions are summed in float32, integers wrap.

    Raises:
        ValueError: shapes, groups or sizes that do not fit together, naming both numbers; an empty spatial axis.
        TypeError: dtypes that differ, or bool.

    Example:
        >>> import jax.numpy as jnp
        >>> conv2d(jnp.ones((2, 4, 9, 9)), jnp.ones((6, 2, 3, 3)), stride=[2], padding=(1, 0), groups=2).shape
        (2, 6, 5, 4)

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.conv2d.html
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups, algorithm)


def conv3d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """PyTorch's `conv3d`; all as `conv2d`, over three spatial axes.

    Args:
        input: (N, C, D, H, W), or (C, D, H, W) without a batch.
        weight: (K, C // G, Q, R, S).
        bias, stride, padding, dilation, groups, algorithm: as `conv2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> conv3d(jnp.ones((1, 2, 4, 5, 6)), jnp.ones((3, 2, 2, 2, 2)), dilation=(1, 2, 3)).shape
        (1, 3, 3, 3, 3)
    """
    return _conv(3, input, weight, bias, stride, padding, dilation, groups, algorithm)


def conv_transpose1d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """PyTorch's `conv_transpose1d`; all as `conv_transpose2d`, over one spatial axis.

    Args:
        input: (N, C, W), or (C, W) without a batch.
        weight: (C, K // G, S).
        bias, stride, padding, output_padding, groups, dilation, algorithm: as `conv_transpose2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> conv_transpose1d(jnp.array([[1.0, 2.0]]), jnp.array([[[1.0, 2.0, 3.0]]]), stride=2)
        Array([[1., 2., 5., 4., 6.]], dtype=float32)
    """
    return _conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation, algorithm)


def conv_transpose2d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """PyTorch's `conv_transpose2d`: the adjoint of `conv2d` with the same weight.

    y[n, k, o stride + t dilation - padding] = bias[k] + sum over o, t and channels c of input[n, c, o] weight[c, k, t]

    N batch, C input channels, K output channels, G groups; H W space, R S taps.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch.
        weight: (C, K // G, R, S), of input's dtype.
        bias: (K,), of input's dtype.
        stride: elements of y between the targets of neighbouring elements, at least 1: an int, a list of one, or
            one an axis.
        padding: elements of y cropped at both ends, at least 0, in the same forms.
        output_padding: elements computed past the last end, in the same forms; below the larger of stride and dilation.
        groups: G.
        dilation: elements of y between the targets of neighbouring taps, at least 1, in the same forms.
        algorithm: see `convjax.conv_general_dilated`.

    Returns:
        (N, K, *output) of input's dtype, where
        output = (n - 1) stride - 2 padding + dilation (taps - 1) + 1 + output_padding.

    Raises:
        ValueError: shapes, groups or sizes that do not fit together, naming both numbers; an empty spatial axis.
        TypeError: dtypes that differ, bool, or an integer narrower than int64, for which PyTorch has none.

    Example:
        >>> import jax.numpy as jnp
        >>> conv_transpose2d(jnp.ones((1, 4, 5, 5)), jnp.ones((4, 3, 3, 3)), stride=2, padding=1, groups=2).shape
        (1, 6, 9, 9)

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.conv_transpose2d.html
    """
    return _conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation, algorithm)


def conv_transpose3d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """PyTorch's `conv_transpose3d`; all as `conv_transpose2d`, over three spatial axes.

    Args:
        input: (N, C, D, H, W), or (C, D, H, W) without a batch.
        weight: (C, K // G, Q, R, S).
        bias, stride, padding, output_padding, groups, dilation, algorithm: as `conv_transpose2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> conv_transpose3d(jnp.ones((2, 2, 3, 3)), jnp.ones((2, 4, 2, 2, 2)), None, 2, 0, 1).shape
        (4, 5, 7, 7)
    """
    return _conv_transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation, algorithm)


def _conv(
    ndim: int,
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    stride: int | Sequence[int],
    padding: str | int | Sequence[int],
    dilation: int | Sequence[int],
    groups: int,
    algorithm: AlgorithmLike,
) -> jax.Array:
    input, weight, bias = _arrays(input, weight, bias)
    _check_ranks(f"conv{ndim}d", "K, C // groups", ndim, input, weight)
    groups = _groups(groups, weight, "output channels")
    _check_operands(input, weight, bias, channels=weight.shape[1] * groups, outputs=weight.shape[0], groups=groups)
    strides = positive("stride", expanded("stride", stride, ndim))
    y = conv(
        input,
        jnp.moveaxis(weight, (0, 1), (-1, -2)),
        bias=bias,
        strides=strides,
        padding=_padding(padding, strides),
        dilation=positive("dilation", expanded("dilation", dilation, ndim)),
        groups=groups,
        layout=LAYOUTS[ndim],
        preferred_element_type=_wide_integer(input.dtype),
        algorithm=algorithm,
    )
    return y.astype(input.dtype)


def _conv_transpose(
    ndim: int,
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    output_padding: int | Sequence[int],
    groups: int,
    dilation: int | Sequence[int],
    algorithm: AlgorithmLike,
) -> jax.Array:
    input, weight, bias = _arrays(input, weight, bias)
    name = f"conv_transpose{ndim}d"
    _check_ranks(name, "C, K // groups", ndim, input, weight)
    groups = _groups(groups, weight, "channels")
    channels, outputs = weight.shape[0], weight.shape[1] * groups
    if outputs == 0:
        raise ValueError(f"weight of shape {weight.shape} has no output channels: its second axis must be at least 1")
    _check_operands(input, weight, bias, channels=channels, outputs=outputs, groups=groups)
    if jnp.issubdtype(input.dtype, jnp.integer) and input.dtype.itemsize < 8:
        raise TypeError(
            f"input is {input.dtype}, for which PyTorch has no {name}: cast to a floating dtype or int64, or call "
            "convjax.conv_transpose"
        )
    return conv_transpose(
        input,
        jnp.moveaxis(weight, (0, 1), (-2, -1)),
        bias=bias,
        strides=positive("stride", expanded("stride", stride, ndim)),
        padding=non_negative("padding", expanded("padding", padding, ndim)),
        dilation=positive("dilation", expanded("dilation", dilation, ndim)),
        groups=groups,
        output_padding=expanded("output_padding", output_padding, ndim),
        layout=LAYOUTS[ndim],
        algorithm=algorithm,
    )


def _arrays(
    input: jax.Array, weight: jax.Array, bias: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """NumPy's arrays as jax's, whose float64 is float32 unless it is enabled."""
    bias = None if bias is None else as_array("bias", bias)
    return as_array("input", input), as_array("weight", weight), bias


def _padding(padding: str | int | Sequence[int], strides: Ints) -> str | Ints:
    if not isinstance(padding, str):
        return non_negative("padding", expanded("padding", padding, len(strides)))
    if padding not in ("same", "valid"):
        raise ValueError(f"padding must be 'same', 'valid' or numbers, got {padding!r}")
    if padding == "same" and max(strides) > 1:
        raise ValueError(f"padding 'same' must have a stride of 1, got {strides}: pad by numbers")
    return padding.upper()


def _check_ranks(name: str, leading: str, ndim: int, input: jax.Array, weight: jax.Array) -> None:
    if input.ndim not in (ndim + 1, ndim + 2):
        raise ValueError(
            f"input of shape {input.shape} must have {ndim + 2} axes for {name}: N, C and {ndim} spatial, "
            f"or {ndim + 1} without N"
        )
    if weight.ndim != ndim + 2:
        raise ValueError(
            f"weight of shape {weight.shape} must have {ndim + 2} axes for {name}: {leading} and {ndim} spatial"
        )
    if 0 in input.shape[-ndim:]:
        raise ValueError(f"input of shape {input.shape} has an empty spatial axis: each must have at least 1 element")
    if 0 in weight.shape[2:]:
        raise ValueError(f"weight of shape {weight.shape} has no taps: each spatial axis must have at least 1")


def _groups(groups: int, weight: jax.Array, first: str) -> int:
    """`groups`, by which the channels of weight that stand first must be divisible."""
    if isinstance(groups, bool) or not isinstance(groups, int | np.integer):
        raise TypeError(f"groups must be an integer, got {groups!r}")
    if groups < 1:
        raise ValueError(f"groups must be at least 1, got {groups}")
    if weight.shape[0] == 0 or weight.shape[0] % groups:
        raise ValueError(
            f"weight of shape {weight.shape} has {weight.shape[0]} {first}, which must be a positive multiple of "
            f"groups={groups}"
        )
    return int(groups)


def _check_operands(
    input: jax.Array, weight: jax.Array, bias: jax.Array | None, *, channels: int, outputs: int, groups: int
) -> None:
    found = input.shape[1 - weight.ndim]
    if found != channels:
        raise ValueError(
            f"input of shape {input.shape} has {found} channels, but weight of shape {weight.shape} with "
            f"groups={groups} takes {channels}: make them equal"
        )
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"bias of shape {bias.shape} must be ({outputs},), one for each output channel")
    for name, operand in (("weight", weight), ("bias", bias)):
        if operand is not None and operand.dtype != input.dtype:
            raise TypeError(f"input is {input.dtype} and {name} is {operand.dtype}: cast one to the other's dtype")
    if input.dtype == jnp.bool_:
        raise TypeError("input is bool, which has no sum: cast it to an integer or floating dtype first")


def _wide_integer(dtype: np.dtype) -> type | None:
    """What integers that wrap are summed in: cast back, the sum is the one that wrapped at every step."""
    if not jnp.issubdtype(dtype, jnp.integer) or dtype.itemsize >= 4:
        return None
    return np.uint32 if jnp.issubdtype(dtype, jnp.unsignedinteger) else np.int32
