"""What every convolution asks of its operands and sizes, and the bias that it adds."""

import jax
import jax.numpy as jnp
from jax import lax

from convjax import sizes
from convjax.ops.arguments import Padding, padding_pairs
from convjax.problem import Ints, Pads


def check_groups(groups: int, channels: int, outputs: int) -> None:
    if groups < 1:
        raise ValueError(f"groups must be at least 1, got {groups}")
    if channels % groups or outputs % groups:
        raise ValueError(f"groups={groups} must divide the {channels} channels of x and the {outputs} outputs of w")


def check_dtypes(x: jax.Array, w: jax.Array, preferred: object) -> None:
    if x.dtype != w.dtype:
        raise TypeError(f"x is {x.dtype} and w is {w.dtype}: cast one to the other's dtype")
    if jnp.issubdtype(x.dtype, jnp.integer) and x.dtype.itemsize < 4 and preferred is None:
        raise TypeError(f"sums of {x.dtype} products overflow {x.dtype}: pass preferred_element_type=jnp.int32")


def check_bias(bias: jax.Array | None, outputs: int) -> None:
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"bias of shape {bias.shape} must be ({outputs},), one for each output channel of w")


def add_bias(y: jax.Array, bias: jax.Array, axis: int) -> jax.Array:
    """Broadcast in float32, so that the bias gradient of a half-precision model is summed in float32."""
    wide = jnp.promote_types(y.dtype, jnp.float32) if jnp.issubdtype(y.dtype, jnp.floating) else y.dtype
    broadcast = lax.broadcast_in_dim(bias.astype(wide), y.shape, (axis,))
    return y + broadcast.astype(y.dtype)


def kernel_padding(size: Ints, kernel: Ints, strides: Ints, dilation: Ints, padding: Padding) -> Pads:
    """(lo, hi) an axis for a convolution over `size`; refuses what leaves no room for the dilated kernel."""
    extent = tuple(map(sizes.dilated, kernel, dilation))
    widths = padding_pairs(padding, size, extent, strides)
    for axis, (n, (lo, hi), e) in enumerate(zip(size, widths, extent, strict=True)):
        if n + min(lo, 0) + min(hi, 0) < 0:
            raise ValueError(f"padding ({lo}, {hi}) crops more than the {n} elements of spatial axis {axis}")
        if n > 0 and n + lo + hi < e:
            raise ValueError(
                f"spatial axis {axis} has {n} elements, {n + lo + hi} with padding ({lo}, {hi}), fewer than the "
                f"dilated kernel's {e}: the output would be empty; pad by {e - n} or more in all"
            )
    return widths
