"""Residual networks, layer for layer as torchvision has them, in two dimensions and in three.

ResNet-18 and ResNet-50 (He et al. 2015; "v1.5", whose bottlenecks stride in their 3x3), ResNeXt-50 32x4d (Xie et al.
2016) and R3D-18, which convolves clips in space and time (Tran et al. 2017).
"""

import functools
from collections.abc import Callable, Sequence

import jax
from flax import nnx

from experiments.models.layers import ConvNorm


class BasicBlock(nnx.Module):
    """Two convolutions of three taps an axis beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, axes: int = 2, rngs: nnx.Rngs) -> None:
        self.first = ConvNorm(inputs, outputs, (3,) * axes, stride=stride, rngs=rngs)
        self.second = ConvNorm(outputs, outputs, (3,) * axes, rngs=rngs)
        self.shortcut = _shortcut(inputs, outputs, stride, axes, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.first(x))
        return nnx.relu(self.second(y) + self.shortcut(x))


class Bottleneck(nnx.Module):
    """1x1 to fewer channels, 3x3, which may be grouped, and 1x1 back, beside a shortcut.

    `narrowing` is how many times fewer channels the 3x3 has than the block gives out.
    """

    def __init__(
        self, inputs: int, outputs: int, *, stride: int, narrowing: int = 4, groups: int = 1, rngs: nnx.Rngs
    ) -> None:
        width = outputs // narrowing
        self.reduce = ConvNorm(inputs, width, (1, 1), rngs=rngs)
        self.middle = ConvNorm(width, width, (3, 3), stride=stride, groups=groups, rngs=rngs)
        self.expand = ConvNorm(width, outputs, (1, 1), rngs=rngs)
        self.shortcut = _shortcut(inputs, outputs, stride, 2, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.reduce(x))
        y = nnx.relu(self.middle(y))
        return nnx.relu(self.expand(y) + self.shortcut(x))


Block = Callable[..., nnx.Module]


class ResNet(nnx.Module):
    """Logits `(N, classes)` of images `(N, H, W, 3)`."""

    def __init__(
        self, block: Block, depths: Sequence[int], outputs: int, *, classes: int = 1000, rngs: nnx.Rngs
    ) -> None:
        self.stem = ConvNorm(3, 64, (7, 7), stride=2, rngs=rngs)
        self.stages = _stages(block, depths, outputs, rngs)
        self.head = nnx.Linear(8 * outputs, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.stem(x))  # N H/2 W/2 64
        x = nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))  # N H/4 W/4 64
        x = self.stages(x)  # N H/32 W/32 8*outputs
        return self.head(x.mean(axis=(1, 2)))


class ResNet3D(nnx.Module):
    """Logits `(N, classes)` of clips `(N, D, H, W, 3)`; the stem strides in space alone."""

    def __init__(self, depths: Sequence[int], *, classes: int = 400, rngs: nnx.Rngs) -> None:
        self.stem = ConvNorm(3, 64, (3, 7, 7), stride=(1, 2, 2), rngs=rngs)
        self.stages = _stages(functools.partial(BasicBlock, axes=3), depths, 64, rngs)
        self.head = nnx.Linear(512, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.stem(x))  # N D H/2 W/2 64
        x = self.stages(x)  # N D/8 H/16 W/16 512
        return self.head(x.mean(axis=(1, 2, 3)))


def resnet18(rngs: nnx.Rngs) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), 64, rngs=rngs)


def resnet50(rngs: nnx.Rngs) -> ResNet:
    return ResNet(Bottleneck, (3, 4, 6, 3), 256, rngs=rngs)


def resnext50(rngs: nnx.Rngs) -> ResNet:
    return ResNet(functools.partial(Bottleneck, narrowing=2, groups=32), (3, 4, 6, 3), 256, rngs=rngs)


def resnet3d(rngs: nnx.Rngs) -> ResNet3D:
    return ResNet3D((2, 2, 2, 2), rngs=rngs)


def _stages(block: Block, depths: Sequence[int], outputs: int, rngs: nnx.Rngs) -> nnx.Sequential:
    """Each stage after the first halves every axis and doubles the channels."""
    blocks, inputs = [], 64
    for stage, depth in enumerate(depths):
        for index in range(depth):
            stride = 2 if stage > 0 and index == 0 else 1
            blocks.append(block(inputs, outputs << stage, stride=stride, rngs=rngs))
            inputs = outputs << stage
    return nnx.Sequential(*blocks)


def _shortcut(inputs: int, outputs: int, stride: int, axes: int, rngs: nnx.Rngs) -> Callable[[jax.Array], jax.Array]:
    """The identity where a block keeps its shape, else a strided 1x1."""
    if inputs == outputs and stride == 1:
        return nnx.identity
    return ConvNorm(inputs, outputs, (1,) * axes, stride=stride, rngs=rngs)
