"""Models traced: their program forward, and what of it is kept for a gradient. Nothing is run."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from convjax.inspect.costs import FUSED
from convjax.inspect.layers import Layer, Path, call_layer, layers_of
from convjax.inspect.models import Model
from convjax.inspect.steps import Value, arguments, steps
from convjax.tracing import is_array

_counting = jax.make_user_context(default_value=False)


class Trace:
    """A model as a jaxpr of its arrays.

    Attributes:
        jaxpr: of the parameters, the state and the inputs.
        layers: by where they stand, in the order of their first calls.
        parameters: where each parameter stands, and its elements.
        inputs: how many arrays stand before the inputs among the arguments of the jaxpr.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        trained, state = jax.tree.leaves(model.parameters), jax.tree.leaves(model.state)
        self._leaves, self._tree = jax.tree.flatten((model.parameters, model.state, (model.args, model.kwargs)))
        self._arrays = [i for i, leaf in enumerate(self._leaves) if is_array(leaf)]
        self._trained = [n for n, i in enumerate(self._arrays) if i < len(trained) and self._inexact(i)]
        self.inputs = sum(i < len(trained) + len(state) for i in self._arrays)
        self.parameters: list[tuple[Path, int]] = [
            (path, leaf.size) for path, leaf in zip(model.paths, trained, strict=True) if is_array(leaf)
        ]
        self.jaxpr = self._traced(self._run)
        self.layers = {(): Layer((), model.kind)} | layers_of(self.jaxpr.jaxpr)

    def _traced(self, fn: Any) -> core.ClosedJaxpr:
        # Programs of inner jits are cached: those traced for a count have labels, which others lack.
        with _counting(True):
            return jax.make_jaxpr(fn)(*(self._leaves[i] for i in self._arrays))

    def _inexact(self, leaf: int) -> bool:
        return jnp.issubdtype(self._leaves[leaf].dtype, jnp.inexact)

    def _run(self, *arrays: jax.Array) -> list[jax.Array]:
        leaves = dict(enumerate(self._leaves)) | dict(zip(self._arrays, arrays, strict=True))
        parameters, state, (args, kwargs) = jax.tree.unflatten(self._tree, leaves.values())
        model = self._model
        if not model.modules:
            return _arrays(model.call(parameters, state, *args, **kwargs))
        return _arrays(call_layer((), model.kind, model.call, parameters, state, *args, **kwargs))

    def owner(self, path: Path) -> Path:
        """The innermost layer that holds the parameter at `path`."""
        return next(path[:n] for n in range(len(path), -1, -1) if path[:n] in self.layers)

    def kept(self) -> collections.Counter[Path | None]:
        """Bytes of results that are alive when the gradient begins, by the layer that made them.

        The gradient is that of the parameters, or of all arguments where there are none. What elementwise operations
        can make again from these is not counted: it is fused into what uses it.
        """
        trained = self._trained or [n for n, i in enumerate(self._arrays) if self._inexact(i)]

        def forward(*arrays: jax.Array) -> list[jax.Array]:
            def of_trained(*values: jax.Array) -> list[jax.Array]:
                given = dict(enumerate(arrays)) | dict(zip(trained, values, strict=True))
                return self._run(*given.values())

            results, pullback = jax.vjp(of_trained, *(arrays[n] for n in trained))
            return results + _arrays(pullback)

        jaxpr = self._traced(forward)
        program, results = steps(jaxpr, arguments(jaxpr))
        needed = set(results)
        made: set[Value] = set()
        at_hand: set[Value] = set()
        found: collections.Counter[Path | None] = collections.Counter()
        for step in program:
            if step.name in FUSED and made.intersection(step.operands) <= at_hand:
                at_hand.update(step.results)
            else:
                kept = needed.intersection(step.results)
                at_hand |= kept
                found[step.layer] += sum(value.bytes for value in kept)
            made.update(step.results)
        return found


def _arrays(tree: Any) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
