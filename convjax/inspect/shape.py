"""One layer in numbers: the size that comes out, its parameters and its work, with the formulas filled in."""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from convjax.inspect import table
from convjax.inspect.sizes import OutputSize, conv_output_size, conv_transpose_output_size, pool_output_size
from convjax.layer import Layer
from convjax.ops.arguments import channels_first
from convjax.problem import Ints


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """What comes out of a layer and what it takes; prints with the formulas.

    Attributes:
        layer: the layer, with a batch of 1 where it is written without.
        channels_first, batched: how its input is written, and so its output.
        sizes: what it makes of each spatial axis.

    Example:
        >>> shape = layer_shape("conv2d 3x10x10 -> 5 k3")
        >>> shape.output_shape, shape.parameters, shape.macs
        ((5, 8, 8), 140, 8640)
        >>> print(shape)
        conv2d: 3x10x10 (C x H x W) -> 5x8x8
            size = floor((n + lo + hi - d (k - 1) - 1) / s) + 1
            H    = floor((10 + 0 + 0 - 1 (3 - 1) - 1) / 1) + 1 = 8
            W    = floor((10 + 0 + 0 - 1 (3 - 1) - 1) / 1) + 1 = 8
        140 parameters: 5 x 3 x 3x3 weights and 5 biases; 135 without bias
        8,640 MACs: 8x8 positions x 135 weights; 17,280 FLOPs, 17,600 with bias
    """

    layer: Layer
    channels_first: bool
    batched: bool
    sizes: tuple[OutputSize, ...]

    @property
    def input_shape(self) -> Ints:
        batch, *size, channels = self.layer.x_shape
        return self._in_layout(batch, size, channels)

    @property
    def output_shape(self) -> Ints:
        return self._in_layout(self.layer.x_shape[0], self.output, self.channels)

    @property
    def output(self) -> Ints:
        """Spatial sizes of the output."""
        return tuple(made.size for made in self.sizes)

    @property
    def channels(self) -> int:
        """Channels of the output."""
        return self.layer.x_shape[-1] if self.layer.w_shape is None else self.layer.w_shape[-1]

    @property
    def weights(self) -> int:
        return 0 if self.layer.w_shape is None else math.prod(self.layer.w_shape)

    @property
    def parameters(self) -> int:
        """Weights, and a bias for each output channel of a convolution."""
        return self.weights + (0 if self.layer.is_pool else self.channels)

    @property
    def positions(self) -> Ints:
        """Where each weight is used once: places in the output, or in the input of a transposed convolution."""
        return self.layer.x_shape[1:-1] if self.layer.kind == "transpose" else self.output

    @property
    def macs(self) -> int:
        """Multiply-adds, those with padding counted; 0 for a pooling, which compares or adds."""
        return self.layer.x_shape[0] * math.prod(self.positions) * self.weights

    def __str__(self) -> str:
        named = " x ".join(self._in_layout("N", "DHW"[3 - self.layer.ndim :], "C"))
        shapes = f"{table.shape(self.input_shape)} ({named}) -> {table.shape(self.output_shape)}"
        return "\n".join([f"{self.layer.kind}{self.layer.ndim}d: {shapes}", *self._size_lines(), *self._cost_lines()])

    def _size_lines(self) -> Iterator[str]:
        """The formula, and what it is for each axis."""
        layer = self.layer
        yield f"    size = {_formula(layer, 'n', 'k', 's', 'd', 'lo', 'hi', 'op')}"
        axes = zip("DHW"[3 - layer.ndim :], self.sizes, *_windows(layer), strict=True)
        for letter, made, n, k, s, d in axes:
            lo, hi = made.padding
            unread = made.remainder and layer.kind != "transpose"
            left_over = f", {made.remainder} left over at the end" if unread else ""
            yield f"    {letter:4} = {_formula(layer, n, k, s, d, lo, hi, made.remainder)} = {made.size}{left_over}"

    def _cost_lines(self) -> Iterator[str]:
        kernel = table.shape(self.layer.kernel)
        if self.layer.w_shape is None:
            work = "comparisons" if self.layer.kind == "max" else "additions"
            yield f"0 parameters; {table.shape(self.output_shape)} outputs x {kernel} {work}"
            return
        yield (
            f"{self.parameters:,} parameters: {self.channels} x {self.layer.w_shape[-2]} x {kernel} weights and "
            f"{self.channels} biases; {self.weights:,} without bias"
        )
        batch = f"{self.layer.x_shape[0]} x " if self.batched else ""
        flops = 2 * self.macs
        yield (
            f"{self.macs:,} MACs: {batch}{table.shape(self.positions)} positions x {self.weights:,} weights; "
            f"{flops:,} FLOPs, {flops + math.prod(self.output_shape):,} with bias"
        )

    def _in_layout(self, batch: Any, spatial: Sequence[Any], channels: Any) -> tuple[Any, ...]:
        axes = (channels, *spatial) if self.channels_first else (*spatial, channels)
        return (batch, *axes) if self.batched else axes


