"""Whole-array operations over strided slices, one slice a tap: vector code where XLA's windows are scalar."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import layout, sizes
from convjax.algorithms.edges import edges_apart
from convjax.algorithms.fusion import apart
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.algorithms.window.geometry import accumulator, better, first_real_tap, padded, sum_error, tap_slices
from convjax.dtypes import dtype_of
from convjax.problem import WindowSpec

_MOST_TAPS = 256
# Taps up to which the edges are computed apart: they compile as long as the middle does.
_FEW = 25
# Vector operations for each tap and window, as measured.
_WORK = {"max": 2, "min": 2, "sum": 2, "argmax": 5, "argmin": 5, "take": 3, "put": 2}


@dataclasses.dataclass(frozen=True)
class Shift:
    """Combine each tap's slice into the running result in one fused loop."""

    name: ClassVar[str] = "shift"
    version: ClassVar[int] = 3
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = ()
    __str__ = describe

    def unsupported(self, problem: WindowSpec, platform: str) -> Reasons:
        if problem.taps > _MOST_TAPS:
            return (f"{problem.taps} taps: above {_MOST_TAPS} slices compiling takes too long",)
        return ()

    def cost(self, problem: WindowSpec) -> Cost:
        overlapping_put = problem.operation == "put" and set(problem.strides) == {1}
        work: float = _WORK[problem.operation]
        if problem.operation not in ("take", "put") and set(problem.strides) == {1}:
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

    def error(self, problem: WindowSpec) -> float:
        return sum_error(problem)

    def __call__(self, problem: WindowSpec, *operands: jax.Array) -> jax.Array:
        match problem.operation:
            case "max" | "min" | "sum":
                return _reduce(problem, *operands)
            case "argmax" | "argmin":
                return _arg(problem, *operands)
            case "take":
                return _take(problem, *operands)
            case _:
                return _put(problem, *operands)


def _reduce(problem: WindowSpec, x: jax.Array) -> jax.Array:
    if problem.operation == "sum" and set(problem.strides) == {1} and set(problem.base_dilation) != {1}:
        return _sum_of_dilated(problem, x)
    combine = {"max": lax.max, "min": lax.min, "sum": lax.add}[problem.operation]
    wide = accumulator(problem) if problem.operation == "sum" else x.dtype

    def reduce(problem: WindowSpec, x: jax.Array) -> jax.Array:
        slices = (tap.astype(wide) for tap in tap_slices(problem, padded(problem, x)))
        return functools.reduce(combine, slices).astype(x.dtype)

    return _in_parts(reduce, problem, x)


def _arg(problem: WindowSpec, x: jax.Array) -> jax.Array:
    """A strict comparison keeps the first of equal taps, and keeps padding from winning at all."""

    def winner_of(problem: WindowSpec, x: jax.Array) -> jax.Array:
        first, taps = first_real_tap(problem), enumerate(tap_slices(problem, padded(problem, x)))
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
    simple = problem.operation in ("max", "min", "sum", "argmax", "argmin") and set(problem.base_dilation) == {1}
    return simple and problem.taps <= _FEW and any(lo > 0 or hi > 0 for lo, hi in problem.padding)


def _take(problem: WindowSpec, t: jax.Array, taps: jax.Array) -> jax.Array:
    """At most one tap is selected a window, so the others add exact zeros."""
    y = jnp.zeros(problem.windows_shape, t.dtype)
    for tap, candidate in enumerate(tap_slices(problem, padded(problem, t))):
        y = jnp.where(taps == tap, candidate, y)
    return y


def _put(problem: WindowSpec, g: jax.Array, taps: jax.Array) -> jax.Array:
    low = [lo for lo, _ in problem.padding]
    return _scatter_windows(problem, problem.strides, low, problem.shape, g, taps)


