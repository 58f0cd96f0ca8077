"""Networks by PyTorch: the parameters of torchvision's and of the Flax twins', and steps that learn.

Collected only where torch is installed; elsewhere pytest's header says that parity is left out.
"""

import zlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

from experiments.models import catalogue
from experiments.peers import torch_steps
from experiments.peers.torch_networks import NETWORKS, Ensemble, SmallCNN

TORCHVISION = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "resnext50": 25_028_904,
    "mobilenetv2": 3_504_872,
    "efficientnet_b0": 5_288_548,
    "convnext_t": 28_589_128,
    "resnet3d": 33_371_472,
}
# Those compared with their Flax twins by default, the others being traced and compiled for long: outputs, and where
# neither these nor torchvision say it, shapes. With --thorough all are.
COMPARED, SHAPED = ("wavenet", "dcgan", "dpsgd"), ("unet", "ensemble")
KINDS = ("kernel", "scale", "bias", "mean", "var")
# Small enough to be computed within a test; kernels and layers are the networks' own.
SIZES = {"resnet3d": 16, "wavenet": 40, "dcgan": 64}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the other tests have it: these are too small for two, which would wait for each other on a busy machine."""
    monkeypatch.setattr(torch_steps, "cores", lambda: 1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = metafunc.config.getoption("--thorough")
    if "shaped" in metafunc.fixturenames:
        metafunc.parametrize("shaped", NETWORKS if every else SHAPED)
    if "compared" in metafunc.fixturenames:
        names = [name for name in NETWORKS if name != "ensemble"]  # whose members are compared, stacked as they are not
        metafunc.parametrize("compared", names if every else COMPARED)


def flax_twin(name: str) -> tuple[Any, Any, Any]:
    """Its graph, parameters and statistics, of these the shapes alone."""
    module = nnx.eval_shape(lambda: catalogue.NETWORKS[name].build(nnx.Rngs(0)))
    module.eval()
    return nnx.split(module, nnx.Param, ...)


def shapes(arrays: Iterable[Any]) -> list[list[int]]:
    """Only the order of the axes is a library's own."""
    return sorted(sorted(array.shape) for array in arrays)


def on_meta(name: str) -> torch.nn.Module:
    """The network without the memory of its parameters."""
    with torch.device("meta"):
        return NETWORKS[name]()


@pytest.mark.parametrize(("name", "count"), TORCHVISION.items())
def test_as_many_parameters_as_torchvision(name: str, count: int) -> None:
    assert sum(p.numel() for p in on_meta(name).parameters()) == count


def test_parameters_and_outputs_as_the_flax_twin_has(shaped: str) -> None:
    network, size = catalogue.NETWORKS[shaped], SIZES.get(shaped, 32)
    _, params, _ = flax_twin(shaped)
    module, x_shape = on_meta(shaped), (2, *network.input_shape(size))
    assert shapes(module.parameters()) == shapes(jax.tree.leaves(params))
    outputs = jax.eval_shape(lambda x: network.build(nnx.Rngs(0))(x), jax.ShapeDtypeStruct(x_shape, jnp.float32))
    x = torch.zeros(x_shape[0], x_shape[-1], *x_shape[1:-1])
    with torch.no_grad():
        assert shapes([module.to_empty(device="cpu").eval()(x)]) == shapes([outputs])


@pytest.mark.parametrize("name", ["wavenet", "dcgan", "ensemble", "dpsgd"])
def test_steps_learn_and_inference_is_repeatable(name: str) -> None:
    network = catalogue.NETWORKS[name]
    inputs, targets = network.batch(2, SIZES.get(name, 32), 0)
    step = torch_steps.training(name, inputs, targets, learning_rate=0.02)
    losses = [float(step()) for _ in range(4)]
    assert losses[-1] < losses[0]
    infer = torch_steps.inference(name, inputs)
    outputs = infer()
    assert not outputs.requires_grad
    assert torch.equal(outputs, infer())
    alone = torch_steps.inference(name, inputs[:1])()
    batch = 1 if name == "ensemble" else 0
    torch.testing.assert_close(outputs.narrow(batch, 0, 1), alone, rtol=1e-4, atol=1e-5)


