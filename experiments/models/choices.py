"""Choices: what a config's words for a way to compute convolutions and poolings stand for."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
from flax import nnx
from jax import lax

import convjax
from experiments.config import Choice
from experiments.errors import ExperimentError, nearest
from experiments.models.digits import Pool

_WORDS = ("auto", "stock")


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


def describe(choice: Choice) -> str:
    """One line that says how a choice computes."""
    return f"convolutions {_written(choice.conv)}; pooling {choice.pool}"


def require_known(name: str, choice: Choice) -> None:
    """Refuses algorithm names that convolution does not know."""
    known = sorted({a.name for a in convjax.algorithms("conv")})
    for algorithm in _names(choice.conv):
        if algorithm.partition("(")[0] not in known and algorithm not in _WORDS:
            raise ExperimentError(
                f"train.choices.{name}.conv: {algorithm!r} is no algorithm{nearest(algorithm, [*known, *_WORDS])}"
            )


def _names(algorithm: Any) -> Iterable[str]:
    if isinstance(algorithm, str):
        return [algorithm]
    parts = algorithm.values() if isinstance(algorithm, dict) else algorithm
    return [name for part in parts for name in _names(part)]


def _written(algorithm: Any) -> str:
    if isinstance(algorithm, dict):
        return ", ".join(f"{name} {_written(value)}" for name, value in algorithm.items())
    return algorithm if isinstance(algorithm, str) else " or ".join(algorithm)
