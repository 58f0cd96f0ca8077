"""What poolings are asked to compute, read: which axes are spatial, and where the windows stand on them."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import sizes, window_primitive
from convjax.ops.arguments import (
    Padding,
    as_array,
    channels_first,
    padding_pairs,
    positive_per_axis,
    require_bool,
    spatial_axes,
    with_batch,
)
from convjax.problem import Ints, Pads, WindowSpec
from convjax.request import AlgorithmLike, request

_MOST_POSITIONS = 2**31 - 1  # that int32 numbers


@dataclasses.dataclass(frozen=True)
class Planes:
    """An operand with a batch, of whose axes `ndim` from `first` on are spatial."""

    x: jax.Array
    unbatched: bool
    first: int
    ndim: int

    @property
    def axes(self) -> Ints:
        return tuple(range(self.first, self.first + self.ndim))

    @property
    def channel_axis(self) -> int:
        return 1 if self.first == 2 else self.x.ndim - 1

    @property
    def size(self) -> Ints:
        return tuple(self.x.shape[axis] for axis in self.axes)

    def along(self, values: np.ndarray, place: int) -> np.ndarray:
        """A vector along the spatial axis number `place`, of x's rank."""
        return values.reshape([-1 if axis == self.axes[place] else 1 for axis in range(self.x.ndim)])

    def positions(
        self, taps: jax.Array, window: Ints, starts: Sequence[np.ndarray | jax.Array], dilation: Ints
    ) -> jax.Array:
        """Where each window's tap stands in its plane, row-major, int32; starts, one an axis, broadcast to the taps."""
        require_int32(self.size)
        flat = jnp.zeros(taps.shape, jnp.int32)
        for n, start, tap, d in zip(self.size, starts, jnp.unravel_index(taps, window), dilation, strict=True):
            flat = flat * n + start + tap * d
        return flat

    def each(self, function: Callable[[Self], jax.Array]) -> jax.Array:
        """`function` of this, which has to know all sizes; a batch that has no number goes through it one by one."""
        if sizes.are_numbers(self.x):
            return function(self)
        return jax.vmap(lambda x: function(dataclasses.replace(self, x=x[None]))[0])(self.x)

    def finish(self, y: jax.Array) -> jax.Array:
        """y without the batch that the operand did not have."""
        return y[0] if self.unbatched else y


def read_planes(x: jax.Array, per_axis: object, layout: str | None, name: str = "x") -> Planes:
    """x, called `name` in errors; `per_axis` and `layout` say which axes are spatial, as `spatial_axes` reads them."""
    x = as_array(name, x)
    ndim = spatial_axes(x, per_axis, layout)
    if ndim < 1:
        raise ValueError(f"{name} of shape {x.shape} has no spatial axis: it must have one between batch and channels")
    x, unbatched = with_batch(x, ndim, name)
    return Planes(x, unbatched, 2 if channels_first(layout, ndim) else 1, ndim)


def require_elements(shape: Ints, size: Ints, name: str = "x") -> None:
    if 0 in size:
        raise ValueError(f"{name} of shape {shape} has no elements on a spatial axis: each needs at least 1")


def require_int32(size: Ints, beside: int = 0) -> None:
    """Refuses planes whose positions, and as many as `beside` them, int32 does not number."""
    count = math.prod(size) + beside
    if count > _MOST_POSITIONS:
        raise ValueError(
            f"a plane of {' x '.join(map(str, size))} takes {count} positions, more than the {_MOST_POSITIONS} of "
            "int32 indices: pool parts of it"
        )


