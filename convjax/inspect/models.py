"""Models: what is counted, read from a function or from a module of Flax NNX, Flax Linen, Equinox or Haiku.

None of these libraries is needed: an object can only be theirs where they have been imported.
"""

import dataclasses
import inspect
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from convjax.inspect.layers import Path, call_layer, enter_scope, path_of
from convjax.tracing import is_array


@dataclasses.dataclass(frozen=True)
class Model:
    """A function of parameters, other state and inputs.

    Attributes:
        kind: the name of its type, or of the function.
        call: of the parameters, the state, and the inputs as arguments.
        parameters: a tree whose arrays are trained.
        paths: where each of them stands: attributes, keys and positions from the model down.
        state: a tree of all else that is not an input.
        args, kwargs: the inputs.
        modules: whether its layers are modules; those of a function are its operations.
    """

    kind: str
    call: Callable[..., Any]
    parameters: Any
    paths: tuple[Path, ...]
    state: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    modules: bool = True


def read(subject: Any, args: tuple[Any, ...], kwargs: dict[str, Any], parameters: int | Sequence[int]) -> Model:
    """The model that `subject` is, called with `args` and `kwargs`."""
    positions = _positions(parameters, args)
    for library, names, reader in _READERS:
        module = sys.modules.get(library)
        if module is not None and isinstance(subject, tuple(getattr(module, name) for name in names)):
            if positions:
                raise ValueError(f"parameters={parameters} names arguments of a function, but {library} knows its own")
            return reader(subject, args, kwargs)
    if not callable(subject):
        raise TypeError(
            f"{type(subject).__name__} is neither callable nor a model of Flax NNX, Flax Linen, Equinox or Haiku"
        )
    return _function(subject, args, kwargs, positions)


def _positions(parameters: int | Sequence[int], args: tuple[Any, ...]) -> tuple[int, ...]:
    given = parameters if isinstance(parameters, Sequence) else (parameters,)
    try:
        positions = tuple(operator.index(p) for p in given)
    except TypeError:
        raise TypeError(f"parameters must hold positions of arguments, got {parameters!r}") from None
    for position in positions:
        if not 0 <= position < len(args):
            raise ValueError(f"parameters holds {position}, but there are {len(args)} arguments: 0 to {len(args) - 1}")
    return positions


def _function(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], positions: tuple[int, ...]
) -> Model:
    def call(parameters: dict[int, Any], state: Any, *inputs: Any, **kwargs: Any) -> Any:
        rest = iter(inputs)
        return fn(*(parameters[i] if i in parameters else next(rest) for i in range(len(args))), **kwargs)

    inputs = tuple(arg for i, arg in enumerate(args) if i not in positions)
    name = getattr(fn, "__name__", type(fn).__name__)
    given = {i: args[i] for i in positions}
    return Model(name, call, given, _paths(given), (), inputs, kwargs, modules=False)


def _nnx(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Model:
    from flax import nnx

    graph, *states = nnx.split(module, nnx.Param, ...)
    parameters, state = states

    def call(parameters: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        model = nnx.merge(graph, parameters, state)
        for path, submodule in list(nnx.iter_modules(model)):
            enter_scope(submodule, path_of(path))
        return model(*args, **kwargs)

    paths = tuple(path[:-1] for path in _paths(parameters))  # without the `value` that a variable holds
    return Model(type(module).__name__, call, parameters, paths, state, args, kwargs)


def _linen(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Model:
    import flax.linen as nn

    if module.scope is not None:
        module, variables = module.unbind()
    elif args and isinstance(args[0], Mapping):
        variables, args = args[0], args[1:]
    else:
        raise TypeError(f"{type(module).__name__} is not bound: pass its variables before its inputs, or bind it")

    def intercept(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        path = path_of(context.module.path)
        if context.method_name != "__call__" or not path:
            return following(*args, **kwargs)
        return call_layer(path, type(context.module).__name__, following, *args, **kwargs)

    def call(parameters: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(intercept):
            return module.apply({**state, "params": parameters}, *args, **kwargs)

    state = {name: collection for name, collection in variables.items() if name != "params"}
    parameters = variables.get("params", {})
    return Model(type(module).__name__, call, parameters, _paths(parameters), state, args, kwargs)


def _equinox(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Model:
    import equinox as eqx

    parameters, rest = eqx.partition(module, lambda leaf: is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact))
    state, static = eqx.partition(rest, is_array)

    def scoped(node: Any, path: Path) -> None:
        enter_scope(node, path)
        children, _ = jax.tree_util.tree_flatten_with_path(
            node, is_leaf=lambda child: child is not node and isinstance(child, eqx.Module)
        )
        for keys, child in children:
            if isinstance(child, eqx.Module):
                scoped(child, path + _path(keys))

    def call(parameters: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        model = eqx.combine(parameters, state, static)
        scoped(model, ())
        return model(*args, **kwargs)

    return Model(type(module).__name__, call, parameters, _paths(parameters), state, args, kwargs)


def _haiku(transformed: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Model:
    import haiku as hk

    def intercept(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name != "__call__":
            return following(*args, **kwargs)
        path = _path([jax.tree_util.DictKey(context.module.module_name)])
        return call_layer(path, type(context.module).__name__, following, *args, **kwargs)

    def call(parameters: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        with hk.intercept_methods(intercept):
            return transformed.apply(parameters, *state, *args, **kwargs)

    if not args:
        raise TypeError("Haiku's apply takes parameters first: pass what init returns before the inputs")
    stateful = isinstance(transformed, hk.TransformedWithState)
    given = 2 if stateful else 1
    state, inputs = args[1:given], args[given:]
    if list(inspect.signature(transformed.apply).parameters)[given : given + 1] == ["rng"]:
        left_out = not inputs or not (inputs[0] is None or _is_key(inputs[0]))
        state, inputs = (*state, None if left_out else inputs[0]), inputs if left_out else inputs[1:]
    return Model(type(transformed).__name__, call, args[0], _paths(args[0]), state, inputs, kwargs)


def _is_key(value: Any) -> bool:
    if isinstance(value, int):
        return True
    typed = is_array(value) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    return typed or (is_array(value) and value.dtype == jnp.uint32 and value.shape == (2,))


def _paths(tree: Any) -> tuple[Path, ...]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return tuple(_path(keys) for keys, _ in leaves)


def _path(keys: Sequence[Any]) -> Path:
    """Names from a tree's keys; those of Haiku's modules are written a/b, with marks of methods that begin with ~."""
    names = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in keys]
    return path_of(part for name in names for part in name.split("/") if not part.startswith("~"))


_READERS: tuple[tuple[str, tuple[str, ...], Callable[..., Model]], ...] = (
    ("flax.nnx", ("Module",), _nnx),
    ("flax.linen", ("Module",), _linen),
    ("equinox", ("Module",), _equinox),
    ("haiku", ("Transformed", "TransformedWithState"), _haiku),
)
