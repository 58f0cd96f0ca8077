"""What convolutions and poolings see, lax's and convjax's own."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from convjax import window_primitive
from convjax.inspect.dependence import Field, Rule, Step
from convjax.inspect.law import STILL, Law
from convjax.primitive import conv_p

Fields = Sequence[Field | None]


def _conv(step: Step, fields: Fields) -> Fields:
    lhs, rhs = fields
    p, (lhs_shape, rhs_shape) = step.params, step.shapes
    lhs_spec, rhs_spec, out_spec = p["dimension_numbers"]
    groups = p["feature_group_count"], p["batch_group_count"]
    sides: list[Field | None] = []
    if lhs is not None:
        (batch, feature, *spatial), outputs = lhs_spec, rhs_shape[rhs_spec[0]] // max(groups)
        within, inputs, first = _groups(lhs.laws[feature], lhs_shape[feature], groups[0])
        outer, rows, second = _groups(lhs.laws[batch], lhs_shape[batch], groups[1])
        lo, hi = inputs.hull(lhs_shape[feature] // groups[0])
        laws = {out_spec[0]: rows, out_spec[1]: (within if groups[0] > 1 else outer).merged(STILL, outputs)}
        for place, axis in enumerate(spatial):
            law = lhs.laws[axis]
            taps = rhs_shape[rhs_spec[2 + place]]
            window = taps, p["window_strides"][place], int(p["padding"][place][0])
            laws[out_spec[2 + place]] = law.windows(*window, p["lhs_dilation"][place], p["rhs_dilation"][place])
            step.walk.slid |= law.moves
        out = lhs.by([laws[axis] for axis in range(len(laws))], lo, hi)
        sides.append(out if out is None or (first and second) else out.noted([step.name]))
    if rhs is not None:
        seen = rhs.over(rhs_spec[1:], rhs_shape)
        laws = {out_spec[1]: rhs.laws[rhs_spec[0]]}
        sides.append(seen and seen.by([laws.get(axis, STILL) for axis in range(len(rhs_shape))]))
    return [step.union(sides, step.results[0])]


def _groups(law: Law, size: int, groups: int) -> tuple[Law, Law, bool]:
    """The laws of group and of place in the group of an axis cut into groups, and whether they are exact."""
    if groups == 1:
        return STILL, law, True
    parts = law.split(size // groups) if size > groups else (law, STILL)
    if parts is not None:
        return *parts, True
    return STILL, STILL.moved(*law.hull(size)), False


def _pooled(step: Step, field: Field | None, p: dict[str, Any]) -> Field | None:
    """What windows see of an array with this field."""
    if field is None:
        return None
    ones = [1] * len(p["window"])
    laws = {}
    for axis, (taps, stride, (lo, _), base, dilation) in enumerate(
        zip(p["window"], p["strides"], p["padding"], p.get("base_dilation") or ones, p["window_dilation"], strict=True)
    ):
        laws[axis] = field.laws[axis].windows(taps, stride, int(lo), base, dilation)
        step.walk.slid |= field.laws[axis].moves and (taps > 1 or stride > 1)
    return field.along(laws)


def _scattered(field: Field | None, p: dict[str, Any]) -> Field | None:
    """What elements see of the windows that hold them, `field` being the windows'."""
    if field is None:
        return None
    laws = {}
    for axis, (taps, stride, (lo, _), dilation) in enumerate(
        zip(p["window"], p["strides"], p["padding"], p["window_dilation"], strict=True)
    ):
        reach = int(lo) - dilation * np.arange(taps)
        laws[axis] = field.laws[axis].spread(stride).sampled(1, reach[None])
    return field.along(laws)


def _lax(params: dict[str, Any]) -> dict[str, Any]:
    window = tuple(params["window_dimensions"])
    ones = (1,) * len(window)
    return {
        "window": window,
        "strides": params["window_strides"],
        "padding": params["padding"],
        "base_dilation": params.get("base_dilation", ones),
        "window_dilation": params.get("window_dilation", ones),
    }


def _stock(step: Step, fields: Fields) -> Fields:
    """reduce_window and select_and_gather_add: arrays over the windows, then scalars that padding holds."""
    arrays = [f for f, shape in zip(fields, step.shapes, strict=True) if shape == step.shapes[0] and shape]
    pooled = _pooled(step, step.union(arrays, step.shapes[0]), _lax(step.params))
    return [pooled] * len(step.results)


def _stock_scatter(step: Step, fields: Fields) -> Fields:
    p = _lax(step.params)
    source, operand = fields[:2]
    chosen = _pooled(step, operand, p)
    return [_scattered(step.union([source, chosen], step.shapes[0]), p)]


def _own(step: Step, fields: Fields) -> Fields:
    p = vars(step.params["problem"])
    values = _pooled(step, fields[0], p)
    return [step.union([values, *fields[1:]], step.results[0])]


def _own_scatter(step: Step, fields: Fields) -> Fields:
    return [_scattered(step.union(fields, step.shapes[0]), vars(step.params["problem"]))]


WINDOWS: dict[str, Rule] = {
    "conv_general_dilated": _conv,
    conv_p.name: _conv,
    **dict.fromkeys(
        ["reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum", "select_and_gather_add"],
        _stock,
    ),
    "select_and_scatter_add": _stock_scatter,
    **{primitive.name: _own for primitive in window_primitive.PRIMITIVES},
    window_primitive.put_p.name: _own_scatter,
}
