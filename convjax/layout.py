"""Axes by letter: how algorithms see operands, whatever order the caller keeps them in.

N batch, G groups, C input and K output channels of one group, S the spatial axes. An algorithm asks
for the order it wants, `arrange_lhs(problem, x, "NSGC")`; where the caller's order is the same, nothing
moves. Feature groups and batch groups differ only in which axis of lhs the group is cut from, so
algorithms need not tell them apart.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import sizes
from convjax.problem import ConvSpec, Ints, Pads
from convjax.target import may_be_divided


def arrange_lhs(problem: ConvSpec, x: jax.Array, order: str) -> jax.Array:
    """lhs with its axes in `order`, e.g. "NSGC"."""
    batch, feature, *spatial = problem.dimension_numbers[0]
    letters = _letters({batch: "N", feature: "C"}, spatial)
    return _arrange(x, letters, batch if problem.batch_groups > 1 else feature, problem.G, order)


def arrange_rhs(problem: ConvSpec, w: jax.Array, order: str) -> jax.Array:
    """rhs with its axes in `order`, e.g. "SGCK"."""
    return _arrange(w, _rhs_letters(problem), problem.dimension_numbers[1][0], problem.G, order)


def is_rhs_turned(problem: ConvSpec, order: str) -> bool:
    """Whether elements of rhs move where its axes are put in `order`."""
    letters = _with_groups(_rhs_letters(problem), problem.dimension_numbers[1][0])
    lengths = {"G": problem.G, "C": problem.C, "K": problem.K}
    lengths |= {f"S{i}": n for i, n in enumerate(problem.kernel)}
    places = [letters.index(letter) for letter in _expand(order, problem.ndim) if lengths[letter] != 1]
    return places != sorted(places)


def channel_order(problem: ConvSpec) -> str:
    """The order of groups and channels that rhs has already, "GCK" or "GKC"."""
    out_feature, in_feature, *_ = problem.dimension_numbers[1]
    return "GKC" if out_feature < in_feature else "GCK"


def restore_out(problem: ConvSpec, y: jax.Array, order: str) -> jax.Array:
    """The caller's order from a result whose axes are in `order`, e.g. "NSGK"."""
    batch, feature, *spatial = problem.dimension_numbers[2]
    letters = _letters({batch: "N", feature: "K"}, spatial)
    letters = _with_groups(letters, feature)
    source = _expand(order, problem.ndim)
    y = lax.transpose(y, [source.index(letter) for letter in letters])
    return lax.reshape(y, problem.output_shape)


def channels_last(problem: ConvSpec, N: int, input: Ints, kernel: Ints, C: int, **changes: Any) -> ConvSpec:
    """A problem of `problem`'s groups, output channels and dtypes on operands in the orders NSGC, SGCK and NSGK.

    It has stride 1, no padding and no dilation, unless `changes` says otherwise.
    """
    n = len(input)
    spatial, ones = tuple(range(1, n + 1)), (1,) * n
    given: dict[str, Any] = {
        "lhs_shape": (N, *input, problem.G * C),
        "rhs_shape": (*kernel, C, problem.G * problem.K),
        "dimension_numbers": ((0, n + 1, *spatial), (n + 1, n, *range(n)), (0, n + 1, *spatial)),
        "feature_groups": problem.G,
        "batch_groups": 1,
        "strides": ones,
        "padding": ((0, 0),) * n,
        "lhs_dilation": ones,
        "rhs_dilation": ones,
    }
    return dataclasses.replace(problem, **(given | changes))


