"""XLA's own window operations: `reduce_window`, and a gather or scatter at the winners' positions."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import layout
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.algorithms.window import shift
from convjax.algorithms.window.geometry import (
    NOT_COMPARED,
    accumulator,
    better,
    combine,
    first_real_tap,
    padded,
    padded_shape,
    sum_error,
)
from convjax.dtypes import dtype_of
from convjax.platforms import GPUS
from convjax.problem import WindowSpec
from convjax.target import target

_MOST_ELEMENTS = 2**31 - 1  # that int32 numbers
_VECTOR = 16  # channels that fill one


@dataclasses.dataclass(frozen=True)
class Lax:
    """One XLA window instruction for reductions; flat positions for the maps that differentiate them."""

    name: ClassVar[str] = "lax"
    version: ClassVar[int] = 3
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = GPUS  # scatters add by atomics
    __str__ = describe

    def unsupported(self, problem: WindowSpec, platform: str) -> Reasons:
        if problem.compares:
            return (NOT_COMPARED,)
        elements = math.prod(padded_shape(problem))
        if not problem.reduces and elements > _MOST_ELEMENTS:
            return (f"x has {elements} elements with its padding, more than {_MOST_ELEMENTS} positions are numbered",)
        return ()

    def cost(self, problem: WindowSpec) -> Cost:
        """Measured on CPU, where windows, gathers and scatters are loops over single elements."""
        windows = math.prod(problem.windows_shape)
        match problem.operation:
            case "max" | "min" | "sum":
                tiling_sum = problem.operation == "sum" and problem.strides == problem.window
                # Tiles are added channels at a time, as many as there are.
                narrow = max(1.0, _VECTOR / max((1, *problem.shape[-1:])))
                return Cost(vector=(2.4 * narrow if tiling_sum else 5) * problem.macs, bytes=problem.bytes)
            case "argmax" | "argmin":
                return Cost(scalar=6 * problem.macs, bytes=3 * problem.bytes, workspace=problem.bytes, calls=4)
            case "take":
                return Cost(scalar=12 * windows, bytes=2 * problem.bytes, workspace=4 * windows, calls=3)
            case _:
                return Cost(scalar=6 * windows, bytes=2 * problem.bytes, workspace=4 * windows, calls=3)

    def gpu_cost(self, problem: WindowSpec) -> Cost | None:
        """As measured on GPUs; of scatters nothing is said, since they add in another order at every run."""
        match problem.operation:
            case "max" | "min" | "sum":
                return Cost(vector=0.2 * problem.macs, bytes=problem.bytes)
            case "argmax" | "argmin":
                return Cost(vector=1.25 * problem.macs, bytes=problem.bytes)
            case _:
                return None

    def gathers(self, problem: WindowSpec) -> bool:
        return problem.is_given_taps

    def error(self, problem: WindowSpec) -> float:
        return sum_error(problem)

    def __call__(self, problem: WindowSpec, *operands: jax.Array) -> jax.Array:
        match problem.operation:
            case "max" | "min" | "sum":
                return _reduce(problem, *operands)
            case "argmax" | "argmin":
                # XLA may divide the two operands of one reduction in two ways.
                by_slices = target().divided and problem.taps <= shift.MOST_TAPS
                return (shift.arg if by_slices else _arg)(problem, *operands)
            case "take":
                return _take(problem, *operands)
            case _:
                return _put(problem, *operands)


def _reduce(problem: WindowSpec, x: jax.Array) -> jax.Array:
    # Dilated and padded beforehand: XLA's own base_dilation is wrong on larger inputs (openxla/xla#48714).
    wide = accumulator(problem) if problem.operation == "sum" else x.dtype
    return lax.reduce_window(
        padded(problem, x).astype(wide),
        problem.identity.astype(wide),
        combine(problem),
        problem.window,
        problem.strides,
        [(0, 0)] * problem.ndim,
        window_dilation=problem.window_dilation,
    ).astype(x.dtype)


def _arg(problem: WindowSpec, x: jax.Array) -> jax.Array:
    """Reduces (value, position in the padded array) pairs; padding carries the last position and so loses ties."""
    x = padded(problem, x)
    last = np.int32(np.iinfo(np.int32).max)
    real = padded(problem, jnp.ones(problem.shape, bool), value=False)
    positions = jnp.where(real, lax.broadcasted_iota(jnp.int32, (x.size,), 0).reshape(x.shape), last)

    def winner(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        wins = better(problem, b[0], a[0]) | (~better(problem, a[0], b[0]) & (b[1] < a[1]))
        return jnp.where(wins, b[0], a[0]), jnp.where(wins, b[1], a[1])

    _, winners = lax.reduce_window(
        (x, positions),
        (problem.identity, last),
        winner,
        problem.window,
        problem.strides,
        [(0, 0)] * problem.ndim,
        window_dilation=problem.window_dilation,
    )
    return jnp.where(winners == last, first_real_tap(problem), _tap_of(problem, winners, x.shape))


def _tap_of(problem: WindowSpec, positions: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    tap = jnp.zeros(positions.shape, jnp.int32)
    for axis, index in enumerate(jnp.unravel_index(positions, shape)):
        start = lax.broadcasted_iota(jnp.int32, positions.shape, axis) * problem.strides[axis]
        tap = tap * problem.window[axis] + (index - start) // problem.window_dilation[axis]
    return tap


def _positions(problem: WindowSpec, taps: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Flat positions in the padded array of each window's tap."""
    flat = jnp.zeros(taps.shape, jnp.int32)
    for axis, tap in enumerate(jnp.unravel_index(taps, problem.window)):
        start = lax.broadcasted_iota(jnp.int32, taps.shape, axis) * problem.strides[axis]
        flat = flat * shape[axis] + start + tap * problem.window_dilation[axis]
    return flat


def _take(problem: WindowSpec, t: jax.Array, taps: jax.Array) -> jax.Array:
    t = padded(problem, t)
    return jnp.take(t.reshape(-1), _positions(problem, taps, t.shape), mode="clip")


def _put(problem: WindowSpec, g: jax.Array, taps: jax.Array) -> jax.Array:
    shape, wide = padded_shape(problem), accumulator(problem)
    flat = jnp.zeros(math.prod(shape), wide)
    flat = flat.at[_positions(problem, taps, shape).reshape(-1)].add(g.reshape(-1).astype(wide), mode="drop")
    x = flat.reshape(shape).astype(dtype_of(problem.dtype))
    return layout.pad(x, [(-lo, -hi) for lo, hi in problem.padding], [0] * problem.ndim)
