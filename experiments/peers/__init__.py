"""Peers: another library on the same problems, timed in the same turns; it is imported where a config asks for it."""

import importlib.util
import os
from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax
import numpy as np

from experiments.layers import Layer

# PyTorch's threads spin after their work and take a core from whatever is timed next: the same lax program then took
# up to 1.6 times as long. This many turns cure it without slowing PyTorch. Its OpenMP reads the variable once, when
# torch is loaded, and all here that imports torch comes by this package first.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

# The cases of each peer. PyTorch computes in either memory format; of its two times the better counts.
CASES = {"torch": ("torch", "torch (channels last)")}


class Program(Protocol):
    """One pass of a layer; calling it waits for the result."""

    @property
    def compile_seconds(self) -> float: ...

    def __call__(self) -> Any: ...

    def array(self, result: Any) -> np.ndarray:
        """A result in the layer's layout and float64."""


def absent() -> tuple[str, ...]:
    """Why PyTorch cannot be timed here at all; empty if it can."""
    if importlib.util.find_spec("torch") is None:
        return ("torch is not installed",)
    if jax.default_backend() != "cpu":
        return (f"torch is timed on the CPU only, and jax runs on {jax.default_backend()}",)
    return ()


def unsupported(case: str, layer: Layer) -> tuple[str, ...]:
    """Why a case cannot be timed; empty if it can."""
    if reasons := absent():
        return reasons
    from experiments.peers import torch_layers

    return torch_layers.unsupported(layer, channels_last=_channels_last(case))


def layer_program(case: str, layer: Layer, pass_: str, operands: tuple[jax.Array, ...]) -> Program:
    """A case that is supported, on the operands of its task."""
    from experiments.peers import torch_layers

    return torch_layers.program(layer, pass_, operands, channels_last=_channels_last(case))


def network_step(
    mode: Literal["inference", "train"],
    network: str,
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    learning_rate: float,
    seed: int = 0,
) -> Callable[[], Any]:
    """PyTorch's inference or training step of a network of the catalogue, on the batch that its Flax twin takes."""
    from experiments.peers import torch_steps

    if mode == "inference":
        return torch_steps.inference(network, inputs, seed=seed)
    return torch_steps.training(network, inputs, targets, learning_rate=learning_rate, seed=seed)


def _channels_last(case: str) -> bool:
    return case == CASES["torch"][1]
