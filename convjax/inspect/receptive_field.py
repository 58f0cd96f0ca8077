"""Receptive fields: which elements of the input an output sees, exactly, of any function or stack of layers."""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
from jax.extend import core

from convjax import sizes
from convjax.inspect.dependence import Field, Propagation, itself
from convjax.inspect.rules import RULES
from convjax.problem import Ints, require_positive

# First and last element seen, None where nothing is.
Bounds = tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class AxisField:
    """What outputs see along one axis of the input.

    With P entries in `bounds`, output q P + r, 0 <= r < P, sees the elements q shift + bounds[r]. P is 1 but behind
    transposed convolutions, repetitions and the like, whose outputs do not all see alike.

    Attributes:
        input_axis: the axis of the input.
        input_size: its elements, None where they are not known.
        output_axis: the axis of the output that moves along it, None where there is none.
        shift: elements by which the field moves in P outputs.
        bounds: the first and last element that each of the outputs 0 .. P - 1 sees, None where it sees none.
    """

    input_axis: int
    input_size: int | None
    output_axis: int | None
    shift: int
    bounds: tuple[Bounds, ...]

    @property
    def size(self) -> int:
        """The most elements, from the first to the last, that an output sees."""
        return max((last - first + 1 for first, last in filter(None, self.bounds)), default=0)

    @property
    def stride(self) -> int | Fraction:
        """Elements by which the field moves from one output to the next; 0 where all see the same."""
        stride = Fraction(self.shift, len(self.bounds))
        return int(stride) if stride.denominator == 1 else stride

    @property
    def offset(self) -> int:
        """The first element that output 0 sees, or the first output that sees any; negative in padding."""
        return next((seen[0] for seen in self.bounds if seen is not None), 0)

    def reach(self, position: int) -> range:
        """All that the output at `position` sees, elements in padding included."""
        q, r = divmod(position, len(self.bounds))
        bounds = self.bounds[r]
        return range(0) if bounds is None else range(q * self.shift + bounds[0], q * self.shift + bounds[1] + 1)

    def seen(self, position: int) -> range:
        """The elements of the input that the output at `position` sees."""
        reach = self.reach(position)
        stop = reach.stop if self.input_size is None else min(reach.stop, self.input_size)
        return range(max(reach.start, 0), max(reach.start, 0, stop))


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """The elements of the input that an output sees: a box that moves with the output.

    Along each spatial axis output o sees the elements from o stride + offset to o stride + offset + size - 1. Where
    they are below 0 or at least the input's size, they stand for padding.

    Attributes:
        axes: what is seen along each spatial axis of the input.
        assumed: primitives on the way that no rule knows, or whose operands see in ways that no law describes: their
            results were taken to see all that their operands see. Empty where the field is exact.
        edges: primitives on the way that joined parts which see differently, as padding by reflected elements does:
            the field is that of outputs away from the edges.

    Example:
        >>> field = stacked_receptive_field([(3, 2), (3, 1, 2)])
        >>> print(field)
        11 from 0, stride 2
        >>> field.box(4)
        (slice(8, 19, None),)
    """

    axes: tuple[AxisField, ...]
    assumed: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()

    @property
    def size(self) -> Ints:
        """Elements seen along each spatial axis."""
        return tuple(axis.size for axis in self.axes)

    @property
    def stride(self) -> tuple[int | Fraction, ...]:
        """Elements by which the field moves from one output to the next, along each spatial axis."""
        return tuple(axis.stride for axis in self.axes)

    @property
    def offset(self) -> Ints:
        """First element that output 0 sees along each spatial axis."""
        return tuple(axis.offset for axis in self.axes)

    def box(self, *positions: int) -> tuple[slice, ...]:
        """The part of the input that the output at these positions, one a spatial axis, sees."""
        if len(positions) != len(self.axes):
            raise ValueError(f"box takes one position for each of {len(self.axes)} spatial axes, got {len(positions)}")
        seen = [axis.seen(position) for axis, position in zip(self.axes, positions, strict=True)]
        return tuple(slice(part.start, part.stop) for part in seen)

    def __str__(self) -> str:
        def by(values: Iterable[object]) -> str:
            return "x".join(map(str, values))

        text = f"{by(self.size)} from {by(self.offset)}, stride {by(self.stride)}"
        return text + (f", taking {', '.join(self.assumed)} to see everything" if self.assumed else "")


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
    axes: Sequence[int] | None = None,
    through_statistics: bool = True,
) -> Any:
    """Which elements of the input each output of `fn` sees, by following them through everything that `fn` computes.

    With kernel k, stride s, dilation d and low padding p, a layer makes of size r, stride j and offset a

    r' = r + d (k - 1) j,    j' = s j,    a' = a - p j

    starting at 1, 1 and 0. Branches, residuals, transposed convolutions, resizing, slices and reshapes are followed
    too, and jit, scan, cond and custom derivatives are entered. An element is seen if it is read: zeros in a kernel
    count. Where an output sees parts with gaps between, the field reaches from the first to the last. What is
    computed over a whole axis (a global pooling, batch statistics) sees all of it: its stride is 0.

    Args:
        fn: any traceable function, or a model that is called with arrays. Nothing is run.
        *args: its arguments; arrays may be `jax.ShapeDtypeStruct`s.
        argnum: which of them is the input, one array. The others count as constants.
        axes: the input's spatial axes; None means those that convolutions and poolings slide along, and where there
            are none, all between the first and the last.
        through_statistics: whether reductions along a whole spatial axis are seen. If not, they count as constants,
            so that batch normalization or squeeze-and-excitation leaves the field of what they scale.

    Returns:
        A `ReceptiveField`, in the structure of `fn`'s results where they are several.

    Raises:
        ValueError: `argnum` is not the position of an argument that is one array, or `axes` are not axes of it.

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


def stacked_receptive_field(layers: Iterable[Sequence[Any]]) -> ReceptiveField:
    """The receptive field, along one axis, of layers one after another, each (kernel, stride, dilation, padding).

    The formula is that of `receptive_field`. Stride and dilation may be left out, being 1, and padding, being 0; it
    is a number or a pair (low, high).

    Raises:
        ValueError: a layer that is not 1 to 4 numbers, or a kernel, stride or dilation below 1.

    Example:
        >>> stacked_receptive_field([(3, 1, 1), (3, 1, 2), (3, 1, 3)]).size
        (13,)
    """
    size, stride, offset = 1, 1, 0
    for layer in layers:
        if not 1 <= len(layer) <= 4:
            raise ValueError(f"a layer is (kernel, stride, dilation, padding), of which it may lack the last: {layer}")
        kernel, step, dilation, padding = (*layer, *(1, 1, 0)[len(layer) - 1 :])
        for name, value in (("kernel", kernel), ("stride", step), ("dilation", dilation)):
            require_positive(name, [value])
        offset -= stride * (padding[0] if isinstance(padding, Sequence) else padding)
        size += stride * (sizes.dilated(kernel, dilation) - 1)
        stride *= step
    return ReceptiveField((AxisField(0, None, 0, stride, ((offset, offset + size - 1),)),))


def called(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, or for a model of Flax NNX a function that leaves it as it is, whatever its layers count."""
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


