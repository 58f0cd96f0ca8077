"""Layers: the calls of a model's modules, told apart in what is traced.

Each call of a module enters a named scope, which the equations traced in it carry, and its outputs are named, so that
they are found again. Haiku and Linen let methods be intercepted; modules of NNX and Equinox are called through
subclasses of their own types that enter the scope.
"""

import contextvars
import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

Path = tuple[str, ...]
Shapes = tuple[tuple[int, ...], ...]

_LABEL = re.compile(r"convjax_layer_(\d+)")


@dataclasses.dataclass
class Layer:
    """One module that is called: where it stands in the model, its type, and the shapes that its first call gives."""

    path: Path
    kind: str
    output_shapes: Shapes = ()


class Layers:
    """The layers of one model in the order of their first calls, the model itself before them."""

    def __init__(self) -> None:
        self.found: list[Layer] = []
        self._indices: dict[Path, int] = {}

    def call(self, path: Path, kind: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`fn(*args, **kwargs)` as a call of the layer at `path`."""
        index = self._indices.setdefault(path, len(self.found))
        if index == len(self.found):
            self.found.append(Layer(path, kind))
        with jax.named_scope(label(index)):
            results = jax.tree.map(functools.partial(_named, index), fn(*args, **kwargs))
        layer = self.found[index]
        layer.output_shapes = layer.output_shapes or tuple(y.shape for y in jax.tree.leaves(results) if _is_array(y))
        return results

    def owner(self, path: Path) -> int:
        """The innermost layer that holds what stands at `path`."""
        return next(self._indices[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self._indices)


def label(index: int) -> str:
    """The scope of a layer and the name of its outputs."""
    return f"convjax_layer_{index}"


def labelled(scope: str) -> int | None:
    """The innermost layer that a name stack, written out, stands in."""
    found = _LABEL.findall(scope)
    return int(found[-1]) if found else None


def _named(index: int, y: Any) -> Any:
    return checkpoint_name(y, label(index)) if _is_array(y) and jnp.issubdtype(y.dtype, jnp.inexact) else y


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array)


_layers: contextvars.ContextVar[Layers] = contextvars.ContextVar("layers")


def called_through(layers: Layers, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`fn(*args, **kwargs)`, in which calls of modules that were given `scoped` types are calls of `layers`."""
    token = _layers.set(layers)
    try:
        return fn(*args, **kwargs)
    finally:
        _layers.reset(token)


def enter_scope(module: Any, path: Path) -> None:
    """Gives `module` a type whose call is a call of the layer at `path`; modules that are not called keep theirs."""
    if path and callable(module):
        object.__setattr__(module, "__class__", _scoped(type(module), path))


@functools.cache
def _scoped(cls: type, path: Path) -> type:
    """Cached, since the libraries keep a register of their types: a model counted again adds none."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _layers.get().call(path, cls.__name__, cls.__call__, self, *args, **kwargs)

    return type(cls)(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__})