@dataclasses.dataclass(frozen=True)
class Windows(Planes):
    """Planes and, an axis, the numbers of the windows over them; `padding` ends where the last window does."""

    window: Ints
    strides: Ints
    dilation: Ints
    asked: Pads
    padding: Pads

    @classmethod
    def tiling(cls, x: jax.Array, first: int, window: Ints) -> "Windows":
        """Windows side by side on the spatial axes of x, which has a batch."""
        ones, none = (1,) * len(window), ((0, 0),) * len(window)
        return cls(x, False, first, len(window), window, window, ones, none, none)

    def problem(self, operation: str) -> WindowSpec:
        """The window problem over all axes of x."""
        before, after = self.first, self.x.ndim - self.first - self.ndim

        def everywhere(values: tuple[Any, ...], other: Any) -> tuple[Any, ...]:
            return (other,) * before + values + (other,) * after

        return WindowSpec(
            operation=operation,
            shape=self.x.shape,
            dtype=self.x.dtype.name,
            window=everywhere(self.window, 1),
            strides=everywhere(self.strides, 1),
            padding=everywhere(self.padding, (0, 0)),
            base_dilation=(1,) * self.x.ndim,
            window_dilation=everywhere(self.dilation, 1),
        )

    def reduce(self, operation: str, algorithm: AlgorithmLike) -> jax.Array:
        """The maximum, minimum or sum of every window, with a batch."""
        return window_primitive.reduce(self.x, self.problem(operation), request(algorithm, operation))

    def argmax(self, algorithm: AlgorithmLike) -> jax.Array:
        """The tap of every window's maximum, with a batch."""
        asked = request(algorithm, "max")
        return self.each(lambda windows: window_primitive.arg(windows.x, windows.problem("max"), asked))

    def counts(self, include_padding: bool) -> np.ndarray:
        """Cells of every window that lie in x, or in x and its padding; broadcastable to the windows."""
        counts = np.ones((1,) * self.x.ndim, np.int64)
        windows = self.problem("sum").windows_shape
        for place, (n, k, s, d, (lo, hi)) in enumerate(
            zip(self.size, self.window, self.strides, self.dilation, self.asked, strict=True)
        ):
            low, high = (-lo, n + hi) if include_padding else (0, n)
            inside = _cells_within(low, high, windows[self.axes[place]], k, s, d, lo)
            counts = counts * self.along(inside, place)
        return counts

    def flat_positions(self, taps: jax.Array) -> jax.Array:
        """Where each window's tap stands in the unpadded plane, row-major, int32."""
        starts = [
            lax.broadcasted_iota(jnp.int32, taps.shape, axis) * s - lo
            for axis, s, (lo, _) in zip(self.axes, self.strides, self.padding, strict=True)
        ]
        return self.positions(taps, self.window, starts, self.dilation)


def read_windows(
    x: jax.Array,
    window: int | Sequence[int],
    strides: int | Sequence[int] | None,
    padding: Padding,
    dilation: int | Sequence[int],
    ceil_mode: bool,
    layout: str | None,
) -> Windows:
    """The arguments that the poolings over windows share."""
    require_bool("ceil_mode", ceil_mode)
    planes = read_planes(x, window, layout)
    taps = positive_per_axis("window", window, planes.ndim)
    steps = positive_per_axis("strides", window if strides is None else strides, planes.ndim)
    gaps = positive_per_axis("dilation", dilation, planes.ndim)
    asked, pads = window_padding(planes.size, taps, steps, gaps, padding, ceil_mode)
    return Windows(planes.x, planes.unbatched, planes.first, planes.ndim, taps, steps, gaps, asked, pads)


def window_padding(
    size: Ints, window: Ints, strides: Ints, dilation: Ints, padding: Padding, ceil_mode: bool
) -> tuple[Pads, Pads]:
    """(lo, hi) an axis as asked for, and so that it ends where the last window of ceil mode does.

    Refuses what leaves no window, or a window without elements.
    """
    extent = tuple(map(sizes.dilated, window, dilation))
    asked = padding_pairs(padding, size, extent, strides)
    pads = []
    places = zip(size, window, strides, dilation, extent, asked, strict=True)
    for axis, (n, k, s, d, e, (lo, hi)) in enumerate(places):
        if min(lo, hi) < 0 or (not isinstance(padding, str) and max(lo, hi) > e // 2):
            raise ValueError(
                f"padding ({lo}, {hi}) on spatial axis {axis} must be between 0 and half the dilated window, {e // 2}"
            )
        if n > 0 and not ceil_mode and n + lo + hi < e:
            raise ValueError(
                f"spatial axis {axis} has {n} elements, {n + lo + hi} with padding, fewer than the dilated window's "
                f"{e}: use a smaller window, more padding or ceil_mode"
            )
        count = sizes.ceil_windows(n, e, s, lo, hi) if ceil_mode else sizes.windows(n + lo + hi, e, s)
        if n > 0 and count == 0:
            raise ValueError(
                f"windows of extent {extent} do not fit into {size} with padding {asked}: the output would be empty; "
                "use a smaller window or more padding"
            )
        if not sizes.all_hold_elements(n, count, k, s, d, lo):
            raise ValueError(
                f"a window of {window} taps, dilation {dilation}, stride {strides} over {size} with padding {asked} "
                "holds no element of x: use less padding or dilation"
            )
        pads.append((lo, hi - sizes.left_over(n + lo + hi, e, s, count) if ceil_mode else hi))
    return asked, tuple(pads)


def _cells_within(low: int, high: int, count: int, taps: int, stride: int, dilation: int, lo: int) -> np.ndarray:
    """Of each of `count` windows along an axis, the taps that stand from `low` to before `high` of x."""
    first = np.arange(count) * stride - lo  # where tap 0 stands
    to_low, to_high = (np.clip(-((first - end) // dilation), 0, taps) for end in (low, high))
    return to_high - to_low
