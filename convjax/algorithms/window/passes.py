"""Windows reduced one axis after another: the passes of each axis, the bands that it is cut into, and what they cost.

A pass combines a few shifted slices of the last pass's result, and so widens what every element stands for. Where all
that is made on the way would be mapped anew in every run, an axis is reduced in bands of another.
"""

import dataclasses
import itertools
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
_WORK_ON_GPU = {"max": 0.4, "min": 0.4, "sum": 0.4, "argmax": 0.6, "argmin": 0.6}

# What a pass costs beside its slices, in slices.
_PASS = 0.5

# A GPU's kernel that nothing is awaited for, in calls.
_CALL_ON_GPU = 0.5

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
    axes = [a for a in range(problem.ndim) if (problem.window[a], problem.strides[a]) != (1, 1)]
    shape = list(_at_first(problem, axes))
    for axis in reversed(axes) if problem.finds_taps else sorted(axes, key=lambda a: -problem.strides[a]):
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
    """For every axis in `order` the bands of another in which it is reduced, or None where it is reduced at once.

    Bands are taken on CPUs where they keep the workspace from being mapped anew: a result is copied into its place.
    """
    if _workspace(problem, order, at_once(order)) < KEPT_BYTES:
        return at_once(order)
    bands = [_band(problem, along, shape) for along, shape in zip(order, _operands(problem, order), strict=True)]
    return bands if _workspace(problem, order, bands) < KEPT_BYTES else at_once(order)


def at_once(order: list[list[Pass]]) -> list[Band | None]:
    """No bands."""
    return [None] * len(order)


def _band(problem: WindowSpec, along: list[Pass], shape: Ints) -> Band | None:
    """Of the outermost axis that is long enough, or the longest; a batch divided over devices would be gathered."""
    beside = [a for a in range(1, problem.ndim) if a != along[0].axis]
    most = max(map(sum, _alive(problem, along, shape, made=True)))
    if most <= _BAND_BYTES or not beside:
        return None
    longest = max(beside, key=lambda a: shape[a])
    axis = next((a for a in beside if shape[a] >= most / _BAND_BYTES), longest)
    bands = Bands.of((shape[axis],), shape[axis] * _BAND_BYTES / most)
    return (axis, bands) if bands.count > 1 else None


def with_size(shape: Ints, axis: int, size: int) -> Ints:
    """`shape` with `size` at `axis`."""
    return (*shape[:axis], size, *shape[axis + 1 :])


def _at_first(problem: WindowSpec, axes: Collection[int]) -> Ints:
    """The shape before the first pass: padded along all axes but those of passes."""
    sizes = zip(problem.shape, padded_shape(problem), strict=True)
    return tuple(n if axis in axes else p for axis, (n, p) in enumerate(sizes))


def _operands(problem: WindowSpec, order: list[list[Pass]]) -> list[Ints]:
    """The shape from which each axis in `order` begins."""
    return [_first_shape(problem, order), *(along[-1].shape for along in order)][: len(order)]


def _first_shape(problem: WindowSpec, order: list[list[Pass]]) -> Ints:
    return _at_first(problem, {along[0].axis for along in order})


def passes_cost(problem: WindowSpec, widths: Widths) -> Cost:
    """Every pass reads what the last one wrote; taps stand beside the values."""
    order = list(passes(problem, widths))
    size, work, bands = _size(problem), _WORK[problem.operation], bands_of(problem, order)
    vector, moved, calls = 0.0, 0.0, 0
    for along, band, shape in zip(order, bands, _operands(problem, order), strict=True):
        kernels, begun = 0, size * math.prod(shape)
        whole = with_size(shape, along[0].axis, padded_shape(problem)[along[0].axis])
        if whole != shape:
            moved, kernels, begun = moved + begun + size * math.prod(whole), 1, size * math.prod(whole)
        read = begun
        for step in along:
            written = size * math.prod(step.shape)
            vector += work * (step.slices + _PASS) * written / size
            moved += read + written + (begun if step.singles else 0)
            kernels += 2  # the conditional's predicate and the pass
            read = written
        moved += _COPY * read if band else 0
        calls += kernels * band[1].count if band else kernels
    if _is_padded_first(problem, order):
        moved, calls = moved + 2 * size * math.prod(_first_shape(problem, order)), calls + 1
    workspace = _workspace(problem, order, bands)
    if workspace >= KEPT_BYTES:
        moved += MAPPING * workspace
    return Cost(vector=vector, bytes=moved, workspace=workspace, calls=max(calls, 1))


