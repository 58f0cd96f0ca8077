"""Steps by PyTorch: inference and a training step of a network, as callables that take nothing and return when done.

They take the same inputs and targets as the Flax twin, channels last, and lay them out beforehand.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from convjax.processor import cores
from experiments.peers.torch_networks import NETWORKS

Step = Callable[[], torch.Tensor]

# Networks that are slower in the channels-last memory format, by a quarter in training where it is most; the other
# image networks are faster in it, by up to a third. Waveforms have no such format.
_CHANNELS_FIRST = ("resnet3d", "unet", "wavenet", "ensemble")


def inference(name: str, inputs: np.ndarray, *, seed: int = 0) -> Step:
    """What the network `name` makes of `inputs`, its norms on running statistics."""
    module, x = _placed(name, inputs, seed)
    module.eval()

    def step() -> torch.Tensor:
        with torch.inference_mode():
            return module(x)

    return step


def training(name: str, inputs: np.ndarray, targets: np.ndarray, *, learning_rate: float, seed: int = 0) -> Step:
    """One step more at every call: the loss, its gradient, and SGD's update, the norms on the batch's statistics."""
    module, x = _placed(name, inputs, seed)
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), learning_rate, fused=True)
    wanted = _axes(targets) if targets.dtype.kind == "f" else torch.from_numpy(targets.astype(np.int64))

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        if name == "dpsgd":
            loss = _clipped_gradients(module, x, wanted)
        else:
            loss = _loss(name, module(x), wanted)
            loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _placed(name: str, inputs: np.ndarray, seed: int) -> tuple[nn.Module, torch.Tensor]:
    """The network and its inputs, both in the memory format in which it is faster."""
    torch.set_num_threads(cores())
    torch.manual_seed(seed)
    module, x = NETWORKS[name](), _axes(inputs)
    if name in _CHANNELS_FIRST:
        return module, x.contiguous()
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its annotation leaves it out
    return module, x.contiguous(memory_format=torch.channels_last)


def _axes(array: np.ndarray) -> torch.Tensor:
    """`(N, *spatial, C)` seen as `(N, C, *spatial)`."""
    return torch.from_numpy(np.array(array)).movedim(-1, 1)


def _loss(name: str, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean over all that is classified, or painted; of an ensemble the sum of its members' means."""
    if name == "dcgan":
        return F.mse_loss(outputs, targets)
    if name == "ensemble":
        return len(outputs) * F.cross_entropy(outputs.flatten(0, 1), targets.repeat(len(outputs)))
    return F.cross_entropy(outputs, targets)


def _clipped_gradients(
    module: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, bound: float = 1.0
) -> torch.Tensor:
    """DP-SGD's gradient, without its noise, put where the optimiser looks for it; returns the mean loss.

    The gradients of single examples by vmap of grad, each clipped to the norm `bound`, averaged.
    """
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(torch.func.functional_call(module, parameters, (x[None],)), target[None])

    one: Any = torch.func.grad_and_value(loss)
    gradients, losses = torch.func.vmap(one, (None, 0, 0))(parameters, inputs, targets)
    norms = sum(g.flatten(1).square().sum(1) for g in gradients.values()).sqrt()
    shrink = (bound / norms).clamp(max=1.0) / len(norms)
    for name, parameter in module.named_parameters():
        parameter.grad = torch.tensordot(shrink, gradients[name], 1)
    return losses.mean()
