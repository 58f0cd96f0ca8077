"""Local convolution: a kernel of its own at every output position."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from convjax.dtypes import accumulator
from convjax.ops.arguments import Padding, as_array, channels_first, positive_per_axis, with_batch
from convjax.ops.conv import PrecisionLike
from convjax.ops.operands import check_bias_dtype, of_one_dtype, result_dtype
from convjax.ops.patches import unfold


def conv_local(
    x: jax.Array,
    w: jax.Array,
    *,
    kernel_size: int | Sequence[int],
    bias: jax.Array | None = None,
    strides: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    layout: str | None = None,
    precision: PrecisionLike = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Cross-correlation with unshared kernels over 1, 2 or 3 spatial axes, as w's rank says.

    y[n, o, k] = bias[o, k] + sum over taps t and channels c of x[n, o s + t d - lo, c] w[o, t C + c, k]

    N batch, C input and K output channels, T = prod(kernel_size) taps, t the row-major number of a tap: w[o] is a
    kernel (*kernel, C, K) of `conv` with all but its last axis in one, in every layout, and the features are those
    of `unfold` with channels last.

    Flax Linen's ConvLocal and `lax.conv_general_dilated_local` order features channel first, c T + t. Their kernel
    is read by `w.reshape(*output, C, T, K).swapaxes(-3, -2).reshape(*output, T * C, K)`.

    Args:
        x: (N, *spatial, C), or (*spatial, C) without a batch; channels first under `layout`.
        w: (*output, T C, K).
        kernel_size: taps per spatial axis.
        bias: (K,), or (*output, K) for one at every position.
        strides, padding, dilation, layout: as `conv`; padding holds zeros.
        precision: as lax.
        preferred_element_type: dtype of the result; None is x's. Half precisions are summed in float32.

    Returns:
        (N, *output, K) in x's layout.

    Raises:
        ValueError: shapes or sizes that do not fit together, saying what would.
        TypeError: as `conv`.

    Example:
        >>> import jax.numpy as jnp
        >>> x, w = jnp.arange(1.0, 5.0)[:, None], jnp.array([[1.0, 1.0], [1.0, -1.0], [0.0, 10.0]])
        >>> conv_local(x, w[..., None], kernel_size=2)[:, 0]
        Array([ 3., -1., 40.], dtype=float32)

    Source:
        Y. Taigman et al., DeepFace: Closing the Gap to Human-Level Performance in Face Verification, 2014.
    """
    w, bias = as_array("w", w), None if bias is None else as_array("bias", bias)
    ndim = w.ndim - 2
    if not 1 <= ndim <= 3:
        raise ValueError(
            f"w of shape {w.shape} must have 3, 4 or 5 axes: 1 to 3 output sizes, prod(kernel_size) * C and K"
        )
    kernel = positive_per_axis("kernel_size", kernel_size, ndim)
    x, added = with_batch(x, ndim)
    x, w = of_one_dtype(x=x, w=w)
    dtype = result_dtype(x.dtype, preferred_element_type)
    first = channels_first(layout, ndim)
    x = jnp.moveaxis(x, 1, -1) if first else x
    columns = unfold(x, kernel, strides=strides, padding=padding, dilation=dilation)  # N *output TC
    batch, *output, features = columns.shape
    _check_shapes(w, bias, (*output, features), f"{math.prod(kernel)} taps times {x.shape[-1]} channels")

    y = lax.dot_general(  # P N K
        columns.reshape(batch, math.prod(output), features),
        w.reshape(math.prod(output), features, w.shape[-1]),
        (((2,), (1,)), ((1,), (0,))),
        precision=precision,
        preferred_element_type=accumulator(dtype),
    )
    y = jnp.moveaxis(y, 0, 1).reshape(batch, *output, w.shape[-1])
    if bias is not None:
        check_bias_dtype(bias, dtype)
        y += lax.broadcast_in_dim(bias.astype(y.dtype), y.shape, range(y.ndim - bias.ndim, y.ndim))
    y = jnp.moveaxis(y.astype(dtype), -1, 1) if first else y.astype(dtype)
    return y[0] if added else y


def _check_shapes(w: jax.Array, bias: jax.Array | None, due: tuple[int, ...], features: str) -> None:
    *output, outputs = *due[:-1], w.shape[-1]
    if w.shape[:-1] != due:
        raise ValueError(
            f"w of shape {w.shape} must be ({', '.join(map(str, due))}, K): the output's sizes, {features}, and K"
        )
    if bias is not None and bias.shape not in ((outputs,), (*output, outputs)):
        raise ValueError(
            f"bias of shape {bias.shape} must be ({outputs},), or {(*output, outputs)} for one at every position"
        )
