"""What functions change in place, which is lost where they are traced: kept of Flax NNX, refused of all else.

Flax is not needed: an object can only be one of NNX where that has been imported.
"""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

# What evaluates fn(*args, **kwargs) without its changes in place.
Evaluate = Callable[[Callable[..., Any], Sequence[Any], Mapping[str, Any]], Any]


def call(evaluate: Evaluate, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`evaluate(fn, args, kwargs)`, with what `fn` changes in NNX modules changed in them.

    The modules, optimizers, metrics and rngs among the arguments, or `fn` itself, are split before and updated
    afterwards, all at once, so that what they share stays shared; so are their settings, as `model.eval()` changes.

    Raises:
        ValueError: `fn` leaves something in another argument that it neither was given nor returns.
    """
    leaves, tree = jax.tree.flatten((fn, args, kwargs), is_leaf=_is_module)
    places = [i for i, leaf in enumerate(leaves) if _is_module(leaf)]
    if not places:
        return evaluate(_refused_in_place(fn), args, kwargs)
    from flax import nnx

    modules = tuple(leaves[i] for i in places)
    graph, state = nnx.split(modules)
    rest = {i: leaf for i, leaf in enumerate(leaves) if i not in places}
    settings: dict[tuple[Any, ...], Any] = {}

    @functools.wraps(fn, updated=())
    def pure(state: Any, rest: dict[int, Any]) -> Any:
        merged = nnx.merge(graph, state)
        whole = rest | dict(zip(places, merged, strict=True))
        fn, args, kwargs = jax.tree.unflatten(tree, [whole[i] for i in range(len(leaves))])
        results = _refused_in_place(fn)(*args, **kwargs)
        settings.update(_settings(merged))
        return results, nnx.state(merged)

    results, new = evaluate(pure, (state, rest), {})
    old = {path: _identity(value) for path, value in nnx.to_flat_state(state)}
    changed = {path: value for path, value in nnx.to_flat_state(new) if _identity(value) != old.get(path)}
    nnx.update(modules, nnx.from_flat_state(changed))
    _set(modules, settings)
    return results


def _settings(modules: Any) -> dict[tuple[Any, ...], Any]:
    """The attributes of modules that hold neither arrays nor other modules, by path."""
    from flax import nnx

    held = nnx.Variable, nnx.Pytree, jax.Array, np.ndarray
    return {
        (*path, name): value
        for path, node in nnx.iter_graph(modules)
        if isinstance(node, nnx.Pytree)
        for name, value in vars(node).items()
        if not any(isinstance(leaf, held) for leaf in jax.tree.leaves(value, is_leaf=lambda v: isinstance(v, held)))
    }


def _set(modules: Any, settings: Mapping[tuple[Any, ...], Any]) -> None:
    """Sets in `modules` the settings that differ."""
    from flax import nnx

    nodes = dict(nnx.iter_graph(modules))
    for (*parents, name), value in settings.items():
        node = nodes[tuple(parents)]
        if not name.startswith("_pytree__") and getattr(node, name, None) is not value:
            setattr(node, name, value)


def _refused_in_place(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, refused where it leaves something in an argument that it neither was given nor returns."""

    @functools.wraps(fn, updated=())
    def checked(*args: Any, **kwargs: Any) -> Any:
        objects = jax.tree.leaves((args, kwargs), is_leaf=_is_object)
        given = _leaves(objects)
        results = fn(*args, **kwargs)
        known = set(map(id, [*given, *_leaves(results)]))
        for node in objects:
            if any(id(leaf) not in known for leaf in _leaves_left(node)):
                raise ValueError(
                    f"{fn} changes its argument of type {type(node).__name__} in place, which is lost where functions "
                    "are traced: return the new one"
                )
        return results

    return checked


def _is_module(node: Any) -> bool:
    return isinstance(node, getattr(sys.modules.get("flax.nnx"), "Pytree", ()))


def _is_object(node: Any) -> bool:
    """Whether a node of a tree is of a type that somebody registered. jax's own are copied, as by `jit`."""
    return not isinstance(node, dict | list | tuple | type(None))


def _leaves(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=_is_module)


def _leaves_left(node: Any) -> list[Any]:
    """None of what another has replaced and that cannot be read any more, as Equinox's `State`."""
    try:
        return _leaves(node)
    except ValueError:
        return []


def _identity(tree: Any) -> list[int]:
    """Which arrays it holds."""
    return list(map(id, jax.tree.leaves(tree)))
