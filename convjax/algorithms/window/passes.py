"""Windows reduced one axis after another, each axis in passes that widen what every element stands for.

A pass combines a few shifted slices of the last pass's result. Axes behind the one reduced are merged with it, so
that at stride 1 a slice is one long row however small the channels are.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from convjax import layout
from convjax.algorithms.bands import KEPT_BYTES
from convjax.algorithms.fusion import apart
from convjax.algorithms.protocol import Cost
from convjax.algorithms.window.geometry import accumulator, better, first_real_tap, padded_shape
from convjax.dtypes import dtype_of
from convjax.problem import Ints, WindowSpec

# The taps that an element stands for after every pass along an axis: rising, the last is the axis's window.
Widths = Callable[[int], tuple[int, ...]]

# Values, and for argmax and argmin the taps they stand at; None where each value is at tap 0 still.
State = tuple[jax.Array, jax.Array | None]

# Vector operations for each slice and element, as measured.
_WORK = {"max": 1.2, "min": 1.2, "sum": 1.2, "argmax": 4, "argmin": 4}

# What a pass costs beside its slices, in slices.
_PASS = 0.5

# Workspace above `KEPT_BYTES` is mapped anew in every run, which costs as much as moving it so many times.
_MAPPING = 20


@dataclasses.dataclass(frozen=True)
class Pass:
    """One pass along one axis: from elements that stand for `covered` taps to ones that stand for `width`.

    Attributes:
        shape: of the result.
        blocks: the slices of the last pass's result, by the tap at which each begins.
        singles: taps beyond the blocks, which are read from what the axis began with.
        stride: between the elements that are kept; above 1 in the last pass of an axis alone.
    """

    axis: int
    shape: Ints
    blocks: Ints
    singles: Ints
    stride: int

    @property
    def slices(self) -> int:
        return len(self.blocks) + len(self.singles)


def passes(problem: WindowSpec, widths: Widths) -> Iterator[list[Pass]]:
    """For every axis that has anything to do, in the order in which they are done, its passes.

    Reductions thin out by the largest stride first. The first winner in row-major order is the first row's among
    equal rows and the first in it, so taps are found along the last axis first.
    """
    arg = problem.operation.startswith("arg")
    axes = [a for a in range(problem.ndim) if (problem.window[a], problem.strides[a]) != (1, 1)]
    shape = list(_at_first(problem, axes))
    for axis in reversed(axes) if arg else sorted(axes, key=lambda a: -problem.strides[a]):
        window, stride, count = problem.window[axis], problem.strides[axis], problem.windows_shape[axis]
        covered, along = 1, []
        for width in widths(window):
            last = width == window
            spread = (count - 1) * stride + (window - width) * problem.window_dilation[axis] + 1
            shape[axis] = count if last else spread
            blocks, singles = _parts(covered, width, overlapping=problem.operation != "sum")
            along.append(Pass(axis, tuple(shape), blocks, singles, stride if last else 1))
            covered = width
        yield along


def in_passes(problem: WindowSpec, widths: Widths, x: jax.Array) -> jax.Array:
    """Each window's maximum, minimum, sum, or winning tap."""
    order = list(passes(problem, widths))
    never = set(range(problem.ndim)).difference(along[0].axis for along in order)
    state: State = (_padded_along(problem, x, *never), None)
    for along in order:
        value, taps = state
        value = _padded_along(problem, value, along[0].axis)
        taps = taps if taps is None else _padded_along(problem, taps, along[0].axis, value=0)
        single = state = (value, taps)
        for step in along:
            state = apart(functools.partial(_combined, problem, step), state, single if step.singles else None)
    value, taps = state
    if not problem.operation.startswith("arg"):
        return value.astype(dtype_of(problem.dtype))
    # Nothing beats the identity where the winner may be padding.
    first = jnp.broadcast_to(first_real_tap(problem), value.shape)
    taps = jnp.zeros(value.shape, jnp.int32) if taps is None else taps
    return jnp.where(better(problem, value, jnp.full_like(value, problem.identity)), taps, first)


