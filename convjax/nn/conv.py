"""Convolution as a module: the parameters of flax's, by convjax's algorithms."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from convjax import sizes
from convjax.nn.operands import check_groups, hashable, hashable_windows, kernel_sizes, operands, result, steps
from convjax.ops.arguments import channels_first
from convjax.ops.conv import conv_general_dilated
from convjax.ops.operands import dimension_numbers, kernel_padding
from convjax.ops.pad import PaddingMode, pad_by_mode, padding_modes
from convjax.request import AlgorithmLike, request

MODE_OF_PADDING = {"CIRCULAR": "circular", "REFLECT": "reflect"}


class Conv(nnx.Conv):
    """`flax.nnx.Conv` by a chosen algorithm: its parameters, initial values and numbers, over 1 to 3 spatial axes.

    The formula is that of `convjax.conv`. State is interchangeable with `nnx.Conv` both ways.

    Args:
        in_features, out_features, kernel_size, strides: as `nnx.Conv`; an int kernel_size is one spatial axis.
        padding: as `nnx.Conv`, by default "SAME", or any form of `convjax.conv`: also negative numbers, "SAME_LOWER",
            "FULL", and "CAUSAL" over several axes. "CIRCULAR" and "REFLECT" add (e - 1) // 2 and e // 2 cells of that
            mode, e = d (k - 1) + 1, whatever the strides.
        padding_mode: what the cells of the other paddings hold: "zeros", "reflect", "replicate", "circular", or one
            per axis.
        layout: of inputs and outputs, as of `convjax.conv`; parameters keep their form.
        algorithm: see `convjax.conv_general_dilated`.
        **options: input_dilation, kernel_dilation, feature_group_count, use_bias, mask, dtype, param_dtype, precision,
            kernel_init, bias_init, promote_dtype, preferred_element_type, kernel_metadata, bias_metadata and rngs, as
            `nnx.Conv`. With input_dilation a named padding is that of the dilated input.

    Called with inputs (*batch, *spatial, in_features), of any number of batch axes or none, it returns
    (*batch, *output, out_features).

    Raises:
        ValueError: options or inputs that do not fit together, as `convjax.conv`.
        TypeError: conv_general_dilated is given; `algorithm` says what computes.

    Example:
        >>> import jax.numpy as jnp
        >>> layer = Conv(3, 8, (3, 3), strides=2, padding=1, padding_mode="reflect", rngs=nnx.Rngs(0))
        >>> layer.kernel.shape, layer(jnp.ones((4, 10, 10, 3))).shape
        ((3, 3, 3, 8), (4, 5, 5, 8))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] | None = 1,
        *,
        padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
        layout: str | None = None,
        algorithm: AlgorithmLike = None,
        **options: Any,
    ) -> None:
        kernel_size = kernel_sizes(kernel_size)
        check_groups(options.get("feature_group_count", 1), in_features, out_features)
        channels_first(layout, len(kernel_size))
        padding_modes(padding_mode, len(kernel_size))
        request(algorithm, "conv")  # refuses unknown names here, where the caller is
        super().__init__(
            in_features,
            out_features,
            kernel_size,
            conv_general_dilated=conv_general_dilated,
            **hashable_windows({"strides": strides, **options}),
        )
        self.padding_mode = hashable(padding_mode)
        self.layout = layout
        self.algorithm = hashable(algorithm)
        check_one_mode(self.padding, self.padding_mode)

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """The convolution of `inputs`; `out_sharding` as `nnx.Conv`."""
        x, kernel, bias, batch = operands(self, inputs)
        ndim = len(self.kernel_size)
        strides = steps("strides", self.strides, ndim)
        spread = steps("input_dilation", self.input_dilation, ndim)
        dilation = steps("kernel_dilation", self.kernel_dilation, ndim)

        first = channels_first(self.layout, ndim)
        size = tuple(map(sizes.dilated, x.shape[2:] if first else x.shape[1:-1], spread))
        extent = tuple(map(sizes.dilated, self.kernel_size, dilation))
        padding: Any = self.padding
        mode = self.padding_mode
        if padding in MODE_OF_PADDING:
            padding, mode = [((e - 1) // 2, e // 2) for e in extent], MODE_OF_PADDING[padding]
        modes = padding_modes(mode, ndim)
        if max(spread) > 1 and any(mode != "zeros" for mode in modes):
            raise ValueError(
                f"padding_mode {modes} copies elements of inputs, which input_dilation {spread} spreads apart: "
                "leave one out, or pad the inputs before by convjax.pad"
            )
        widths = kernel_padding(size, self.kernel_size, strides, dilation, padding)
        x, widths = pad_by_mode(x, widths, modes, 2 if first else 1)

        y = self.conv_general_dilated(
            x,
            kernel,
            strides,
            widths,
            spread,
            dilation,
            dimension_numbers(ndim, first),
            self.feature_group_count,
            precision=self.precision,
            preferred_element_type=self.preferred_element_type,
            out_sharding=out_sharding,
            algorithm=self.algorithm,
        )
        return result(self, y, bias, batch)


def check_one_mode(padding: Any, padding_mode: Any) -> None:
    if padding in MODE_OF_PADDING and padding_mode not in ("zeros", MODE_OF_PADDING[padding]):
        raise ValueError(f"padding {padding!r} is a mode of its own: leave padding_mode {padding_mode!r} out")