def passes_gpu_cost(problem: WindowSpec, widths: Widths) -> Cost:
    """As measured on GPUs, where every pass and every copy that pads is a kernel."""
    order, size = list(passes(problem, widths)), _size(problem)
    taken, moved, kernels = 0.0, 0.0, 0
    for along, shape in zip(order, _operands(problem, order), strict=True):
        whole = with_size(shape, along[0].axis, padded_shape(problem)[along[0].axis])
        shapes = [*([shape] if whole != shape else []), whole, *(step.shape for step in along)]
        kernels += len(shapes) - 1
        moved += sum(size * (math.prod(read) + math.prod(made)) for read, made in itertools.pairwise(shapes))
        taken += sum(step.slices * math.prod(step.shape) for step in along)
    workspace = _workspace(problem, order, at_once(order))
    return Cost(
        vector=_WORK_ON_GPU[problem.operation] * taken, bytes=moved, workspace=workspace, calls=_CALL_ON_GPU * kernels
    )


def _is_padded_first(problem: WindowSpec, order: list[list[Pass]]) -> bool:
    """Whether axes without passes are padded, so that the first axis begins from a copy of x."""
    return _first_shape(problem, order) != problem.shape


def _workspace(problem: WindowSpec, order: list[list[Pass]], bands: list[Band | None]) -> float:
    """The most bytes alive at once beside x and the result, in whose place what is no larger is made before."""
    size, made, held = _size(problem), _is_padded_first(problem, order), 0.0
    result = math.prod(problem.windows_shape) * (4 if problem.finds_taps else dtype_of(problem.dtype).itemsize)
    for along, band, shape in zip(order, bands, _operands(problem, order), strict=True):
        alive = list(_alive(problem, along, shape, made))
        if band:
            in_bands = max(map(sum, _alive(problem, along, shape, made=True))) / band[1].count
            alive = [(made * size * math.prod(shape), size * math.prod(along[-1].shape), in_bands)]
        held = max(held, *(sum(sizes) - max((n for n in sizes if n <= result), default=0) for sizes in alive))
        made = True
    return held


def _alive(problem: WindowSpec, along: list[Pass], shape: Ints, made: bool) -> Iterator[tuple[float, ...]]:
    """Bytes of the arrays alive at once in each step along an axis, its operand where it was `made` on the way."""
    size, axis = _size(problem), along[0].axis
    begun = made * size * math.prod(shape)
    whole = with_size(shape, axis, padded_shape(problem)[axis])
    if whole != shape:
        yield begun, size * math.prod(whole)
        begun = size * math.prod(whole)
    last = begun
    for number, step in enumerate(along):
        written = size * math.prod(step.shape)
        kept = begun if number and any(later.singles for later in along[number:]) else 0
        yield kept, last, written
        last = written


def _size(problem: WindowSpec) -> int:
    """Bytes of an element on the way, with its tap."""
    dtype = accumulator(problem) if problem.operation == "sum" else dtype_of(problem.dtype)
    return dtype.itemsize + (4 if problem.finds_taps else 0)


def _parts(covered: int, width: int, overlapping: bool) -> tuple[Ints, Ints]:
    """Where blocks of `covered` taps begin that make up `width`, and the taps left over.

    Where an element may count twice, the last block overlaps the one before and nothing is left over.
    """
    if overlapping:
        return tuple(min(begin, width - covered) for begin in range(0, width, covered)), ()
    whole = width - width % covered
    return tuple(range(0, whole, covered)), tuple(range(whole, width))
