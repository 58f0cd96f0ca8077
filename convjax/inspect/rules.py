"""What the results of each primitive see, from what its operands do: arrays combined, reduced and looked up."""

from collections.abc import Sequence

import numpy as np
from jax import lax

from convjax.inspect.control import CONTROL
from convjax.inspect.dependence import Field, Rule, Step
from convjax.inspect.law import STILL, Law, resampled
from convjax.inspect.primitives import CUMULATIVE, ELEMENTWISE, JOINED, REDUCTIONS
from convjax.inspect.rearranged import REARRANGED, picked
from convjax.inspect.windows import WINDOWS
from convjax.problem import Ints

Fields = Sequence[Field | None]

# The same elements in another type, or under another name.
_KEPT = "convert_element_type copy copy_p name pvary reduce_precision sharding_constraint stop_gradient"

_CLIPPED = (lax.GatherScatterMode.CLIP, lax.GatherScatterMode.PROMISE_IN_BOUNDS)


def _elementwise(step: Step, fields: Fields) -> Fields:
    (shape,) = step.results
    return [step.union([_broadcast(f, s, shape) for f, s in zip(fields, step.shapes, strict=True)], shape)]


def _broadcast(field: Field | None, shape: Ints, to: Ints) -> Field | None:
    """Scalars and axes of size 1 meet larger arrays as they are."""
    if field is None or shape == to:
        return field
    if not shape:
        return field.by([STILL] * len(to))
    return field.along({axis: picked(field.laws[axis], 0, 0) for axis, n in enumerate(shape) if n != to[axis]})


def _each(step: Step, fields: Fields) -> Fields:
    return fields


def _reduce(step: Step, fields: Fields) -> Fields:
    axes = step.params["axes"] if "axes" in step.params else step.params["dimensions"]
    operands, first = fields[: len(step.results)], fields[len(step.results) :]
    if any(first):
        return step.everything(fields)
    return [_reduced(step, step.union(operands, step.shapes[0]), axes, step.shapes[0])] * len(step.results)


def _reduce_each(step: Step, fields: Fields) -> Fields:
    axes = step.params["axes"]
    return [_reduced(step, field, axes, shape) for field, shape in zip(fields, step.shapes, strict=True)]


def _reduced(step: Step, field: Field | None, axes: Ints, shape: Ints) -> Field | None:
    """What the reduction of an array with this field sees."""
    if field is None or (not step.walk.through_statistics and _is_statistic(field, axes, shape)):
        return None
    reduced = field.over(axes, shape)
    return reduced and reduced.without(axes)


def _is_statistic(field: Field, axes: Ints, shape: Ints) -> bool:
    """Whether the axes reduced go through more of the input's axis than those kept, as channels may a little way."""

    def passed(axis: int) -> float:
        first, _ = field.laws[axis].at(np.arange(shape[axis]))
        seen = first[np.isfinite(first)]
        return float(np.ptp(seen)) if len(seen) else 0.0

    kept = set(range(len(shape))) - set(axes)
    return sum(map(passed, axes)) > sum(map(passed, kept))


def _cumulative(step: Step, fields: Fields) -> Fields:
    (field,), axis = fields, step.params["axis"]
    if field is None or field.laws[axis].same(STILL):
        return [field]
    seen = field.over([axis], step.shapes[0])
    return [seen and seen.noted([step.name])]


def _sort(step: Step, fields: Fields) -> Fields:
    field = step.union(fields, step.shapes[0])
    return [field and field.over([step.params["dimension"]], step.shapes[0])] * len(fields)


def _top(step: Step, fields: Fields) -> Fields:
    (field,) = fields
    axis = step.params.get("axis", -1) % len(step.shapes[0])
    return [field and field.over([axis], step.shapes[0])] * 2


def _dot(step: Step, fields: Fields) -> Fields:
    contracting, batch = step.params["dimension_numbers"]
    free = [
        [axis for axis in range(len(shape)) if axis not in (*summed, *shared)]
        for shape, summed, shared in zip(step.shapes, contracting, batch, strict=True)
    ]
    sides: list[Field | None] = []
    for side, field in enumerate(fields):
        if field is None:
            continue
        summed, (own, others) = list(contracting[side]), (free[side], free[1 - side])
        laws: dict[int, Law] = {}
        lo = hi = 0.0
        seen = _banded(step, field, side) if len(summed) == len(others) == 1 else None
        if seen is not None:
            laws[0] = seen
        else:
            hulls = [field.laws[axis].hull(step.shapes[side][axis]) for axis in summed]
            lo, hi = sum(first for first, _ in hulls), sum(last for _, last in hulls)
        kept = [field.laws[axis] for axis in own]
        new = [laws.get(place, STILL) for place in range(len(others))]
        shared = [field.laws[axis] for axis in batch[side]]
        sides.append(field.by([*shared, *kept, *new] if side == 0 else [*shared, *new, *kept], lo, hi))
    return [step.union(sides, step.results[0])]


def _banded(step: Step, field: Field, side: int) -> Law | None:
    """The law of the free axis of a known matrix, such as a resize's weights, whose rows are zero outside bands."""
    contracting, batch = step.params["dimension_numbers"]
    (axis,), (weight_axis,) = contracting[side], contracting[1 - side]
    value = step.known[1 - side]
    if value is None or field.laws[axis].same(STILL) or batch[0] or len(step.shapes[1 - side]) != 2:
        return None
    nonzero = np.moveaxis(np.asarray(value()) != 0, weight_axis, 1)
    if not nonzero.any(1).all():
        return None
    lo, hi = nonzero.argmax(1), nonzero.shape[1] - 1 - nonzero[:, ::-1].argmax(1)
    return through(field.laws[axis], resampled(lo, hi, nonzero.shape[1]))