def pad(x: jax.Array, padding: Sequence[tuple[int, int]], interior: Sequence[int], value: object = 0) -> jax.Array:
    """Dilate by `interior` zeros between elements, pad, and crop where padding is negative.

    The crop is a slice of its own: XLA folds a negative pad wrongly into a window (openxla/xla#48715). So is the
    dilation in programs that XLA divides: what an axis of one element a device becomes by a pad, it computes wrongly.
    """
    if may_be_divided() and any(interior):
        x, interior = dilated(x, interior, value), [0] * x.ndim
    if any(lo > 0 or hi > 0 or gap for (lo, hi), gap in zip(padding, interior, strict=True)):
        config = [(max(lo, 0), max(hi, 0), gap) for (lo, hi), gap in zip(padding, interior, strict=True)]
        x = lax.pad(x, np.asarray(value, x.dtype), config)
    if any(lo < 0 or hi < 0 for lo, hi in padding):
        start = [max(-lo, 0) for lo, _ in padding]
        limit = [n - max(-hi, 0) for n, (_, hi) in zip(x.shape, padding, strict=True)]
        x = lax.slice(x, start, [max(a, b) for a, b in zip(start, limit, strict=True)])
    return x


def dilated(x: jax.Array, interior: Sequence[int], value: Any = 0) -> jax.Array:
    """x with so many elements of `value` between its own, axis by axis, and no padding for it."""
    for axis, gap in enumerate(interior):
        if gap:
            n, between = x.shape[axis], jnp.full_like(x, value)
            spread = jnp.stack([x, *[between] * gap], axis=axis + 1)
            spread = spread.reshape(*x.shape[:axis], n * (gap + 1), *x.shape[axis + 1 :])
            x = lax.slice_in_dim(spread, 0, sizes.dilated(n, gap + 1), axis=axis)
    return x


def pad_spatial(
    problem: ConvSpec, x: jax.Array, first: int, padding: Pads | None = None, size: Sequence[int] | None = None
) -> jax.Array:
    """x dilated as `problem` asks and padded as it asks, or by `padding`; its spatial axes start at `first`.

    Given `size`, there are so many elements: the last are left out, or zeros follow. These do not take the place of
    what is cropped, which would meet no window, but enter the transforms of those beside it.
    """
    pads, filled = list(problem.padding if padding is None else padding), [0] * problem.ndim
    for a, wanted in enumerate(size or ()):
        lo, hi = pads[a]
        more = wanted - (sizes.dilated(x.shape[first + a], problem.lhs_dilation[a]) + lo + hi)
        if hi < 0 < more:
            filled[a] = more
        else:
            pads[a] = lo, hi + more
    before, after = [(0, 0)] * first, [(0, 0)] * (x.ndim - first - problem.ndim)
    x = pad(x, [*before, *pads, *after], [0] * first + [d - 1 for d in problem.lhs_dilation] + [0] * len(after))
    return pad(x, [*before, *((0, n) for n in filled), *after], [0] * x.ndim)