def _at_first(problem: WindowSpec, axes: Collection[int]) -> Ints:
    """The shape before the first pass: padded along all axes but those of passes."""
    sizes = zip(problem.shape, padded_shape(problem), strict=True)
    return tuple(n if axis in axes else p for axis, (n, p) in enumerate(sizes))


def _padded_along(problem: WindowSpec, x: jax.Array, *axes: int, value: Any = None) -> jax.Array:
    """x with the dilation and padding of `axes`: where padding is large, the axes before have been reduced by then."""
    padding = [p if axis in axes else (0, 0) for axis, p in enumerate(problem.padding)]
    gaps = [d - 1 if axis in axes else 0 for axis, d in enumerate(problem.base_dilation)]
    return layout.pad(x, padding, gaps, problem.identity if value is None else value)


def passes_cost(problem: WindowSpec, widths: Widths) -> Cost:
    """Every pass reads what the last one wrote; taps stand beside the values."""
    size = (accumulator(problem) if problem.operation == "sum" else dtype_of(problem.dtype)).itemsize
    size += 4 if problem.operation.startswith("arg") else 0
    work = _WORK[problem.operation]
    order = list(passes(problem, widths))
    left = sum(map(len, order))

    whole = padded_shape(problem)
    shape = _at_first(problem, {along[0].axis for along in order})
    read = size * math.prod(shape)
    held = read if shape != problem.shape else 0  # of what is read, the bytes that are workspace
    vector, moved, workspace, calls = 0.0, 2 * held, held, 1 if held else 0
    for along in order:
        axis = along[0].axis
        if whole[axis] != shape[axis]:
            written = size * math.prod((*shape[:axis], whole[axis], *shape[axis + 1 :]))
            workspace, moved, calls = max(workspace, held + written), moved + read + written, calls + 1
            read = held = written
        begun, begun_held = read, held
        for step in along:
            left -= 1
            written = size * math.prod(step.shape)
            new = written if left else 0
            workspace = max(workspace, held + new + (begun_held if step.singles else 0))
            vector += work * (step.slices + _PASS) * written / size
            moved += read + written + (begun if step.singles else 0)
            calls += 2  # the conditional's predicate and the pass
            read, held = written, new
        shape = along[-1].shape
    if workspace > KEPT_BYTES:
        moved += _MAPPING * workspace
    return Cost(vector=vector, bytes=moved, workspace=workspace, calls=max(calls, 1))


def _parts(covered: int, width: int, overlapping: bool) -> tuple[Ints, Ints]:
    """Where blocks of `covered` taps begin that make up `width`, and the taps left over.

    Where an element may count twice, the last block overlaps the one before and nothing is left over.
    """
    if overlapping:
        return tuple(min(begin, width - covered) for begin in range(0, width, covered)), ()
    whole = width - width % covered
    return tuple(range(0, whole, covered)), tuple(range(whole, width))


def _combined(problem: WindowSpec, step: Pass, state: State, single: State | None) -> State:
    sources = [(state, begin) for begin in step.blocks] + [(single, tap) for tap in step.singles if single is not None]
    taken = [_shifted(problem, step, source, tap) for source, tap in sources]
    value, taps = functools.reduce(functools.partial(_better_of, problem), taken)
    return value.reshape(step.shape), None if taps is None else taps.reshape(step.shape)


def _better_of(problem: WindowSpec, a: State, b: State) -> State:
    """The two combined; the first of equal values, which never stands at a later tap, keeps its tap."""
    if a[1] is None or b[1] is None:
        return {"max": lax.max, "min": lax.min, "sum": lax.add}[problem.operation](a[0], b[0]), None
    wins = better(problem, b[0], a[0])
    return lax.select(wins, b[0], a[0]), lax.select(wins, b[1], a[1])


def _shifted(problem: WindowSpec, step: Pass, source: State, tap: int) -> State:
    """The slice of `source` that begins at `tap`, with its taps counted from the beginning of the window."""
    value, taps = source
    start = tap * problem.window_dilation[step.axis]
    moved = _span(value, step, start)
    if problem.operation == "sum":
        moved = moved.astype(accumulator(problem))
    if not problem.operation.startswith("arg"):
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
    return lax.slice_in_dim(rows, start, start + (count - 1) * step.stride + 1, step.stride, axis=1)
