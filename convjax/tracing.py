"""Functions traced on the arrays in their arguments; all else reaches them as it is given."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core


@dataclasses.dataclass(frozen=True)
class Traced:
    """A function's program for some arguments.

    Attributes:
        closed: the program, of the arrays in the arguments; it returns what of the results it computes.
        operands: these arrays.
        leaves: the function's results, `_COMPUTED` in the place of those.
        tree: how they are put together.
    """

    closed: core.ClosedJaxpr
    operands: tuple[Any, ...]
    leaves: tuple[Any, ...]
    tree: Any

    def results(self, computed: Iterable[Any]) -> Any:
        """What the function returns where its program returns `computed`: of constants jax's literals, no arrays."""
        values = (value if isinstance(value, jax.Array) else jnp.asarray(value) for value in computed)
        return jax.tree.unflatten(self.tree, [next(values) if leaf is _COMPUTED else leaf for leaf in self.leaves])


_COMPUTED = object()


def trace(fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Traced:
    """The program of `fn(*args, **kwargs)`. Arrays may be tracers and `jax.ShapeDtypeStruct`s."""
    if not callable(fn):
        raise TypeError(f"fn must be a function, got {type(fn).__name__}: pass the function itself, not its result")
    given, tree = jax.tree.flatten((args, kwargs))
    arrays = [i for i, leaf in enumerate(given) if is_array(leaf)]
    leaves: list[Any] = []
    results_tree = None

    def traced(*tracers: Any) -> list[Any]:
        nonlocal leaves, results_tree
        mixed = dict(enumerate(given)) | dict(zip(arrays, tracers, strict=True))
        args, kwargs = jax.tree.unflatten(tree, mixed.values())
        results, results_tree = jax.tree.flatten(fn(*args, **kwargs))
        leaves = [_COMPUTED if isinstance(leaf, jax.core.Tracer) else leaf for leaf in results]
        return [leaf for leaf in results if isinstance(leaf, jax.core.Tracer)]

    operands = tuple(given[i] for i in arrays)
    closed = jax.make_jaxpr(traced)(*operands)
    return Traced(closed, operands, tuple(leaves), results_tree)


def is_array(leaf: Any) -> bool:
    """What is traced; Python's and NumPy's scalars stay what they are, as shapes and conditions need them."""
    if isinstance(leaf, np.ndarray):
        return core.valid_jaxtype(leaf) and leaf.dtype != jax.dtypes.float0
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
