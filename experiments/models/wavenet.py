"""WaveNet (van den Oord et al. 2016): causal convolutions whose dilation doubles from layer to layer."""

import jax
import jax.numpy as jnp
from flax import nnx


class GatedLayer(nnx.Module):
    """A dilated causal convolution, one half of it gated by the other; gives on a residual and puts out a skip."""

    def __init__(self, channels: int, skip: int, *, dilation: int, rngs: nnx.Rngs) -> None:
        self.dilated = nnx.Conv(channels, 2 * channels, (2,), kernel_dilation=dilation, padding="CAUSAL", rngs=rngs)
        self.residual = nnx.Conv(channels, channels, (1,), rngs=rngs)
        self.skip = nnx.Conv(channels, skip, (1,), rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        signal, gate = jnp.split(self.dilated(x), 2, axis=-1)
        y = nnx.tanh(signal) * nnx.sigmoid(gate)
        return x + self.residual(y), self.skip(y)


class WaveNet(nnx.Module):
    """Logits `(N, T, classes)` of what follows each sample of a waveform `(N, T, 1)`."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        channels: int = 64,
        skip: int = 128,
        stacks: int = 2,
        depth: int = 10,
        classes: int = 256,
    ) -> None:
        dilations = [2**level for level in range(depth)] * stacks
        self.stem = nnx.Conv(1, channels, (2,), padding="CAUSAL", rngs=rngs)
        self.layers = nnx.List([GatedLayer(channels, skip, dilation=d, rngs=rngs) for d in dilations])
        self.hidden = nnx.Conv(skip, skip, (1,), rngs=rngs)
        self.head = nnx.Conv(skip, classes, (1,), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)  # N T channels
        total: jax.Array | float = 0.0
        for layer in self.layers:
            x, skip = layer(x)
            total += skip  # N T skip
        return self.head(nnx.relu(self.hidden(nnx.relu(total))))
