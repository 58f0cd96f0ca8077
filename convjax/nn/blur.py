"""Anti-aliased downsampling as a module, without parameters."""

import functools
from collections.abc import Sequence

import jax
from flax import nnx

from convjax.nn.operands import hashable
from convjax.nn.pool import over_batch
from convjax.ops.blur import blur_pool
from convjax.ops.pad import PaddingMode
from convjax.request import AlgorithmLike, request


class BlurPool(nnx.Module):
    """`convjax.blur_pool` as a module: a binomial filter of every channel, then every other element.

    Args:
        filter_size, strides, padding_mode, layout, algorithm: as `convjax.blur_pool`.

    Called with x (*batch, *spatial, C) it returns (*batch, *output, C); batch axes as `MaxPool`, filter_size or
    strides in the place of window.

    Raises:
        ValueError, TypeError: as `convjax.blur_pool`, when called; an algorithm that there is not, at once.

    Example:
        >>> import jax.numpy as jnp
        >>> BlurPool()(jnp.ones((4, 9, 8, 3))).shape
        (4, 5, 4, 3)
    """

    def __init__(
        self,
        *,
        filter_size: int | Sequence[int] = 3,
        strides: int | Sequence[int] = 2,
        padding_mode: PaddingMode | Sequence[PaddingMode] = "reflect",
        layout: str | None = None,
        algorithm: AlgorithmLike = None,
    ) -> None:
        request(algorithm, "conv")  # refuses unknown names here, where the caller is
        self.filter_size, self.strides = hashable(filter_size), hashable(strides)
        self.padding_mode = hashable(padding_mode)
        self.layout, self.algorithm = layout, hashable(algorithm)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`x` blurred and downsampled."""
        pool = functools.partial(
            blur_pool,
            filter_size=self.filter_size,
            strides=self.strides,
            padding_mode=self.padding_mode,
            layout=self.layout,
            algorithm=self.algorithm,
        )
        given = self.filter_size if isinstance(self.filter_size, tuple) else self.strides
        y: jax.Array = over_batch(pool, x, given, self.layout)
        return y
