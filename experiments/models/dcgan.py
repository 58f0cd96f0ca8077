"""The generator of DCGAN (Radford et al. 2015): images grown from a point by transposed convolutions."""

from itertools import pairwise

import jax
from flax import nnx

_WIDTHS = (100, 512, 256, 128, 64)


class Grow(nnx.Module):
    """A 4x4 transposed convolution without bias, and batch normalisation."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, rngs: nnx.Rngs) -> None:
        self.conv = _grow(inputs, outputs, stride, rngs)
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.norm(self.conv(x)))


class Generator(nnx.Module):
    """Images `(N, 64, 64, 3)` in -1..1 of latent points `(N, 1, 1, 100)`."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        widths = enumerate(pairwise(_WIDTHS))
        self.grow = nnx.Sequential(*[Grow(i, o, stride=2 if n else 1, rngs=rngs) for n, (i, o) in widths])
        self.head = _grow(_WIDTHS[-1], 3, 2, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.grow(x)  # N 32 32 64
        return nnx.tanh(self.head(x))


def _grow(inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> nnx.ConvTranspose:
    """From 1x1 to 4x4 with stride 1, else to twice the size."""
    padding = "VALID" if stride == 1 else (2, 2)  # PyTorch's padding 0 and 1
    return nnx.ConvTranspose(inputs, outputs, (4, 4), (stride, stride), padding=padding, use_bias=False, rngs=rngs)