def through(law: Law, index: Law) -> Law:
    """The law of an axis whose index sees a range of this law's indices, as `index` says."""
    seen = np.isfinite(index.lo)[:, None]
    first, last = (np.where(seen, bound[:, None], 0) for bound in (index.lo, index.hi))
    width = np.arange(int((last - first).max(initial=0)) + 1)
    return law.sampled(index.shift, np.minimum(first + width, last).astype(int), seen)


def _gather(step: Step, fields: Fields) -> Fields:
    """Elements taken along one axis; those of unknown indices may be any, and in place of some none are read."""
    field, indices = fields
    numbers, sizes, shape = step.params["dimension_numbers"], step.params["slice_sizes"], step.shapes[0]
    if field is None and indices is not None:  # a table: an element taken sees what its index does
        return [_looked_up(step, indices.over([len(indices.laws) - 1], step.shapes[1]))]
    taken = numbers.start_index_map
    whole = all(sizes[a] == shape[a] for a in range(len(shape)) if a not in taken)
    if field is None or indices is not None or not whole or len(taken) != 1 or numbers.operand_batching_dims:
        return step.everything(fields)
    (axis,) = taken
    out = step.results[0]
    placed = [place for place in range(len(out)) if place not in numbers.offset_dims]
    known = _known_indices(step, shape[axis] - sizes[axis])
    if known is not None and not np.isfinite(known[0]).any():
        return [None]
    if axis not in numbers.collapsed_slice_dims:
        if placed:
            return step.everything(fields)
        return [_cut(step, field, {axis: None if known is None else int(known[0][0])})]
    rest = iter(law for a, law in enumerate(field.laws) if a != axis)
    laws = [STILL if place in placed else next(rest) for place in range(len(out))]
    if known is None or len(placed) > 1:
        lo, hi = field.laws[axis].hull(shape[axis])
        any_of_them = field.by(laws, lo, hi)
        return [any_of_them and any_of_them.noted([step.name] if field.laws[axis].shift else [])]
    if not placed:
        lo, hi = (float(bound[0]) for bound in field.laws[axis].at(known[0].astype(int)))
        return [field.by(laws, lo, hi)]
    laws[placed[0]] = through(field.laws[axis], resampled(*known, shape[axis]))
    return [field.by(laws)]


def _looked_up(step: Step, entry: Field | None) -> Field | None:
    """What is taken of a table, by what the entries see at which it is."""
    offsets, laws = step.params["dimension_numbers"].offset_dims, iter(entry.laws if entry else ())
    placed = [STILL if axis in offsets else next(laws, STILL) for axis in range(len(step.results[0]))]
    return entry and entry.by(placed)


def _known_indices(step: Step, last: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The indices from 0 to `last` that a gather reads, as a law's lo and hi; None where they are unknown.

    XLA clips those out of bounds, unless the gather's mode fills their places.
    """
    if step.known[1] is None:
        return None
    given = np.asarray(step.known[1]()).reshape(-1)
    index = np.clip(given, 0, last)
    read = (index == given) | (step.params["mode"] in _CLIPPED)
    return np.where(read, index, np.inf), np.where(read, index, -np.inf)


def _dynamic_slice(step: Step, fields: Fields) -> Fields:
    """A slice whose start is known, or along an axis may be any."""
    field, *starts = fields
    if field is None or any(starts):
        return step.everything(fields)
    sizes, shape = step.params["slice_sizes"], step.shapes[0]
    known = [
        value and int(np.clip(value(), 0, n - m)) for value, n, m in zip(step.known[1:], shape, sizes, strict=True)
    ]
    return [_cut(step, field, {a: known[a] for a in range(len(shape)) if sizes[a] < shape[a]})]


def _dynamic_update(step: Step, fields: Fields) -> Fields:
    """An array with another laid over a part whose start is known."""
    field, update, *starts = fields
    known = [
        value and int(np.clip(value(), 0, n - m)) for value, n, m in zip(step.known[2:], *step.shapes[:2], strict=True)
    ]
    if any(starts) or None in known:
        return step.everything(fields)
    placed = update and update.along({a: picked(update.laws[a], 1, -start) for a, start in enumerate(known)})
    return [step.union([field, placed], step.results[0])]


def _scatter(step: Step, fields: Fields) -> Fields:
    """An array that constants are written into, or added to, sees what it saw."""
    field, *others = fields
    return step.everything(fields) if any(others) else [field]


def _cut(step: Step, field: Field, starts: dict[int, int | None]) -> Field | None:
    unknown = [axis for axis, start in starts.items() if start is None]
    mixed = field.over(unknown, step.shapes[0])
    if mixed is not None and any(field.laws[axis].shift for axis in unknown):
        mixed = mixed.noted([step.name])
    known = {axis: start for axis, start in starts.items() if start is not None}
    return mixed and mixed.along({axis: picked(mixed.laws[axis], 1, start) for axis, start in known.items()})


RULES: dict[str, Rule] = {
    **dict.fromkeys([*ELEMENTWISE, *_KEPT.split()], _elementwise),
    **dict.fromkeys(["optimization_barrier", "device_put", "copy_start"], _each),
    **dict.fromkeys([*REDUCTIONS, "reduce"], _reduce),
    **dict.fromkeys(JOINED, _reduce_each),
    **dict.fromkeys(CUMULATIVE, _cumulative),
    **CONTROL,
    **REARRANGED,
    **WINDOWS,
    "sort": _sort,
    "top_k": _top,
    "dot_general": _dot,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update,
    **dict.fromkeys(["scatter", "scatter-add", "scatter-mul", "scatter-min", "scatter-max"], _scatter),
}
