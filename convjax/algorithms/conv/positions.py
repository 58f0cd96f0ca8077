"""One contraction per output position: for the few outputs and huge kernels that weight gradients are.

The gradient of w in y = conv(x, w) is itself a convolution, of x by the cotangent, whose "kernel" is as
large as the output map and whose output has as many positions as w has taps. Each of them is

y[n, o, g, k] = sum over t, c of x[n, o s + t d, g, c] w[t, g, c, k]
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import layout
from convjax.algorithms.bands import Bands
from convjax.algorithms.conv.position_sums import (
    is_looped,
    passes_over_operands,
    position_sums,
    stretch_length,
    sum_together,
)
from convjax.algorithms.numerics import accumulator, direct_error
from convjax.algorithms.products import columns_by_columns, grouping_work, product_work
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.dtypes import dtype_of
from convjax.problem import ConvSpec

# Output positions written out, by kind of contraction; more compile too slowly.
_MOST_POSITIONS = {"reduce": 64, "dot": 128}
# Running sums that one variadic reduce keeps; more spill out of registers and compile slowly.
_MOST_SUMS = 64
# A band's patches are to stay in cache, but the sums are read and written for every band, so it has this many rows.
_BAND_BYTES = 2**20
_BAND_ROWS = 256
# Columns of a product over joined groups: narrower ones are hardly faster.
_JOINED_COLUMNS = 16
# Sums that are worth making row by row, and the length of such a row.
_MOST_ROW_SUMS = 16
_LONG_ROW = 32


@dataclasses.dataclass(frozen=True)
class Positions:
    """All taps and channels of one output position contracted at once.

    Attributes:
        by: "reduce" for few channels a group (depthwise): a variadic reduction holds the running sums of many
            positions, so that x and w are read few times; "dot" for many: one matrix product a position.
    """

    by: Literal["reduce", "dot"] = "dot"

    name: ClassVar[str] = "positions"
    version: ClassVar[int] = 3
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = ()
    __str__ = describe

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        reasons = []
        positions = math.prod(problem.output)
        if problem.empty:
            reasons.append("there is nothing to contract: an operand or the output is empty")
        most = _MOST_POSITIONS[self.by]
        if positions > most:
            reasons.append(f"{positions} output positions, more than {most}: it writes out one contraction each")
        if self.by == "reduce" and problem.N * problem.K > _MOST_SUMS:
            reasons.append(f"{problem.N} x {problem.K} outputs a position and group are a matrix product: by='dot'")
        return tuple(reasons)

    def cost(self, problem: ConvSpec) -> Cost:
        size, positions = accumulator(problem).itemsize, math.prod(problem.output)
        sliced = problem.G * problem.C * problem.N * problem.taps
        padded = 2 * size * math.prod(problem.lhs_shape) if any(map(any, problem.padding)) else 0
        if self.by == "reduce" and _by_stretches(problem):
            count, partial = passes_over_operands(problem), size * positions * sliced / stretch_length(problem)
            return Cost(
                vector=0.2 * problem.products,
                bytes=(0.7 + 0.3 * count) * problem.bytes + padded + 2 * partial,  # later passes find much in cache
                workspace=padded / 2 + partial,
                calls=2 + 2 * count,
            )
        if self.by == "reduce":
            passes = -(-positions * problem.N * problem.K // _MOST_SUMS)
            # Along rows alone XLA reads columns, and misses the cache at every step.
            work = 6 if problem.ndim == 1 else 3
            return Cost(
                vector=work * problem.products,
                bytes=passes * problem.bytes + padded,
                workspace=padded / 2,
                calls=1 + passes + 0.01 * problem.G * positions * problem.N * problem.K,  # every sum is begun and ended
            )
        bands, joined = _bands(problem).count, _joined(problem)
        slower, grouping = grouping_work(problem)
        # Patches are copied in runs of N, far from the speed of a plain copy; each band reads and writes the sums.
        patches = 7 * max(1.0, 6 / (joined * problem.N)) * size * positions * sliced
        sums = size * problem.G * positions * problem.N * problem.K
        multiplied = joined * product_work(problem.products, positions * joined * problem.N, joined * problem.K)
        return Cost(
            gemm=1.25 * slower * multiplied,  # rows are contracted, which a product must transpose on its way
            bytes=problem.bytes + grouping + padded + patches + 2 * bands * sums,
            workspace=padded / 2 + size * positions * sliced / bands,
            calls=4 * bands,
        )

    def error(self, problem: ConvSpec) -> float:
        return direct_error(problem)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        dtype = accumulator(problem)
        x = layout.pad_spatial(problem, layout.arrange_lhs(problem, lhs, "CSGN"), first=1)
        w = layout.arrange_rhs(problem, rhs, "CSGK")
        y = (_reduce if self.by == "reduce" else _dot)(problem, x, w, dtype)  # positions G N K
        y = y.reshape(*problem.output, problem.G, problem.N, problem.K)
        return layout.restore_out(problem, y, "SGNK").astype(dtype_of(problem.output_dtype))


def _windows(
    problem: ConvSpec, x: jax.Array, first: int, taps: Sequence[int], output: Sequence[int]
) -> list[jax.Array]:
    """What every position of `output` sees of x, whose spatial axes start at `first`, through the first `taps`."""
    return [
        layout.window_slice(
            x, first, [o * s for o, s in zip(position, problem.strides, strict=True)], taps, problem.rhs_dilation
        )
        for position in np.ndindex(*output)
    ]


def _dot(problem: ConvSpec, x: jax.Array, w: jax.Array, dtype: np.dtype) -> jax.Array:
    """The sum over bands of S of one product each, of the windows of all positions side by side."""
    bands, positions, joined = _bands(problem), math.prod(problem.output), _joined(problem)
    x, w = (a.reshape(*a.shape[:-2], problem.G // joined, -1) for a in (x, w))  # C S G (joined N), C S G (joined K)
    lengths = bands.lengths  # S
    entering = [
        (t - 1) * d + (o - 1) * s + 1
        for t, d, o, s in zip(lengths, problem.rhs_dilation, problem.output, problem.strides, strict=True)
    ]

    def add(sums: jax.Array, offsets: list[jax.Array]) -> jax.Array:
        first = [t * d for t, d in zip(offsets, problem.rhs_dilation, strict=True)]
        x_band = lax.dynamic_slice(x, [0, *first, 0, 0], (problem.C, *entering, *x.shape[-2:]))
        w_band = lax.dynamic_slice(w, [0, *offsets, 0, 0], (problem.C, *lengths, *w.shape[-2:]))
        x_band, w_band = (jnp.moveaxis(a, -2, 0) for a in (x_band, w_band))  # G C S ..
        patches = jnp.concatenate(_windows(problem, x_band, 2, lengths, problem.output), axis=-1)  # G C S (positions N)
        new = bands.first_seen(offsets)
        if new is not None:
            patches, w_band = (jnp.where(new[..., None], a, 0) for a in (patches, w_band))
        return sums + columns_by_columns(problem, patches, w_band, dtype)

    y = bands.fold(add, jnp.zeros((problem.G // joined, positions * joined * problem.N, joined * problem.K), dtype))
    y = y.reshape(problem.G // joined, positions, joined, problem.N, joined, problem.K)
    y = jnp.stack([y[:, :, i, :, i] for i in range(joined)], axis=2)  # what crosses groups is not asked for
    return y.swapaxes(0, 1)  # positions G joined N K


def _joined(problem: ConvSpec) -> int:
    """How many groups enter one product, which takes as long for fewer."""
    most = max(1, _JOINED_COLUMNS // max(problem.N, problem.K, 1))
    return max(j for j in range(1, most + 1) if problem.G % j == 0)


def _bands(problem: ConvSpec) -> Bands:
    """Taps to contract at a time.

    Input channels, the batch of a weight gradient, stay together: where they are divided among devices, a loop over
    them would gather them.
    """
    row = accumulator(problem).itemsize * problem.G * problem.N * math.prod(problem.output)  # bytes of patches
    return Bands.of(problem.kernel, max(_BAND_ROWS, _BAND_BYTES / row) / problem.C)


def _reduce(problem: ConvSpec, x: jax.Array, w: jax.Array, dtype: np.dtype) -> jax.Array:
    """Sums of each window's x[.., n] * w over C and S, for every position and n."""
    x, w = x.astype(dtype), w.astype(dtype)
    if _by_stretches(problem):
        return _sums_by_stretches(problem, x[..., 0], w[..., 0])[..., None, None]
    windows = _windows(problem, x, 1, problem.kernel, problem.output)
    products = [a[..., n, None] * w for a in windows for n in range(problem.N)]  # each C S G K
    sums: list[jax.Array] = []
    step = max(1, _MOST_SUMS // problem.K)
    for i in range(0, len(products), step):
        sums += _sum_rows(problem, products[i : i + step])
    return jnp.stack(sums).reshape(len(windows), problem.N, problem.G, problem.K).swapaxes(1, 2)


def _sums_by_stretches(problem: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """C S G by C S G: positions G."""
    length = stretch_length(problem)
    if not is_looped(problem):
        return position_sums(_windows(problem, x, 1, problem.kernel, problem.output), w, length)
    reach = (problem.kernel[0] - 1) * problem.rhs_dilation[0] + 1

    def along(o: jax.Array) -> jax.Array:
        """The positions whose first coordinate is `o`."""
        band = lax.dynamic_slice_in_dim(x, o * problem.strides[0], reach, axis=1)
        return position_sums(_windows(problem, band, 1, problem.kernel, (1, *problem.output[1:])), w, length)

    y = lax.map(along, jnp.arange(problem.output[0]))
    return y.reshape(-1, problem.G)


def _by_stretches(problem: ConvSpec) -> bool:
    return problem.N * problem.K == 1 and problem.ndim > 0


def _sum_rows(problem: ConvSpec, products: list[jax.Array]) -> list[jax.Array]:
    """Each product summed over C and S.

    XLA shares a reduction out to threads by its results, so few long sums are first made along rows alone, with
    a result for every row, and the rows are added afterwards.
    """
    axes = tuple(range(1 + problem.ndim))
    if len(products) > _MOST_ROW_SUMS or problem.ndim == 0 or problem.kernel[-1] < _LONG_ROW:
        return sum_together(products, axes)
    return sum_together(sum_together(products, axes[-1:]), axes[:-1])
