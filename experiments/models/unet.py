"""U-Net (Ronneberger et al. 2015), its 3x3 convolutions padded, so that maps keep their size."""

import jax
import jax.numpy as jnp
from flax import nnx

_WIDTHS = (64, 128, 256, 512, 1024)


class DoubleConv(nnx.Module):
    """Two 3x3 convolutions."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(inputs, outputs, (3, 3), padding=1, rngs=rngs)
        self.second = nnx.Conv(outputs, outputs, (3, 3), padding=1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.second(nnx.relu(self.first(x))))


class UNet(nnx.Module):
    """Logits `(N, H, W, classes)` of images `(N, H, W, 3)`; H and W are multiples of 16."""

    def __init__(self, rngs: nnx.Rngs, *, classes: int = 2) -> None:
        narrow, wide = _WIDTHS[:-1], _WIDTHS[1:]
        self.down = nnx.List([DoubleConv(i, o, rngs=rngs) for i, o in zip((3, *narrow), _WIDTHS, strict=True)])
        self.grow = nnx.List(
            [
                nnx.ConvTranspose(w, n, (2, 2), (2, 2), padding="VALID", rngs=rngs)
                for n, w in zip(narrow, wide, strict=True)
            ]
        )
        self.up = nnx.List([DoubleConv(w, n, rngs=rngs) for n, w in zip(narrow, wide, strict=True)])
        self.head = nnx.Conv(64, classes, (1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        skipped = []
        for level, conv in enumerate(self.down):
            x = conv(nnx.max_pool(x, (2, 2), (2, 2)) if level else x)
            skipped.append(x)
        x = skipped.pop()  # N H/16 W/16 1024
        for grow, conv in zip(reversed(self.grow), reversed(self.up), strict=True):
            x = conv(jnp.concatenate([skipped.pop(), grow(x)], axis=-1))
        return self.head(x)  # N H W classes