def without_cropped(problem: ConvSpec, lhs: jax.Array) -> tuple[ConvSpec, jax.Array]:
    """The problem of the elements of lhs that its padding does not crop, and these; where it leaves none, as given.

    For what makes more outputs than are asked for, which would see those elements, or knows no negative padding.
    """
    if all(min(pair) >= 0 for pair in problem.padding):
        return problem, lhs
    starts, limits, padding = [0] * lhs.ndim, list(lhs.shape), []
    axes = zip(problem.dimension_numbers[0][2:], problem.input, problem.lhs_dilation, problem.padding, strict=True)
    for axis, n, b, (lo, hi) in axes:
        first, last = -(min(lo, 0) // b), ((n - 1) * b + min(hi, 0)) // b
        if first > last:
            return problem, lhs
        starts[axis], limits[axis] = first, last + 1
        padding.append((lo + first * b, hi + (n - 1 - last) * b))
    lhs = lax.slice(lhs, starts, limits)
    return dataclasses.replace(problem, lhs_shape=lhs.shape, padding=tuple(padding)), lhs


def pad_lhs(problem: ConvSpec, lhs: jax.Array) -> jax.Array:
    """lhs dilated and padded as `problem` asks, its axes where they are."""
    pads, gaps = [(0, 0)] * lhs.ndim, [0] * lhs.ndim
    spatial = problem.dimension_numbers[0][2:]
    for axis, pair, dilation in zip(spatial, problem.padding, problem.lhs_dilation, strict=True):
        pads[axis], gaps[axis] = pair, dilation - 1
    return pad(lhs, pads, gaps)


def padded_size(problem: ConvSpec) -> Ints:
    """Spatial sizes of lhs once it is dilated and padded."""
    return tuple(
        sizes.dilated(n, d) + lo + hi
        for n, d, (lo, hi) in zip(problem.input, problem.lhs_dilation, problem.padding, strict=True)
    )


def every(x: jax.Array, axis: int, start: int, stride: int, count: int | None = None) -> jax.Array:
    """The first of each of `count` stretches of x from `start` on, or of as many as there are.

    XLA divides a slice wrongly whose stride is longer than what a device has of the axis, so it is one row of whole
    stretches there, or where these do not fit in x, what is gathered.
    """
    axis = axis % x.ndim
    n = x.shape[axis]
    count = -(-(n - start) // stride) if count is None else count
    stride = stride if count > 1 else 1
    if stride == 1 or not may_be_divided():
        return lax.slice_in_dim(x, start, max(start, start + (count - 1) * stride + 1), stride, axis)
    row = max(0, start + count * stride - n)  # so many rows earlier whole stretches begin, to end within x
    if row > min(start, stride - 1):
        return jnp.take(x, start + stride * np.arange(count), axis, mode="clip")
    stretches = lax.slice_in_dim(x, start - row, start - row + count * stride, axis=axis)
    stretches = stretches.reshape(*x.shape[:axis], count, stride, *x.shape[axis + 1 :])
    return lax.index_in_dim(stretches, row, axis + 1, keepdims=False)


def window_slice(
    x: jax.Array, first: int, offset: Sequence[int], count: Sequence[int], stride: Sequence[int]
) -> jax.Array:
    """`count` elements, `stride` apart from `offset`, along the spatial axes that start at `first`."""
    if may_be_divided():
        for axis, (o, n, s) in enumerate(zip(offset, count, stride, strict=True), first):
            x = every(x, axis, o, s, n)
        return x
    start, limit, step = [0] * x.ndim, list(x.shape), [1] * x.ndim
    for axis, (o, n, s) in enumerate(zip(offset, count, stride, strict=True), first):
        start[axis], limit[axis], step[axis] = o, o + (n - 1) * s + 1, s
    return lax.slice(x, start, limit, step)


def taps(problem: ConvSpec) -> list[tuple[int, ...]]:
    """Every kernel position, row-major."""
    return list(np.ndindex(*problem.kernel))


def _letters(named: dict[int, str], spatial: Sequence[int]) -> list[str]:
    letters = dict(named) | {axis: f"S{i}" for i, axis in enumerate(spatial)}
    return [letters[axis] for axis in range(len(letters))]


def _rhs_letters(problem: ConvSpec) -> list[str]:
    out_feature, in_feature, *spatial = problem.dimension_numbers[1]
    return _letters({out_feature: "K", in_feature: "C"}, spatial)


def _with_groups(letters: list[str], grouped: int) -> list[str]:
    """The axes once groups are cut from the front of the axis `grouped`."""
    return [*letters[:grouped], "G", *letters[grouped:]]


def _expand(order: str, ndim: int) -> list[str]:
    return [name for letter in order for name in ([f"S{i}" for i in range(ndim)] if letter == "S" else [letter])]


def _arrange(x: jax.Array, letters: list[str], grouped: int, groups: int, order: str) -> jax.Array:
    shape = [*x.shape[:grouped], groups, x.shape[grouped] // groups, *x.shape[grouped + 1 :]]
    letters = _with_groups(letters, grouped)
    target = _expand(order, len(letters) - 3)
    return lax.transpose(lax.reshape(x, shape), [letters.index(letter) for letter in target])
