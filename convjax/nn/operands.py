"""What the modules share: reading their options, and the operands of one call."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from convjax.ops.arguments import channels_first, listed, positive_per_axis
from convjax.ops.operands import SPATIAL_LETTERS, add_bias
from convjax.problem import Ints


def hashable(option: Any) -> Any:
    """`option` with its lists and mappings frozen: a module's options are part of its graph definition, a jit key."""
    option = listed(option)
    if isinstance(option, Mapping):
        return FrozenDict({key: hashable(value) for key, value in option.items()})
    return tuple(map(hashable, option)) if isinstance(option, list | tuple) else option


def hashable_windows(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a flax module, with those frozen that may be lists; lax reads paddings in lower case too."""
    windows = ("strides", "padding", "input_dilation", "kernel_dilation")
    padding = options.get("padding")
    lower = isinstance(padding, str) and padding in ("same", "same_lower", "valid")
    named = {"padding": str(padding).upper()} if lower else {}
    return {name: hashable(value) if name in windows else value for name, value in (options | named).items()}


def kernel_sizes(kernel_size: int | Sequence[int]) -> Ints:
    """One int an axis, as nnx reads it: an int is one axis."""
    kernel_size = listed(kernel_size)
    ndim = len(kernel_size) if isinstance(kernel_size, Sequence) else 1
    if ndim not in SPATIAL_LETTERS:
        raise ValueError(f"kernel_size {kernel_size} has {ndim} entries: give one for each of 1 to 3 spatial axes")
    return positive_per_axis("kernel_size", kernel_size, ndim)


def steps(name: str, value: int | Sequence[int] | None, ndim: int) -> Ints:
    """Strides or dilations as nnx reads them: None is 1."""
    return positive_per_axis(name, 1 if value is None else value, ndim)


def check_groups(groups: int, in_features: int, out_features: int) -> None:
    if groups < 1 or in_features % groups or out_features % groups:
        raise ValueError(
            f"feature_group_count={groups} must be at least 1 and divide in_features={in_features} and "
            f"out_features={out_features}"
        )


def operands(module: Any, inputs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None, Ints]:
    """x with one batch axis, the masked kernel and the bias, promoted as the module says; and the batch axes of x."""
    kernel = module.kernel[...]
    if module.mask is not None:
        if module.mask.shape != kernel.shape:
            raise ValueError(f"mask of shape {module.mask.shape} must have the kernel's shape, {kernel.shape}")
        kernel = kernel * module.mask
    bias = None if module.bias is None else module.bias[...]
    x, kernel, bias = module.promote_dtype((inputs, kernel, bias), dtype=module.dtype)

    ndim = len(module.kernel_size)
    batch = x.shape[: max(x.ndim - ndim - 1, 0)]
    first = channels_first(module.layout, ndim)
    if x.ndim <= ndim or x.shape[len(batch) if first else -1] != module.in_features:
        due = f"{module.in_features}, *spatial" if first else f"*spatial, {module.in_features}"
        raise ValueError(f"inputs of shape {x.shape} must be (*batch, {due}) with {ndim} spatial axes")
    return x.reshape(math.prod(batch), *x.shape[len(batch) :]), kernel, bias, batch


def result(module: Any, y: jax.Array, bias: jax.Array | None, batch: Ints) -> jax.Array:
    """y with the bias added and its batch axes back; as in nnx, a wider bias widens y."""
    if bias is not None:
        axis = 1 if channels_first(module.layout, len(module.kernel_size)) else y.ndim - 1
        y = add_bias(y.astype(jnp.promote_types(y.dtype, bias.dtype)), bias, axis)
    return y.reshape(*batch, *y.shape[1:])
