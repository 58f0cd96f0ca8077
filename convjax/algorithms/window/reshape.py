"""Windows that tile the input: split each axis into (window, tap) and work along the tap axes.

Windows that are as far dilated as they are long, which the gradients of such sums are, hold one element each: it is
written wherever a window holds it.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import layout
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.algorithms.window.geometry import COMBINED, NOT_COMPARED, accumulator, combine, first_real_tap, sum_error
from convjax.problem import WindowSpec
from convjax.target import target

# Vector operations for each tap and window, as measured.
_WORK = {"max": 3, "min": 3, "sum": 3, "argmax": 8, "argmin": 8, "take": 7, "put": 2}


@dataclasses.dataclass(frozen=True)
class Reshape:
    """Non-overlapping windows, stride equal to window: no element is read twice; or windows of a single element."""

    name: ClassVar[str] = "reshape"
    version: ClassVar[int] = 2
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = ()
    __str__ = describe

    def unsupported(self, problem: WindowSpec, platform: str) -> Reasons:
        if problem.compares:
            return (NOT_COMPARED,)
        if _hold_one_element(problem):
            return ()
        if problem.window != problem.strides:
            return (f"windows {problem.window} do not tile: they stand {problem.strides} apart",)
        if any(d > 1 for d in problem.window_dilation + problem.base_dilation):
            return ("dilated windows interleave and do not tile",)
        return ()

    def cost(self, problem: WindowSpec) -> Cost:
        if _hold_one_element(problem):
            return Cost(vector=math.prod(problem.windows_shape), bytes=problem.bytes)
        moved = any(map(any, _tiling(problem)))
        return Cost(
            vector=_WORK[problem.operation] * problem.macs,
            bytes=(2 if moved else 1) * problem.bytes,
            workspace=problem.bytes if moved else 0,
            calls=2 if moved else 1,
        )

    def gpu_cost(self, problem: WindowSpec) -> Cost | None:
        return Cost(bytes=problem.bytes) if _hold_one_element(problem) else None

    def error(self, problem: WindowSpec) -> float:
        return sum_error(problem)

    def __call__(self, problem: WindowSpec, *operands: jax.Array) -> jax.Array:
        if _hold_one_element(problem):
            return _written_to_windows(problem, *operands)
        match problem.operation:
            case "max" | "min" | "sum":
                return _reduce(problem, *operands)
            case "argmax" | "argmin":
                return _arg(problem, *operands)
            case "take":
                return _take(problem, *operands)
            case _:
                return _put(problem, *operands)


def _hold_one_element(problem: WindowSpec) -> bool:
    """Whether every window of a reduction holds a single element of x, or padding alone, and meets each in turn."""
    reduces = problem.reduces
    meet = set(problem.strides) == set(problem.window_dilation) == {1} and problem.base_dilation == problem.window
    return reduces and meet and problem.taps > 1


def _written_to_windows(problem: WindowSpec, x: jax.Array) -> jax.Array:
    split = [n for pair in zip(problem.shape, problem.window, strict=True) for n in pair]
    y = lax.broadcast_in_dim(x, split, range(0, 2 * problem.ndim, 2))
    y = y.reshape([n * k for n, k in zip(problem.shape, problem.window, strict=True)])
    first = [lo - (k - 1) for (lo, _), k in zip(problem.padding, problem.window, strict=True)]
    sizes = zip(first, problem.windows_shape, y.shape, strict=True)
    return layout.pad(y, [(lo, count - n - lo) for lo, count, n in sizes], [0] * problem.ndim, problem.identity)


def _tiling(problem: WindowSpec) -> list[tuple[int, int]]:
    """Padding, or cropping, that leaves exactly the elements that windows cover."""
    return [
        (lo, count * k - lo - n)
        for n, k, (lo, _), count in zip(
            problem.shape, problem.window, problem.padding, problem.windows_shape, strict=True
        )
    ]


def _split(problem: WindowSpec, x: jax.Array) -> jax.Array:
    """Every axis as (window, tap)."""
    x = layout.pad(x, _tiling(problem), [0] * problem.ndim, problem.identity)
    return x.reshape([n for pair in zip(problem.windows_shape, problem.window, strict=True) for n in pair])


def _tap_axes(problem: WindowSpec) -> tuple[int, ...]:
    return tuple(range(1, 2 * problem.ndim, 2))


def _taps(problem: WindowSpec) -> np.ndarray:
    """The tap number at every position of one window, broadcastable to the split array."""
    split = [n for k in problem.window for n in (1, k)]
    return np.arange(problem.taps, dtype=np.int32).reshape(split)


def _extremum_of_divided(problem: WindowSpec, split: jax.Array) -> jax.Array:
    """By XLA's own maximum and minimum, which alone it knows between devices, and which may lose NaN."""
    known, axes = COMBINED[problem.operation], _tap_axes(problem)
    if not jnp.issubdtype(split.dtype, jnp.inexact):
        return lax.reduce(split, problem.identity, known, axes)
    nan = jnp.isnan(split)
    best = lax.reduce(jnp.where(nan, problem.identity, split), problem.identity, known, axes)
    return jnp.where(jnp.any(nan, axes), jnp.nan, best).astype(split.dtype)


def _reduce(problem: WindowSpec, x: jax.Array) -> jax.Array:
    wide = accumulator(problem) if problem.operation == "sum" else x.dtype
    split = _split(problem, x).astype(wide)
    if problem.operation != "sum" and target().divided:
        return _extremum_of_divided(problem, split)
    return lax.reduce(split, problem.identity.astype(wide), combine(problem), _tap_axes(problem)).astype(x.dtype)


def _arg(problem: WindowSpec, x: jax.Array) -> jax.Array:
    """The winner's tap is the least tap that equals the winning value; NaN equals NaN here."""
    values = _reduce(dataclasses.replace(problem, operation=problem.operation.removeprefix("arg")), x)
    split, best = _split(problem, x), jnp.expand_dims(values, _tap_axes(problem))
    equal = split == best
    if jnp.issubdtype(x.dtype, jnp.inexact):
        equal |= jnp.isnan(split) & jnp.isnan(best)
    # Padding holds the identity, which may equal the best; it comes before real elements only at the low edge.
    candidates = jnp.where(equal, _taps(problem), problem.taps)
    first = jnp.expand_dims(jnp.broadcast_to(first_real_tap(problem), values.shape), _tap_axes(problem))
    candidates = jnp.where(equal & (best == problem.identity), first, candidates)
    return lax.reduce(candidates, np.int32(problem.taps), lax.min, _tap_axes(problem))


def _take(problem: WindowSpec, t: jax.Array, taps: jax.Array) -> jax.Array:
    chosen = jnp.expand_dims(taps, _tap_axes(problem)) == _taps(problem)
    split = jnp.where(chosen, _split(problem, t), jnp.zeros((), t.dtype))
    add = lax.bitwise_or if t.dtype == jnp.bool_ else lax.add
    return lax.reduce(split, np.zeros((), t.dtype), add, _tap_axes(problem))


def _put(problem: WindowSpec, g: jax.Array, taps: jax.Array) -> jax.Array:
    axes = _tap_axes(problem)
    chosen = jnp.expand_dims(taps, axes) == _taps(problem)
    split = jnp.where(chosen, jnp.expand_dims(g, axes), jnp.zeros((), g.dtype))
    x = split.reshape([o * k for o, k in zip(problem.windows_shape, problem.window, strict=True)])
    return layout.pad(x, [(-lo, -hi) for lo, hi in _tiling(problem)], [0] * problem.ndim)
