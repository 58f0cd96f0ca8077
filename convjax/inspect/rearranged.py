"""What elements see once they are rearranged: transposed, reshaped, sliced, padded, joined and repeated."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from convjax.inspect.dependence import Field, Rule, Step
from convjax.inspect.law import STILL, Law, simplest, tabled

Fields = Sequence[Field | None]


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
    field, before, (after,) = fields[0], step.shapes[0], step.results
    order = step.params["dimensions"]  # lax transposes first if it is told to
    if field is not None and order is not None:
        field, before = field.by([field.laws[axis] for axis in order]), tuple(before[axis] for axis in order)
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
    return [field and field.along({a: picked(field.laws[a], s, starts[a]) for a, s in enumerate(strides)})]


def _pad(step: Step, fields: Fields) -> Fields:
    field, value = fields
    config = step.params["padding_config"]
    shape = step.results[0]
    padded = field and field.along(
        {a: picked(field.laws[a].spread(gap + 1), 1, -lo) for a, (lo, _, gap) in enumerate(config)}
    )
    extents = [n - lo - hi for n, (lo, hi, _) in zip(shape, config, strict=True)]
    margins = frozenset(a for a, (n, extent) in enumerate(zip(shape, extents, strict=True)) if 2 * extent < n)
    padded = padded and dataclasses.replace(padded, margins=margins)
    return [step.union([padded, value and value.by([STILL] * len(config))], shape)]


def _rev(step: Step, fields: Fields) -> Fields:
    (field,) = fields
    shape = step.shapes[0]
    return [field and field.along({a: picked(field.laws[a], -1, shape[a] - 1) for a in step.params["dimensions"]})]


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
        if field and (moved := field.along({axis: picked(field.laws[axis], 1, -int(start))}))
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
    for _, _, part in parts:
        longest = longest.noted(part.assumed, part.edges if part.same(longest) else [*part.edges, step.name])
    return longest


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
    return [field and field.along({axis: picked(field.laws[axis], 1, int(start))}) for start in starts]


def picked(law: Law, shift: int, start: int) -> Law:
    """The law of an axis whose index i is this one's i shift + start."""
    return law.sampled(shift, np.array([[start]]))


def _at(law: Law, index: int) -> Law:
    """The law of an axis on which every index is this one's `index`."""
    return picked(law, 0, index)


REARRANGED: dict[str, Rule] = {
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
}
