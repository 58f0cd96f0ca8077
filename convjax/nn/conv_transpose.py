"""Transposed convolution as a module: the parameters and numbers of flax's, by `convjax.conv_transpose`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.linear import default_kernel_init
from jax import lax

from convjax import sizes
from convjax.nn.conv import check_one_mode
from convjax.nn.operands import check_groups, hashable, hashable_windows, kernel_sizes, operands, result, steps
from convjax.ops.arguments import Padding, channels_first, padding_pairs
from convjax.ops.conv_transpose import conv_transpose
from convjax.ops.pad import PaddingMode, padding_modes
from convjax.problem import Ints
from convjax.request import AlgorithmLike, request


class ConvTranspose(nnx.ConvTranspose):
    """`flax.nnx.ConvTranspose` by a chosen algorithm: its parameters, initial values and numbers.

    nnx convolves x, dilated by the strides and padded by p, with the kernel as it is; `convjax.conv_transpose` is the
    adjoint of a convolution with w, and its padding crops. One is the other with w the kernel flipped along its
    spatial axes and a padding of d (k - 1) - p. Under transpose_kernel the kernel is (*kernel, K // G, C), that of the
    `Conv` from K to C features which is transposed, and only its channel axes are swapped.

    Args:
        in_features, out_features, kernel_size, strides: as `nnx.ConvTranspose`: C, K, and one int per spatial axis.
        padding: numbers as nnx, those that pad the dilated x; negative ones crop it. "SAME" and "SAME_LOWER" (one for
            nnx), "CIRCULAR" and "CAUSAL" (no output sees a later input) make n s elements, "VALID" the larger of n s
            and (n - 1) s + d (k - 1) + 1, as nnx, and "FULL" is the adjoint of `convjax.conv`'s. An
            empty axis stays empty.
        padding_mode: of the convolution that is transposed: "zeros", "reflect", "replicate", "circular", or one per
            axis. What its padding, d (k - 1) - p, crops is added back where the padding came from.
        feature_group_count: G; the kernel is (*kernel, C // G, K), as that of `nnx.Conv` with input_dilation.
        output_padding: elements computed beyond the end of each axis, below the larger of stride and dilation.
        layout: of inputs and outputs, as of `convjax.conv`; parameters keep their form.
        algorithm: see `convjax.conv_general_dilated`.
        **options: kernel_dilation, use_bias, mask, dtype, param_dtype, precision, bias_init, promote_dtype,
            preferred_element_type, kernel_metadata, bias_metadata and rngs, as `nnx.ConvTranspose`.

    Called with inputs (*batch, *spatial, C), of any number of batch axes or none, it returns (*batch, *output, K);
    output_size then takes the place of output_padding.

    Raises:
        ValueError: options or inputs that do not fit together, as `convjax.conv_transpose`.

    Example:
        >>> import jax.numpy as jnp
        >>> layer = ConvTranspose(8, 3, (4, 4), strides=(2, 2), rngs=nnx.Rngs(0))
        >>> layer.kernel.shape, layer(jnp.ones((1, 5, 5, 8))).shape
        ((4, 4, 8, 3), (1, 10, 10, 3))
        >>> layer(jnp.ones((1, 5, 5, 8)), output_size=(9, 10)).shape
        (1, 9, 10, 3)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] | None = None,
        *,
        padding_mode: PaddingMode | Sequence[PaddingMode] = "zeros",
        feature_group_count: int = 1,
        output_padding: int | Sequence[int] = 0,
        layout: str | None = None,
        algorithm: AlgorithmLike = None,
        kernel_init: nnx.Initializer = default_kernel_init,
        transpose_kernel: bool = False,
        **options: Any,
    ) -> None:
        kernel_size = kernel_sizes(kernel_size)
        check_groups(feature_group_count, in_features, out_features)
        channels_first(layout, len(kernel_size))
        padding_modes(padding_mode, len(kernel_size))
        request(algorithm, "conv")  # refuses unknown names here, where the caller is
        if isinstance(options.get("padding"), str) and options["padding"] == "REFLECT":
            raise ValueError("padding 'REFLECT' has no one transpose: pass numbers with padding_mode='reflect'")
        channels = (out_features, in_features) if transpose_kernel else (in_features, out_features)
        kernel_shape = (*kernel_size, channels[0] // feature_group_count, channels[1])
        super().__init__(
            in_features,
            out_features,
            kernel_size,
            kernel_init=lambda key, _, dtype: kernel_init(key, kernel_shape, dtype),  # nnx's own shape has no groups
            transpose_kernel=transpose_kernel,
            **hashable_windows({"strides": strides, **options}),
        )
        self.kernel_shape = kernel_shape
        self.padding_mode = hashable(padding_mode)
        self.feature_group_count = feature_group_count
        self.output_padding = hashable(output_padding)
        self.layout = layout
        self.algorithm = hashable(algorithm)
        check_one_mode(self.padding, self.padding_mode)

    def __call__(self, inputs: jax.Array, output_size: int | Sequence[int] | None = None) -> jax.Array:
        """The transposed convolution of `inputs`, of `output_size` where several sizes convolve to theirs."""
        x, kernel, bias, batch = operands(self, inputs)
        ndim = len(self.kernel_size)
        strides = steps("strides", self.strides, ndim)
        dilation = steps("kernel_dilation", self.kernel_dilation, ndim)
        extent = tuple(map(sizes.dilated, self.kernel_size, dilation))
        y = conv_transpose(
            x,
            self._kernel_of_transposed(kernel),
            strides=strides,
            padding=self._padding_of_transposed(extent, strides, any_size=output_size is not None),
            padding_mode="circular" if self.padding == "CIRCULAR" else self.padding_mode,
            dilation=dilation,
            groups=self.feature_group_count,
            output_padding=self.output_padding if output_size is None else 0,
            output_size=output_size,
            layout=self.layout,
            precision=self.precision,
            preferred_element_type=self.preferred_element_type,
            algorithm=self.algorithm,
        )
        return result(self, y, bias, batch)

    def _kernel_of_transposed(self, kernel: jax.Array) -> jax.Array:
        """(*kernel, C, K // G), the kernel of the convolution that is transposed."""
        if self.transpose_kernel:
            return jnp.swapaxes(kernel, -1, -2)
        groups = self.feature_group_count
        *taps, inputs, outputs = kernel.shape
        kernel = lax.rev(kernel, range(len(taps))).reshape(*taps, inputs, groups, outputs // groups)
        return jnp.swapaxes(kernel, -3, -2).reshape(*taps, inputs * groups, outputs // groups)

    def _padding_of_transposed(self, extent: Ints, strides: Ints, any_size: bool) -> Padding:
        """The padding of the convolution that is transposed; nnx's own VALID leaves no size to choose."""
        beyond = [e - s for e, s in zip(extent, strides, strict=True)]  # what is cropped where y has n s elements
        match self.padding:
            case "SAME" | "SAME_LOWER":
                return "SAME"
            case "FULL":
                return "FULL"
            case "VALID":
                return "VALID" if any_size else [(0, min(b, 0)) for b in beyond]
            case "CAUSAL":
                return [(0, b) for b in beyond]
            case "CIRCULAR":  # an odd one is cropped at the end, at the start under transpose_kernel
                before = [(max(b, 0) + self.transpose_kernel) // 2 for b in beyond]
                return [(lo, b - lo) for lo, b in zip(before, beyond, strict=True)]
        widths = padding_pairs(self.padding, extent, extent, strides)
        return [(e - 1 - lo, e - 1 - hi) for e, (lo, hi) in zip(extent, widths, strict=True)]
