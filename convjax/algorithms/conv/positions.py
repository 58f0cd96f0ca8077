"""One contraction per output position: for the few outputs and huge kernels that weight gradients are.

The gradient of w in y = conv(x, w) is itself a convolution, of x by the cotangent, whose "kernel" is as
large as the output map and whose output has as many positions as w has taps. Each of them is

y[n, o, g, k] = sum over t, c of x[n, o s + t d, g, c] w[t, g, c, k]

or, where that copies less, a sum over elements of x of what they meet in w (`sides.py`).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import layout
from convjax.algorithms.bands import Bands
from convjax.algorithms.conv.group_windows import are_group_windows, group_windows_cost, product_of_group_windows
from convjax.algorithms.conv.narrow_groups import (
    are_narrow,
    joined_groups,
    positions_in_turn,
    positions_in_turn_cost,
)
from convjax.algorithms.conv.planes import are_planes, planes_cost, product_of_planes
from convjax.algorithms.conv.position_sums import (
    in_slabs,
    in_stretches,
    passes_over_operands,
    stretch_length,
    sums_by_slabs,
    sums_by_stretches,
    work_of_sums,
)
from convjax.algorithms.conv.sides import Axis, Operand, band, pad, positions, sides, windows
from convjax.algorithms.numerics import accumulator, direct_error
from convjax.algorithms.products import columns_by_columns, columns_by_columns_in_parts, grouping_work, product_work
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.algorithms.sums import sum_together
from convjax.dtypes import dtype_of
from convjax.platforms import GPUS
from convjax.problem import ConvSpec

# Output positions written out, by kind of contraction; more compile too slowly.
_MOST_POSITIONS = {"reduce": 64, "dot": 128}
# Running sums that one variadic reduce keeps; more spill out of registers and compile slowly.
_MOST_SUMS = 64
# A band's patches are to stay in cache, but the sums are read and written for every band, so it has this many rows.
_BAND_BYTES = 5 * 2**19
_BAND_ROWS = 256
# Channels of a single group from which on fewer windows of both operands are copied faster than windows of one.
_WIDE = 64
# Sums that are worth making row by row, and the length of such a row.
_MOST_ROW_SUMS = 16
_LONG_ROW = 32
# Windows of a line that are multiplied one by one, and the columns that fill such products.
_MOST_WINDOWS = 3
_MANY_COLUMNS = 16


@dataclasses.dataclass(frozen=True)
class Positions:
    """All taps and channels of one output position contracted at once.

    An infinity in x that only some positions meet may reach all of them: where elements of x are contracted, the others
    multiply it by zeros.

    Attributes:
        by: "reduce" for few channels a group (depthwise, or a single input channel): a variadic reduction holds the
            running sums of many positions, so that x and w are read few times; "dot" for many: one matrix product a
            position.
    """

    by: Literal["reduce", "dot"] = "dot"

    name: ClassVar[str] = "positions"
    version: ClassVar[int] = 16
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = ()
    __str__ = describe

    @property
    def amplification(self) -> float:
        return 0.0 if self.by == "reduce" else 1.0

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        reasons = []
        outputs = math.prod(problem.output)
        if problem.empty:
            reasons.append("there is nothing to contract: an operand or the output is empty")
        most = _MOST_POSITIONS[self.by]
        if outputs > most:
            reasons.append(f"{outputs} output positions, more than {most}: it writes out one contraction each")
        if self.by == "reduce" and platform in GPUS and outputs * problem.N * problem.K > _MOST_SUMS:
            reasons.append(f"{outputs} x {problem.N} x {problem.K} sums are more than a GPU's compiler can keep")
        if self.by == "reduce" and problem.N * problem.K > _MOST_SUMS:
            reasons.append(f"{problem.N} x {problem.K} outputs a position and group are a matrix product: by='dot'")
        return tuple(reasons)

    def cost(self, problem: ConvSpec) -> Cost:
        size, axes = accumulator(problem).itemsize, self._axes(problem)
        contracted = problem.C * math.prod(axis.length for axis in axes)
        products = contracted * math.prod(problem.output_shape)
        of_x, of_w = problem.N * positions(axes, "x"), problem.K * positions(axes, "w")
        shapes = {"x": problem.lhs_shape, "w": problem.rhs_shape}
        grown = {operand for axis in axes for operand in shapes if axis.windowed == operand and any(axis.padding)}
        padded = 2 * size * sum(math.prod(shapes[operand]) for operand in grown)
        # A kernel, unlike the cotangent that it is elsewhere, has its channels innermost.
        turned = 6 * size * math.prod(problem.rhs_shape) if layout.is_rhs_turned(problem, "CSGK") else 0
        if self.by == "reduce" and in_stretches(problem, axes):
            count = passes_over_operands(problem)
            partial = size * of_x * problem.G * problem.K * contracted / stretch_length(problem)
            edges = sum(side > 0 for pair in problem.padding for side in pair) if in_slabs(problem, axes) else 0
            padded = 0 if edges else padded
            return Cost(
                vector=work_of_sums(problem) * products,
                # Later passes find much in cache.
                bytes=(0.7 + 0.3 * count) * problem.bytes + padded + turned + 2 * partial,
                workspace=padded / 2 + partial,
                calls=2 + 2 * count + 4 * edges,
            )
        if self.by == "reduce":
            passes = -(-of_x * of_w // _MOST_SUMS)
            # Along rows alone XLA reads columns, and misses the cache at every step.
            work = 6 if problem.ndim == 1 else 3
            return Cost(
                vector=work * products,
                bytes=passes * problem.bytes + padded,
                workspace=padded / 2,
                calls=1 + passes + 0.01 * problem.G * of_x * of_w,  # every sum is begun and ended
            )
        if form := _form(problem, axes):
            return form.cost(problem)
        if _is_short(problem, axes):
            moved = padded + 2 * size * contracted * positions(axes, "w") * (problem.N + problem.K)
            gemm = product_work(products, problem.N, problem.K)
            return Cost(gemm=gemm, bytes=problem.bytes + moved, workspace=moved / 2, calls=4)
        if _is_by_windows(problem, axes):
            moved = 2 * size * contracted * of_x  # windows are padded as they are copied
            gemm = product_work(products, problem.N, problem.K)
            return Cost(gemm=gemm, bytes=problem.bytes + moved, workspace=moved / 2, calls=3 * problem.output[0])
        bands, joined = _bands(problem, axes).count, joined_groups(problem)
        slower, grouping = grouping_work(problem)
        # Windows are copied in runs of N or K, far from the speed of a plain copy; each band reads and writes the sums.
        elements = of_x * max(1.0, 6 / (joined * problem.N)) * (positions(axes, "x") > 1)
        elements += of_w * max(1.0, 6 / (joined * problem.K)) * (positions(axes, "w") > 1)
        # Windows of w alone are copied in longer runs.
        copied = (4 if of_x == problem.N else 7) * size * problem.G * contracted * elements
        if problem.ndim > 1 and max(problem.lhs_dilation) > 1:  # in steps of the dilation along every axis
            copied *= 1.6
        sums = size * problem.G * joined * of_x * of_w
        multiplied = joined * product_work(products, joined * of_x, joined * of_w)
        return Cost(
            gemm=slower * multiplied,
            bytes=problem.bytes + grouping + turned + padded + copied + 2 * bands * sums,
            workspace=padded / 2 + size * problem.G * contracted * (of_x + of_w) / bands,
            calls=4 * bands,
        )

    def gpu_cost(self, problem: ConvSpec) -> Cost:
        """By elements, or by products of so few outputs that they come to little more."""
        contracted = problem.C * math.prod(axis.length for axis in self._axes(problem))
        products = contracted * math.prod(problem.output_shape)
        slower = 1.0 if self.by == "reduce" else 0.4 if problem.G == 1 else 4.0
        held = self.cost(problem).workspace if self.by == "dot" else 0  # sums of elements read x and w as they are
        return Cost(vector=slower * products, bytes=problem.bytes, workspace=held, calls=2)

    def gathers(self, problem: ConvSpec) -> bool:
        return not problem.has_few_outputs

    def error(self, problem: ConvSpec) -> float:
        return direct_error(problem)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        dtype, axes = accumulator(problem), self._axes(problem)
        if self.by == "dot" and (form := _form(problem, axes)):
            y = form.compute(problem, lhs, rhs)
            return layout.restore_out(problem, y, form.order).astype(dtype_of(problem.output_dtype))
        x = layout.arrange_lhs(problem, lhs, "CSGN")
        w = layout.arrange_rhs(problem, rhs, "CSGK")
        if self.by == "reduce" and in_slabs(problem, axes):
            y = sums_by_slabs(problem, x[..., 0], lax.collapse(w, w.ndim - 2))
            y = y.reshape(*problem.output, problem.G, problem.N, problem.K)
        else:
            x, w = pad(problem, axes, x, "x"), pad(problem, axes, w, "w")
            y = (_reduce if self.by == "reduce" else _dot)(problem, axes, x, w, dtype)  # S G N K
        return layout.restore_out(problem, y, "SGNK").astype(dtype_of(problem.output_dtype))

    def _axes(self, problem: ConvSpec) -> tuple[Axis, ...]:
        wide = problem.G == 1 and min(problem.N, problem.K) >= _WIDE
        return sides(problem, shared=self.by == "dot" and wide)


class _Form(NamedTuple):
    """Products of a kind of problem that has a module of its own: what they cost, and a result with axes in `order`."""

    cost: Callable[[ConvSpec], Cost]
    compute: Callable[[ConvSpec, jax.Array, jax.Array], jax.Array]
    order: str


def _form(problem: ConvSpec, axes: tuple[Axis, ...]) -> _Form | None:
    if are_narrow(problem, axes):
        return _Form(positions_in_turn_cost, positions_in_turn, "SGNK")
    if are_planes(problem):
        return _Form(planes_cost, product_of_planes, "SGNK")
    if are_group_windows(problem) and not _is_by_windows(problem, axes):
        return _Form(group_windows_cost, product_of_group_windows, "GSNK")
    return None


def _dot(problem: ConvSpec, axes: tuple[Axis, ...], x: jax.Array, w: jax.Array, dtype: np.dtype) -> jax.Array:
    """The sum over bands of S of one product each, of all windows of x and all of w, side by side."""
    if _is_short(problem, axes):
        return _short(problem, axes, x, w, dtype)
    if _is_by_windows(problem, axes):
        return _by_windows(problem, axes, x, w, dtype)
    bands, joined = _bands(problem, axes), joined_groups(problem)
    x, w = (a.reshape(*a.shape[:-2], problem.G // joined, -1) for a in (x, w))
    x, w = (jnp.moveaxis(a, -2, 0) for a in (x, w))  # G C S (joined N), G C S (joined K)
    one_group = problem.G == 1 and not _copies(axes)

    def add(sums: jax.Array, offsets: list[jax.Array]) -> jax.Array:
        new = bands.first_seen(offsets)

        def columns(array: jax.Array, operand: Operand) -> jax.Array:
            part = band(axes, array, operand, 2, offsets, bands.lengths)
            seen = jnp.concatenate([*windows(axes, part, operand, 2, bands.lengths).values()], axis=-1)
            return seen if new is None else jnp.where(new[..., None], seen, 0)

        a, b = columns(x, "x"), columns(w, "w")
        return sums + (contract(problem, b, a, dtype) if turned else contract(problem, a, b, dtype))

    rows, across = joined * problem.N * positions(axes, "x"), joined * problem.K * positions(axes, "w")
    contracted = problem.C * math.prod(axis.length for axis in axes)
    # A product is faster with its shorter side in front, if what is turned back is less than what it reads.
    turned = one_group and rows > across and rows * across < contracted * (rows + across)
    contract = columns_by_columns_in_parts if one_group else columns_by_columns
    y = bands.fold(add, jnp.zeros((problem.G // joined, *((across, rows) if turned else (rows, across))), dtype))
    y = y.swapaxes(1, 2) if turned else y
    of_x, of_w = ([axis.outputs(operand) for axis in axes] for operand in ("x", "w"))
    y = y.reshape(-1, *of_x, joined, problem.N, *of_w, joined, problem.K)
    n = problem.ndim
    interleaved = [axis for a in range(n) for axis in (1 + a, 3 + n + a)]
    y = lax.transpose(y, [*interleaved, 0, 1 + n, 3 + 2 * n, 2 + n, 4 + 2 * n])  # S.. G joined joined N K
    y = jnp.stack([y[..., i, i, :, :] for i in range(joined)], axis=-3)  # what crosses groups is not asked for
    return y.reshape(*problem.output, problem.G, problem.N, problem.K)


def _is_short(problem: ConvSpec, axes: tuple[Axis, ...]) -> bool:
    """Whether a copy of x's one window for every window of w is smaller than the result, which need not be turned."""
    contracted = problem.C * math.prod(axis.length for axis in axes)
    return problem.G == 1 and positions(axes, "x") == 1 < positions(axes, "w") and contracted < problem.K


