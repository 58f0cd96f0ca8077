"""Deformable convolution as a module that learns its own offsets."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from convjax.nn.conv import Conv
from convjax.nn.operands import operands, result, steps
from convjax.ops.arguments import channels_first
from convjax.ops.deform import deform_conv2d

# What the convolution of the offsets has in common with the deformable one.
SHARED = ("padding", "kernel_dilation", "dtype", "param_dtype", "precision", "promote_dtype", "layout")


class DeformConv(Conv):
    """`convjax.deform_conv2d` with offsets, and masks, from a convolution of its own, `offset_conv`.

    offset_conv has the kernel size, strides, padding and dilation of this module and makes 2 O T features of offsets,
    in the order of `deform_conv2d`, then O T of masks m; O offset groups, T taps. It starts at zero. The masks enter
    as 2 sigmoid(m), so that at the start all are 1 and the module is `Conv` with the same parameters: those of a
    trained `Conv` or `nnx.Conv` can be loaded and go on. Zhu et al. take sigmoid(m), which starts at 1/2: their kernel
    is this one's times 2.

    Args:
        in_features, out_features, kernel_size, strides: as `Conv`, two spatial axes.
        offset_groups: O; channels in as many groups are moved apart.
        use_mask: whether taps are weighed as well as moved (v2), or only moved (v1).
        algorithm: see `deform_conv2d`; that of offset_conv is chosen.
        **options: as `Conv`, without padding_mode and input_dilation: all beyond the inputs is 0. mask, preferred
            element type, initializers, metadata, bias and groups are not those of offset_conv.

    Called with inputs (*batch, H, W, C) it returns (*batch, H', W', K).

    Raises:
        ValueError: as `Conv`; or offset groups that do not divide the channels.

    Example:
        >>> layer = DeformConv(4, 6, (3, 3), rngs=nnx.Rngs(0))
        >>> layer.offset_conv.kernel.shape, layer(jnp.ones((2, 8, 8, 4))).shape
        ((3, 3, 4, 27), (2, 8, 8, 6))

    Source:
        Dai et al., Deformable convolutional networks, arXiv:1703.06211; Zhu et al., Deformable ConvNets v2,
        arXiv:1811.11168, section 3.2.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Sequence[int],
        strides: int | Sequence[int] | None = 1,
        *,
        offset_groups: int = 1,
        use_mask: bool = True,
        rngs: nnx.Rngs,
        **options: Any,
    ) -> None:
        for name in ("padding_mode", "input_dilation"):
            if name in options:
                raise ValueError(
                    f"DeformConv samples between the elements of its inputs and 0 beyond: leave {name} out"
                )
        if isinstance(kernel_size, int) or len(kernel_size) != 2:
            raise ValueError(f"kernel_size {kernel_size} must have 2 entries: DeformConv has two spatial axes")
        if offset_groups < 1 or in_features % offset_groups:
            raise ValueError(f"offset_groups={offset_groups} must be at least 1 and divide in_features={in_features}")
        super().__init__(in_features, out_features, kernel_size, strides, rngs=rngs, **options)
        self.offset_groups, self.use_mask = offset_groups, use_mask
        self.offset_conv = Conv(
            in_features,
            offset_groups * math.prod(kernel_size) * (3 if use_mask else 2),
            kernel_size,
            strides,
            kernel_init=nnx.initializers.zeros_init(),
            rngs=rngs,
            **{name: options[name] for name in SHARED if name in options},
        )

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """The deformable convolution of `inputs`."""
        if out_sharding is not None:
            raise ValueError("DeformConv gathers its samples and takes no out_sharding: constrain its result instead")
        x, kernel, bias, batch = operands(self, inputs)
        channel_axis = 1 if channels_first(self.layout, 2) else 3
        features = self.offset_conv(x)
        offsets = 2 * self.offset_groups * math.prod(self.kernel_size)
        offset, mask = jnp.split(features, [offsets], channel_axis)
        y = deform_conv2d(
            x,
            offset,
            kernel,
            mask=2 * jax.nn.sigmoid(mask) if self.use_mask else None,
            strides=steps("strides", self.strides, 2),
            padding=self.padding,
            dilation=steps("kernel_dilation", self.kernel_dilation, 2),
            groups=self.feature_group_count,
            offset_groups=self.offset_groups,
            layout=self.layout,
            precision=self.precision,
            preferred_element_type=self.preferred_element_type,
            algorithm=self.algorithm,
        )
        return result(self, y, bias, batch)
