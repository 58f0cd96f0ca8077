"""Which operand is read through windows, along every axis of a convolution with few output positions.

Output o meets x[o s + t d - lo] with tap t, and so element i of x with tap (i b - o s + lo) / d, where x is dilated
by b. Either the taps are contracted, with x seen through a window of as many elements, or the elements of x are, with
w seen through a window. The second form multiplies none of the zeros between elements of a dilated x. And where two
axes share the windows out to x and w, nine positions are the pairs of three windows of each, instead of nine windows
of one: less is copied, and a product of them is nearer to a square.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import layout
from convjax.problem import ConvSpec, Ints

Operand = Literal["x", "w"]

# Multiply-adds in a product that take as long as copying one element into a window.
_COPY = 64


@dataclasses.dataclass(frozen=True)
class Axis:
    """How the operands meet along one axis.

    Attributes:
        windowed: the operand read through windows; of the other, element q meets element q of every window.
        length: elements contracted, those of the other operand.
        step: distance between a window's elements.
        starts: where the window of each output starts, in the windowed operand once it is padded.
        padding: of the windowed operand.
    """

    windowed: Operand
    length: int
    step: int
    starts: Ints
    padding: tuple[int, int]

    def outputs(self, operand: Operand) -> int:
        return len(self.starts) if operand == self.windowed else 1

    def start(self, operand: Operand, output: int) -> int:
        return self.starts[output] if operand == self.windowed else 0


def sides(problem: ConvSpec, *, shared: bool = False) -> tuple[Axis, ...]:
    """Windows of w along axes where x is dilated, and of x elsewhere.

    Args:
        shared: whether axes that may have windows of either are shared out to both, so that for one product of all
            windows the least is copied and multiplied.
    """
    choices = []
    for a, (b, d) in enumerate(zip(problem.lhs_dilation, problem.rhs_dilation, strict=True)):
        of_w = [_axis_of_w(problem, a)] if d == 1 else []
        of_x = [_axis_of_x(problem, a)] if b == 1 or d > 1 else []
        choices.append(of_x + of_w if shared else (of_w if b > 1 and of_w else of_x))

    def work(axes: tuple[Axis, ...]) -> float:
        of_x, of_w = positions(axes, "x") * problem.N, positions(axes, "w") * problem.K
        return math.prod(axis.length for axis in axes) * (of_x + of_w + of_x * of_w / _COPY)

    return min(itertools.product(*choices), key=work)


def positions(axes: Sequence[Axis], operand: Operand) -> int:
    """Windows of `operand`, one for each combination of outputs along the axes that have windows of it."""
    return math.prod(axis.outputs(operand) for axis in axes)


def pad(problem: ConvSpec, axes: Sequence[Axis], array: jax.Array, operand: Operand) -> jax.Array:
    """C S G .. padded, and x dilated, along the axes that have windows of it."""
    config = [
        (*axis.padding, b - 1 if operand == "x" else 0) if axis.windowed == operand else (0, 0, 0)
        for axis, b in zip(axes, problem.lhs_dilation, strict=True)
    ]
    config = [(0, 0, 0), *config, (0, 0, 0), (0, 0, 0)]
    return layout.pad(array, [(lo, hi) for lo, hi, _ in config], [gap for *_, gap in config])


def windows(
    axes: Sequence[Axis], array: jax.Array, operand: Operand, first: int, lengths: Sequence[int]
) -> dict[Ints, jax.Array]:
    """What each output sees of an array whose spatial axes start at `first`, through `lengths` contracted elements.

    The outputs are numbered along the axes that have windows of it, and 0 along the others.
    """
    steps = [axis.step if axis.windowed == operand else 1 for axis in axes]
    return {
        position: layout.window_slice(
            array, first, [axis.start(operand, o) for axis, o in zip(axes, position, strict=True)], lengths, steps
        )
        for position in np.ndindex(*(axis.outputs(operand) for axis in axes))
    }


def windows_along(problem: ConvSpec, x: jax.Array, axis: int, length: int, front: int) -> jax.Array:
    """What each output along one of the spatial axes, which x has last, sees of it; the outputs at axis `front`.

    Axis after axis, a program has as many slices as there are outputs a side, and compiles sooner than by one each.
    """
    at, step = x.ndim - problem.ndim + axis, problem.rhs_dilation[axis]
    starts = (o * problem.strides[axis] for o in range(problem.output[axis]))
    return jnp.stack([layout.window_slice(x, at, [start], [length], [step]) for start in starts], axis=front)


def band(
    axes: Sequence[Axis],
    array: jax.Array,
    operand: Operand,
    first: int,
    offsets: Sequence[jax.Array],
    lengths: Sequence[int],
) -> jax.Array:
    """What `lengths` contracted elements from `offsets` on meet, or are, of an array as `windows` takes it."""
    start: list[int | jax.Array] = [0] * array.ndim
    size = list(array.shape)
    for a, (axis, offset, length) in enumerate(zip(axes, offsets, lengths, strict=True), first):
        windowed = axis.windowed == operand
        start[a] = offset * axis.step if windowed else offset
        size[a] = (length - 1) * axis.step + max(axis.starts) + 1 if windowed else length
    return lax.dynamic_slice(array, start, size)


def _axis_of_x(problem: ConvSpec, a: int) -> Axis:
    starts = tuple(o * problem.strides[a] for o in range(problem.output[a]))
    return Axis("x", problem.kernel[a], problem.rhs_dilation[a], starts, problem.padding[a])


def _axis_of_w(problem: ConvSpec, a: int) -> Axis:
    """Element i of x meets tap i b - o s + lo: windows move backwards, from (O - 1) s - lo before the first tap on."""
    n, b, s, outputs = problem.input[a], problem.lhs_dilation[a], problem.strides[a], problem.output[a]
    last = (outputs - 1) * s
    before = last - problem.padding[a][0]
    after = last + (n - 1) * b + 1 - before - problem.kernel[a]
    return Axis("w", n, b, tuple(last - o * s for o in range(outputs)), (before, after))
