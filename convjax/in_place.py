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
# In the place of a module's path.
_NO_MODULE: Any = object()

# What evaluates fn(*args, **kwargs) without its changes in place.
Evaluate = Callable[[Callable[..., Any], Sequence[Any], Mapping[str, Any]], Any]


def call(evaluate: Evaluate, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """`evaluate(fn, args, kwargs)`, with what `fn` changes in NNX modules changed in them, as by `nnx.jit`.

    The modules, optimizers, metrics and rngs among the arguments, or `fn` itself, are split before and updated
    afterwards, all at once, so that what they share stays shared; so are their settings, as `model.eval()` changes, and
    attributes that are added or deleted. A module that `fn` returns is the one that it was given, and shares with the
    others what it shared.

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
    returned = _Returned()

    @functools.wraps(fn, updated=())
    def pure(state: Any, rest: dict[int, Any]) -> Any:
        with nnx.merge_context(_CONTEXT, inner=True) as context:
            merged, _ = context.merge(graphs[0], state)
        whole = rest | dict(zip(places, merged, strict=True))
        fn, args, kwargs = jax.tree.unflatten(tree, [whole[i] for i in range(len(leaves))])
        others, made = returned.without_modules(_refused_in_place(fn)(*args, **kwargs), merged)
        joined, alone = (made, ()) if _share(made, merged) else ((), made)
        with nnx.split_context(_CONTEXT) as context:
            graph, new = context.split((merged, joined))
        graph_alone, new_alone = nnx.split(alone)
        graphs.extend([graph, graph_alone])
        return others, new, new_alone

    with nnx.update_context(_CONTEXT):
        with nnx.split_context(_CONTEXT) as context:
            graph, state = context.split((modules, ()))
        graphs.append(graph)
        others, new, new_alone = evaluate(pure, (state, rest), {})
        _, graph_after, graph_alone = graphs
        made = nnx.merge(graph_alone, new_alone)
        if graph_after.with_no_outer_index() == graph.with_no_outer_index():
            old = {path: jax.tree.leaves(value) for path, value in nnx.to_flat_state(state)}
            changed = {
                path: value for path, value in nnx.to_flat_state(new) if _differ(jax.tree.leaves(value), old[path])
            }
            # Alone, as those of an outer trace, which cannot be changed in this one, have not been.
            nnx.update((modules, ()), nnx.from_flat_state(changed))
        else:
            with _left_as_they_were(modules), nnx.merge_context(_CONTEXT, inner=False) as context:
                _, joined = context.merge(graph_after, new)
            made = joined or made
    return returned.with_modules(others, modules, made)


class _Returned:
    """The modules among a function's results: parts of those that it was given, by their paths, and others."""

    def without_modules(self, results: Any, given: Any) -> tuple[list[Any], tuple[Any, ...]]:
        """The leaves of `results` that are no modules, and the modules that are no parts of `given`."""
        from flax import nnx

        leaves, self._tree = jax.tree.flatten(results, is_leaf=_is_module)
        paths = {id(node): path for path, node in nnx.iter_graph(given)}
        self._paths = [paths.get(id(leaf)) if _is_module(leaf) else _NO_MODULE for leaf in leaves]
        made = tuple(leaf for leaf, path in zip(leaves, self._paths, strict=True) if path is None)
        return [leaf for leaf in leaves if not _is_module(leaf)], made

    def with_modules(self, others: Sequence[Any], given: Any, made: Sequence[Any]) -> Any:
        """The results of these, with the parts of `given` that they were."""
        from flax import nnx

        nodes, new, rest = dict(nnx.iter_graph(given)), iter(made), iter(others)
        leaves = (
            next(rest) if path is _NO_MODULE else next(new) if path is None else nodes[path] for path in self._paths
        )
        return jax.tree.unflatten(self._tree, leaves)


def _share(some: Any, others: Any) -> bool:
    """Whether modules have modules or variables in common with others."""
    from flax import nnx

    def parts(modules: Any) -> set[int]:
        return {id(node) for _, node in nnx.iter_graph(modules) if isinstance(node, nnx.Pytree | nnx.Variable)}

    return not parts(some).isdisjoint(parts(others))


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
