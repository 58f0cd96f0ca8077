"""Layers: the calls of a model's modules, told apart in what is traced.

Each call of a module enters a named scope, which the equations traced in it carry, and names its outputs: the layers
of a model are read from its jaxpr. Haiku and Linen let methods be intercepted; modules of NNX and Equinox are called
through subclasses of their own types that enter the scope.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

Path = tuple[str, ...]
Shape = tuple[int, ...]

_LABEL = re.compile(r"convjax<([^<>]*):([^<>:]*)>")
_OUTPUT = re.compile(r"convjax<.*>#(\d+)")


@dataclasses.dataclass
class Layer:
    """One module that is called: where it stands in the model, its type, and the shapes that its first call gives."""

    path: Path
    kind: str
    outputs: dict[int, Shape] = dataclasses.field(default_factory=dict)

    @property
    def output_shapes(self) -> tuple[Shape, ...]:
        return tuple(self.outputs[n] for n in sorted(self.outputs))


def path_of(parts: Iterable[object]) -> Path:
    """A path of names without the signs that labels are written with."""
    return tuple(re.sub(r"[<>|:/()#]", "_", str(part)) for part in parts)


def call_layer(path: Path, kind: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`fn(*args, **kwargs)` as a call of the layer at `path`."""
    label = f"convjax<{'|'.join(path)}:{kind}>"
    with jax.named_scope(label):
        leaves, tree = jax.tree.flatten(fn(*args, **kwargs))
        return jax.tree.unflatten(tree, [_named(y, f"{label}#{n}") for n, y in enumerate(leaves)])


def _named(y: Any, name: str) -> Any:
    is_number = isinstance(y, jax.Array) and not jnp.issubdtype(y.dtype, jax.dtypes.extended)
    return checkpoint_name(y, name) if is_number else y


def labelled(scope: str) -> tuple[Path, str] | None:
    """The innermost layer that a name stack, written out, stands in, and its type; None outside of layers."""
    found = _LABEL.findall(scope)
    return (_read(found[-1][0]), found[-1][1]) if found else None


def output_of(eqn: core.JaxprEqn) -> tuple[Path, int] | None:
    """The layer whose output an equation names, and which output it is."""
    name = eqn.params["name"] if eqn.primitive.name == "name" else ""
    position, layer = _OUTPUT.fullmatch(name), labelled(name)
    return None if position is None or layer is None else (layer[0], int(position[1]))


def layers_of(jaxpr: Any) -> dict[Path, Layer]:
    """The layers that the equations of a jaxpr stand in, in the order of their first calls."""
    found: dict[Path, Layer] = {}
    for eqn in jaxpr.eqns:
        for path, kind in _LABEL.findall(str(eqn.source_info.name_stack)):
            found.setdefault(_read(path), Layer(_read(path), kind))
        output = output_of(eqn)
        if output is not None:
            found[output[0]].outputs.setdefault(output[1], eqn.outvars[0].aval.shape)
        for inner in core.jaxprs_in_params(eqn.params):
            for path, layer in layers_of(inner).items():
                found.setdefault(path, layer)
    return found


def _read(path: str) -> Path:
    return tuple(path.split("|")) if path else ()


def enter_scope(module: Any, path: Path) -> None:
    """Gives `module` a type whose call is one of the layer at `path`; modules that are not called keep theirs."""
    cls: Any = type(module)
    if path and callable(module):
        object.__setattr__(module, "__class__", _scoped(cls, path))


@functools.cache
def _scoped(cls: Any, path: Path) -> Any:
    """Cached, since the libraries keep a register of their types: a model counted again adds none."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call_layer(path, cls.__name__, cls.__call__, self, *args, **kwargs)

    return type(cls)(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__})
