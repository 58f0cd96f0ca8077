"""Values that windows hold at single taps: read from x, or added to x, slice by slice."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from convjax import layout
from convjax.algorithms.fusion import apart
from convjax.algorithms.window.geometry import accumulator, padded, tap_slices
from convjax.dtypes import dtype_of
from convjax.problem import WindowSpec


def take(problem: WindowSpec, t: jax.Array, taps: jax.Array) -> jax.Array:
    """Each window's element at its own tap."""
    y = jnp.zeros(problem.windows_shape, t.dtype)
    for tap, candidate in enumerate(tap_slices(problem, padded(problem, t))):
        y = jnp.where(taps == tap, candidate, y)
    return y


def put(problem: WindowSpec, g: jax.Array, taps: jax.Array) -> jax.Array:
    """Each window's value added to x at its own tap; at tap -1 nowhere."""
    low = [lo for lo, _ in problem.padding]
    return scattered(problem, problem.strides, low, problem.shape, g, taps)


def scattered(
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
