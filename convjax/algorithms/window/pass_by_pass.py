"""Windows reduced pass by pass.

Axes behind the one reduced are merged with it, so that at stride 1 a slice is one long row however small the channels
are.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from convjax import layout
from convjax.algorithms.fusion import apart
from convjax.algorithms.window.geometry import COMBINED, accumulator, better, first_real_tap
from convjax.algorithms.window.passes import Band, Pass, Widths, at_once, bands_of, passes, with_size
from convjax.dtypes import dtype_of
from convjax.problem import WindowSpec
from convjax.target import target

# Values, and for argmax and argmin the taps they stand at; None where each value is at tap 0 still.
State = tuple[jax.Array, jax.Array | None]


def in_passes(problem: WindowSpec, widths: Widths, x: jax.Array) -> jax.Array:
    """Each window's maximum, minimum, sum, or winning tap."""
    order = list(passes(problem, widths))
    never = set(range(problem.ndim)).difference(along[0].axis for along in order)
    state: State = (_padded_along(problem, x, *never), None)
    bands = bands_of(problem, order) if target().is_cpu else at_once(order)
    for along, band in zip(order, bands, strict=True):
        state = _along_in_bands(problem, along, band, state) if band else _along(problem, along, state)
    value, taps = state
    if not problem.finds_taps:
        return value.astype(dtype_of(problem.dtype))
    # Nothing beats the identity where the winner may be padding.
    first = jnp.broadcast_to(first_real_tap(problem), value.shape)
    taps = jnp.zeros(value.shape, jnp.int32) if taps is None else taps
    return jnp.where(better(problem, value, jnp.full_like(value, problem.identity)), taps, first)


def _along(problem: WindowSpec, along: list[Pass], state: State) -> State:
    """All passes of one axis."""
    value, taps = state
    value = _padded_along(problem, value, along[0].axis)
    taps = taps if taps is None else _padded_along(problem, taps, along[0].axis, value=0)
    single = state = (value, taps)
    for step in along:
        state = apart(functools.partial(_combined, problem, step), state, single if step.singles else None)
    return state


def _along_in_bands(problem: WindowSpec, along: list[Pass], band: Band, state: State) -> State:
    """The same, band by band."""
    axis, bands = band

    def reduced(result: State, offsets: list[jax.Array]) -> State:
        """`result` with what the passes make of the band at `offsets`."""
        (offset,), (length,) = offsets, bands.lengths
        seen = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, offset, length, axis), state)
        narrow = [dataclasses.replace(step, shape=with_size(step.shape, axis, length)) for step in along]
        made = _along(problem, narrow, seen)
        return jax.tree.map(lambda a, b: lax.dynamic_update_slice_in_dim(a, b, offset, axis), result, made)

    made = jax.eval_shape(functools.partial(_along, problem, along), state)
    return bands.fold(reduced, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), made))


def _padded_along(problem: WindowSpec, x: jax.Array, *axes: int, value: Any = None) -> jax.Array:
    """x with the dilation and padding of `axes`: where padding is large, the axes before have been reduced by then."""
    padding = [p if axis in axes else (0, 0) for axis, p in enumerate(problem.padding)]
    gaps = [d - 1 if axis in axes else 0 for axis, d in enumerate(problem.base_dilation)]
    return layout.pad(x, padding, gaps, problem.identity if value is None else value)


def _combined(problem: WindowSpec, step: Pass, state: State, single: State | None) -> State:
    sources = [(state, begin) for begin in step.blocks] + [(single, tap) for tap in step.singles if single is not None]
    taken = [_shifted(problem, step, source, tap) for source, tap in sources]
    value, taps = functools.reduce(functools.partial(_better_of, problem), taken)
    return value.reshape(step.shape), None if taps is None else taps.reshape(step.shape)


def _better_of(problem: WindowSpec, a: State, b: State) -> State:
    """The two combined; the first of equal values, which never stands at a later tap, keeps its tap."""
    if a[1] is None or b[1] is None:
        return COMBINED[problem.operation](a[0], b[0]), None
    wins = better(problem, b[0], a[0])
    return lax.select(wins, b[0], a[0]), lax.select(wins, b[1], a[1])


def _shifted(problem: WindowSpec, step: Pass, source: State, tap: int) -> State:
    """The slice of `source` that begins at `tap`, with its taps counted from the beginning of the window."""
    value, taps = source
    start = tap * problem.window_dilation[step.axis]
    moved = _span(value, step, start)
    if problem.operation == "sum":
        moved = moved.astype(accumulator(problem))
    if not problem.finds_taps:
        return moved, None
    number = jnp.int32(tap * math.prod(problem.window[step.axis + 1 :]))
    return moved, jnp.full(moved.shape, number) if taps is None else _span(taps, step, start) + number


def _span(x: jax.Array, step: Pass, start: int) -> jax.Array:
    """As many elements as the result has there: (before, axis, behind), or at stride 1 (before, axis x behind)."""
    size, count, behind = x.shape[step.axis], step.shape[step.axis], math.prod(x.shape[step.axis + 1 :])
    if step.stride == 1:
        rows = x.reshape(math.prod(x.shape[: step.axis]), size * behind)
        return lax.slice_in_dim(rows, start * behind, (start + count) * behind, axis=1)
    rows = x.reshape(math.prod(x.shape[: step.axis]), size, behind)
    return layout.every(rows, 1, start, step.stride, count)