def _spatial(walks: Sequence[Propagation], axes: Sequence[int] | None) -> list[int]:
    ndim = len(walks)
    if axes is not None:
        if not all(-ndim <= axis < ndim for axis in axes):
            raise ValueError(f"axes {tuple(axes)} must be axes of the input, which has {ndim}")
        return [axis % ndim for axis in axes]
    return [axis for axis, walk in enumerate(walks) if walk.slid] or list(range(int(ndim > 2), max(ndim - 1, 1)))


def _field(
    walks: Sequence[Propagation], shown: Sequence[int], seen: Sequence[Field | None], shape: Ints
) -> ReceptiveField:
    fields = [seen[axis] for axis in shown]
    return ReceptiveField(
        tuple(_axis(axis, walks[axis].size, field, shape) for axis, field in zip(shown, fields, strict=True)),
        *(tuple(sorted({name for f in fields if f for name in getattr(f, kind)})) for kind in ("assumed", "edges")),
    )


def _axis(axis: int, size: int, field: Field | None, shape: Ints) -> AxisField:
    """What is seen along one input axis: by the output's axis that moves fastest along it, the others together."""
    output_axis = field and field.moves_along(shape)
    if field is not None and output_axis is not None:
        seen = field.over([a for a in range(len(shape)) if a != output_axis], shape)
        if seen is not None:
            law = seen.laws[output_axis].moved(seen.lo, seen.hi)
            bounds = tuple((int(lo), int(hi)) if lo <= hi else None for lo, hi in zip(law.lo, law.hi, strict=True))
            return AxisField(axis, size, output_axis, law.shift, bounds)
    seen = field and field.over(range(len(shape)), shape)
    if seen is None:
        return AxisField(axis, size, None, 0, (None,))
    within = max(int(seen.lo), 0), min(int(seen.hi), size - 1)
    return AxisField(axis, size, None, 0, (within if within[0] <= within[1] else None,))
