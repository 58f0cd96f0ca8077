"""Poolings as modules, without parameters: the functions with their arguments given beforehand."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from convjax.nn.operands import hashable
from convjax.ops.arguments import Padding, as_array, spatial_axes
from convjax.ops.lp import lp_pool
from convjax.ops.pool import avg_pool, max_pool
from convjax.request import AlgorithmLike, request


class MaxPool(nnx.Module):
    """`convjax.max_pool` as a module.

    Args:
        window, strides, padding, dilation, ceil_mode, return_indices, layout, algorithm: as `convjax.max_pool`.

    Called with x (*batch, *spatial, C) it returns (*batch, *output, C), with `return_indices` also the indices. Any
    number of batch axes or none goes with a window of one int per spatial axis, or with a layout; otherwise one, or
    none where x has two axes.

    Raises:
        ValueError: as `convjax.max_pool`, when called; an algorithm that there is not, at once.

    Example:
        >>> import jax.numpy as jnp
        >>> layer = MaxPool((3, 3), 2, padding="SAME")
        >>> layer(jnp.ones((4, 9, 8, 3))).shape
        (4, 5, 4, 3)
    """

    def __init__(
        self,
        window: int | Sequence[int],
        strides: int | Sequence[int] | None = None,
        *,
        padding: Padding = "VALID",
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
        layout: str | None = None,
        algorithm: AlgorithmLike = None,
    ) -> None:
        request(algorithm, "max")  # refuses unknown names here, where the caller is
        self.window, self.strides = hashable(window), hashable(strides)
        self.padding, self.dilation = hashable(padding), hashable(dilation)
        self.ceil_mode = ceil_mode
        self.return_indices = return_indices
        self.layout, self.algorithm = layout, hashable(algorithm)

    def __call__(self, x: jax.Array) -> Any:
        """The largest element of every window of `x`, and with `return_indices` where they stand."""
        pool = functools.partial(
            max_pool,
            window=self.window,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
            layout=self.layout,
            algorithm=self.algorithm,
        )
        return over_batch(pool, x, self.window, self.layout)


class AvgPool(nnx.Module):
    """`convjax.avg_pool` as a module.

    Args:
        window, strides, padding, dilation, ceil_mode, count_include_pad, divisor_override, layout, algorithm: as
            `convjax.avg_pool`.

    Called as `MaxPool`.

    Raises:
        ValueError, TypeError: as `convjax.avg_pool`, when called; an algorithm that there is not, at once.

    Example:
        >>> import jax.numpy as jnp
        >>> AvgPool(2)(jnp.arange(1.0, 5.0)[:, None])[:, 0]
        Array([1.5, 3.5], dtype=float32)
    """

    def __init__(
        self,
        window: int | Sequence[int],
        strides: int | Sequence[int] | None = None,
        *,
        padding: Padding = "VALID",
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        layout: str | None = None,
        algorithm: AlgorithmLike = None,
    ) -> None:
        request(algorithm, "sum")
        self.window, self.strides = hashable(window), hashable(strides)
        self.padding, self.dilation = hashable(padding), hashable(dilation)
        self.ceil_mode = ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override
        self.layout, self.algorithm = layout, hashable(algorithm)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The mean of every window of `x`."""
        pool = functools.partial(
            avg_pool,
            window=self.window,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
            divisor_override=self.divisor_override,
            layout=self.layout,
            algorithm=self.algorithm,
        )
        y: jax.Array = over_batch(pool, x, self.window, self.layout)
        return y


class LpPool(nnx.Module):
    """`convjax.lp_pool` as a module.

    Args:
        window, strides, padding, dilation, ceil_mode, p, layout, algorithm: as `convjax.lp_pool`.

    Called as `MaxPool`.

    Raises:
        ValueError, TypeError: as `convjax.lp_pool`, when called; an algorithm that there is not, at once.

    Example:
        >>> import jax.numpy as jnp
        >>> LpPool(2, p=2.0)(jnp.array([3.0, -4.0, 0.0, 1.0])[:, None])[:, 0]
        Array([5., 1.], dtype=float32)
    """

    def __init__(
        self,
        window: int | Sequence[int],
        strides: int | Sequence[int] | None = None,
        *,
        padding: Padding = "VALID",
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
        p: float = 2.0,
        layout: str | None = None,
        algorithm: AlgorithmLike = None,
    ) -> None:
        request(algorithm, "max")
        self.window, self.strides = hashable(window), hashable(strides)
        self.padding, self.dilation = hashable(padding), hashable(dilation)
        self.ceil_mode = ceil_mode
        self.p = p
        self.layout, self.algorithm = layout, hashable(algorithm)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The norm of every window of `x`."""
        pool = functools.partial(
            lp_pool,
            window=self.window,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
            p=self.p,
            layout=self.layout,
            algorithm=self.algorithm,
        )
        y: jax.Array = over_batch(pool, x, self.window, self.layout)
        return y


def over_batch(pool: Callable[[jax.Array], Any], x: jax.Array, per_axis: object, layout: str | None) -> Any:
    """`pool` of x with its batch axes as one; `per_axis` and `layout` say which are spatial, as functions read them."""
    x = as_array("x", x)
    batch = x.shape[: -spatial_axes(x, per_axis, layout) - 1]
    if len(batch) < 2:
        return pool(x)
    y = pool(x.reshape(math.prod(batch), *x.shape[len(batch) :]))
    return jax.tree.map(lambda a: a.reshape(*batch, *a.shape[1:]), y)
