"""VGG-16 (Simonyan and Zisserman 2014) without its dropout."""

from itertools import pairwise

import jax
from flax import nnx

# Channels of the 3x3 convolutions, up to each of the five max-pools.
_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nnx.Module):
    """Logits `(N, classes)` of images `(N, 224, 224, 3)`: the size that its linear layers are made for."""

    def __init__(self, rngs: nnx.Rngs, *, classes: int = 1000) -> None:
        inputs, stages = 3, []
        for widths in _STAGES:
            convs = [nnx.Conv(i, o, (3, 3), padding=1, rngs=rngs) for i, o in pairwise((inputs, *widths))]
            stages.append(nnx.List(convs))
            inputs = widths[-1]
        self.stages = nnx.List(stages)
        self.hidden = nnx.List([nnx.Linear(7 * 7 * 512, 4096, rngs=rngs), nnx.Linear(4096, 4096, rngs=rngs)])
        self.head = nnx.Linear(4096, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for convs in self.stages:
            for conv in convs:
                x = nnx.relu(conv(x))
            x = nnx.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)  # N 7*7*512
        for linear in self.hidden:
            x = nnx.relu(linear(x))
        return self.head(x)
