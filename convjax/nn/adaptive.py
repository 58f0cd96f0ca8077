"""Poolings to a given size as modules, without parameters."""

import functools
from typing import Any

import jax
from flax import nnx

from convjax.nn.operands import hashable
from convjax.nn.pool import over_batch
from convjax.ops.adaptive import OutputSize, adaptive_avg_pool, adaptive_max_pool
from convjax.request import AlgorithmLike, request


class AdaptiveAvgPool(nnx.Module):
    """`convjax.adaptive_avg_pool` as a module.

    Args:
        output_size, layout, algorithm: as `convjax.adaptive_avg_pool`.

    Called with x (*batch, *spatial, C) it returns (*batch, *output_size, C); batch axes as `MaxPool`, output_size in
    the place of window.

    Raises:
        ValueError, TypeError: as `convjax.adaptive_avg_pool`, when called; an algorithm that there is not, at once.

    Example:
        >>> import jax.numpy as jnp
        >>> AdaptiveAvgPool((2, 3))(jnp.ones((4, 9, 8, 5))).shape
        (4, 2, 3, 5)
    """

    def __init__(self, output_size: OutputSize, *, layout: str | None = None, algorithm: AlgorithmLike = None) -> None:
        request(algorithm, "sum")  # refuses unknown names here, where the caller is
        self.output_size = hashable(output_size)
        self.layout, self.algorithm = layout, hashable(algorithm)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The mean of every bin of `x`."""
        pool = functools.partial(
            adaptive_avg_pool, output_size=self.output_size, layout=self.layout, algorithm=self.algorithm
        )
        y: jax.Array = over_batch(pool, x, self.output_size, self.layout)
        return y


class AdaptiveMaxPool(nnx.Module):
    """`convjax.adaptive_max_pool` as a module.

    Args:
        output_size, return_indices, layout, algorithm: as `convjax.adaptive_max_pool`.

    Called as `AdaptiveAvgPool`; with `return_indices` it returns the indices as well.

    Raises:
        ValueError, TypeError: as `convjax.adaptive_max_pool`, when called; an algorithm that there is not, at once.

    Example:
        >>> import jax.numpy as jnp
        >>> AdaptiveMaxPool(2)(jnp.array([1.0, 5.0, 2.0, 3.0, 4.0])[:, None])[:, 0]
        Array([5., 4.], dtype=float32)
    """

    def __init__(
        self,
        output_size: OutputSize,
        *,
        return_indices: bool = False,
        layout: str | None = None,
        algorithm: AlgorithmLike = None,
    ) -> None:
        request(algorithm, "max")
        self.output_size = hashable(output_size)
        self.return_indices = return_indices
        self.layout, self.algorithm = layout, hashable(algorithm)

    def __call__(self, x: jax.Array) -> Any:
        """The largest element of every bin of `x`, and with `return_indices` where they stand."""
        pool = functools.partial(
            adaptive_max_pool,
            output_size=self.output_size,
            return_indices=self.return_indices,
            layout=self.layout,
            algorithm=self.algorithm,
        )
        return over_batch(pool, x, self.output_size, self.layout)
