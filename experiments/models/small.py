"""A small CNN, the networks that vmap makes of it, and its per-example gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class SmallCNN(nnx.Module):
    """Logits `(N, classes)` of images `(N, H, W, 3)`."""

    def __init__(self, rngs: nnx.Rngs, *, classes: int = 10) -> None:
        self.first = nnx.Conv(3, 32, (3, 3), padding=1, rngs=rngs)
        self.second = nnx.Conv(32, 64, (3, 3), padding=1, rngs=rngs)
        self.third = nnx.Conv(64, 128, (3, 3), padding=1, rngs=rngs)
        self.head = nnx.Linear(128, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.max_pool(nnx.relu(self.first(x)), (2, 2), (2, 2))  # N H/2 W/2 32
        x = nnx.max_pool(nnx.relu(self.second(x)), (2, 2), (2, 2))  # N H/4 W/4 64
        x = nnx.relu(self.third(x))  # N H/4 W/4 128
        return self.head(x.mean(axis=(1, 2)))


class Ensemble(nnx.Module):
    """Logits `(members, N, classes)`: several small CNNs with parameters of their own on the same images."""

    def __init__(self, rngs: nnx.Rngs, *, members: int = 8) -> None:
        @nnx.split_rngs(splits=members)
        @nnx.vmap
        def create(rngs: nnx.Rngs) -> SmallCNN:
            return SmallCNN(rngs)

        self.members = create(rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.vmap(lambda member, x: member(x), in_axes=(0, None))(self.members, x)


def clipped_gradients(loss: Callable[..., Any], bound: float = 1.0) -> Callable[..., Any]:
    """What DP-SGD makes of a loss (Abadi et al. 2016): gradients of single examples, each clipped to a norm, averaged.

    The noise that it adds to them is left out.

    Args:
        loss: `loss(params, rest, inputs, targets) -> value, rest`, the mean over the examples.
        bound: the norm that no example's gradient exceeds.

    Returns:
        A function of the same arguments, and of the results of `jax.value_and_grad(loss, has_aux=True)`.
    """

    def one(params: Any, rest: Any, x: jax.Array, target: jax.Array) -> Any:
        (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(params, rest, x[None], target[None])
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
        shrink = jnp.minimum(1.0, bound / norm)
        return value, jax.tree.map(lambda leaf: shrink * leaf, gradient)

    def clipped(params: Any, rest: Any, inputs: jax.Array, targets: jax.Array) -> Any:
        values, gradients = jax.vmap(one, (None, None, 0, 0))(params, rest, inputs, targets)
        return (values.mean(), rest), jax.tree.map(lambda leaf: leaf.mean(0), gradients)

    return clipped
