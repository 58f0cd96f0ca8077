"""Winograd's minimal filtering F(m, r): m outputs of an r-tap kernel from m + r - 1 products instead of m r.

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

# Toom and Cook's interpolation by tile: m outputs of r taps are products of polynomials at tile + 2 = m + r - 1 points,
# the last of which is infinity. B depends on the points alone; G and A hold their powers, so every r shares B.
_POINTS = {2: (0, 1, -1), 4: (0, 1, -1, 2, -2)}
_SCALES = {2: (1, 1 / 2, 1 / 2), 4: (1 / 4, -1 / 6, -1 / 6, 1 / 24, 1 / 24)}
_B = {
    2: np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]], np.float64),
    4: np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        np.float64,
    ),
}

# Rounding error by tile and number of transformed axes, in spacings of the accumulator's floats: a part from the
# transforms, and one that grows with the square root of the products summed. Measured, and tested as a bound.
_ERROR = {(2, 1): (6.0, 0.6), (2, 2): (8.0, 0.7), (4, 1): (24.0, 1.2), (4, 2): (60.0, 2.0)}


@dataclasses.dataclass(frozen=True)
class Winograd:
    """F(m, r) along the last one or two axes of 2 to `tile` + 1 taps; taps of other axes are summed.

    Attributes:
        tile: outputs per tile along an axis of 3 taps, 2 or 4; an axis of r taps has m = tile + 3 - r, so that all
            take tile + 2 points. More points save more products and lose more digits.
    """

    tile: int = 4

    name: ClassVar[str] = "winograd"
    version: ClassVar[int] = 3
    exact: ClassVar[bool] = False
    varies_on: ClassVar[tuple[str, ...]] = ()
    __str__ = describe

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        reasons = []
        if not self._axes(problem):
            taps = f"2 to {self.tile + 1} taps with stride 1 and no dilation"
            reasons.append(f"no axis has {taps} (kernel {_by(problem.kernel)})")
        if not jnp.issubdtype(accumulator(problem), jnp.inexact):
            reasons.append(f"the transforms hold fractions, which {problem.lhs_dtype} has not")
        return tuple(reasons)

    def cost(self, problem: ConvSpec) -> Cost:
        axes, points = self._axes(problem), self.tile + 2
        tiles = [-(-o // self._outputs(problem, a)) if a in axes else o for a, o in enumerate(problem.output)]
        rows = problem.N * math.prod(tiles) * points ** len(axes)
        rest = math.prod(k for a, k in enumerate(problem.kernel) if a not in axes)
        entering, leaving = rows * problem.G * problem.C, rows * problem.G * problem.K
        moved = product_work(entering, problem.G * problem.C) + product_work(leaving, problem.G * problem.K)
        filters = points ** len(axes) * rest * problem.G * problem.C * problem.K
        size = accumulator(problem).itemsize
        passes = len(axes)
        summed = 2 * rest * entering + 3 * (rest - 1) * leaving if rest > 1 else 0.0  # slices copied, products added
        return Cost(
            gemm=product_work(rows * rest * problem.G * problem.C * problem.K, problem.C, problem.K),
            vector=passes * points * moved / 2 + 6 * filters,
            bytes=problem.bytes + size * (2 * passes * moved + summed),
            workspace=size * (entering + leaving + filters),
            calls=2 * passes + 3,
        )

    def error(self, problem: ConvSpec) -> float:
        """Grows with the channels summed as for 3 taps, however many a transformed axis has."""
        axes = self._axes(problem)
        fixed, growing = _ERROR[self.tile, max(1, len(axes))]
        taps = math.prod(problem.kernel[a] for a in axes)
        return rounding_error(problem, fixed, growing * (3 ** len(axes) / taps) ** 0.5)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        dtype, axes = accumulator(problem), self._axes(problem)
        m = {a: self._outputs(problem, a) for a in axes}
        tiles = {a: -(-problem.output[a] // m[a]) for a in axes}

        # Whole tiles: pad the end of each transformed axis up to m T + r - 1.
        padding = tuple(
            (lo, hi + (m[a] * tiles[a] - problem.output[a] if a in axes else 0))
            for a, (lo, hi) in enumerate(problem.padding)
        )
        x = layout.arrange_lhs(problem, lhs, "GNSC").astype(dtype)
        v = layout.pad_spatial(problem, x, first=2, padding=padding)  # G N S C
        for i, a in enumerate(reversed(axes)):
            axis = 2 + i + a  # i point axes stand in front by now
            points = [_every(v, axis, p, m[a], tiles[a]) for p in range(self.tile + 2)]
            v = jnp.stack([_combine(row, points) for row in _B[self.tile]])  # P .. G N S C

        u = self._filters(problem, rhs, dtype, axes)  # P.. and G C K in rhs's own order, with P as v has them
        product = self._products(problem, v, u, axes)  # P.. G N S K

        y = product
        for a in axes:
            rows = [_combine(row, list(y)) for row in _outputs_from_points(self.tile, m[a])]  # m of P.. G N S K
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
        w = w.reshape(math.prod(problem.kernel[a] for a in rest), -1, math.prod(channels))
        kron: np.ndarray = np.ones((1, 1))
        for a in axes:
            kron = np.kron(kron, _filter_at_points(self.tile, problem.kernel[a]))
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

    def _axes(self, problem: ConvSpec) -> tuple[int, ...]:
        """The axes to transform: the last two, at most, with as few undilated taps at stride 1."""
        steps = zip(problem.kernel, problem.strides, problem.rhs_dilation, strict=True)
        return tuple(a for a, (k, s, d) in enumerate(steps) if 2 <= k <= self.tile + 1 and s == d == 1)[-2:]

    def _outputs(self, problem: ConvSpec, axis: int) -> int:
        """Outputs per tile along a transformed axis."""
        return self.tile + 3 - problem.kernel[axis]


def _filter_at_points(tile: int, taps: int) -> np.ndarray:
    """G: the filter's polynomial at every point, divided by the point's distances to the others."""
    finite = [
        [scale * point**t for t in range(taps)] for point, scale in zip(_POINTS[tile], _SCALES[tile], strict=True)
    ]
    return np.array([*finite, [0.0] * (taps - 1) + [1.0]])


def _outputs_from_points(tile: int, outputs: int) -> np.ndarray:
    """A^T: the powers of every point; infinity adds to the last output alone."""
    last = [0] * (outputs - 1) + [1]
    return np.array([[*(point**j for point in _POINTS[tile]), last[j]] for j in range(outputs)], np.float64)


def _channel_order(problem: ConvSpec) -> str:
    """The order of groups and channels that rhs has already."""
    out_feature, in_feature, *_ = problem.dimension_numbers[1]
    return "GKC" if out_feature < in_feature else "GCK"


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
