"""ConvNeXt-T (Liu et al. 2022), layer for layer as torchvision has it, without its stochastic depth."""

import jax
from flax import nnx

_DEPTHS, _WIDTHS = (3, 3, 9, 3), (96, 192, 384, 768)


class Block(nnx.Module):
    """Depthwise 7x7, then two linear layers over the channels, weighted by a learnt scale beside a shortcut."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs) -> None:
        self.depthwise = nnx.Conv(channels, channels, (7, 7), padding=3, feature_group_count=channels, rngs=rngs)
        self.norm = nnx.LayerNorm(channels, epsilon=1e-6, rngs=rngs)
        self.expand = nnx.Linear(channels, 4 * channels, rngs=rngs)
        self.project = nnx.Linear(4 * channels, channels, rngs=rngs)
        self.scale = nnx.Param(nnx.initializers.constant(1e-6)(rngs.params(), (channels,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm(self.depthwise(x))
        y = self.project(nnx.gelu(self.expand(y), approximate=False))
        return x + y * self.scale[...].reshape(1, 1, 1, -1)


class ConvNeXtT(nnx.Module):
    """Logits `(N, classes)` of images `(N, H, W, 3)`."""

    def __init__(self, rngs: nnx.Rngs, *, classes: int = 1000) -> None:
        layers: list[nnx.Module] = []
        inputs = 3
        for stage, (depth, width) in enumerate(zip(_DEPTHS, _WIDTHS, strict=True)):
            if stage == 0:
                layers += [_patches(inputs, width, 4, rngs), nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)]
            else:
                layers += [nnx.LayerNorm(inputs, epsilon=1e-6, rngs=rngs), _patches(inputs, width, 2, rngs)]
            layers += [Block(width, rngs=rngs) for _ in range(depth)]
            inputs = width
        self.layers = nnx.Sequential(*layers)
        self.norm = nnx.LayerNorm(inputs, epsilon=1e-6, rngs=rngs)
        self.head = nnx.Linear(inputs, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.layers(x)  # N H/32 W/32 768
        return self.head(self.norm(x.mean(axis=(1, 2))))


def _patches(inputs: int, outputs: int, size: int, rngs: nnx.Rngs) -> nnx.Conv:
    """A convolution of `size` x `size` patches that do not overlap."""
    return nnx.Conv(inputs, outputs, (size, size), size, padding="VALID", rngs=rngs)
