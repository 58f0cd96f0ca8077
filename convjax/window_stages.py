"""Large windows as chains of windows of few taps, through which a winner is found, and followed back, in few steps.

Row-major, the first winner is the first of its row, in the first row of those that hold an equal; and along one axis
the first of its block, in the first such block. So windows along the last axis come first, then windows over what
those found along the axis before; and windows of blocks come after the windows that are the blocks.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

from convjax.problem import WindowSpec

# What a stage costs beside its taps, in taps, as measured: its passes over memory.
_PASS = 8
# Most blocks of one window.
_MOST = 8


@functools.lru_cache(maxsize=4096)
def stages(problem: WindowSpec) -> tuple[WindowSpec, ...]:
    """`problem`, or the chain of problems that has less work, each on what the one before it found.

    Example:
        >>> [str(p) for p in stages(WindowSpec.parse("max float32[40,40] window=9x9"))]
        ['max float32[40,40] window=1x9', 'max float32[40,32] window=9x1']
        >>> [str(p) for p in stages(WindowSpec.parse("max float32[99] window=64"))]
        ['max float32[99] window=8', 'max float32[92] window=8 window_dilate=8']
    """
    axes = [axis for axis in reversed(range(problem.ndim)) if problem.window[axis] > 1]
    if problem.empty or not axes or set(problem.base_dilation) != {1}:
        return (problem,)
    by_axis = _chain(problem, [(axis, problem.window[axis], 1) for axis in axes])
    by_block = _chain(problem, [(axis, *block) for axis in axes for block in _blocks(problem.window[axis])])
    return min(((problem,), by_axis, by_block), key=_work)


def _work(chain: Sequence[WindowSpec]) -> int:
    return sum((problem.taps + _PASS) * math.prod(problem.windows_shape) for problem in chain)


@functools.cache
def _blocks(window: int) -> tuple[tuple[int, int], ...]:
    """Taps and how far apart they are, of each stage of a window along one axis.

    Example:
        >>> _blocks(5), _blocks(64), _blocks(301)
        (((5, 1),), ((8, 1), (8, 8)), ((8, 1), (6, 7), (7, 43)))
    """
    ways: list[tuple[tuple[int, int], ...]] = [((window, 1),)]
    for taps in range(2, min(window, _MOST) + 1):
        apart = window // taps
        if apart > 1:
            ways.append((*_blocks(window - (taps - 1) * apart), (taps, apart)))
    return min(ways, key=lambda way: sum(taps + _PASS for taps, _ in way))


def _chain(problem: WindowSpec, parts: Sequence[tuple[int, int, int]]) -> tuple[WindowSpec, ...]:
    """A stage for each (axis, taps, distance), those of one axis together; the last of an axis takes its stride.

    A stage is padded by no more than leaves an element in each window, so that the identity wins nowhere.
    """
    chain: list[WindowSpec] = []
    shape, padding = problem.shape, list(problem.padding)
    for place, (axis, taps, distance) in enumerate(parts):
        dilation = distance * problem.window_dilation[axis]
        (lo, hi), stride = padding[axis], problem.strides[axis]
        if axis in (later for later, *_ in parts[place + 1 :]):
            room = (taps - 1) * dilation
            lo, hi, stride = min(lo, room), min(hi, room), 1
        padding[axis] = (padding[axis][0] - lo, padding[axis][1] - hi)

        def along(value: Any, of_problem: tuple[Any, ...], other: Any, axis: int = axis) -> tuple[Any, ...]:
            """`value` at the axis; axes of one tap are strided and padded by the first stage."""
            others = (v if k == 1 and not chain else other for k, v in zip(problem.window, of_problem, strict=True))
            return tuple(value if a == axis else v for a, v in enumerate(others))

        stage = dataclasses.replace(
            problem,
            shape=shape,
            window=along(taps, problem.window, 1),
            strides=along(stride, problem.strides, 1),
            padding=along((lo, hi), problem.padding, (0, 0)),
            window_dilation=along(dilation, problem.window_dilation, 1),
        )
        chain.append(stage)
        shape = stage.windows_shape
    return tuple(chain)
