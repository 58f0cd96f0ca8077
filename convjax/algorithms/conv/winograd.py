"""Winograd's minimal filtering F(m, 3): m outputs of a 3-tap kernel from m + 2 products instead of 3m.

S. Winograd, Arithmetic Complexity of Computations, 1980; A. Lavin and S. Gray, Fast Algorithms for
Convolutional Neural Networks, arXiv:1509.09308, equation 8: Y = A^T [(G g) * (B^T d)] for each tile d.
"""

import dataclasses
import functools
import itertools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import layout
from convjax.algorithms.numerics import accumulator, rounding_error
from convjax.algorithms.products import product_work
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.dtypes import dtype_of
from convjax.problem import ConvSpec

# The transforms of Lavin and Gray, section 4. Points 0, 1, -1, infinity; for F(4) also 2, -2.
_TRANSFORMS = {
    2: {
        "B": [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        "G": [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
        "A": [[1, 1, 1, 0], [0, 1, -1, -1]],
    },
    4: {
        "B": [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        "G": [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ],
        "A": [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    },
}

# Rounding error by tile and number of transformed axes, in spacings of the accumulator's floats: a part from the
# transforms, and one that grows with the square root of the products summed. Measured, and tested as a bound.
_ERROR = {(2, 1): (6.0, 0.6), (2, 2): (8.0, 0.7), (4, 1): (24.0, 1.2), (4, 2): (60.0, 2.0)}


@dataclasses.dataclass(frozen=True)
class Winograd:
    """F(tile, 3) along the last one or two axes that have 3 taps; taps of other axes are summed.

    Attributes:
        tile: outputs per tile and axis, 2 or 4. Larger tiles save more products and lose more digits.
    """

    tile: int = 4

    name: ClassVar[str] = "winograd"
    version: ClassVar[int] = 2
    exact: ClassVar[bool] = False
    __str__ = describe

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        reasons = []
        if not _axes(problem):
            reasons.append(f"no axis has 3 taps with stride 1 and no dilation (kernel {_by(problem.kernel)})")
        if not jnp.issubdtype(accumulator(problem), jnp.inexact):
            reasons.append(f"the transforms hold fractions, which {problem.lhs_dtype} has not")
        return tuple(reasons)

    def cost(self, problem: ConvSpec) -> Cost:
        axes, points = _axes(problem), self.tile + 2
        tiles = [-(-o // self.tile) if a in axes else o for a, o in enumerate(problem.output)]
        rows = problem.N * math.prod(tiles) * points ** len(axes)
        rest = math.prod(k for a, k in enumerate(problem.kernel) if a not in axes)
        entering, leaving = rows * problem.G * problem.C, rows * problem.G * problem.K
        moved = product_work(entering, problem.G * problem.C) + product_work(leaving, problem.G * problem.K)
        filters = points ** len(axes) * rest * problem.G * problem.C * problem.K
        size = accumulator(problem).itemsize
        passes = len(axes)
        return Cost(
            gemm=product_work(rows * rest * problem.G * problem.C * problem.K, problem.C, problem.K),
            vector=passes * points * moved / 2 + 6 * filters,
            bytes=problem.bytes + 2 * passes * size * moved,
            workspace=size * (entering + leaving + filters),
            calls=2 * passes + 3,
        )

    def error(self, problem: ConvSpec) -> float:
        fixed, growing = _ERROR[self.tile, max(1, len(_axes(problem)))]
        return rounding_error(problem, fixed, growing)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        dtype, m = accumulator(problem), self.tile
        axes = _axes(problem)
        B, A = (np.asarray(_TRANSFORMS[m][name], np.float64) for name in "BA")
        tiles = {a: -(-problem.output[a] // m) for a in axes}

        # Whole tiles: pad the end of each transformed axis up to m T + 2.
        padding = tuple(
            (lo, hi + (m * tiles[a] - problem.output[a] if a in axes else 0))
            for a, (lo, hi) in enumerate(problem.padding)
        )
        x = layout.arrange_lhs(problem, lhs, "GNSC").astype(dtype)
        v = layout.pad_spatial(problem, x, first=2, padding=padding)  # G N S C
        for i, a in enumerate(reversed(axes)):
            axis = 2 + i + a  # i point axes stand in front by now
            points = [_every(v, axis, p, m, tiles[a]) for p in range(m + 2)]
            v = jnp.stack([_combine(row, points) for row in B])  # P .. G N S C

        u = self._filters(problem, rhs, dtype, axes)  # P.. and G C K in rhs's own order, with P as v has them
        product = self._products(problem, v, u, axes)  # P.. G N S K

        y = product
        for a in axes:
            rows = [_combine(row, list(y)) for row in A]  # m of P.. G N S K
            y = jnp.stack(rows, axis=len(axes) + 2 + a)  # behind the tiles of its axis
        for a in axes:  # tiles and rows interleave into each axis, only now: in between, XLA would compute rows twice
            y = lax.slice_in_dim(lax.collapse(y, 2 + a, 4 + a), 0, problem.output[a], axis=2 + a)
        return layout.restore_out(problem, y, "GNSK").astype(dtype_of(problem.output_dtype))

    def _filters(self, problem: ConvSpec, rhs: jax.Array, dtype: np.dtype, axes: tuple[int, ...]) -> list[jax.Array]:
        """G g for every filter and tap of the other axes, as one product with the Kronecker power of G: P.. G C K, or
        G K C as rhs has them.

        Transposing the channels of a large kernel would cost more than the products it serves.
        """
        w = layout.arrange_rhs(problem, rhs, "S" + _channel_order(problem)).astype(dtype)
        rest = [a for a in range(problem.ndim) if a not in axes]
        channels = w.shape[problem.ndim :]
        w = lax.transpose(w, [*rest, *axes, *range(problem.ndim, w.ndim)])
        w = w.reshape(math.prod(problem.kernel[a] for a in rest), 3 ** len(axes), math.prod(channels))
        G = np.asarray(_TRANSFORMS[self.tile]["G"], np.float64)
        kron: np.ndarray = np.ones((1, 1))
        for _ in axes:
            kron = np.kron(kron, G)
        # One plain product a tap: batched, XLA would turn it round and transpose the result.
        u = [jnp.dot(kron.astype(dtype), taps, precision="highest") for taps in w]
        return [filters.reshape(*[self.tile + 2] * len(axes), *channels) for filters in u]

    def _products(self, problem: ConvSpec, v: jax.Array, u: list[jax.Array], axes: tuple[int, ...]) -> jax.Array:
        """Sum over the taps of untransformed axes of one batched product each."""
        n = len(axes)
        rest = [range(k) if a not in axes else (0,) for a, k in enumerate(problem.kernel)]
        inputs = n + _channel_order(problem).index("C")
        batch = tuple(range(n + 1))
        terms = []
        for r, tap in enumerate(itertools.product(*rest)):
            shifted = v
            for a, t in enumerate(tap):
                if a not in axes:
                    start = t * problem.rhs_dilation[a]
                    shifted = _every(shifted, n + 2 + a, start, problem.strides[a], problem.output[a])
            dims = (((v.ndim - 1,), (inputs,)), (batch, batch))
            terms.append(lax.dot_general(shifted, u[r], dims, precision=problem.precision))  # P.. G N S K
        return functools.reduce(jnp.add, terms)


def _channel_order(problem: ConvSpec) -> str:
    """The order of groups and channels that rhs has already."""
    out_feature, in_feature, *_ = problem.dimension_numbers[1]
    return "GKC" if out_feature < in_feature else "GCK"


def _axes(problem: ConvSpec) -> tuple[int, ...]:
    """The axes to transform: the last two, at most, with 3 undilated taps at stride 1."""
    return tuple(
        a
        for a in range(problem.ndim)
        if problem.kernel[a] == 3 and problem.strides[a] == 1 and problem.rhs_dilation[a] == 1
    )[-2:]


def _every(x: jax.Array, axis: int, start: int, stride: int, count: int) -> jax.Array:
    return lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis)


def _combine(row: np.ndarray, terms: list[jax.Array]) -> jax.Array:
    """The sum of row[i] terms[i]; a coefficient of 1 or -1 costs no multiplication."""
    scaled = [
        term if c == 1 else -term if c == -1 else term * np.asarray(c, term.dtype)
        for c, term in zip(row, terms, strict=True)
        if c
    ]
    return functools.reduce(jnp.add, scaled)


def _by(values: tuple[int, ...]) -> str:
    return "x".join(map(str, values))