def test_statistics_are_kept_in_training() -> None:
    module = NETWORKS["dcgan"]()
    before = [b.clone() for name, b in module.named_buffers() if name.endswith("running_mean")]
    module(torch.randn(2, 100, 1, 1))
    after = [b for name, b in module.named_buffers() if name.endswith("running_mean")]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_ensemble_is_its_members() -> None:
    torch.manual_seed(0)
    ensemble, member, x = Ensemble(members=3), SmallCNN(), torch.randn(2, 3, 8, 8)
    outputs = ensemble(x)
    for index, found in enumerate(outputs):
        member.load_state_dict({name.replace("/", "."): p[index].detach() for name, p in ensemble.stacked.items()})
        torch.testing.assert_close(found, member(x))


def test_clipped_gradients_are_those_of_single_examples() -> None:
    torch.manual_seed(0)
    module, x, targets = SmallCNN(), torch.randn(3, 3, 8, 8), torch.tensor([1, 7, 2])
    loss = torch_steps._clipped_gradients(module, x, targets, bound=0.9)
    got = [p.grad for p in module.parameters()]
    want = [torch.zeros_like(p) for p in module.parameters()]
    losses, clipped = [], 0
    for i in range(3):
        losses.append(F.cross_entropy(module(x[i : i + 1]), targets[i : i + 1]))
        gradient = torch.autograd.grad(losses[-1], list(module.parameters()))
        norm = torch.sqrt(sum((g**2).sum() for g in gradient))
        clipped += int(norm > 0.9)
        for total, g in zip(want, gradient, strict=True):
            total += g * min(1.0, 0.9 / float(norm)) / 3
    assert clipped
    torch.testing.assert_close(loss, torch.stack(losses).mean().detach())
    for a, b in zip(got, want, strict=True):
        assert a is not None
        torch.testing.assert_close(a, b)


def drawn(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """A variable in Flax's layout by its kind and shape alone: twins get the same, and none need be matched."""
    values = np.random.default_rng(zlib.crc32(f"{kind}{shape}".encode())).standard_normal(shape, np.float32)
    if kind == "kernel":
        return values * np.sqrt(2 / np.prod(shape[:-1]), dtype=np.float32)
    if kind in ("mean", "var"):
        return np.full(shape, kind == "var", np.float32)
    return 0.1 * values + np.float32(kind == "scale")


def kind_of(path: Any) -> str:
    """What a variable of Flax is by its name, which its value may follow."""
    return next(name for key in reversed(path) if (name := jax.tree_util.keystr((key,), simple=True)) in KINDS)


def fill(module: torch.nn.Module) -> None:
    for layer in module.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if parameter.ndim == 1:
                value = drawn("bias" if name == "bias" else "scale", tuple(parameter.shape))
            else:
                outputs, inputs, *kernel = parameter.shape
                transposed = isinstance(layer, torch.nn.ConvTranspose2d)
                ends = (outputs, inputs) if transposed else (inputs, outputs)
                value = drawn("kernel", (*kernel, *ends))
                value = np.flip(value, tuple(range(len(kernel)))) if transposed else np.swapaxes(value, -1, -2)
                value = np.moveaxis(value, (-2, -1), (0, 1))
            parameter.data.copy_(torch.from_numpy(value.copy()))


def test_outputs_of_the_flax_twin(compared: str) -> None:
    inputs, _ = catalogue.NETWORKS[compared].batch(2, SIZES.get(compared, 32), 0)
    graph, *state = flax_twin(compared)
    state = jax.tree.map_with_path(lambda path, leaf: drawn(kind_of(path), leaf.shape), state)
    want = jax.jit(lambda state, x: nnx.merge(graph, *state)(x))(state, inputs)
    theirs = NETWORKS[compared]()
    fill(theirs)
    assert shapes(theirs.parameters()) == shapes(jax.tree.leaves(state[0]))
    with torch.no_grad():
        got = theirs.eval()(torch.from_numpy(np.moveaxis(inputs, -1, 1).copy()))
    apart = np.abs(np.moveaxis(got.numpy(), 1, -1) - want)
    assert np.max(apart) <= 1e-4 * np.max(np.abs(want))