def _sum_of_dilated(problem: WindowSpec, x: jax.Array) -> jax.Array:
    """Every element of x adds to each output whose window holds it: windows scattered with all their taps.

    Tap t of output u stands at u + t d, so element o, at lo + o b, adds to u = o b + (k - 1 - t) d + lo - (k - 1) d.
    """
    low = [
        (k - 1) * d - lo for k, d, (lo, _) in zip(problem.window, problem.window_dilation, problem.padding, strict=True)
    ]
    return _scatter_windows(problem, problem.base_dilation, low, problem.windows_shape, x, None)


def _scatter_windows(
    problem: WindowSpec,
    strides: tuple[int, ...],
    low: list[int],
    shape: tuple[int, ...],
    g: jax.Array,
    taps: jax.Array | None,
) -> jax.Array:
    """Adds window o's value at o s + t d - low, for its own tap t, or for all taps.

    Written without a scatter: the result's axis is split into (block, phase) with blocks of one stride.
    o s + t d = s (o + q) + p with q = t d // s, p = t d % s, so block b, phase p receives from window b - q
    if a tap belongs to (q, p) and was chosen.
    """
    ndim = problem.ndim
    tables = [_tap_table(k, s, d) for k, s, d in zip(problem.window, strides, problem.window_dilation, strict=True)]
    reach = [table.shape[0] for table in tables]
    first = [lo // s for lo, s in zip(low, strides, strict=True)]  # of the blocks that hold any of the result
    blocks = [(lo + n - 1) // s + 1 - b for lo, n, s, b in zip(low, shape, strides, first, strict=True)]
    operands = [g] if taps is None else [g, taps]

    def beside(before: list[int], behind: list[int], operands: list[jax.Array]) -> list[jax.Array]:
        padding = list(zip(before, behind, strict=True))
        return [layout.pad(x, padding, [0] * ndim, value) for x, value in zip(operands, (0, -1), strict=False)]

    if set(strides) == {1}:
        # Fused into the loop, padding is a branch for every tap and element; at larger strides there are few of them.
        before = [r - 1 - b for r, b in zip(reach, first, strict=True)]
        behind = [b + m - o for b, m, o in zip(first, blocks, g.shape, strict=True)]
        operands = apart(functools.partial(beside, before, behind), operands)
        first = [r - 1 for r in reach]

    wide = accumulator(problem)
    total = jnp.zeros((), wide)
    for q in itertools.product(*map(range, reach)):
        tap, exists = np.zeros((1,) * 2 * ndim, np.int32), np.ones((1,) * 2 * ndim, bool)
        for axis, (table, k) in enumerate(zip(tables, problem.window, strict=True)):
            row = table[q[axis]].reshape([-1 if a == 2 * axis + 1 else 1 for a in range(2 * ndim)])
            tap, exists = tap * k + row, exists & (row >= 0)
        before = [n - b for n, b in zip(q, first, strict=True)]
        behind = [m - n - o for m, n, o in zip(blocks, before, operands[0].shape, strict=True)]
        values, *own = map(_with_phases, beside(before, behind, operands))
        chosen = own[0] == np.where(exists, tap, -2) if own else jnp.asarray(exists)
        total = total + jnp.where(chosen, values.astype(wide), jnp.zeros((), wide))

    x = jnp.broadcast_to(total, [n for pair in zip(blocks, strides, strict=True) for n in pair])
    x = x.reshape([n * s for n, s in zip(blocks, strides, strict=True)])
    cut = [lo % s for lo, s in zip(low, strides, strict=True)]
    crop = [(-lo, n + lo - size) for lo, n, size in zip(cut, shape, x.shape, strict=True)]
    return layout.pad(x.astype(dtype_of(problem.dtype)), crop, [0] * ndim)


def _with_phases(x: jax.Array) -> jax.Array:
    """A unit axis behind every axis, for its phase."""
    return x.reshape([n for size in x.shape for n in (size, 1)])


def _tap_table(window: int, stride: int, dilation: int) -> np.ndarray:
    """table[q, p]: the tap at block offset q and phase p, or -1."""
    table = np.full(((window - 1) * dilation // stride + 1, stride), -1, np.int32)
    for tap in range(window):
        table[divmod(tap * dilation, stride)] = tap
    return table
