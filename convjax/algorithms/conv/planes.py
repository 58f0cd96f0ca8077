"""Contractions of few channels of x with many of w, plane by plane: the weight gradients of first layers.

Windows of an image whose three colours lie innermost are copied in runs of three. Of planes they are copied in runs of
rows, along one axis after another, so that most of the copying is of whole stretches and a program has as many slices
as a kernel has sides, not taps.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from convjax import layout
from convjax.algorithms.bands import Bands
from convjax.algorithms.conv.sides import windows_along
from convjax.algorithms.numerics import accumulator
from convjax.algorithms.products import product_work, rows_by_columns
from convjax.algorithms.protocol import Cost
from convjax.problem import ConvSpec

# Channels of x up to which planes are copied faster than pixels, and those of w from which on one product is quick.
_FEW_PLANES, _MANY_COLUMNS = 8, 16
# A band's windows stay in the cache that all cores share.
_BAND_BYTES = 2**22


def are_planes(problem: ConvSpec) -> bool:
    """Whether x has few channels that are seen through several windows, and w is read as it lies."""
    if problem.G > 1 or problem.ndim == 0 or max(problem.lhs_dilation) > 1 or layout.is_rhs_turned(problem, "CSK"):
        return False
    return problem.N <= _FEW_PLANES and problem.K >= _MANY_COLUMNS and math.prod(problem.output) > 1


def product_of_planes(problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """S G N K in the accumulator's dtype: the sum over bands of S of one product each."""
    dtype, bands = accumulator(problem), _bands(problem)
    x = layout.pad_spatial(problem, layout.arrange_lhs(problem, lhs, "GNCS")[0], first=2)
    w = layout.arrange_rhs(problem, rhs, "GCSK")[0]
    phases = [layout.every(x, -1, r, problem.rhs_dilation[-1]) for r in range(_phases(problem))]

    def add(sums: jax.Array, offsets: list[jax.Array]) -> jax.Array:
        seen = _windows(problem, phases, offsets, bands.lengths)
        part = lax.dynamic_slice(w, [0, *offsets, 0], [w.shape[0], *bands.lengths, w.shape[-1]])
        new = bands.first_seen(offsets)
        if new is not None:
            seen, part = jnp.where(new, seen, 0), jnp.where(new[..., None], part, 0)
        rows, columns = seen.reshape(1, len(sums), -1), part.reshape(1, -1, problem.K)
        return sums + rows_by_columns(problem, rows, columns, dtype)[0]

    y = bands.fold(add, jnp.zeros((math.prod(problem.output) * problem.N, problem.K), dtype))
    return y.reshape(*problem.output, 1, problem.N, problem.K)


def planes_cost(problem: ConvSpec) -> Cost:
    size, positions, bands = accumulator(problem).itemsize, math.prod(problem.output), _bands(problem).count
    x = size * problem.N * problem.C * math.prod(layout.padded_size(problem))
    windows = size * problem.N * positions * problem.C * problem.taps
    sums = size * positions * problem.N * problem.K
    copied = size * math.prod(problem.rhs_shape) if bands > 1 else 0  # a band of w at a time
    return Cost(
        gemm=product_work(problem.products, problem.N * positions, problem.K),
        bytes=problem.bytes + 4 * x + 2 * windows * (1 + 1 / problem.output[0]) + 2 * copied + 2 * bands * sums,
        workspace=x + 2 * windows / bands,
        calls=(2 + sum(problem.output)) * bands,
    )


def _phases(problem: ConvSpec) -> int:
    """Elements between a window's along rows: so many arrays have each a window's elements side by side."""
    return min(problem.rhs_dilation[-1], layout.padded_size(problem)[-1])


def _windows(
    problem: ConvSpec, phases: list[jax.Array], offsets: list[jax.Array], lengths: tuple[int, ...]
) -> jax.Array:
    """What each output sees of the band at `offsets`, from phases N C S of x: output N C S."""
    *outer, last = range(problem.ndim)
    reach = [
        (lengths[a] - 1) * problem.rhs_dilation[a] + (problem.output[a] - 1) * problem.strides[a] + 1 for a in outer
    ]
    start = [offsets[a] * problem.rhs_dilation[a] for a in outer]

    def of_rows(o: int) -> jax.Array:
        place, phase = divmod(o * problem.strides[last], problem.rhs_dilation[last])
        x = phases[phase]
        return lax.dynamic_slice(x, [0, 0, *start, offsets[last] + place], [*x.shape[:2], *reach, lengths[last]])

    seen = jnp.stack([of_rows(o) for o in range(problem.output[last])])
    for axis in reversed(outer):
        seen = windows_along(problem, seen, axis, lengths[axis], front=0)
    return seen


def _bands(problem: ConvSpec) -> Bands:
    """Rows of S at a time; the batch of a weight gradient stays together, since it may be divided among devices."""
    column = accumulator(problem).itemsize * problem.C * problem.N * math.prod(problem.output)
    return Bands.of(problem.kernel, _BAND_BYTES / column)
