"""MobileNetV2 (Sandler et al. 2018), layer for layer as torchvision has it, without its dropout."""

import jax
from flax import nnx

from experiments.models.layers import ConvNorm

# Expansion, output channels, blocks, stride of the first.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nnx.Module):
    """1x1 to more channels, depthwise 3x3, and a linear 1x1 to few; with a shortcut where the shape is kept."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int, rngs: nnx.Rngs) -> None:
        width = expansion * inputs
        self.expand = ConvNorm(inputs, width, (1, 1), rngs=rngs) if expansion > 1 else None
        self.depthwise = ConvNorm(width, width, (3, 3), stride=stride, groups=width, rngs=rngs)
        self.project = ConvNorm(width, outputs, (1, 1), rngs=rngs)
        self.has_shortcut = stride == 1 and inputs == outputs

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu6(self.expand(x)) if self.expand else x
        y = self.project(nnx.relu6(self.depthwise(y)))
        return x + y if self.has_shortcut else y


class MobileNetV2(nnx.Module):
    """Logits `(N, classes)` of images `(N, H, W, 3)`."""

    def __init__(self, rngs: nnx.Rngs, *, classes: int = 1000) -> None:
        self.stem = ConvNorm(3, 32, (3, 3), stride=2, rngs=rngs)
        blocks, inputs = [], 32
        for expansion, outputs, depth, stride in _STAGES:
            for index in range(depth):
                first = stride if index == 0 else 1
                blocks.append(InvertedResidual(inputs, outputs, expansion=expansion, stride=first, rngs=rngs))
                inputs = outputs
        self.blocks = nnx.Sequential(*blocks)
        self.last = ConvNorm(inputs, 1280, (1, 1), rngs=rngs)
        self.head = nnx.Linear(1280, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu6(self.stem(x))  # N H/2 W/2 32
        x = self.blocks(x)  # N H/32 W/32 320
        x = nnx.relu6(self.last(x))  # N H/32 W/32 1280
        return self.head(x.mean(axis=(1, 2)))
