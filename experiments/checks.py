"""Checks: what a config asks for in vain, in any of its sections, said before anything is written or deleted."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from flax import nnx

import convjax
from experiments.config import Choice, Config, Train
from experiments.errors import ExperimentError, nearest
from experiments.models.catalogue import NETWORKS, Network
from experiments.models.choices import digits_net
from experiments.models.digits import Digits

# What a training choice may say in the place of algorithms, alone.
_WORDS = ("auto", "stock")


def require_sound(config: Config) -> None:
    """Refuses algorithms and networks that nothing here has, and trainings that cannot be done."""
    if config.sweep and config.sweep.algorithms != "all":
        for name in config.sweep.algorithms:  # whether one applies to a layer is a matter of record
            _require_algorithm("sweep.algorithms", name, convjax.algorithms())
    if config.train:
        _require_images(config.train, config.seed)
        for name, choice in config.train.choices.items():
            _require_choice(name, choice, config.train)
    if config.models:
        for name, timed in config.models.networks.items():
            if name not in NETWORKS:
                raise ExperimentError(f"models.networks: {name!r} is no network{nearest(name, NETWORKS)}")
            if timed.size not in (None, NETWORKS[name].size):  # at its own size each can be trained
                _require_size(NETWORKS[name], timed.batch, timed.size)


def _require_algorithm(key: str, name: str, registered: Sequence[Any], words: Sequence[str] = ()) -> None:
    """`name` must be a family of those registered, one of them with its knobs, or one of `words`."""
    if name in words or any(name in (a.name, str(a)) for a in registered):
        return
    family = [str(a) for a in registered if a.name == name.partition("(")[0]]
    valid = family or [*sorted({a.name for a in registered}), *words]
    raise ExperimentError(f"{key}: {name!r} is no algorithm{nearest(name, valid)}")


def _require_images(train: Train, seed: int) -> None:
    """There must be images for a batch, and one at least to test on."""
    digits = Digits.load(train.test_fraction, seed)
    images = len(digits.train_images)
    if train.batch_size > images:
        raise ExperimentError(f"train.batch_size {train.batch_size} is more than the {images} training images")
    if not len(digits.test_images):
        raise ExperimentError(
            f"train.test_fraction {train.test_fraction:g} of the {images} images is none to test on: give at least "
            f"{1 / images:.1g}"
        )


def _require_choice(name: str, choice: Choice, train: Train) -> None:
    """Its algorithms must be known and apply to the layers of the network, in every pass that training takes."""
    words = _WORDS if isinstance(choice.conv, str) else ()
    for algorithm in _names(choice.conv):
        _require_algorithm(f"train.choices.{name}.conv", algorithm, convjax.algorithms("conv"), words)
    graph, params = nnx.split(nnx.eval_shape(functools.partial(digits_net, train, choice, seed=0)))
    images = jax.ShapeDtypeStruct((train.batch_size, 8, 8, 1), "float32")
    try:
        convjax.explain(jax.grad(lambda params, images: nnx.merge(graph, params)(images).sum()), params, images)
    except ValueError as error:
        raise ExperimentError(f"train.choices.{name}: {error}") from None


@functools.lru_cache(maxsize=64)  # the commands of a run ask one after the other
def _require_size(network: Network, batch: int, size: int) -> None:
    """The network must take inputs of `size`, and give what its targets are compared with."""

    def loss(inputs: jax.Array, targets: jax.Array) -> jax.Array:
        return network.loss(network.build(nnx.Rngs(0)), inputs, targets)

    inputs = jax.ShapeDtypeStruct((batch, *network.input_shape(size)), "float32")
    dtype = "float32" if network.classes is None else "int32"
    try:
        jax.eval_shape(loss, inputs, jax.ShapeDtypeStruct((batch, *network.target_shape(size)), dtype))
    except (TypeError, ValueError) as error:  # what jax makes of shapes that do not fit
        told = str(error).partition("\n")[0]
        raise ExperimentError(
            f"models.networks: {network.name} cannot be computed at batch {batch} and size {size} ({told}): "
            f"its own size is {network.size}"
        ) from None


def _names(algorithm: Any) -> Iterable[str]:
    if isinstance(algorithm, str):
        return [algorithm]
    parts = algorithm.values() if isinstance(algorithm, dict) else algorithm
    return [name for part in parts for name in _names(part)]
