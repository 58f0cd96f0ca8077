"""The catalogue: every stock network with its inputs and its loss, so that all are built, counted and timed alike."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.models import convnext, dcgan, efficientnet, mobilenet, resnet, small, unet, vgg, wavenet

Shape = tuple[int, ...]


def cross_entropy(module: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over all that is classified: images, pixels or samples."""
    return optax.softmax_cross_entropy_with_integer_labels(module(inputs), targets).mean()


def squared_error(module: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.square(module(inputs) - targets).mean()


def ensemble_loss(module: Any, inputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The sum of the members' losses, so that each is trained as if alone."""
    logits = module(inputs)
    targets = jnp.broadcast_to(targets, logits.shape[:-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(axis=1).sum()


def batch_gradients(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Those of a mean over the batch, as training takes them."""
    return jax.value_and_grad(loss, has_aux=True)


@dataclasses.dataclass(frozen=True)
class Network:
    """A stock network and the task it is measured at.

    Attributes:
        name: its key in the catalogue, and in that of its PyTorch twins.
        build: the module, its parameters drawn from an `nnx.Rngs`.
        input_shape: of one example, by the size.
        target_shape: of one example's target, by the size.
        classes: how many a target is one of; None where targets are real numbers.
        size: the default: pixels or samples along an axis.
        loss: of the module, inputs `(N, *input_shape)` and targets `(N, *target_shape)`.
        gradients: makes a function of `loss(params, rest, inputs, targets) -> (value, rest)` that takes the same
            arguments and returns `(value, rest), gradient`.
    """

    name: str
    build: Callable[[nnx.Rngs], nnx.Module]
    input_shape: Callable[[int], Shape]
    target_shape: Callable[[int], Shape] = lambda size: ()
    classes: int | None = 1000
    size: int = 224
    loss: Callable[[Any, jax.Array, jax.Array], jax.Array] = cross_entropy
    gradients: Callable[..., Any] = batch_gradients

    def batch(self, count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """`count` inputs and targets, drawn at random."""
        rng = np.random.default_rng(seed)
        inputs = rng.standard_normal((count, *self.input_shape(size)), np.float32)
        target_shape = (count, *self.target_shape(size))
        if self.classes is None:
            return inputs, rng.uniform(-1, 1, target_shape).astype(np.float32)
        return inputs, rng.integers(0, self.classes, target_shape, np.int32)


def _image(size: int) -> Shape:
    return size, size, 3


_ALL = [
    Network("resnet18", resnet.resnet18, _image),
    Network("resnet50", resnet.resnet50, _image),
    Network("resnext50", resnet.resnext50, _image),
    Network("vgg16", vgg.VGG16, _image),
    Network("mobilenetv2", mobilenet.MobileNetV2, _image),
    Network("efficientnet_b0", efficientnet.EfficientNetB0, _image),
    Network("convnext_t", convnext.ConvNeXtT, _image),
    Network("resnet3d", resnet.resnet3d, lambda size: (16, size, size, 3), classes=400, size=112),
    Network("unet", unet.UNet, _image, target_shape=lambda size: (size, size), classes=2, size=256),
    Network(
        "wavenet",
        wavenet.WaveNet,
        input_shape=lambda size: (size, 1),
        target_shape=lambda size: (size,),
        classes=256,
        size=8000,
    ),
    Network(
        "dcgan",
        dcgan.Generator,
        input_shape=lambda size: (1, 1, 100),
        target_shape=_image,
        classes=None,
        size=64,
        loss=squared_error,
    ),
    Network("ensemble", small.Ensemble, _image, classes=10, size=32, loss=ensemble_loss),
    Network(
        "dpsgd",
        small.SmallCNN,
        _image,
        classes=10,
        size=32,
        gradients=small.clipped_gradients,
    ),
]
NETWORKS: dict[str, Network] = {network.name: network for network in _ALL}
