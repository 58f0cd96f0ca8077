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
from convjax.algorithms.bands import Bands
from convjax.algorithms.conv.group_loops import VECTOR, channel_sums
from convjax.algorithms.conv.toom_cook import at_points, combine, inputs_at_points, of_band, powers, scales
from convjax.algorithms.fusion import to_be_written, when_needed
from convjax.algorithms.numerics import DIRECT, accumulator, rounding_error
from convjax.algorithms.products import contract, grouping_work, product_work
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.dtypes import dtype_of
from convjax.problem import ConvSpec

# Rounding error by tile and number of transformed axes, in spacings of the accumulator's floats: a part from the
# transforms, one that grows with the products summed, as for 3 taps an axis, and the power it grows with. Measured, and
# tested as a bound.
_ERROR = {(2, 1): (6.0, 0.6, 0.5), (2, 2): (8.0, 0.7, 0.5), (4, 1): (24.0, 1.2, 0.5), (4, 2): (126.0, 7.7e-6, 2.0)}

# Taps of other axes, each of which is a product written out: more compile for seconds.
_MOST_PRODUCTS = 32

# A band's transforms are to stay in cache, and to take no more memory than operands and result, but for a small band;
# the filters are read again for every band, so it has this many tiles.
_SMALL_BAND_BYTES, _BAND_BYTES = 2**21, 2**22
_BAND_TILES = 96
# What is made of fewer bytes than this is found in the last cache again, and needs no bands, unless that is many times
# what the operands and the result are.
_CACHE = 2**24
_MOST_GROWN = 2
# Channels of a group whose products are a loop, which has no bands, and bytes at the points up to which it is faster.
_NARROW, _LOOPED_BYTES = 16, 20e6
# Tiles up to which a product is faster with a kernel that lies output channels first in front of them.
_FEW_TILES = 64


