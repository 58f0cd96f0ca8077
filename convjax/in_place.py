"""What functions change in place, which is lost where they are traced: kept of Flax NNX, refused of all else.

Flax is not needed: an object can only be one of NNX where that has been imported.
"""

import contextlib
import functools
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

# What NNX keeps its record under of which object is which.
_CONTEXT = "convjax.accelerate"

# What evaluates fn(*args, **kwargs) without its changes in place.
Evaluate = Callable[[Callable[..., Any], Sequence[Any], Mapping[str, Any]], Any]


def call(evaluate: Evaluate, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`evaluate(fn, args, kwargs)`, with what `fn` changes in NNX modules changed in them, as by `nnx.jit`.

    The modules, optimizers, metrics and rngs among the arguments, or `fn` itself, are split before and updated
    afterwards, all at once, so that what they share stays shared; so are their settings, as `model.eval()` changes, and
    attributes that are added or deleted.

    Raises:
        ValueError: `fn` leaves something in another argument that it neither was given nor returns.
    """
    leaves, tree = jax.tree.flatten((fn, args, kwargs), is_leaf=_is_module)
    places = [i for i, leaf in enumerate(leaves) if _is_module(leaf)]
    if not places:
        return evaluate(_refused_in_place(fn), args, kwargs)
    from flax import nnx

    modules = tuple(leaves[i] for i in places)
    rest = {i: leaf for i, leaf in enumerate(leaves) if i not in places}
    graphs: list[Any] = []

    @functools.wraps(fn, updated=())
    def pure(state: Any, rest: dict[int, Any]) -> Any:
        with nnx.merge_context(_CONTEXT, inner=True) as context:
            merged = context.merge(graphs[0], state)
        whole = rest | dict(zip(places, merged, strict=True))
        fn, args, kwargs = jax.tree.unflatten(tree, [whole[i] for i in range(len(leaves))])
        results = _refused_in_place(fn)(*args, **kwargs)
        with nnx.split_context(_CONTEXT) as context:
            graph, new = context.split(merged)
        graphs.append(graph)
        return results, new

    with nnx.update_context(_CONTEXT):
        with nnx.split_context(_CONTEXT) as context:
            graph, state = context.split(modules)
        graphs.append(graph)
        results, new = evaluate(pure, (state, rest), {})
        if graphs[-1].with_no_outer_index() == graph.with_no_outer_index():
            old = {path: jax.tree.leaves(value) for path, value in nnx.to_flat_state(state)}
            changed = {
                path: value for path, value in nnx.to_flat_state(new) if _differ(jax.tree.leaves(value), old[path])
            }
            # Alone, as those of an outer trace, which cannot be changed in this one, have not been.
            nnx.update(modules, nnx.from_flat_state(changed))
        else:
            with _left_as_they_were(modules), nnx.merge_context(_CONTEXT, inner=False) as context:
                context.merge(graphs[-1], new)
    return results


@contextlib.contextmanager
def _left_as_they_were(modules: Any) -> Iterator[None]:
    """Modules keep what they have where NNX refuses to change them, which it finds out after it has emptied them."""
    from flax import nnx

    held = [(node, dict(vars(node))) for _, node in nnx.iter_graph(modules) if isinstance(node, nnx.Pytree)]
    try:
        yield
    except BaseException:
        for node, attributes in held:
            vars(node).clear()
            vars(node).update(attributes)
        raise


def _differ(new: Sequence[Any], old: Sequence[Any]) -> bool:
    """Whether these are not the very same objects."""
    return len(new) != len(old) or not all(map(operator.is_, new, old))


def _refused_in_place(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, refused where it leaves something in an argument that it neither was given nor returns."""

    @functools.wraps(fn, updated=())
    def checked(*args: Any, **kwargs: Any) -> Any:
        objects = jax.tree.leaves((args, kwargs), is_leaf=_is_object)
        given = _leaves(objects)
        objects = list(filter(_stays, objects))  # of what computes its leaves nothing can be told
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


def _stays(node: Any) -> bool:
    """Whether it has the same leaves at every look."""
    return not _differ(_leaves_left(node), _leaves_left(node))
