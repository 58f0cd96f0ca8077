"""EfficientNet-B0 (Tan and Le 2019), layer for layer as torchvision has it, without dropout and stochastic depth."""

import jax
from flax import nnx

from experiments.models.layers import ConvNorm

# Expansion, kernel, output channels, blocks, stride of the first.
_STAGES = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)


class SqueezeExcite(nnx.Module):
    """Channels weighted by what all positions together say of them."""

    def __init__(self, channels: int, squeezed: int, *, rngs: nnx.Rngs) -> None:
        self.squeeze = nnx.Conv(channels, squeezed, (1, 1), rngs=rngs)
        self.excite = nnx.Conv(squeezed, channels, (1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        weight = x.mean(axis=(1, 2), keepdims=True)  # N 1 1 C
        return x * nnx.sigmoid(self.excite(nnx.silu(self.squeeze(weight))))


class MBConv(nnx.Module):
    """1x1 to more channels, depthwise, squeeze-and-excite, linear 1x1; with a shortcut where the shape is kept."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, kernel: int, stride: int, rngs: nnx.Rngs) -> None:
        width = expansion * inputs
        self.expand = ConvNorm(inputs, width, (1, 1), rngs=rngs) if expansion > 1 else None
        self.depthwise = ConvNorm(width, width, (kernel, kernel), stride=stride, groups=width, rngs=rngs)
        self.attend = SqueezeExcite(width, inputs // 4, rngs=rngs)
        self.project = ConvNorm(width, outputs, (1, 1), rngs=rngs)
        self.has_shortcut = stride == 1 and inputs == outputs

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.silu(self.expand(x)) if self.expand else x
        y = self.attend(nnx.silu(self.depthwise(y)))
        y = self.project(y)
        return x + y if self.has_shortcut else y


class EfficientNetB0(nnx.Module):
    """Logits `(N, classes)` of images `(N, H, W, 3)`."""

    def __init__(self, rngs: nnx.Rngs, *, classes: int = 1000) -> None:
        self.stem = ConvNorm(3, 32, (3, 3), stride=2, rngs=rngs)
        blocks, inputs = [], 32
        for expansion, kernel, outputs, depth, stride in _STAGES:
            for index in range(depth):
                first = stride if index == 0 else 1
                blocks.append(MBConv(inputs, outputs, expansion=expansion, kernel=kernel, stride=first, rngs=rngs))
                inputs = outputs
        self.blocks = nnx.Sequential(*blocks)
        self.last = ConvNorm(inputs, 1280, (1, 1), rngs=rngs)
        self.head = nnx.Linear(1280, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.silu(self.stem(x))  # N H/2 W/2 32
        x = self.blocks(x)  # N H/32 W/32 320
        x = nnx.silu(self.last(x))  # N H/32 W/32 1280
        return self.head(x.mean(axis=(1, 2)))
