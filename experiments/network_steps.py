"""Network steps: inference, gradients and training step of a stock network, as pure functions and as timed calls."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from convjax import timing
from experiments.models.catalogue import Network

# Parameters, and all other variables: the running statistics.
State = tuple[Any, ...]
Function = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class NetworkSteps:
    """What a network does with its state and a batch, in functions that change nothing in place.

    Attributes:
        network: the catalogue's.
        graph: the module without its variables, in training mode: statistics are the batch's, and are kept.
        still: the same in inference mode: statistics are the running ones.
        learning_rate: that of the training step, plain gradient descent.
    """

    network: Network
    graph: Any
    still: Any
    learning_rate: float

    def inference(self, state: State, inputs: jax.Array) -> jax.Array:
        return nnx.merge(self.still, *state)(inputs)

    def train(self, state: State, inputs: jax.Array, targets: jax.Array) -> tuple[State, jax.Array]:
        """The state after one step, and the loss before it."""
        (loss, rest), gradient = self._gradients(self.graph, state, inputs, targets)
        params = jax.tree.map(lambda p, g: p - self.learning_rate * g, state[0], gradient)
        return (params, rest), loss

    def gradients(self, state: State, inputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, Any]:
        """Loss and gradient on running statistics: through a batch's own, rounding grows from layer to layer."""
        (loss, _), gradient = self._gradients(self.still, state, inputs, targets)
        return loss, gradient

    def _gradients(self, graph: Any, state: State, inputs: jax.Array, targets: jax.Array) -> Any:
        def loss(params: Any, rest: Any, inputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, Any]:
            module = nnx.merge(graph, params, rest, copy=True)  # whose statistics may change
            value = self.network.loss(module, inputs, targets)
            return value, nnx.state(module, nnx.Not(nnx.Param))

        return self.network.gradients(loss)(*state, inputs, targets)


def split(network: Network, module: Any, learning_rate: float) -> tuple[NetworkSteps, State]:
    """The steps of a network, and the state it starts from: that of its `module`."""
    graph, *state = nnx.split(module, nnx.Param, ...)
    module.eval()
    return NetworkSteps(network, graph, nnx.graphdef(module), learning_rate), tuple(state)


def parameters(state: State) -> int:
    """The number of a network's parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(state[0]))


class Training:
    """Training steps, each from the state that the last one left; a call makes one and waits for it."""

    def __init__(self, step: Function, state: State, inputs: jax.Array, targets: jax.Array) -> None:
        lowered = jax.jit(step, donate_argnums=0).lower
        self._step, self.compile_seconds = timing.timed(lambda: lowered(state, inputs, targets).compile())
        self._batch = inputs, targets
        self.start(state)

    def start(self, state: State) -> None:
        """Begins anew, from `state`."""
        self._state = jax.tree.map(jnp.copy, state)  # a step takes its state's memory for the next
        self.losses: list[float] = []

    def __call__(self) -> None:
        self._state, loss = jax.block_until_ready(self._step(self._state, *self._batch))
        self.losses.append(float(loss))


def nearby(state: State, apart: float) -> State:
    """The state with every parameter a random `apart` of itself away."""
    rng = np.random.default_rng(0)
    params, *rest = state
    return jax.tree.map(lambda p: p * (1 + apart * rng.standard_normal(p.shape, np.float32)), params), *rest


def distance(found: Any, expected: Any) -> float:
    """The largest distance of an array of one tree from its like in the other, relative in the 2-norm; NaN wins."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return float(np.max([_distance(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs]))


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    apart, size = np.linalg.norm(found - expected), np.linalg.norm(expected)
    return float(apart / size) if size else float(apart)
