"""Depthwise and separable convolution as modules."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from flax.nnx.nn.linear import default_bias_init

from convjax.nn.conv import Conv
from convjax.nn.operands import kernel_sizes
from convjax.ops.arguments import Padding
from convjax.ops.pad import PaddingMode
from convjax.request import AlgorithmLike


class DepthwiseConv(Conv):
    """Convolves every channel by filters of its own, as `convjax.depthwise_conv`.

    State is interchangeable with `nnx.Conv(C, C M, kernel_size, feature_group_count=C)`: the kernel is
    (*kernel, 1, C M), output feature c M + m of input channel c.

    Args:
        in_features: C.
        kernel_size, strides: as `Conv`.
        channel_multiplier: M.
        **options: as `Conv`, without feature_group_count.

    Called with inputs (*batch, *spatial, C) it returns (*batch, *output, C M).

    Raises:
        ValueError: as `Conv`.

    Example:
        >>> import jax.numpy as jnp
        >>> layer = DepthwiseConv(16, (3, 3), channel_multiplier=2, rngs=nnx.Rngs(0))
        >>> layer.kernel.shape, layer(jnp.ones((8, 8, 16))).shape
        ((3, 3, 1, 32), (8, 8, 32))
    """

    def __init__(
        self,
        in_features: int,
        kernel_size: int | Sequence[int],
        channel_multiplier: int = 1,
        strides: int | Sequence[int] | None = 1,
        **options: Any,
    ) -> None:
        if channel_multiplier < 1:
            raise ValueError(f"channel_multiplier must be at least 1, got {channel_multiplier}")
        if "feature_group_count" in options:
            raise ValueError("DepthwiseConv has one group a channel: leave feature_group_count out")
        super().__init__(
            in_features,
            in_features * channel_multiplier,
            kernel_size,
            strides,
            feature_group_count=in_features,
            **options,
        )
        self.channel_multiplier = channel_multiplier


class SeparableConv(nnx.Module):
    """A depthwise convolution, then a product over channels: the numbers of `convjax.separable_conv`.

    Its parameters are those of two modules: `depthwise`, a `DepthwiseConv` without bias, and `pointwise`, a `Conv` of
    one tap from C M to K features.

    Args:
        in_features, out_features: C and K.
        kernel_size, strides: as `Conv`, of the depthwise convolution.
        channel_multiplier: M.
        padding, padding_mode, input_dilation, kernel_dilation, algorithm: as `Conv`, of the depthwise convolution.
        use_bias, bias_init, bias_metadata: as `Conv`, of the pointwise convolution.
        **options: dtype, param_dtype, precision, kernel_init, promote_dtype, preferred_element_type, kernel_metadata,
            layout and rngs as `Conv`, of both.

    Called with inputs (*batch, *spatial, C) it returns (*batch, *output, K).

    Raises:
        ValueError: as `Conv`; or an option that belongs to neither.

    Example:
        >>> import jax.numpy as jnp
        >>> layer = SeparableConv(16, 10, (3, 3), channel_multiplier=2, strides=2, rngs=nnx.Rngs(0))
        >>> layer.pointwise.kernel.shape, layer(jnp.ones((1, 8, 8, 16))).shape
        ((1, 1, 32, 10), (1, 4, 4, 10))

    Source:
        F. Chollet, Xception: Deep Learning with Depthwise Separable Convolutions, arXiv:1610.02357.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        channel_multiplier: int = 1,
        strides: int | Sequence[int] | None = 1,
        *,
        padding: Padding = "SAME",
        padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
        input_dilation: int | Sequence[int] | None = 1,
        kernel_dilation: int | Sequence[int] | None = 1,
        algorithm: AlgorithmLike = None,
        use_bias: bool = True,
        bias_init: nnx.Initializer = default_bias_init,
        bias_metadata: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        for name in ("mask", "feature_group_count"):
            if name in options:
                raise ValueError(f"SeparableConv has two kernels, neither with a {name} of its own: leave it out")
        kernel_size = kernel_sizes(kernel_size)
        self.depthwise = DepthwiseConv(
            in_features,
            kernel_size,
            channel_multiplier,
            strides,
            padding=padding,
            padding_mode=padding_mode,
            input_dilation=input_dilation,
            kernel_dilation=kernel_dilation,
            algorithm=algorithm,
            use_bias=False,
            **options,
        )
        self.pointwise = Conv(
            in_features * channel_multiplier,
            out_features,
            (1,) * len(kernel_size),
            use_bias=use_bias,
            bias_init=bias_init,
            bias_metadata=bias_metadata or {},
            **options,
        )

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """The separable convolution of `inputs`."""
        return self.pointwise(self.depthwise(inputs))