@dataclasses.dataclass(frozen=True)
class Winograd:
    """F(m, r) along the last one or two axes of 2 to `tile` + 1 taps; taps of other axes are summed.

    Attributes:
        tile: outputs per tile along an axis of 3 taps, 2 or 4; an axis of r taps has m = tile + 3 - r, so that all
            take tile + 2 points. More points save more products and lose more digits.
    """

    tile: int = 4

    name: ClassVar[str] = "winograd"
    version: ClassVar[int] = 15
    exact: ClassVar[bool] = False
    varies_on: ClassVar[tuple[str, ...]] = ()
    __str__ = describe

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        reasons = []
        if not self._axes(problem):
            taps = f"2 to {self.tile + 1} taps with stride 1 and no dilation"
            reasons.append(f"no axis has {taps} (kernel {_by(problem.kernel)})")
        elif (rest := self._rest(problem)) > _MOST_PRODUCTS:
            reasons.append(f"{rest} taps of other axes: above {_MOST_PRODUCTS} products compiling takes too long")
        if not jnp.issubdtype(accumulator(problem), jnp.inexact):
            reasons.append(f"the transforms hold fractions, which {problem.lhs_dtype} has not")
        return tuple(reasons)

    def cost(self, problem: ConvSpec) -> Cost:
        m, points = self._steps(problem), self.tile + 2
        rows = self._all_tiles(problem) * points ** len(m)
        rest = self._rest(problem)
        entering, leaving = rows * problem.G * problem.C, rows * problem.G * problem.K
        moved = product_work(entering, problem.C) + product_work(leaving, problem.K)  # in runs of a group's channels
        filters = points ** len(m) * rest * problem.G * problem.C * problem.K
        size, bands = accumulator(problem).itemsize, max(1, self._bands(problem).count)
        passes = len(m)
        summed = 2 * rest * entering + 3 * (rest - 1) * leaving if rest > 1 else 0.0  # slices copied, products added
        # Only what is too large for a cache costs memory; what a band makes stays there, but slices are slow in it too.
        made = size * (entering + leaving) / bands
        stored = summed + (2 * passes * moved if made > _CACHE else 0.0)
        slower, grouping = grouping_work(problem)
        taps, products = math.prod(problem.kernel[a] for a in m), rows * rest * problem.G * problem.C * problem.K
        columns = self._all_tiles(problem) if self._turns_products(problem) else problem.K
        gemm, vector = slower * product_work(products, problem.C, columns), 2 * passes * moved
        if self._are_fused(problem):  # transforms run along all groups' channels, which stay where they are
            gemm, vector, grouping, stored = 0.0, 1.5 * passes * (entering + leaving) + 0.08 * products, 0.0, 0.0
        return Cost(
            gemm=gemm,
            vector=vector + min(4.8, 0.54 * taps) * filters,
            bytes=problem.bytes + grouping + size * stored,
            workspace=size * ((entering + leaving) / bands + filters),
            calls=(2 * passes + 2) * bands + 1,
        )

    @property
    def amplification(self) -> float:
        """By as much as its own rounding exceeds that of direct summation: the transforms do both."""
        return _ERROR[self.tile, 2][0] / DIRECT

    def error(self, problem: ConvSpec) -> float:
        """Grows with the channels summed as for 3 taps, however many a transformed axis has.

        Fewer taps and the zeros of a dilated input make outputs smaller, but not what the transforms lose.
        """
        axes = self._axes(problem)
        fixed, growing, power = _ERROR[self.tile, max(1, len(axes))]
        terms = math.prod(3 if a in axes else k for a, k in enumerate(problem.kernel)) * problem.C
        few = math.prod(3 / problem.kernel[a] for a in axes)
        spread = math.prod(problem.lhs_dilation) ** 0.5 * max(1.0, few) ** 0.25
        return rounding_error(problem, spread * (fixed + growing * terms**power), growing=0.0)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return self._convolved(problem, lhs, rhs, step=1)

    def of_reversed(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return self._convolved(problem, lhs, rhs, step=-1)

    def _convolved(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array, step: int) -> jax.Array:
        """The result for rhs read with `step` along its spatial axes."""
        dtype, m, bands = accumulator(problem), self._steps(problem), self._bands(problem)
        axes = tuple(m)
        first, (rows,) = axes[0], bands.lengths
        outputs = {a: problem.output[a] for a in axes} | {first: rows}  # of a band
        tiles = {a: -(-outputs[a] // m[a]) for a in axes}

        # Whole tiles: pad the end of each transformed axis up to m T + r - 1.
        size = [
            n + (m[a] * tiles[a] - outputs[a] if a in axes else 0) for a, n in enumerate(layout.padded_size(problem))
        ]
        fused, order, out_order = self._orders(problem)
        before, behind = order.index("S"), out_order.index("S")
        x = layout.arrange_lhs(problem, lhs, order).astype(dtype)
        x = lax.collapse(x, x.ndim - 2) if fused else x  # G N S C, or N S (G C)
        x = layout.pad_spatial(problem, x, first=before, size=size)
        u = when_needed(lhs, lambda rhs: self._filters(problem, rhs, step, dtype, axes), rhs)
        entering = m[first] * tiles[first] + problem.kernel[first] - 1

        def band(y: jax.Array, offsets: list[jax.Array]) -> jax.Array:
            (row,) = offsets
            d = lax.dynamic_slice_in_dim(x, row, entering, axis=before + first)
            points = functools.partial(self._points, m=m, tiles=tiles, before=before)
            v = of_band(self.tile, bands, points, d)
            product = self._fused_products(problem, v, u) if fused else self._products(problem, v, u, axes, out_order)
            return lax.dynamic_update_slice_in_dim(y, self._outputs(product, m, outputs, behind), row, behind + first)

        sizes = {"G": (problem.G,), "N": (problem.N,), "S": problem.output, "K": (problem.K,)}
        shape = tuple(n for letter in out_order for n in sizes[letter])
        y = to_be_written(
            (*shape[:-2], shape[-2] * shape[-1]) if fused else shape, out_order.index("N"), x, order.index("N")
        )
        y = bands.fold(band, y).reshape(shape)
        return layout.restore_out(problem, y, out_order).astype(dtype_of(problem.output_dtype))

    def _orders(self, problem: ConvSpec) -> tuple[bool, str, str]:
        """Whether the products are a loop, and the axes of inputs and results."""
        if self._are_fused(problem):
            return True, "NSGC", "NSGK"
        return False, "GNSC", "GKNS" if self._turns_products(problem) else "GNSK"

    def _turns_products(self, problem: ConvSpec) -> bool:
        """Whether the kernel stands in front: a product reads that as it lies, and brings the other in order.

        Better the tiles, if they are few.
        """
        rows = self._all_tiles(problem)
        return 0 < rows <= _FEW_TILES and rows < problem.K and layout.channel_order(problem) == "GKC"

    def _points(self, x: jax.Array, m: dict[int, int], tiles: dict[int, int], before: int) -> jax.Array:
        """B^T d of every tile: points in front of x, whose spatial axes start at `before`."""
        for i, a in enumerate(reversed(tiles)):
            axis = before + i + a  # i point axes stand in front by now
            x = at_points(inputs_at_points(self.tile), x, axis, 0, m[a], tiles[a])
        return x

    def _outputs(self, y: jax.Array, m: dict[int, int], outputs: dict[int, int], before: int) -> jax.Array:
        """A^T of every tile's products: y without the points in front; its spatial axes then start at `before`."""
        for i, a in reversed([*enumerate(outputs)]):  # the first axis first, LLVM takes six times as long
            points = [lax.index_in_dim(y, p, axis=i, keepdims=False) for p in range(self.tile + 2)]
            rows = [combine(row, points) for row in powers(self.tile, m[a]).T]
            y = _stacked(rows, i + before + 1 + a)  # behind the tiles of its axis
        for a, size in outputs.items():  # tiles and rows interleave only now: in between, XLA would compute rows twice
            y = lax.slice_in_dim(lax.collapse(y, before + a, before + 2 + a), 0, size, axis=before + a)
        return y

    def _filters(
        self, problem: ConvSpec, rhs: jax.Array, step: int, dtype: np.dtype, axes: tuple[int, ...]
    ) -> list[jax.Array]:
        """G g for every filter and tap of the other axes, as one product with the Kronecker power of G: (P.. G) C K,
        or K C as rhs has them.

        Transposing the channels of a large kernel would cost more than the products it serves.
        """
        w = layout.arrange_rhs(problem, rhs, "S" + layout.channel_order(problem)).astype(dtype)
        rest = [a for a in range(problem.ndim) if a not in axes]
        channels = w.shape[problem.ndim :]
        w = lax.transpose(w, [*rest, *axes, *range(problem.ndim, w.ndim)])
        w = w.reshape(math.prod(problem.kernel[a] for a in rest), -1, math.prod(channels))
        kron: np.ndarray = np.ones((1, 1))
        for a in axes:
            kron = np.kron(kron, scales(self.tile)[:, None] * powers(self.tile, problem.kernel[a])[:, ::step])
        # One plain product a tap: batched, XLA would turn it round and transpose the result.
        u = [jnp.dot(kron.astype(dtype), taps, precision="highest") for taps in w][::step]
        return [filters.reshape(-1, *channels[1:]) for filters in u]

    def _products(
        self, problem: ConvSpec, v: jax.Array, u: list[jax.Array], axes: tuple[int, ...], order: str
    ) -> jax.Array:
        """Sum over the taps of untransformed axes of one batched product each: points, then axes in `order`.

        Its operands have three axes: with more XLA would first transpose u for the inner axes to be contracted.
        """
        n, dtype = len(axes), accumulator(problem)
        rest = [range(k) if a not in axes else (0,) for a, k in enumerate(problem.kernel)]
        channels = layout.channel_order(problem).index("C") - 1
        terms = []
        for r, tap in enumerate(itertools.product(*rest)):
            shifted = v
            for a, t in enumerate(tap):
                if a not in axes:
                    start = t * problem.rhs_dilation[a]
                    shifted = layout.every(shifted, n + 2 + a, start, problem.strides[a], problem.output[a])
            rows = shifted.reshape(*u[r].shape[:1], -1, problem.C)
            if order == "GKNS":
                term = contract(problem, u[r], rows, dtype, (1, 1))
                terms.append(term.reshape(*shifted.shape[: n + 1], problem.K, *shifted.shape[n + 1 : -1]))
            else:
                term = contract(problem, rows, u[r], dtype, (1, channels))
                terms.append(term.reshape(*shifted.shape[:-1], problem.K))
        return functools.reduce(jnp.add, terms)

    def _are_fused(self, problem: ConvSpec) -> bool:
        """Whether the products are a loop: of groups of few channels, all of whose taps are transformed."""
        m = self._steps(problem)
        others = ((k, s) for a, (k, s) in enumerate(zip(problem.kernel, problem.strides, strict=True)) if a not in m)
        narrow = problem.G > 1 and 1 < problem.C <= _NARROW and VECTOR <= problem.K <= _NARROW
        if not narrow or problem.empty or any((k, s) != (1, 1) for k, s in others):
            return False
        return self._all_tiles(problem) * self._tile_bytes(problem) <= _LOOPED_BYTES

    def _fused_products(self, problem: ConvSpec, v: jax.Array, u: list[jax.Array]) -> jax.Array:
        """P.. N S (G K), from P.. N S (G C), each output the sum of a group's products."""
        (filters,) = u
        filters = filters.reshape(-1, problem.G, *filters.shape[1:])
        if layout.channel_order(problem) == "GKC":
            filters = filters.swapaxes(2, 3)  # P G C K, so that a vector of K lies together
        *lead, _ = v.shape
        y = channel_sums(v.reshape(len(filters), -1, v.shape[-1]), filters)
        return y.reshape(*lead, problem.G * problem.K)

    def _axes(self, problem: ConvSpec) -> tuple[int, ...]:
        """The axes to transform: the last two, at most, with as few undilated taps at stride 1."""
        steps = zip(problem.kernel, problem.strides, problem.rhs_dilation, strict=True)
        return tuple(a for a, (k, s, d) in enumerate(steps) if 2 <= k <= self.tile + 1 and s == d == 1)[-2:]

    def _rest(self, problem: ConvSpec) -> int:
        """Taps of the axes that are not transformed."""
        axes = self._axes(problem)
        return math.prod(k for a, k in enumerate(problem.kernel) if a not in axes)

    def _steps(self, problem: ConvSpec) -> dict[int, int]:
        """m, the outputs of a tile, along every axis to transform."""
        return {a: self.tile + 3 - problem.kernel[a] for a in self._axes(problem)}

    def _tiles(self, problem: ConvSpec) -> list[int]:
        """Tiles along every axis, of one output where it is not transformed."""
        m = self._steps(problem)
        return [-(-o // m.get(a, 1)) for a, o in enumerate(problem.output)]

    def _all_tiles(self, problem: ConvSpec) -> int:
        """Tiles of the whole batch."""
        return problem.N * math.prod(self._tiles(problem))

    def _tile_bytes(self, problem: ConvSpec) -> int:
        """Bytes of a tile and of its outputs at the points."""
        values = (self.tile + 2) ** len(self._axes(problem)) * problem.G * (problem.C + problem.K)
        return max(1, values * accumulator(problem).itemsize)

    def _bands(self, problem: ConvSpec) -> Bands:
        """Outputs along the first transformed axis to do at a time.

        Members of the batch stay together: where they are divided among devices, a loop over them would gather them.
        """
        m = self._steps(problem)
        first, *_ = m
        tiles, tile = self._tiles(problem), self._tile_bytes(problem)
        row = problem.N * math.prod(t for a, t in enumerate(tiles) if a != first)  # tiles of one row of tiles
        whole = all(a in m for a, k in enumerate(problem.kernel) if k > 1)  # else slices are made of all tiles besides
        grown = min(_CACHE, _MOST_GROWN * problem.bytes)
        if self._are_fused(problem) or (whole and row * tiles[first] * tile <= grown):
            return Bands((problem.output[first],), (problem.output[first],))
        held = min(_BAND_BYTES, max(_SMALL_BAND_BYTES, problem.bytes))
        wanted = max(_BAND_TILES, held / tile) / max(1, row)
        (rows,) = Bands.of(tiles[first : first + 1], wanted).lengths
        size = problem.output[first]
        return Bands((size,), (max(1, min(rows * m[first], size)),))


def _stacked(rows: list[jax.Array], axis: int) -> jax.Array:
    """Rows side by side. jaxlib 0.10.1 mixes up sums of 8 bytes that are put side by side along an inner axis."""
    return jnp.stack(rows, axis) if rows[0].dtype.itemsize < 8 else jnp.moveaxis(jnp.stack(rows), 0, axis)


def _by(values: tuple[int, ...]) -> str:
    return "x".join(map(str, values))
