"""What the results of each primitive see, from what its operands do: arrays rearranged, reduced and combined."""

from collections.abc import Sequence

import numpy as np

from convjax.inspect.control import CONTROL
from convjax.inspect.dependence import Field, Rule, Step
from convjax.inspect.law import STILL, Law, resampled, simplest, tabled
from convjax.inspect.windows import WINDOWS

Fields = Sequence[Field | None]

_ELEMENTWISE = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz complex conj
    convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma
    igamma_grad_a igammac imag integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to max min mul name ne neg
    nextafter not or polygamma population_count pow pvary real reduce_precision regularized_incomplete_beta rem round
    rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sharding_constraint sign sin sinh sqrt square
    stop_gradient sub tan tanh xor zeta
""".split()
_REDUCTIONS = "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin".split()
_CUMULATIVE = "cumsum cumprod cummax cummin cumlogsumexp".split()


def _elementwise(step: Step, fields: Fields) -> Fields:
    (shape,) = step.results
    laws = [STILL] * len(shape)
    # Scalars meet arrays as they are.
    return [step.union([f.by(laws) if f and not s else f for f, s in zip(fields, step.shapes, strict=True)], shape)]


def _each(step: Step, fields: Fields) -> Fields:
    return fields


def _transpose(step: Step, fields: Fields) -> Fields:
    (field,) = fields
    return [field and field.by([field.laws[axis] for axis in step.params["permutation"]])]


def _broadcast(step: Step, fields: Fields) -> Fields:
    field, (shape,) = fields[0], step.results
    if field is None:
        return [None]
    axes = step.params["broadcast_dimensions"]
    repeated = [axis for axis, to in enumerate(axes) if step.shapes[0][axis] != shape[to]]
    field = field.along({axis: _at(field.laws[axis], 0) for axis in repeated})
    laws = dict(zip(axes, field.laws, strict=True)) if field else {}
    return [field and field.by([laws.get(axis, STILL) for axis in range(len(shape))])]


def _squeeze(step: Step, fields: Fields) -> Fields:
    (field,) = fields
    return [field and field.without(step.params["dimensions"])]


def _reshape(step: Step, fields: Fields) -> Fields:
    field, (before,), (after,) = fields[0], step.shapes[:1], step.results
    if field is None or 0 in before:
        return [None]
    ones = [axis for axis, n in enumerate(before) if n == 1]
    field = field.without(ones)
    if field is None:
        return [None]
    laws: list[Law] = []
    exact = True
    lo = hi = 0.0
    for old, new in _blocks([n for n in before if n > 1], [n for n in after if n > 1]):
        law = field.laws[old[0][0]]
        for axis, n in old[1:]:
            law = law.merged(field.laws[axis], n)
        for place, _ in enumerate(new):
            count = int(np.prod(new[place + 1 :]))
            parts = law.split(count) if count > 1 else (law, STILL)
            if parts is None:
                exact = False
                first, last = law.hull(new[place] * count)
                lo, hi, parts = lo + first, hi + last, (STILL, STILL)
            laws.append(parts[0])
            law = parts[1]
    rest = iter(laws)
    reshaped = field.by([next(rest) if n > 1 else STILL for n in after], lo, hi)
    return [reshaped if exact or reshaped is None else reshaped.noted([step.name])]


def _blocks(before: list[int], after: list[int]) -> list[tuple[list[tuple[int, int]], list[int]]]:
    """Runs of axes, of the least number, that hold equally many elements: (axis, size) before, sizes after."""
    blocks, old, new = [], [], []
    axes, sizes = iter(enumerate(before)), iter(after)
    have = want = 1
    while (axis := next(axes, None)) is not None:
        old.append(axis)
        have *= axis[1]
        while want < have:
            new.append(next(sizes))
            want *= new[-1]
        if want == have:
            blocks.append((old, new))
            old, new, have, want = [], [], 1, 1
    return blocks


def _slice(step: Step, fields: Fields) -> Fields:
    (field,) = fields
    starts = step.params["start_indices"]
    strides = step.params["strides"] or [1] * len(starts)
    return [field and field.along({a: _sampled(field.laws[a], s, starts[a]) for a, s in enumerate(strides)})]


def _pad(step: Step, fields: Fields) -> Fields:
    field, value = fields
    config = step.params["padding_config"]
    padded = field and field.along(
        {a: _sampled(field.laws[a].spread(gap + 1), 1, -lo) for a, (lo, _, gap) in enumerate(config)}
    )
    return [step.union([padded, value and value.by([STILL] * len(config))], step.results[0])]


def _rev(step: Step, fields: Fields) -> Fields:
    (field,) = fields
    shape = step.shapes[0]
    return [field and field.along({a: _sampled(field.laws[a], -1, shape[a] - 1) for a in step.params["dimensions"]})]


def _concatenate(step: Step, fields: Fields) -> Fields:
    return [joined(step, fields, [shape[step.params["dimension"]] for shape in step.shapes], step.params["dimension"])]


def joined(step: Step, fields: Fields, counts: Sequence[int], axis: int) -> Field | None:
    """What parts see, laid one after another along `axis`, `counts` long.

    Along an axis that no part moves by, a table says which index is of which part. Along others the law is that of
    the longest part, as padding made of the input's own elements is short; that others differ is noted.
    """
    starts = np.cumsum([0, *counts])
    parts = [
        (count, start, moved)
        for field, count, start in zip(fields, counts, starts, strict=False)
        if field and (moved := field.along({axis: _sampled(field.laws[axis], 1, -int(start))}))
    ]
    if not parts:
        return None
    shape = step.results[0]
    first = parts[0][2]
    alike = all(
        all(a == axis or one.same(other) for a, (one, other) in enumerate(zip(first.laws, part.laws, strict=True)))
        for _, _, part in parts
    )
    if all(part.moves_along(shape) != axis for _, _, part in parts):
        if not alike or len(parts) == 1:
            return step.union([part for _, _, part in parts], shape)
        table = np.full((2, starts[-1]), np.inf)
        table[1] = -np.inf
        for count, start, part in parts:
            index = np.arange(start, start + count)
            lo, hi = part.laws[axis].at(index)
            table[:, index] = lo + part.lo, hi + part.hi
            first = first.noted(part.assumed, part.edges)
        return Field(0, 0, first.laws, first.assumed, first.edges).along({axis: simplest(0, *table)})
    longest = max(parts, key=lambda part: part[0])[2]
    differ = any(not part.same(longest) for _, _, part in parts)
    return longest.noted(edges=[step.name] if differ else [])


def _stack(step: Step, fields: Fields) -> Fields:
    axis = step.params["axis"]
    rows = [f and f.by([*f.laws[:axis], STILL, *f.laws[axis:]]) for f in fields]
    return [joined(step, rows, [1] * len(rows), axis)]


def _unstack(step: Step, fields: Fields) -> Fields:
    (field,), axis = fields, step.params["axis"]
    rows = [field and field.along({axis: _at(field.laws[axis], index)}) for index in range(len(step.results))]
    return [row and row.without([axis]) for row in rows]


def _tile(step: Step, fields: Fields) -> Fields:
    (field,) = fields
    if field is None:
        return [None]
    tiled = {}
    for axis, (n, times) in enumerate(zip(step.shapes[0], step.params["reps"], strict=True)):
        if times != 1:
            tiled[axis] = tabled(*field.laws[axis].at(np.arange(n * times) % n))
    return [field.along(tiled)]


def _split(step: Step, fields: Fields) -> Fields:
    (field,), axis = fields, step.params["axis"]
    starts = np.cumsum([0, *step.params["sizes"]])[:-1]
    return [field and field.along({axis: _sampled(field.laws[axis], 1, int(start))}) for start in starts]


def _reduce(step: Step, fields: Fields) -> Fields:
    axes = step.params["axes"] if "axes" in step.params else step.params["dimensions"]
    operands = fields[: len(step.results)]
    field = step.union(operands, step.shapes[0])
    if field is None:
        return step.everything([None, *fields[1:]]) if any(fields[len(operands) :]) else [None] * len(step.results)
    if not step.walk.through_statistics and any(field.laws[axis].shift for axis in axes):
        return [None] * len(step.results)
    reduced = field.over(axes, step.shapes[0])
    return [reduced and reduced.without(axes)] * len(step.results)


def _cumulative(step: Step, fields: Fields) -> Fields:
    (field,), axis = fields, step.params["axis"]
    return [field if field is None or field.laws[axis].same(STILL) else _mixed(step, field, [axis]).noted([step.name])]


def _mixed(step: Step, field: Field, axes: Sequence[int]) -> Field:
    """Every element along the axes sees what all do."""
    mixed = field.over(axes, step.shapes[0])
    assert mixed is not None  # an axis of a field has an index that sees something
    return mixed


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
    nonzero = np.moveaxis(value() != 0, weight_axis, 1)
    if not nonzero.any(1).all():
        return None
    lo, hi = nonzero.argmax(1), nonzero.shape[1] - 1 - nonzero[:, ::-1].argmax(1)
    return through(field.laws[axis], resampled(lo, hi, nonzero.shape[1]))


def through(law: Law, index: Law) -> Law:
    """The law of an axis whose index sees a range of this law's indices, as `index` says."""
    width = np.arange(int((index.hi - index.lo).max(initial=0)) + 1)
    return law.sampled(index.shift, np.minimum(index.lo[:, None] + width, index.hi[:, None]).astype(int))


