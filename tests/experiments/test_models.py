"""The catalogue of stock networks: the published parameter counts, and outputs of the shapes they promise."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import experiments.models
from experiments.models.catalogue import NETWORKS
from experiments.models.small import clipped_gradients
from experiments.network_steps import parameters, split

# As torchvision's networks have them; from U-Net on counted by hand.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "resnext50": 25_028_904,
    "vgg16": 138_357_544,
    "mobilenetv2": 3_504_872,
    "efficientnet_b0": 5_288_548,
    "convnext_t": 28_589_128,
    "resnet3d": 33_371_472,
    "unet": 31_031_810,
    "wavenet": 629_568,
    "dcgan": 3_576_704,
    "ensemble": 8 * 94_538,
    "dpsgd": 94_538,
}
OUTPUTS = {
    "resnet3d": (2, 400),
    "unet": (2, 256, 256, 2),
    "wavenet": (2, 8000, 256),
    "dcgan": (2, 64, 64, 3),
    "ensemble": (8, 2, 10),
    "dpsgd": (2, 10),
}


# Traced by default, and with --thorough all; where torch is installed, the twins' tests trace all but VGG in any case.
USUAL = ("resnet18", "vgg16", "mobilenetv2", "resnet3d", "unet", "wavenet", "dcgan", "ensemble", "dpsgd")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "named" in metafunc.fixturenames:
        metafunc.parametrize("named", NETWORKS if metafunc.config.getoption("--thorough") else USUAL)


def test_layers_are_the_published_ones(named: str) -> None:
    network = NETWORKS[named]
    steps, state = split(network, nnx.eval_shape(lambda: network.build(nnx.Rngs(0))), 0.1)
    inputs, targets = network.batch(2, network.size, 0)
    assert parameters(state) == PARAMETERS[named]
    assert jax.eval_shape(steps.inference, state, inputs).shape == OUTPUTS.get(named, (2, 1000))
    assert targets.shape == (2, *network.target_shape(network.size))


def test_stock_networks_know_nothing_of_convjax() -> None:
    paths = {path.stem: path for path in Path(experiments.models.__file__).parent.glob("*.py")}
    stock = set(paths) - {"__init__", "choices", "digits"}
    assert len(stock) > 10
    for name in stock:
        assert "convjax" not in paths[name].read_text(encoding="utf-8"), name


def test_clipped_gradients_are_those_of_single_examples() -> None:
    rng = np.random.default_rng(0)
    w, x, target = rng.standard_normal(3), rng.standard_normal((5, 3)), rng.standard_normal(5)

    def loss(params: Any, rest: Any, x: jax.Array, target: jax.Array) -> tuple[jax.Array, Any]:
        return 0.5 * jnp.square(x @ params["w"] - target).mean(), rest

    single = (x @ w - target)[:, None] * x
    norms = np.linalg.norm(single, axis=1)
    bound = float(np.median(norms))
    want = (single * np.minimum(1, bound / norms)[:, None]).mean(0)
    (value, _), got = jax.jit(clipped_gradients(loss, bound))({"w": jnp.asarray(w)}, (), x, target)
    np.testing.assert_allclose(got["w"], want, rtol=1e-5)
    np.testing.assert_allclose(value, 0.5 * np.square(x @ w - target).mean(), rtol=1e-5)