def layer_shape(text: str, layout: str | None = None) -> LayerShape:
    """The layer that `text` describes, in the words of `convjax.layer`; its input may be written without a batch.

    Args:
        text: as in "conv2d 3x10x10 -> 5 k3".
        layout: "NCHW", "NHWC" or their like, the batch being optional; None is channels last, as all layers are
            written, but channels first without a batch, as a C x H x W image is.

    Raises:
        ValueError: what cannot be read or does not fit, as the operations say it.

    Example:
        >>> layer_shape("transpose2d 1x8x8x4 -> 6 k4 s2 p1").output_shape
        (1, 16, 16, 6)
    """
    words = text.split()
    head = re.fullmatch(r"[a-z]+([123])d", words[0]) if words else None
    if head is None or len(words) < 2 or not re.fullmatch(r"\d+(x\d+)*", words[1]):
        raise ValueError(
            f"cannot read {text!r}; a layer reads like 'conv2d 3x10x10 -> 5 k3' or 'max2d 64x112x112 k3 s2 p1'"
        )
    ndim = int(head[1])
    shape = [int(n) for n in words[1].split("x")]
    batched = len(shape) == ndim + 2
    if not batched and len(shape) != ndim + 1:
        raise ValueError(
            f"{words[1]} has {len(shape)} axes, {words[0]} takes {ndim + 2}, or {ndim + 1} without a batch"
        )
    first = not batched if layout is None else channels_first(layout, ndim)
    batch, axes = (shape[0], shape[1:]) if batched else (1, shape)
    size, channels = (axes[1:], axes[0]) if first else (axes[:-1], axes[-1])
    layer = Layer.parse(text, " ".join([words[0], table.shape([batch, *size, channels]), *words[2:]]))
    if layer.members:
        raise ValueError(f"{text!r} is vmapped: leave out members, stacked and examples, and the shape is that of one")
    return LayerShape(layer, first, batched, _sizes(layer))


def _sizes(layer: Layer) -> tuple[OutputSize, ...]:
    """By the function of the operation, axis by axis."""
    function: Any = conv_output_size
    if layer.kind == "transpose":
        function = conv_transpose_output_size
    elif layer.is_pool:
        function = pool_output_size
    made = []
    paddings = (
        (layer.written_padding,) * layer.ndim if isinstance(layer.written_padding, str) else layer.written_padding
    )
    for n, k, s, d, padding, extra in zip(*_windows(layer), paddings, layer.output_padding, strict=True):
        more = {"output_padding": extra} if layer.kind == "transpose" else {}
        made.append(function(n, k, stride=s, dilation=d, padding=padding, full_output=True, **more))
    return tuple(made)


def _windows(layer: Layer) -> tuple[Ints, Ints, Ints, Ints]:
    """Size, kernel, stride and dilation of every axis, as the layer is written."""
    strides = layer.lhs_dilation if layer.kind == "transpose" else layer.strides
    return layer.x_shape[1:-1], layer.kernel, strides, layer.rhs_dilation


def _formula(layer: Layer, n: Any, k: Any, s: Any, d: Any, lo: Any, hi: Any, op: Any) -> str:
    if layer.kind == "transpose":
        return f"({n} - 1) {s} - {lo} - {hi} + {d} ({k} - 1) + 1 + {op}"
    return f"floor(({n} + {lo} + {hi} - {d} ({k} - 1) - 1) / {s}) + 1"
