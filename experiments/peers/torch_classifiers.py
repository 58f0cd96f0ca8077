"""The image classifiers in PyTorch, layer for layer as torchvision has them, without dropout and stochastic depth.

Each is the twin of the Flax network of its name in `experiments/models`: same layers, same parameters. Activations
overwrite their input where torchvision's do.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_LAYERS: dict[int, Any] = {2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: tuple[int, ...],
    *activation: nn.Module,
    stride: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> nn.Sequential:
    """A convolution without bias, padded by half its kernel on either side, batch normalisation, and an activation."""
    conv, norm = _LAYERS[len(kernel)]
    padding = tuple(taps // 2 for taps in kernel)
    layer = conv(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(layer, norm(outputs), *activation)


class BasicBlock(nn.Module):
    """Two convolutions of three taps an axis beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, axes: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(inputs, outputs, (3,) * axes, nn.ReLU(inplace=True), stride=stride),
            conv_norm(outputs, outputs, (3,) * axes),
        )
        self.shortcut = _shortcut(inputs, outputs, stride, axes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


class Bottleneck(nn.Module):
    """1x1 to fewer channels, 3x3, which may be grouped, and 1x1 back, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, narrowing: int = 4, groups: int = 1) -> None:
        super().__init__()
        width = outputs // narrowing
        self.body = nn.Sequential(
            conv_norm(inputs, width, (1, 1), nn.ReLU(inplace=True)),
            conv_norm(width, width, (3, 3), nn.ReLU(inplace=True), stride=stride, groups=groups),
            conv_norm(width, outputs, (1, 1)),
        )
        self.shortcut = _shortcut(inputs, outputs, stride, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


class ResNet(nn.Module):
    """Logits of images, or, with three axes, of clips, whose stem strides in space alone and is not pooled."""

    def __init__(
        self,
        block: Callable[..., nn.Module],
        depths: Sequence[int],
        outputs: int,
        *,
        axes: int = 2,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        kernel, stride = ((7, 7), (2, 2)) if axes == 2 else ((3, 7, 7), (1, 2, 2))
        stem = conv_norm(3, 64, kernel, nn.ReLU(inplace=True), stride=stride)
        pool = [nn.MaxPool2d(3, 2, 1)] if axes == 2 else []
        stages, inputs = [], 64
        for stage, depth in enumerate(depths):
            for index in range(depth):
                first = 2 if stage > 0 and index == 0 else 1
                stages.append(block(inputs, outputs << stage, stride=first))
                inputs = outputs << stage
        self.features = nn.Sequential(stem, *pool, *stages)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).flatten(2).mean(2))


class InvertedResidual(nn.Module):
    """1x1 to more channels, depthwise, perhaps squeeze-and-excite, and a linear 1x1; with a shortcut where it fits."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        expansion: int,
        stride: int,
        activation: type[nn.Module],
        kernel: int = 3,
        squeezed: int | None = None,
    ) -> None:
        super().__init__()
        width = expansion * inputs
        expand = [conv_norm(inputs, width, (1, 1), activation(inplace=True))] if expansion > 1 else []
        attend = [SqueezeExcite(width, squeezed)] if squeezed else []
        self.body = nn.Sequential(
            *expand,
            conv_norm(width, width, (kernel, kernel), activation(inplace=True), stride=stride, groups=width),
            *attend,
            conv_norm(width, outputs, (1, 1)),
        )
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.has_shortcut else self.body(x)


class SqueezeExcite(nn.Module):
    """Channels weighted by what all positions together say of them."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1), nn.SiLU(inplace=True), nn.Conv2d(squeezed, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weigh(x.mean((2, 3), keepdim=True))


class MobileNet(nn.Module):
    """Logits of images by inverted residual blocks, between a stem of 32 channels and a last layer of 1280."""

    def __init__(self, blocks: Sequence[nn.Module], activation: type[nn.Module], *, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_norm(3, 32, (3, 3), activation(inplace=True), stride=2),
            *blocks,
            conv_norm(320, 1280, (1, 1), activation(inplace=True)),
        )
        self.head = nn.Linear(1280, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean((2, 3)))


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, then two linear layers over the channels, weighted by a learnt scale beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.mix = nn.Sequential(
            nn.LayerNorm(channels, eps=1e-6),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
        )
        self.scale = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.scale * self.mix(self.depthwise(x).permute(0, 2, 3, 1))
        return x + y.permute(0, 3, 1, 2)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Logits of images."""

    def __init__(self, depths: Sequence[int], widths: Sequence[int], *, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0], eps=1e-6)]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if stage > 0:
                inputs = widths[stage - 1]
                layers += [ChannelNorm(inputs, eps=1e-6), nn.Conv2d(inputs, width, 2, 2)]
            layers += [ConvNeXtBlock(width) for _ in range(depth)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.LayerNorm(widths[-1], eps=1e-6), nn.Linear(widths[-1], classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean((2, 3)))


def mobilenetv2() -> MobileNet:
    # Expansion, output channels, blocks, stride of the first.
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    blocks, inputs = [], 32
    for expansion, outputs, depth, stride in table:
        for index in range(depth):
            first = stride if index == 0 else 1
            blocks.append(InvertedResidual(inputs, outputs, expansion=expansion, stride=first, activation=nn.ReLU6))
            inputs = outputs
    return MobileNet(blocks, nn.ReLU6)


def efficientnet_b0() -> MobileNet:
    # Expansion, kernel, output channels, blocks, stride of the first.
    table = (
        (1, 3, 16, 1, 1),
        (6, 3, 24, 2, 2),
        (6, 5, 40, 2, 2),
        (6, 3, 80, 3, 2),
        (6, 5, 112, 3, 1),
        (6, 5, 192, 4, 2),
        (6, 3, 320, 1, 1),
    )
    blocks, inputs = [], 32
    for expansion, kernel, outputs, depth, stride in table:
        for index in range(depth):
            block = functools.partial(InvertedResidual, inputs, outputs, expansion=expansion, kernel=kernel)
            first = stride if index == 0 else 1
            blocks.append(block(stride=first, activation=nn.SiLU, squeezed=inputs // 4))
            inputs = outputs
    return MobileNet(blocks, nn.SiLU)


def _shortcut(inputs: int, outputs: int, stride: int, axes: int) -> nn.Module:
    """The identity where a block keeps its shape, else a strided 1x1."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return conv_norm(inputs, outputs, (1,) * axes, stride=stride)