def _gather(step: Step, fields: Fields) -> Fields:
    """Elements taken along one axis; those of unknown indices may be any."""
    field, indices = fields
    numbers, sizes, shape = step.params["dimension_numbers"], step.params["slice_sizes"], step.shapes[0]
    taken = numbers.start_index_map
    whole = all(sizes[a] == shape[a] for a in range(len(shape)) if a not in taken)
    if field is None or indices is not None or not whole or len(taken) != 1 or numbers.operand_batching_dims:
        return step.everything(fields)
    (axis,) = taken
    out = step.results[0]
    placed = [place for place in range(len(out)) if place not in numbers.offset_dims]
    known = step.known[1]
    if axis not in numbers.collapsed_slice_dims:
        start = None if known is None else int(np.clip(known().reshape(-1)[0], 0, shape[axis] - sizes[axis]))
        if placed:
            return step.everything(fields)
        return [_cut(step, field, {axis: start})]
    rest = iter(law for a, law in enumerate(field.laws) if a != axis)
    laws = [STILL if place in placed else next(rest) for place in range(len(out))]
    if known is None or len(placed) > 1:
        lo, hi = field.laws[axis].hull(shape[axis])
        return [field.by(laws, lo, hi)]
    index = np.clip(known().reshape(-1), 0, shape[axis] - 1)
    if not placed:
        lo, hi = (float(bound[0]) for bound in field.laws[axis].at(index))
        return [field.by(laws, lo, hi)]
    laws[placed[0]] = through(field.laws[axis], resampled(index, index, shape[axis]))
    return [field.by(laws)]


