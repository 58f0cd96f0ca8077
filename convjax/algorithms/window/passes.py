"""Windows reduced one axis after another: the passes of each axis, the bands that it is cut into, and what they cost.

A pass combines a few shifted slices of the last pass's result, and so widens what every element stands for. Where all
that is made on the way would be mapped anew in every run, an axis is reduced in bands of another.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator

from convjax.algorithms.bands import KEPT_BYTES, Bands
from convjax.algorithms.protocol import Cost
from convjax.algorithms.window.geometry import accumulator, padded_shape
from convjax.dtypes import dtype_of
from convjax.problem import Ints, WindowSpec

# The taps that an element stands for after every pass along an axis: rising, the last is the axis's window.
Widths = Callable[[int], tuple[int, ...]]

# Bands of another axis in which an axis is reduced.
Band = tuple[int, Bands]

# Vector operations for each slice and element, as measured.
_WORK = {"max": 1.2, "min": 1.2, "sum": 1.2, "argmax": 4, "argmin": 4}

# What a pass costs beside its slices, in slices.
_PASS = 0.5

# Bytes of what one band makes, and what a band's result costs to put in its place, in times moved.
_BAND_BYTES = KEPT_BYTES / 4
_COPY = 4

# Workspace above `KEPT_BYTES` is mapped anew in every run, which costs as much as moving it so many times.
MAPPING = 20


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


def bands_of(problem: WindowSpec, order: list[list[Pass]]) -> list[Band | None]:
    """For every axis in `order` the bands of another in which it is reduced, or None where the whole is small enough.

    They are of the outermost axis that is long enough, or the longest, never of the first: a batch that is divided
    over devices would be gathered.
    """
    bands: list[Band | None] = []
    read = _at_first(problem, {along[0].axis for along in order})
    for along in order:
        *_, written = (step.shape for step in along)
        beside = [a for a in range(1, problem.ndim) if a != along[0].axis]
        most, band = _axis_cost(problem, along, read).workspace, None
        if most > KEPT_BYTES and beside:
            longest = max(beside, key=lambda a: read[a])
            axis = next((a for a in beside if read[a] >= most / _BAND_BYTES), longest)
            part = Bands.of((read[axis],), read[axis] * _BAND_BYTES / most)
            band = (axis, part) if part.count > 1 else None
        bands.append(band)
        read = written
    return bands


def with_size(shape: Ints, axis: int, size: int) -> Ints:
    """`shape` with `size` at `axis`."""
    return (*shape[:axis], size, *shape[axis + 1 :])


def _at_first(problem: WindowSpec, axes: Collection[int]) -> Ints:
    """The shape before the first pass: padded along all axes but those of passes."""
    sizes = zip(problem.shape, padded_shape(problem), strict=True)
    return tuple(n if axis in axes else p for axis, (n, p) in enumerate(sizes))


def passes_cost(problem: WindowSpec, widths: Widths) -> Cost:
    """Every pass reads what the last one wrote; taps stand beside the values."""
    order = list(passes(problem, widths))
    shape = _at_first(problem, {along[0].axis for along in order})
    held = _size(problem) * math.prod(shape) if shape != problem.shape else 0  # of the operand, what is workspace
    vector, moved, workspace, calls = 0.0, 2.0 * held, float(held), 1.0 if held else 0.0
    for along, band in zip(order, bands_of(problem, order), strict=True):
        cost, count = _axis_cost(problem, along, shape, held), band[1].count if band else 1
        shape = along[-1].shape
        written = _size(problem) * math.prod(shape)
        result = 0 if along is order[-1] else written
        alive = held + cost.workspace / count + result if band else cost.workspace - (written - result)
        vector, workspace = vector + cost.vector, max(workspace, alive)
        moved += cost.bytes + (_COPY * written if band else 0)
        calls += cost.calls * count
        held = written
    if workspace > KEPT_BYTES:
        moved += MAPPING * workspace
    return Cost(vector=vector, bytes=moved, workspace=workspace, calls=max(calls, 1))


def _axis_cost(problem: WindowSpec, along: list[Pass], shape: Ints, held: float = 0) -> Cost:
    """Of the passes of one axis over an operand of `shape`, of which `held` bytes are workspace, and their result."""
    size, axis = _size(problem), along[0].axis
    vector, moved, calls = 0.0, 0.0, 0
    begun = read = size * math.prod(shape)
    whole = with_size(shape, axis, padded_shape(problem)[axis])
    if whole != shape:
        begun = size * math.prod(whole)
        moved, calls, read = moved + read + begun, calls + 1, begun
    most = held + begun if whole != shape else held
    begun_held = last_held = begun if whole != shape else held
    for number, step in enumerate(along):
        written = size * math.prod(step.shape)
        kept = begun_held if number and any(later.singles for later in along[number:]) else 0
        most = max(most, kept + last_held + written)
        vector += _WORK[problem.operation] * (step.slices + _PASS) * written / size
        moved += read + written + (begun if step.singles else 0)
        calls += 2  # the conditional's predicate and the pass
        read = last_held = written
    return Cost(vector=vector, bytes=moved, workspace=most, calls=calls)


def _size(problem: WindowSpec) -> int:
    """Bytes of an element on the way, with its tap."""
    dtype = accumulator(problem) if problem.operation == "sum" else dtype_of(problem.dtype)
    return dtype.itemsize + (4 if problem.operation.startswith("arg") else 0)


def _parts(covered: int, width: int, overlapping: bool) -> tuple[Ints, Ints]:
    """Where blocks of `covered` taps begin that make up `width`, and the taps left over.

    Where an element may count twice, the last block overlaps the one before and nothing is left over.
    """
    if overlapping:
        return tuple(min(begin, width - covered) for begin in range(0, width, covered)), ()
    whole = width - width % covered
    return tuple(range(0, whole, covered)), tuple(range(whole, width))
