"""Winograd's minimal filtering by blocks of taps: for the few outputs and huge kernels that weight gradients are.

Outputs along an axis are cut into tiles of m, taps into blocks of r. A tile is a sum over blocks b of F(m, r) each,

y = sum over b of A^T [(G w_b) * (B^T x_b)] = A^T sum over b of (G w_b) * (B^T x_b)

so products are summed over blocks and channels at the points, and A^T is applied once, to the sums.
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
from convjax.algorithms.bands import KEPT_BYTES, Bands, admitted_workspace
from convjax.algorithms.conv.group_loops import LEAST_CHANNELS, can_sum_places, place_sums, terms_of_turn
from convjax.algorithms.conv.toom_cook import at_points, inputs_at_points, of_band, powers, scales
from convjax.algorithms.numerics import DIRECT, accumulator, rounding_error
from convjax.algorithms.products import contract, grouping_work, product_work
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.dtypes import dtype_of
from convjax.problem import ConvSpec

# Outputs along a transformed axis, and products written out, one for every tile of outputs; more compile too slowly.
_MOST_OUTPUTS = 16
_MOST_PRODUCTS = 36
# Rounding error by tile and number of transformed axes, in spacings of the accumulator's floats. Measured, and tested
# as a bound.
_ERROR = {(2, 1): 20.0, (2, 2): 40.0, (4, 1): 60.0, (4, 2): 160.0}

# A band's transforms are to stay in cache, but the sums are read and written for every band, so it has this many rows.
_BAND_BYTES = 2**22
_BAND_ROWS = 112
# What a band makes beyond this is written and read back.
_CACHE = 9e6
# Multiply-adds of a product that take as long as beginning and ending one of its sums.
_BEGUN = 16
# Channels of a group up to which its products are a loop, and bytes of a band's transforms then, few enough for memory
# that is there already.
_MOST_CHANNELS, _LOOPED_BYTES = 16, 2**23
# Bytes of a band's transforms as a multiple of the operands and the result.
_MOST_GROWN = 2


@dataclasses.dataclass(frozen=True)
class WinogradTaps:
    """F(m, r) along the last one or two axes that have few outputs; outputs along other axes are done in turn.

    Attributes:
        tile: two less than the points of an axis, 2 or 4: 3 outputs take blocks of `tile` taps. More points save more
            products and lose more digits.
    """

    tile: int = 4

    name: ClassVar[str] = "winograd_taps"
    version: ClassVar[int] = 8
    exact: ClassVar[bool] = False
    varies_on: ClassVar[tuple[str, ...]] = ()
    __str__ = describe

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        reasons = []
        cuts, products = self._cuts(problem), self._products(problem)
        if problem.empty:
            reasons.append("there is nothing to contract: an operand or the output is empty")
        if not cuts:
            outputs = f"2 to {_MOST_OUTPUTS} outputs with stride 1 and no dilation"
            reasons.append(f"no axis has {outputs} (output {'x'.join(map(str, problem.output))})")
        elif products > _MOST_PRODUCTS:
            reasons.append(f"{products} tiles of outputs, more than {_MOST_PRODUCTS}: it writes out one product each")
        if not jnp.issubdtype(accumulator(problem), jnp.inexact):
            reasons.append(f"the transforms hold fractions, which {problem.lhs_dtype} has not")
        return tuple(reasons)

    def cost(self, problem: ConvSpec) -> Cost:
        cuts, size, products = self._cuts(problem), accumulator(problem).itemsize, self._products(problem)
        passes, points = len(cuts), (self.tile + 2) ** len(cuts)
        tiles = math.prod(cut.tiles for cut in cuts.values())
        bands = self._bands(problem)
        rows = bands.overlap * points * problem.G * problem.C * math.prod(self._blocks(problem))
        entering = rows * (problem.N * tiles + problem.K)
        sums = self._sums(problem)
        turns = max(1, bands.count)
        _, grouping = grouping_work(problem)
        # Products of groups read rows of x as they lie, which transforms are slower to make.
        slower, turned, passing = (1.5, 3, 2.0) if problem.G > 1 else (1.0, 1, 1.25 * _few_lanes(problem))
        copied = self._copied(problem)
        stored = 2 * size * entering if size * entering / turns > _CACHE else 0.0
        # The faults of fresh pages cost five times as much as writing them.
        passed = 2 * turns + (2 if turns > 1 else 0) + (10 if size * sums >= KEPT_BYTES else 0)
        multiplied = rows * products * problem.N * problem.K
        gemm = slower * product_work(multiplied + _BEGUN * turns * sums, problem.N, problem.K)
        # A loop over stretches of a line takes each from within it, which is not vectorised.
        looped = 2 if problem.ndim == 1 and turns > 1 else 1
        # A product transposes its rows of x.
        vector = passing * looped * passes * entering + turned * rows * products * problem.N
        if self._are_fused(problem):  # nothing is transposed, and groups stay where they are
            gemm, vector, grouping = 0.0, passes * entering + 0.2 * multiplied, 0.0
            stored = 2 * size * multiplied / terms_of_turn(self._looped_places(problem))
        return Cost(
            gemm=gemm,
            vector=vector,
            bytes=problem.bytes + grouping + 2 * copied + stored + size * passed * sums,
            workspace=size * (entering / turns + sums) + copied,
            calls=((tiles + 1) * passes + products + 3) * turns + 2,
        )

    @property
    def amplification(self) -> float:
        """By as much as its own rounding exceeds that of direct summation: the transforms do both."""
        return _ERROR[self.tile, 2] / DIRECT

    def gathers(self, problem: ConvSpec) -> bool:
        return not problem.has_few_outputs

    def error(self, problem: ConvSpec) -> float:
        """Does not grow with the products summed: they are summed by bands, and their errors' signs are random."""
        spread = math.prod(problem.lhs_dilation) ** 0.5  # zeros make outputs smaller, but not what the transforms lose
        return rounding_error(problem, spread * _ERROR[self.tile, len(self._cuts(problem))], growing=0.0)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        dtype, cuts, bands = accumulator(problem), self._cuts(problem), self._bands(problem)
        first, (length,) = next(iter(cuts)), bands.lengths
        step, m = cuts[first].taps, cuts[first].outputs

        # Whole blocks and tiles: zeros behind the last taps, and what they and the outputs beyond the last meet of x.
        over = [cuts[a].taps * cuts[a].blocks - k if a in cuts else 0 for a, k in enumerate(problem.kernel)]
        fused, (before, order) = self._are_fused(problem), self._order(problem)
        w = layout.arrange_rhs(problem, rhs, "CSGK" if fused else "GCSK")
        w = lax.collapse(w, w.ndim - 2) if fused else w  # G C S K, or C S (G K)
        ahead = w.ndim - 1 - problem.ndim
        w = layout.pad(w, [*[(0, 0)] * ahead, *((0, n) for n in over), (0, 0)], [0] * w.ndim)
        over = [
            n + (cuts[a].outputs * cuts[a].tiles - problem.output[a] if a in cuts else 0) for a, n in enumerate(over)
        ]
        size = [n + more for n, more in zip(layout.padded_size(problem), over, strict=True)]
        x = layout.arrange_lhs(problem, lhs, order)
        x = lax.collapse(x, x.ndim - 2) if fused else x
        x = layout.pad_spatial(problem, x, first=before, size=size)

        def add(sums: jax.Array, offsets: list[jax.Array]) -> jax.Array:
            (block,) = offsets
            entering = step * length + m * cuts[first].tiles - 1
            x_band = lax.dynamic_slice_in_dim(x, block * step, entering, axis=before + first).astype(dtype)
            w_band = lax.dynamic_slice_in_dim(w, block * step, length * step, axis=ahead + first).astype(dtype)
            new = bands.first_seen(offsets)
            if new is not None:
                new = jnp.repeat(new, step).reshape([-1 if a == first else 1 for a in range(-ahead, problem.ndim + 1)])
                w_band = jnp.where(new, w_band, 0)
            product = functools.partial(self._band, problem, length=length)
            return sums + of_band(self.tile, bands, product, x_band, w_band)

        points = (self.tile + 2) ** len(cuts)
        sums = bands.fold(add, jnp.zeros((self._products(problem), points * problem.G, problem.N, problem.K), dtype))
        return layout.restore_out(problem, self._outputs(problem, sums), "SGNK").astype(dtype_of(problem.output_dtype))

    def _band(self, problem: ConvSpec, x: jax.Array, w: jax.Array, length: int) -> jax.Array:
        """x times w at the points, summed over C and blocks: tiles (P.. G) N K.

        Tiles along transformed axes come in the order of the passes, the last axis first, then other outputs.
        """
        cuts = self._cuts(problem)
        first, (before, _), ahead = next(iter(cuts)), self._order(problem), w.ndim - 1 - problem.ndim
        windows = [x]
        for i, a in enumerate(reversed(cuts)):
            cut, axis = cuts[a], i + a  # i point axes stand in front by now
            blocks = length if a == first else cut.blocks
            w = at_points(powers(self.tile, cut.taps), w, ahead + axis, 0, cut.taps, blocks)
            windows = [
                at_points(inputs_at_points(self.tile), x, before + axis, tile * cut.outputs, cut.taps, blocks)
                for x in windows
                for tile in range(cut.tiles)
            ]
        n = len(cuts)
        others = [1 if a in cuts else o for a, o in enumerate(problem.output)]
        dilation = [1 if a in cuts else d for a, d in enumerate(problem.rhs_dilation)]
        terms = []
        for x, position in itertools.product(windows, itertools.product(*map(range, others))):
            start = [o * s for o, s in zip(position, problem.strides, strict=True)]
            seen = layout.window_slice(x, n + before, start, w.shape[n + ahead : -1], dilation)
            terms.append(self._product(problem, seen, w))
        return jnp.stack(terms)

    def _product(self, problem: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
        """x times w, both at the points and of the same blocks, summed over C and blocks: (P.. G) N K."""
        batch, (_, order) = (self.tile + 2) ** len(self._cuts(problem)) * problem.G, self._order(problem)
        channels_last = order[-1] == "N"
        if self._are_fused(problem):
            x, w = (a.reshape(batch // problem.G, problem.C, -1, a.shape[-1]) for a in (x, w))
            return place_sums(x, w, problem.G).reshape(batch, problem.N, problem.K)
        rows = x.reshape(batch, -1, problem.N) if channels_last else x.reshape(batch, problem.N, -1)
        axes = (0 if channels_last else 1, 0)
        return contract(problem, rows, w.reshape(batch, -1, problem.K), accumulator(problem), axes)

    def _outputs(self, problem: ConvSpec, sums: jax.Array) -> jax.Array:
        """A^T of every tile's sums, as one product with its Kronecker power: S G N K."""
        cuts, dtype = self._cuts(problem), sums.dtype
        kron = functools.reduce(np.kron, (powers(self.tile, c.outputs).T * scales(self.tile) for c in cuts.values()))
        y = jnp.stack([jnp.dot(kron.astype(dtype), s.reshape(kron.shape[1], -1), precision="highest") for s in sums])
        rest = [a for a in range(problem.ndim) if a not in cuts]
        order = [*((a, "tile") for a in reversed(cuts)), *((a, "other") for a in rest), *((a, "output") for a in cuts)]
        shape = [cuts[a].tiles for a in reversed(cuts)]
        shape += [problem.output[a] for a in rest] + [cut.outputs for cut in cuts.values()]
        y = y.reshape(*shape, problem.G, problem.N, problem.K)
        axes = sorted(range(len(order)), key=lambda i: (order[i][0], order[i][1] == "output"))
        y = lax.transpose(y, [*axes, *range(len(axes), y.ndim)])
        whole = [cuts[a].tiles * cuts[a].outputs if a in cuts else o for a, o in enumerate(problem.output)]
        y = y.reshape(*whole, problem.G, problem.N, problem.K)
        return layout.window_slice(y, 0, [0] * problem.ndim, problem.output, [1] * problem.ndim)

    def _are_fused(self, problem: ConvSpec) -> bool:
        """Whether products are a loop over all groups' channels, each of them few, that is added up in two turns."""
        channels = problem.N, problem.K
        if problem.G == 1 or problem.empty or min(channels) < LEAST_CHANNELS or max(channels) > _MOST_CHANNELS:
            return False
        return can_sum_places(self._looped_places(problem))

    def _looped_places(self, problem: ConvSpec) -> int:
        """Blocks that a loop over groups' channels adds up: those of a band."""
        return self._row_blocks(problem) * self._loop_bands(problem).lengths[0]

    def _loop_bands(self, problem: ConvSpec) -> Bands:
        first, *_ = self._cuts(problem)
        row = problem.C * self._row_blocks(problem) * self._place_bytes(problem)
        return Bands.of((self._blocks(problem)[first],), _LOOPED_BYTES / row)

    def _row_blocks(self, problem: ConvSpec) -> int:
        """Blocks beside each other, one along the first transformed axis."""
        first, *_ = self._cuts(problem)
        return math.prod(b for a, b in enumerate(self._blocks(problem)) if a != first)

    def _order(self, problem: ConvSpec) -> tuple[int, str]:
        """How many axes of x stand before S, and the order of all.

        A product of few rows takes up to six times as long where what it contracts is not last.
        """
        if self._are_fused(problem):
            return 1, "CSGN"
        return (3, "GNCS") if problem.G > 1 else (2, "GCSN")

    def _cuts(self, problem: ConvSpec) -> "dict[int, _Cut]":
        """Along every axis to transform: the last two, at most, with few outputs at stride 1 and undilated taps."""
        axes = zip(problem.output, problem.kernel, problem.strides, problem.rhs_dilation, strict=True)
        few = [(a, o, k) for a, (o, k, s, d) in enumerate(axes) if 2 <= o <= _MOST_OUTPUTS and s == d == 1]
        return {a: _Cut.of(self.tile, o, k) for a, o, k in few[-2:]}

    def _blocks(self, problem: ConvSpec) -> list[int]:
        """Blocks along every axis; single taps along those not transformed."""
        cuts = self._cuts(problem)
        return [cuts[a].blocks if a in cuts else k for a, k in enumerate(problem.kernel)]

    def _products(self, problem: ConvSpec) -> int:
        """Tiles of outputs, those of one output along axes not transformed."""
        cuts = self._cuts(problem)
        return math.prod(cuts[a].tiles if a in cuts else o for a, o in enumerate(problem.output))

    def _bands(self, problem: ConvSpec) -> Bands:
        """Blocks along the first transformed axis to do at a time.

        Input channels, the batch of a weight gradient, stay together: where they are divided among devices, a loop
        over them would gather them.
        """
        cuts, size = self._cuts(problem), accumulator(problem).itemsize
        first = next(iter(cuts))
        if self._are_fused(problem):
            return self._loop_bands(problem)
        rows = problem.C * self._row_blocks(problem)
        block = max(1, rows * self._place_bytes(problem))
        wanted = max(_BAND_ROWS / max(1, rows), _BAND_BYTES / block)
        bands = Bands.of((cuts[first].blocks,), min(wanted, _MOST_GROWN * problem.bytes / block))
        besides = size * self._sums(problem) + self._copied(problem)
        most = max(1, int((admitted_workspace(problem) - besides) / block))
        if bands.lengths[0] <= most:
            return bands
        even = max(n for n in range(1, most + 1) if bands.sizes[0] % n == 0)
        balanced = -(-bands.sizes[0] // -(-bands.sizes[0] // most))
        return dataclasses.replace(bands, lengths=(even if 2 * even > most else balanced,))

    def _place_bytes(self, problem: ConvSpec) -> int:
        """Bytes of a block of all operands' channels, at the points of every tile."""
        cuts = self._cuts(problem)
        columns = problem.N * math.prod(cut.tiles for cut in cuts.values()) + problem.K
        return accumulator(problem).itemsize * (self.tile + 2) ** len(cuts) * problem.G * columns

    def _copied(self, problem: ConvSpec) -> int:
        """Bytes of x once it is padded; 0 where it is not."""
        cuts = self._cuts(problem)
        whole = all(
            (cut.taps * cut.blocks, cut.outputs * cut.tiles) == (problem.kernel[a], problem.output[a])
            for a, cut in cuts.items()
        )
        plain = whole and all(pair == (0, 0) for pair in problem.padding) and max(problem.lhs_dilation) == 1
        return 0 if plain else accumulator(problem).itemsize * math.prod(problem.lhs_shape)

    def _sums(self, problem: ConvSpec) -> int:
        """Values of all tiles of outputs at the points."""
        points = (self.tile + 2) ** len(self._cuts(problem))
        return points * problem.G * self._products(problem) * problem.N * problem.K


@dataclasses.dataclass(frozen=True)
class _Cut:
    """One axis in `tiles` of `outputs` and in `blocks` of `taps`."""

    outputs: int
    tiles: int
    taps: int
    blocks: int

    @classmethod
    def of(cls, tile: int, outputs: int, taps: int) -> "_Cut":
        """The tiles that take the fewest products; of those the smallest, which lose the fewest digits."""
        m = min(range(2, tile + 2), key=lambda m: -(-outputs // m) / (tile + 3 - m))
        r = tile + 3 - m
        return cls(m, -(-outputs // m), r, -(-taps // r))


def _few_lanes(problem: ConvSpec) -> float:
    """How much slower transforms are whose loops run along few channels."""
    return 1.0 + 2.0 * min(1.0, 16 / min(problem.N, problem.K)) ** 1.5
