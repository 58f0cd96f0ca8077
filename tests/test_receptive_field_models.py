"""Receptive fields of models that Flax, Haiku and Equinox make."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from convjax.inspect.receptive_field import receptive_field


class Small(nnx.Module):
    def __init__(self) -> None:
        rngs, ones = nnx.Rngs(0), nnx.initializers.ones
        self.first = nnx.Conv(3, 4, (3, 3), strides=2, kernel_init=ones, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.second = nnx.Conv(4, 4, (3, 3), padding="VALID", kernel_init=ones, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(self.norm(self.first(x)))


def linen() -> tuple[Callable[..., Any], Sequence[Any], int]:
    model = nn.Sequential([nn.Conv(4, (3, 3), 2), nn.relu, nn.Conv(4, (3, 3), padding="VALID")])
    x = jnp.ones((1, 16, 16, 3))
    return model.apply, (jax.eval_shape(model.init, jax.random.key(0), x), x), 1


def haiku() -> tuple[Callable[..., Any], Sequence[Any], int]:
    layers = lambda x: hk.Conv2D(4, 3, padding="VALID")(jax.nn.relu(hk.Conv2D(4, 3, 2)(x)))  # noqa: E731
    model, x = hk.without_apply_rng(hk.transform(layers)), jnp.ones((1, 16, 16, 3))
    return model.apply, (jax.eval_shape(model.init, jax.random.key(0), x), x), 1


def equinox() -> tuple[Callable[..., Any], Sequence[Any], int]:
    def model(key: jax.Array) -> eqx.Module:
        first, second = eqx.nn.Conv2d(3, 4, 3, 2, ((0, 1), (0, 1)), key=key), eqx.nn.Conv2d(4, 4, 3, key=key)
        return eqx.nn.Sequential([first, second])

    shapes = eqx.filter_eval_shape(model, jax.random.key(0))
    return (
        jax.tree.map(lambda leaf: jnp.ones(leaf.shape) if hasattr(leaf, "shape") else leaf, shapes),
        (jnp.ones((3, 16, 16)),),
        0,
    )


def nnx_model() -> tuple[Callable[..., Any], Sequence[Any], int]:
    return Small(), (jnp.ones((1, 16, 16, 3)),), 0


@pytest.mark.parametrize("library", [linen, haiku, equinox, nnx_model])
def test_models_of_every_library(library: Callable[[], tuple[Callable[..., Any], Sequence[Any], int]]) -> None:
    with jax.numpy_rank_promotion("allow"):
        model, args, argnum = library()
        found = receptive_field(model, *args, argnum=argnum, through_statistics=False)
        # The model is as it was, and can be asked again.
        assert receptive_field(model, *args, argnum=argnum, through_statistics=False) == found
    assert (found.size, found.stride, found.offset, found.assumed) == ((7, 7), (2, 2), (0, 0), ())