def _dynamic_slice(step: Step, fields: Fields) -> Fields:
    """A slice whose start is known, or along an axis may be any."""
    field, *starts = fields
    if field is None or any(starts):
        return step.everything(fields)
    sizes, shape = step.params["slice_sizes"], step.shapes[0]
    known = [value and int(np.clip(value(), 0, n - m)) for value, n, m in zip(step.known[1:], shape, sizes, strict=True)]
    return [_cut(step, field, {a: known[a] for a in range(len(shape)) if sizes[a] < shape[a]})]


def _cut(step: Step, field: Field, starts: dict[int, int | None]) -> Field | None:
    unknown = [axis for axis, start in starts.items() if start is None]
    mixed = field.over(unknown, step.shapes[0])
    known = {axis: start for axis, start in starts.items() if start is not None}
    return mixed and mixed.along({axis: _sampled(mixed.laws[axis], 1, start) for axis, start in known.items()})


def _sampled(law: Law, shift: int, start: int) -> Law:
    """The law of an axis whose index i is this one's i shift + start."""
    return law.sampled(shift, np.array([[start]]))


def _at(law: Law, index: int) -> Law:
    """The law of an axis on which every index is this one's `index`."""
    return _sampled(law, 0, index)


RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(["optimization_barrier", "device_put", "copy_start"], _each),
    **dict.fromkeys([*_REDUCTIONS, "reduce"], _reduce),
    **dict.fromkeys(_CUMULATIVE, _cumulative),
    **CONTROL,
    **WINDOWS,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "squeeze": _squeeze,
    "reshape": _reshape,
    "slice": _slice,
    "pad": _pad,
    "rev": _rev,
    "concatenate": _concatenate,
    "split": _split,
    "stack": _stack,
    "unstack": _unstack,
    "tile": _tile,
    "sort": _sort,
    "top_k": _top,
    "dot_general": _dot,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
}