def _short(problem: ConvSpec, axes: tuple[Axis, ...], x: jax.Array, w: jax.Array, dtype: np.dtype) -> jax.Array:
    """One product batched over positions, whose results lie as they are asked for."""
    lengths = [axis.length for axis in axes]
    seen = jnp.stack([*windows(axes, w, "w", 1, lengths).values()])  # positions C S 1 K
    (x,) = windows(axes, x, "x", 1, lengths).values()  # of which strides and dilations may leave elements over
    x = jnp.broadcast_to(x, (seen.shape[0], *x.shape))
    return columns_by_columns(problem, x, seen, dtype).reshape(*problem.output, 1, problem.N, problem.K)


def _is_by_windows(problem: ConvSpec, axes: tuple[Axis, ...]) -> bool:
    """Whether windows of x are stretches of a line, which are multiplied as they lie, and wide enough for it."""
    if problem.ndim != 1 or problem.G > 1 or min(problem.N, problem.K) < _MANY_COLUMNS:
        return False
    return axes[0].step == 1 < positions(axes, "x") <= _MOST_WINDOWS


def _by_windows(problem: ConvSpec, axes: tuple[Axis, ...], x: jax.Array, w: jax.Array, dtype: np.dtype) -> jax.Array:
    """One product for each window of x: S G N K."""
    seen = windows(axes, x, "x", 1, [axis.length for axis in axes]).values()
    w = w.reshape(1, -1, problem.K)
    return jnp.stack([columns_by_columns(problem, a.reshape(1, -1, problem.N), w, dtype) for a in seen])


