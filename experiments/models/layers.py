"""What most image networks repeat: a convolution with batch normalisation, padded as PyTorch's are."""

import jax
from flax import nnx


class ConvNorm(nnx.Module):
    """A convolution without bias, padded by half its kernel on either side, and batch normalisation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, ...],
        *,
        stride: int | tuple[int, ...] = 1,
        groups: int = 1,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv = nnx.Conv(
            inputs,
            outputs,
            kernel,
            stride,
            padding=tuple(taps // 2 for taps in kernel),
            feature_group_count=groups,
            use_bias=False,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))
