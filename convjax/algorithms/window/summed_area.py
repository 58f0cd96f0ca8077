"""Large sums by prefix sums, in work that does not grow with the window.

Along an axis x is cut into blocks as long as the window (van Herk's way with maxima). A window ends in the block after
the one that it begins in, so it is what the first holds from there on and what the next holds up to there: two running
sums of at most one block each. A difference of prefixes of all of x would lose to cancellation what its windows need,
and spread NaN and infinities beyond them; here nothing is subtracted, so sums err as plain ones do and the bound is
theirs, whatever is summed. `max_error` refuses it as it refuses those.

Source:
    M. van Herk, A fast algorithm for local minimum and maximum filters on rectangular and octagonal kernels, 1992.
    F. C. Crow, Summed-area tables for texture mapping, SIGGRAPH 1984.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from convjax import layout
from convjax.algorithms.bands import KEPT_BYTES
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.algorithms.window.geometry import accumulator, sum_error
from convjax.algorithms.window.passes import MAPPING
from convjax.dtypes import dtype_of
from convjax.problem import Ints, WindowSpec

# Vector operations of a running sum for each element, as measured, which one thread does alone: where so many lie
# together and the workspace of so many bytes is in cache, where it is not, and where fewer lie together.
_ROW, _CACHE = 256, 2**23
_WORK, _WORK_IN_MEMORY, _WORK_IN_SHORT_ROWS = 14, 40, 64
# What one step of a running sum costs beside, in kernels.
_STEP = 0.1


@dataclasses.dataclass(frozen=True)
class SummedArea:
    """Axis by axis, blocks summed from their ends towards their beginnings and from there to their ends."""

    name: ClassVar[str] = "summed_area"
    version: ClassVar[int] = 1
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = ()
    __str__ = describe

    def unsupported(self, problem: WindowSpec, platform: str) -> Reasons:
        if problem.operation != "sum":
            return (f"{problem.operation} is no sum",)
        if set(problem.window) <= {1}:
            return ("windows of one tap have nothing to sum",)
        return ()

    def cost(self, problem: WindowSpec) -> Cost:
        size = accumulator(problem).itemsize
        shape, vector, moved, workspace, calls = problem.shape, 0.0, 0.0, 0.0, 0.0
        for axis in _axes(problem):
            before, blocks, taps, behind = _blocks(problem, axis, shape)
            rows, summed = (size * before * n * taps * behind for n in (blocks + 1, blocks))
            read = size * math.prod(shape)
            shape = (*shape[:axis], problem.windows_shape[axis], *shape[axis + 1 :])
            calls += 2
            moved += read + rows + summed + size * math.prod(shape)
            if taps > 1:
                calls += 2 * _STEP * taps
                cached = _WORK if rows + summed <= _CACHE else _WORK_IN_MEMORY
                vector += 2 * (cached if behind >= _ROW else _WORK_IN_SHORT_ROWS) * summed / size
                workspace = max(workspace, rows + summed)
        return Cost(
            vector=vector,
            bytes=moved + (MAPPING * workspace if workspace >= KEPT_BYTES else 0),
            workspace=workspace,
            calls=calls,
        )

    def error(self, problem: WindowSpec) -> float:
        return sum_error(problem)

    def __call__(self, problem: WindowSpec, x: jax.Array) -> jax.Array:
        x = x.astype(accumulator(problem))
        for axis in _axes(problem):
            x = _sums_along(problem, axis, x)
        return x.astype(dtype_of(problem.dtype))


def _axes(problem: WindowSpec) -> list[int]:
    """Those with anything to do, that of the largest stride first, since it leaves the least to the others."""
    idle = (1, 1, (0, 0), 1)
    numbers = list(zip(problem.window, problem.strides, problem.padding, problem.base_dilation, strict=True))
    return sorted((a for a in range(problem.ndim) if numbers[a] != idle), key=lambda a: -problem.strides[a])


def _blocks(problem: WindowSpec, axis: int, shape: Ints) -> Ints:
    """Elements before, blocks in which windows begin, taps of a block, and elements behind, dilation's among them."""
    taps, dilation = problem.window[axis], problem.window_dilation[axis]
    reach = (problem.windows_shape[axis] - 1) * problem.strides[axis]
    behind = dilation * math.prod(shape[axis + 1 :])
    return math.prod(shape[:axis]), reach // (taps * dilation) + 1, taps, behind


def _sums_along(problem: WindowSpec, axis: int, x: jax.Array) -> jax.Array:
    before, blocks, taps, behind = _blocks(problem, axis, x.shape)
    shape, stride, count = x.shape, problem.strides[axis], problem.windows_shape[axis]
    (low, _), gap = problem.padding[axis], problem.base_dilation[axis] - 1
    length = (blocks + 1) * taps * problem.window_dilation[axis]
    high = length - low - (shape[axis] + (shape[axis] - 1) * gap)

    def at(value: Any, other: Any) -> list[Any]:
        return [value if a == axis else other for a in range(x.ndim)]

    x = layout.pad(x, at((low, high), (0, 0)), at(gap, 0))
    rows = x.reshape(before, blocks + 1, taps, behind)
    one = (before, blocks, 1, behind)

    def from_there(step: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        total, sums = state
        row = taps - 1 - step
        total += lax.dynamic_slice(rows, (0, 0, row, 0), one)
        return total, lax.dynamic_update_slice(sums, total, (0, 0, row, 0))

    def up_to_there(row: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        total, sums = state
        sums = lax.dynamic_update_slice(sums, lax.dynamic_slice(sums, (0, 0, row, 0), one) + total, (0, 0, row, 0))
        return total + lax.dynamic_slice(rows, (0, 1, row, 0), one), sums

    sums = rows[:, :-1]
    if taps > 1:
        none = jnp.zeros(one, x.dtype)
        _, sums = lax.fori_loop(0, taps, from_there, (none, jnp.zeros_like(sums)))
        _, sums = lax.fori_loop(0, taps, up_to_there, (none, sums))
    y = sums.reshape(*shape[:axis], -1, *shape[axis + 1 :])
    return layout.every(y, axis, 0, stride, count)
