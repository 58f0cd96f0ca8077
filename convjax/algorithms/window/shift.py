"""Whole-array operations over strided slices, one slice a tap: vector code where XLA's windows are scalar."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from convjax import sizes
from convjax.algorithms.edges import edges_apart
from convjax.algorithms.fusion import apart
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.algorithms.window.follow import put, scattered, take
from convjax.algorithms.window.geometry import (
    COMBINED,
    NOT_COMPARED,
    accumulator,
    better,
    first_real_tap,
    padded,
    sum_error,
    tap_slices,
)
from convjax.problem import WindowSpec

MOST_TAPS = 256
# Taps up to which the edges are computed apart, by value and by tap: they compile as long as the middle does.
_FEW, _FEW_COMPARED = 25, 12
# Vector operations for each tap and window, as measured.
_WORK = {"max": 2, "min": 2, "sum": 2, "argmax": 5, "argmin": 5, "take": 3, "put": 2}
# The same of a GPU, where reductions are left to XLA.
_WORK_ON_GPU = {"argmax": 0.7, "argmin": 0.7, "put": 2}


@dataclasses.dataclass(frozen=True)
class Shift:
    """Combine each tap's slice into the running result in one fused loop."""

    name: ClassVar[str] = "shift"
    version: ClassVar[int] = 4
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = ()
    __str__ = describe

    def unsupported(self, problem: WindowSpec, platform: str) -> Reasons:
        if problem.compares:
            return (NOT_COMPARED,)
        if problem.taps > MOST_TAPS:
            return (f"{problem.taps} taps: above {MOST_TAPS} slices compiling takes too long",)
        return ()

    def cost(self, problem: WindowSpec) -> Cost:
        overlapping_put = problem.operation == "put" and set(problem.strides) == {1}
        work: float = _WORK[problem.operation]
        if not problem.is_given_taps and set(problem.strides) == {1}:
            work *= min(1.0, 0.3 + problem.taps / 180)  # few rows are read from the nearest cache
        padded = any(lo > 0 or hi > 0 for lo, hi in problem.padding)
        macs = float(problem.macs)
        if problem.operation == "sum" and set(problem.strides) == {1}:
            macs /= math.prod(problem.base_dilation)  # what stands between the elements is not added up
        grown = (padded and not _edges_are_apart(problem)) or set(problem.base_dilation) != {1} or overlapping_put
        return Cost(
            vector=work * macs,
            bytes=(2 if grown else 1) * problem.bytes,
            workspace=problem.bytes if grown else 0,
            calls=1 + sum(lo > 0 or hi > 0 for lo, hi in problem.padding),
        )

    def gpu_cost(self, problem: WindowSpec) -> Cost | None:
        work = _WORK_ON_GPU.get(problem.operation)
        return None if work is None else Cost(vector=work * problem.macs, bytes=problem.bytes)

    def error(self, problem: WindowSpec) -> float:
        return sum_error(problem)

    def __call__(self, problem: WindowSpec, *operands: jax.Array) -> jax.Array:
        match problem.operation:
            case "max" | "min" | "sum":
                return _reduce(problem, *operands)
            case "argmax" | "argmin":
                return arg(problem, *operands)
            case "take":
                return take(problem, *operands)
            case _:
                return put(problem, *operands)


def _reduce(problem: WindowSpec, x: jax.Array) -> jax.Array:
    if problem.operation == "sum" and set(problem.strides) == {1} and set(problem.base_dilation) != {1}:
        return _sum_of_dilated(problem, x)
    wide = accumulator(problem) if problem.operation == "sum" else x.dtype

    def reduce(problem: WindowSpec, x: jax.Array) -> jax.Array:
        slices = (tap.astype(wide) for tap in tap_slices(problem, padded(problem, x)))
        return functools.reduce(COMBINED[problem.operation], slices).astype(x.dtype)

    return _in_parts(reduce, problem, x)


def arg(problem: WindowSpec, x: jax.Array) -> jax.Array:
    """A strict comparison keeps the first of equal taps, and keeps padding from winning at all."""
    # Fused into many comparisons, padding costs more than a copy of x.
    copied = any(map(any, problem.padding)) and not _edges_are_apart(problem)

    def winner_of(problem: WindowSpec, x: jax.Array) -> jax.Array:
        x = apart(functools.partial(padded, problem), x) if copied else padded(problem, x)
        first, taps = first_real_tap(problem), enumerate(tap_slices(problem, x))
        value = jnp.full(problem.windows_shape, problem.identity, x.dtype) if first.any() else next(taps)[1]
        winner = jnp.broadcast_to(first, problem.windows_shape)
        for tap, candidate in taps:
            wins = better(problem, candidate, value)
            value = jnp.where(wins, candidate, value)
            winner = jnp.where(wins, jnp.int32(tap), winner)
        return winner

    return _in_parts(winner_of, problem, x)


def _in_parts(compute: Callable[[WindowSpec, jax.Array], jax.Array], problem: WindowSpec, x: jax.Array) -> jax.Array:
    """`compute(problem, x)`, with the windows that padding touches apart from the others."""
    if not _edges_are_apart(problem):
        return compute(problem, x)
    return edges_apart(
        lambda x, padding: compute(dataclasses.replace(problem, shape=x.shape, padding=padding), x),
        x,
        problem.padding,
        first=0,
        reach=list(map(sizes.dilated, problem.window, problem.window_dilation)),
        strides=problem.strides,
    )


def _edges_are_apart(problem: WindowSpec) -> bool:
    if problem.is_given_taps or set(problem.base_dilation) != {1}:
        return False
    few = _FEW_COMPARED if problem.finds_taps else _FEW
    return problem.taps <= few and any(lo > 0 or hi > 0 for lo, hi in problem.padding)


def _sum_of_dilated(problem: WindowSpec, x: jax.Array) -> jax.Array:
    """Every element of x adds to each output whose window holds it: windows scattered with all their taps.

    Tap t of output u stands at u + t d, so element o, at lo + o b, adds to u = o b + (k - 1 - t) d + lo - (k - 1) d.
    """
    low = [
        (k - 1) * d - lo for k, d, (lo, _) in zip(problem.window, problem.window_dilation, problem.padding, strict=True)
    ]
    return scattered(problem, problem.base_dilation, low, problem.windows_shape, x, None)
