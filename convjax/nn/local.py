"""Local convolution as a module."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype as promote_to_common
from flax.nnx.nn.linear import default_bias_init, default_kernel_init

from convjax.nn.operands import hashable, kernel_sizes, operands, steps
from convjax.ops.arguments import Padding, channels_first, positive_per_axis
from convjax.ops.conv import PrecisionLike
from convjax.ops.local import conv_local
from convjax.ops.patches import unfold


class ConvLocal(nnx.Module):
    """`convjax.conv_local`: a kernel, and a bias, of its own at every output position.

    The kernel is (*output, T C, K) with T = prod(kernel_size) taps, the bias (*output, K). Every position's kernel is
    drawn by itself as a `Conv`'s (*kernel, C, K), so an initializer that scales by fan-in sees the T C inputs of one
    output.

    Args:
        in_features, out_features: C and K.
        kernel_size, strides, padding, kernel_dilation: as `Conv`; padding holds zeros.
        input_size: the spatial sizes of the inputs, which say how many kernels there are.
        use_bias, mask, dtype, param_dtype, precision, kernel_init, bias_init, promote_dtype, preferred_element_type,
            kernel_metadata, bias_metadata: as `Conv`.
        layout: of inputs and outputs, as of `convjax.conv`; parameters keep their form.
        rngs: where the parameters are drawn from.

    Called with inputs (*batch, *input_size, C) it returns (*batch, *output, K).

    Raises:
        ValueError: options or inputs that do not fit together, saying what would.

    Example:
        >>> layer = ConvLocal(3, 4, (3, 3), input_size=(8, 8), padding="VALID", rngs=nnx.Rngs(0))
        >>> layer.kernel.shape, layer(jnp.ones((2, 8, 8, 3))).shape
        ((6, 6, 27, 4), (2, 6, 6, 4))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] | None = 1,
        *,
        input_size: int | Sequence[int],
        padding: Padding = "SAME",
        kernel_dilation: int | Sequence[int] | None = 1,
        use_bias: bool = True,
        mask: jax.Array | None = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: nnx.Initializer = default_kernel_init,
        bias_init: nnx.Initializer = default_bias_init,
        promote_dtype: Any = promote_to_common,
        preferred_element_type: Any = None,
        layout: str | None = None,
        rngs: nnx.Rngs,
        kernel_metadata: Mapping[str, Any] | None = None,
        bias_metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.kernel_size = kernel_sizes(kernel_size)
        ndim = len(self.kernel_size)
        self.in_features, self.out_features = in_features, out_features
        self.input_size = positive_per_axis("input_size", input_size, ndim)
        self.strides = steps("strides", strides, ndim)
        self.kernel_dilation = steps("kernel_dilation", kernel_dilation, ndim)
        self.padding = hashable(padding)
        self.mask = mask
        self.dtype, self.param_dtype = dtype, param_dtype
        self.precision = hashable(precision)
        self.promote_dtype = promote_dtype
        self.preferred_element_type = preferred_element_type
        self.layout = layout
        channels_first(layout, ndim)

        patches = functools.partial(unfold, kernel_size=self.kernel_size, **self._windows)
        image = jax.ShapeDtypeStruct((*self.input_size, in_features), param_dtype)
        *output, features = jax.eval_shape(patches, image).shape
        self.kernel_shape = (*output, features, out_features)

        noted: list[nnx.VariableMetadata[Any]] = []

        def draw(key: jax.Array) -> jax.Array:
            drawn = kernel_init(key, (*self.kernel_size, in_features, out_features), param_dtype)
            if not isinstance(drawn, nnx.VariableMetadata):
                return drawn
            noted.append(drawn)
            return drawn.raw_value

        keys = jax.random.split(rngs.params(), math.prod(output))
        kernel: Any = jax.vmap(draw)(keys).reshape(self.kernel_shape)
        if noted:  # an initializer with metadata
            kernel = dataclasses.replace(noted[0], raw_value=kernel)
        self.kernel = nnx.Param(kernel, **(kernel_metadata or {}))
        self.bias: nnx.Param[jax.Array] | None = nnx.data(None)
        if use_bias:
            shape = (*output, out_features)
            self.bias = nnx.Param(bias_init(rngs.params(), shape, param_dtype), **(bias_metadata or {}))

    @property
    def _windows(self) -> dict[str, Any]:
        return {"strides": self.strides, "padding": self.padding, "dilation": self.kernel_dilation}

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """The local convolution of `inputs`."""
        x, kernel, bias, batch = operands(self, inputs)
        size = x.shape[2:] if channels_first(self.layout, len(self.kernel_size)) else x.shape[1:-1]
        if size != self.input_size:
            raise ValueError(
                f"inputs of shape {inputs.shape} have spatial sizes {size}, not input_size {self.input_size}"
            )
        y = conv_local(
            x,
            kernel,
            kernel_size=self.kernel_size,
            bias=bias,
            layout=self.layout,
            precision=self.precision,
            preferred_element_type=self.preferred_element_type,
            **self._windows,
        )
        return y.reshape(*batch, *y.shape[1:])