def _copies(axes: tuple[Axis, ...]) -> bool:
    """Whether windows are copied side by side; where all are one, operands are multiplied as they are."""
    return positions(axes, "x") * positions(axes, "w") > 1


def _bands(problem: ConvSpec, axes: tuple[Axis, ...]) -> Bands:
    """Elements to contract at a time.

    Input channels, the batch of a weight gradient, stay together: where they are divided among devices, a loop over
    them would gather them.
    """
    if not _copies(axes):
        return Bands.of([axis.length for axis in axes], math.inf)
    of_w = positions(axes, "w")
    columns = problem.N * positions(axes, "x") + (problem.K * of_w if of_w > 1 else 0)
    row = accumulator(problem).itemsize * problem.G * columns
    return Bands.of([axis.length for axis in axes], max(_BAND_ROWS, _BAND_BYTES / row) / problem.C)


def _reduce(problem: ConvSpec, axes: tuple[Axis, ...], x: jax.Array, w: jax.Array, dtype: np.dtype) -> jax.Array:
    """Sums of each window's x[.., n] * w over C and S, for every position and n."""
    x, w = x.astype(dtype), w.astype(dtype)
    if in_stretches(problem, axes):
        y = sums_by_stretches(problem, axes, x[..., 0], lax.collapse(w, w.ndim - 2))
        return y.reshape(*problem.output, problem.G, problem.N, problem.K)
    lengths = [axis.length for axis in axes]
    of_x, of_w = windows(axes, x, "x", 1, lengths), windows(axes, w, "w", 1, lengths)
    products = []  # each C S G K
    for position in np.ndindex(*problem.output):
        x_seen, w_seen = (
            seen[tuple(o if axis.windowed == operand else 0 for axis, o in zip(axes, position, strict=True))]
            for seen, operand in ((of_x, "x"), (of_w, "w"))
        )
        products += [x_seen[..., n, None] * w_seen for n in range(problem.N)]
    sums: list[jax.Array] = []
    step = max(1, _MOST_SUMS // problem.K)
    for i in range(0, len(products), step):
        sums += _sum_rows(problem, products[i : i + step])
    return jnp.stack(sums).reshape(*problem.output, problem.N, problem.G, problem.K).swapaxes(-2, -3)


def _sum_rows(problem: ConvSpec, products: list[jax.Array]) -> list[jax.Array]:
    """Each product summed over C and S.

    XLA shares a reduction out to threads by its results, so few long sums are first made along rows alone, with
    a result for every row, and the rows are added afterwards.
    """
    axes = tuple(range(1 + problem.ndim))
    if len(products) > _MOST_ROW_SUMS or problem.ndim == 0 or products[0].shape[problem.ndim] < _LONG_ROW:
        return sum_together(products, axes)
    return sum_together(sum_together(products, axes[-1:]), axes[:-1])
