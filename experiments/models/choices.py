"""Choices: what a config's words for a way to compute convolutions and poolings stand for."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax import lax

import convjax
from experiments.config import Choice, Train
from experiments.models.digits import DigitsNet, Pool


def conv_of(choice: Choice) -> Callable[..., jax.Array]:
    """What a network takes in the place of `jax.lax.conv_general_dilated`."""
    if choice.conv == "stock":
        return lax.conv_general_dilated
    algorithm: Any = None if choice.conv == "auto" else choice.conv
    return functools.partial(convjax.conv_general_dilated, algorithm=algorithm)


def pool_of(choice: Choice) -> Pool:
    """A 2x2 max-pool."""
    if choice.pool == "stock":
        return functools.partial(nnx.max_pool, window_shape=(2, 2), strides=(2, 2))
    return lambda x: convjax.max_pool(x, 2)


def digits_net(train: Train, choice: Choice, seed: int) -> DigitsNet:
    """The network that is trained; how it computes plays no part in how it is initialised."""
    return DigitsNet(train.width, conv_of(choice), pool_of(choice), nnx.Rngs(seed))


def describe(choice: Choice) -> str:
    """One line that says how a choice computes."""
    return f"convolutions {_written(choice.conv)}; pooling {choice.pool}"


def _written(algorithm: Any) -> str:
    if isinstance(algorithm, dict):
        return ", ".join(f"{name} {_written(value)}" for name, value in algorithm.items())
    return algorithm if isinstance(algorithm, str) else " or ".join(algorithm)
