"""The catalogue's networks counted: torchvision's parameters exactly, and its published MACs to 1 %."""

import functools
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from convjax.inspect.count import count
from convjax.inspect.summary import summary
from experiments.models.catalogue import NETWORKS

# Parameters, 10^9 MACs of one image of 224 x 224, and the field of what the head averages over. The MACs are
# "GFLOPS" of https://docs.pytorch.org/vision/stable/models.html.
PUBLISHED = {
    "resnet18": (11_689_512, 1.814),
    "resnet50": (25_557_032, 4.089),
    "vgg16": (138_357_544, 15.47),
    "mobilenetv2": (3_504_872, 0.3008),
    "convnext_t": (28_589_128, 4.456),
}
IMAGE = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)


@functools.cache
def abstract(name: str) -> Any:
    """The network without its arrays, on running statistics. One key for all: counting keys takes half the time."""
    key = jax.random.key(0)
    keys: Any = SimpleNamespace(params=lambda: key)
    network = nnx.eval_shape(lambda: NETWORKS[name].build(keys))
    network.eval()
    return network


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    parameters, macs = PUBLISHED[name]
    shown = summary(abstract(name), IMAGE)
    assert shown.rows[0].parameters == shown.rows[0].trainable == parameters
    assert shown.rows[0].macs == pytest.approx(macs * 1e9, rel=0.01)
    assert shown.left == ()


def test_every_layer_of_a_network_is_counted() -> None:
    counted = count(abstract("resnet18"), IMAGE)
    assert (counted.parameters, counted.macs) == (11_689_512, 1_814_073_344)
    assert sum(layer.parameters for layer in counted.layers) == counted.parameters
    assert sum(layer.macs for layer in counted.layers) == counted.macs
    assert counted.bias_adds == 1000
    assert counted.window_operations == 56 * 56 * 64 * 9
    assert len([layer for layer in counted.layers if layer.kind == "Conv"]) == 20
    # The stem's results on either side of the pooling are the most that is alive at once.
    assert counted.activation_bytes == 4 * 64 * (112 * 112 + 56 * 56)
    assert counted.training_bytes is not None
    assert counted.training_bytes > 2 * counted.activation_bytes
