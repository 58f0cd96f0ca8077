"""Receptive fields of functions and models: which elements of the input an output sees, exactly."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from convjax.inspect.box import AxisField as AxisField
from convjax.inspect.box import ReceptiveField as ReceptiveField
from convjax.inspect.box import stacked_receptive_field as stacked_receptive_field
from convjax.inspect.dependence import Field, Propagation, itself
from convjax.inspect.rules import RULES
from convjax.problem import Ints


class EquationField(NamedTuple):
    """What the results of one equation see.

    Attributes:
        scope: the names that the equation stands under, joined by "/".
        eqn: the equation.
        fields: one for each of its results.
    """

    scope: str
    eqn: core.JaxprEqn
    fields: tuple[ReceptiveField, ...]


def receptive_field(
    fn: Callable[..., Any],
    *args: Any,
    argnum: int = 0,
    axes: int | Sequence[int] | None = None,
    through_statistics: bool = True,
) -> Any:
    """Which elements of the input each output of `fn` sees, by following them through everything that `fn` computes.

    With kernel k, stride s, dilation d and low padding p, a layer makes of size r, stride j and offset a

    r' = r + d (k - 1) j,    j' = s j,    a' = a - p j

    starting at 1, 1 and 0. Branches, residuals, transposed convolutions, resizing, slices and reshapes are followed
    too, and jit, scan, cond and custom derivatives are entered. An element is seen if it is read: zeros in a kernel
    count. Where an output sees parts with gaps between, the field reaches from the first to the last; channels that are
    joined, and behind transposed convolutions or repetitions see by different laws, count together. What is computed
    over a whole axis (a global pooling, batch statistics) sees all of it: its stride is 0.

    Args:
        fn: any traceable function, or a model that is called with arrays. Nothing is run.
        *args: its arguments; arrays may be `jax.ShapeDtypeStruct`s.
        argnum: which of them is the input, one array. The others count as constants.
        axes: the input's spatial axes, or the one; None means those that convolutions and poolings slide along, and
            where there are none, all between the first and the last.
        through_statistics: whether reductions along a whole spatial axis are seen. If not, they count as constants,
            so that batch normalization or squeeze-and-excitation leaves the field of what they scale.

    Returns:
        A `ReceptiveField`, in the structure of `fn`'s results where they are several.

    Raises:
        ValueError: `argnum` is not the position of an argument that is one array with axes, or `axes` are none of them.

    Example:
        >>> import jax.numpy as jnp, convjax
        >>> w = jnp.ones((3, 3, 1, 1))
        >>> def block(x):
        ...     y = convjax.conv(x, w, padding="SAME")
        ...     return convjax.max_pool(convjax.conv(y, w, padding="SAME") + x, 2)
        >>> field = receptive_field(block, jnp.ones((1, 8, 8, 1)))
        >>> field.size, field.stride, field.offset
        ((6, 6), (2, 2), (-2, -2))

    Source:
        A. Araujo, W. Norris and J. Sim, Computing Receptive Fields of Convolutional Neural Networks, Distill 2019.
    """
    leaves = jax.tree.leaves(args[argnum]) if -len(args) <= argnum < len(args) else []
    if len(leaves) != 1 or not hasattr(leaves[0], "shape"):
        raise ValueError(
            f"argnum={argnum} must be the position of an argument that is one array, "
            f"but it has {len(leaves)} of them in {len(args)} arguments"
        )
    if not leaves[0].shape:
        raise ValueError(f"argnum={argnum} is the position of a single number: a field needs an array with axes")
    closed, results = jax.make_jaxpr(called(fn), return_shape=True)(*args)
    operand = len(jax.tree.leaves(args[: argnum % len(args)]))
    walks, outputs = _propagate(closed, operand, through_statistics)
    shown = _spatial(walks, axes)
    shapes = [leaf.shape for leaf in jax.tree.leaves(results)]
    fields = [_field(walks, shown, seen, shape) for seen, shape in zip(zip(*outputs, strict=True), shapes, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(results), fields)


def equation_fields(closed: core.ClosedJaxpr, operand: int = 0) -> list[EquationField]:
    """What the results of every equation see of the operand at position `operand`, in the order of the program.

    The equations of an inner jaxpr stand before the one that holds it; a loop's are those of its last iteration.
    """
    walks, _ = _propagate(closed, operand)
    shown = _spatial(walks, None)
    found = []
    for steps in zip(*(walk.seen for walk in walks), strict=True):
        scope, eqn, _ = steps[0]
        shapes = [getattr(var.aval, "shape", ()) for var in eqn.outvars]
        seen = zip(*(results for _, _, results in steps), strict=True)
        found.append(
            EquationField(
                scope, eqn, tuple(_field(walks, shown, s, shape) for s, shape in zip(seen, shapes, strict=True))
            )
        )
    return found


def called(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, or for a model of Flax NNX a function that leaves it as it is, whatever its layers change."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not isinstance(fn, nnx.Module):
        return fn
    graph, state = nnx.split(fn)
    return lambda *args: nnx.merge(graph, jax.tree.map(lambda leaf: leaf, state))(*args)


def _propagate(
    closed: core.ClosedJaxpr, operand: int, through_statistics: bool = True
) -> tuple[list[Propagation], list[list[Field | None]]]:
    """One propagation for each axis of the operand, and what the results see of it."""
    invars = closed.jaxpr.invars
    shape = invars[operand].aval.shape
    walks = [Propagation(RULES, size, through_statistics) for size in shape]
    outputs = []
    for axis, walk in enumerate(walks):
        fields = [itself(len(shape), axis) if place == operand else None for place in range(len(invars))]
        outputs.append(walk.run(closed.jaxpr, fields, consts=closed.consts)[0])
    return walks, outputs


def _spatial(walks: Sequence[Propagation], axes: int | Sequence[int] | None) -> list[int]:
    ndim = len(walks)
    if axes is not None:
        axes = axes if isinstance(axes, Sequence) else (axes,)
        if not all(-ndim <= axis < ndim for axis in axes):
            raise ValueError(f"axes {tuple(axes)} must be axes of the input, which has {ndim}")
        return [axis % ndim for axis in axes]
    return [axis for axis, walk in enumerate(walks) if walk.slid] or list(range(int(ndim > 2), max(ndim - 1, 1)))


def _field(
    walks: Sequence[Propagation], shown: Sequence[int], seen: Sequence[Field | None], shape: Ints
) -> ReceptiveField:
    fields = [seen[axis] for axis in shown]
    axes = tuple(_axis(axis, walks[axis].size, field, shape) for axis, field in zip(shown, fields, strict=True))
    assumed = {name for field in fields if field for name in field.assumed}
    edges = {name for field in fields if field for name in field.edges}
    return ReceptiveField(axes, tuple(sorted(assumed)), tuple(sorted(edges)))


def _axis(axis: int, size: int, field: Field | None, shape: Ints) -> AxisField:
    """What is seen along one input axis: by the output's axis that it varies along, the others together."""
    output_axis = None if field is None else field.varies_along(shape, size)
    seen = field and field.over([a for a in range(len(shape)) if a != output_axis], shape)
    if seen is None:
        return AxisField(axis, size, None, 0, (None,))
    if output_axis is not None:
        law = seen.laws[output_axis].moved(seen.lo, seen.hi)
        bounds = tuple((int(lo), int(hi)) if lo <= hi else None for lo, hi in zip(law.lo, law.hi, strict=True))
        return AxisField(axis, size, output_axis, law.shift, bounds)
    within = max(int(seen.lo), 0), min(int(seen.hi), size - 1)
    return AxisField(axis, size, None, 0, (within if within[0] <= within[1] else None,))
