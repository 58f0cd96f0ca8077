"""Fractional max pooling: windows whose distances are drawn, so that the input shrinks by any ratio."""

import math
from collections.abc import Sequence
from typing import Literal, TypedDict, Unpack, overload

import jax
import jax.numpy as jnp
from jax import lax

from convjax.dtypes import accumulator
from convjax.ops.arguments import as_array, listed, number, per_axis, positive_per_axis, require_ordered
from convjax.ops.windows import Planes, Windows, read_planes, require_elements, require_int32
from convjax.problem import Ints
from convjax.request import AlgorithmLike, request


class _Options(TypedDict, total=False):
    output_size: int | Sequence[int] | None
    output_ratio: float | Sequence[float] | None
    key: jax.Array | None
    samples: jax.Array | None
    layout: str | None
    algorithm: AlgorithmLike


@overload
def fractional_max_pool(
    x: jax.Array, window: int | Sequence[int], *, return_indices: Literal[False] = False, **options: Unpack[_Options]
) -> jax.Array: ...
@overload
def fractional_max_pool(
    x: jax.Array, window: int | Sequence[int], *, return_indices: Literal[True], **options: Unpack[_Options]
) -> tuple[jax.Array, jax.Array]: ...
@overload
def fractional_max_pool(
    x: jax.Array, window: int | Sequence[int], *, return_indices: bool, **options: Unpack[_Options]
) -> jax.Array | tuple[jax.Array, jax.Array]: ...
def fractional_max_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    output_size: int | Sequence[int] | None = None,
    output_ratio: float | Sequence[float] | None = None,
    key: jax.Array | None = None,
    samples: jax.Array | None = None,
    return_indices: bool = False,
    layout: str | None = None,
    algorithm: AlgorithmLike = None,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """The largest element of every window, the windows of each plane standing at random distances.

    y[n, o, c] = max over taps t of x[n, start[n, o, c] + t, c], an axis' start[i] = trunc((i + u) a) - trunc(u a) with
    a = (size - window) / (output - 1), and the last at size - window

    NaN wins wherever it stands. The first of equal elements, row-major, is the one whose index is returned and that
    the gradient goes to. What windows that overlap give one element is added in any order on GPU, but in a fixed one
    under `using(deterministic=True)`, for which the gradient takes as many times the memory as windows have taps.

    Args:
        x: (N, *size, C), or (*size, C) without a batch; 1 to 3 spatial axes; channels first under `layout`. Any real
            dtype.
        window: taps per spatial axis; an int as in `max_pool`.
        output_size: windows per spatial axis, at least 0; an int or one an axis. Either this or output_ratio.
        output_ratio: output_size as a fraction of size, rounded down to 1 or more; between 0 and 1; a number or one an
            axis.
        key: draws the samples, by `jax.random.uniform`. Either this or samples.
        samples: u in [0, 1) of every plane, (N, C, axes), or (C, axes) without a batch, in every layout. As PyTorch
            has them, those of two axes are of W and then H; those of three of D, H, W.
        return_indices: whether to return as well where the maxima stand.
        layout: None for channels last ("NWC", "NHWC", "NDHWC"), or "NCW", "NCHW", "NCDHW".
        algorithm: of the search for the maxima, see `conv_general_dilated`.

    Returns:
        (N, *output, C) of x's dtype; with `return_indices` also int32 flat positions in the plane.

    Raises:
        ValueError: sizes that do not fit together; both or neither of two alternatives.
        TypeError: x is complex, or samples are no fractions.

    Example:
        >>> import jax.numpy as jnp
        >>> samples = jnp.array([[0.5]])
        >>> fractional_max_pool(jnp.arange(5.0)[:, None], 2, output_size=3, samples=samples)[:, 0]
        Array([1., 3., 4.], dtype=float32)

    Source:
        Graham, Fractional max-pooling, arXiv:1412.6071; the starts are PyTorch's for float32 and float64. For half
        precisions PyTorch computes them in these, which cannot tell the elements of long axes apart; here in float32.
    """
    x = require_ordered(x)
    planes = read_planes(x, window, layout)
    require_elements(x.shape, planes.size)
    if planes.ndim > 3:
        raise ValueError(f"x of shape {x.shape} has {planes.ndim} spatial axes, but samples are defined for 1 to 3")
    taps = positive_per_axis("window", window, planes.ndim)
    output = _output_size(planes.size, taps, output_size, output_ratio)
    u = _samples(planes, key, samples)

    starts, copies = [], lax.stop_gradient(planes.x)
    for place, (axis, n, k, o) in enumerate(zip(planes.axes, planes.size, taps, output, strict=True)):
        start = _starts(u[..., 1 - place if planes.ndim == 2 else place], n, k, o)  # N C o
        cells = (start[..., None] + lax.iota(jnp.int32, k)[None, None, None]).reshape(*start.shape[:2], o * k)
        copies = jnp.take_along_axis(copies, _along(planes, cells, axis), axis, mode="clip")
        starts.append(_along(planes, start, axis))
    tiles = Windows.tiling(copies, planes.first, taps)
    winners = tiles.argmax(algorithm)
    positions = planes.positions(winners, taps, starts, tiles.dilation)
    deterministic = request(algorithm, "max").policy.deterministic
    y = planes.finish(_take(planes, positions, winners if deterministic else None, math.prod(taps)))
    return (y, planes.finish(positions)) if return_indices else y


def _output_size(
    size: Ints, window: Ints, output_size: int | Sequence[int] | None, output_ratio: float | Sequence[float] | None
) -> Ints:
    if (output_size is None) == (output_ratio is None):
        raise ValueError(
            f"output_size and output_ratio are alternatives: give one of them, got {output_size} and {output_ratio}"
        )
    if output_ratio is None:
        output = per_axis("output_size", output_size, len(size))  # type: ignore[arg-type]
        if min(output) < 0:
            raise ValueError(f"output_size must be at least 0 on every axis, got {output}")
    else:
        ratios = per_axis_ratios(output_ratio, len(size))
        if not all(0 < ratio < 1 for ratio in ratios):
            raise ValueError(f"output_ratio must be between 0 and 1 on every axis, got {output_ratio}")
        output = tuple(int(n * ratio) for n, ratio in zip(size, ratios, strict=True))
        if 0 in output:
            raise ValueError(
                f"output_ratio {output_ratio} of {size} elements is {output}: give one that leaves at least 1 an axis"
            )
    for axis, (n, k, o) in enumerate(zip(size, window, output, strict=True)):
        if o + k - 1 > n:
            raise ValueError(
                f"output_size {o} on spatial axis {axis} must be at most {n - k + 1}, for a window of {k} over {n} "
                "elements"
            )
    return output


def per_axis_ratios(output_ratio: float | Sequence[float], ndim: int) -> tuple[float, ...]:
    """One an axis."""
    given = listed(output_ratio)
    entries = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,) * ndim
    if len(entries) != ndim:
        raise ValueError(f"output_ratio has {len(entries)} entries for {ndim} spatial axes: give one number for each")
    return tuple(number("output_ratio", entry) for entry in entries)


def _samples(planes: Planes, key: jax.Array | None, samples: jax.Array | None) -> jax.Array:
    """u of every plane and axis, (N, C, axes), in float32 or wider."""
    shape = (planes.x.shape[0], planes.x.shape[planes.channel_axis], planes.ndim)
    if key is not None and samples is not None:
        raise ValueError("key and samples are alternatives: give one of them")
    if key is not None:
        return jax.random.uniform(key, shape, jnp.float32)
    if samples is None:
        raise ValueError("fractional_max_pool draws at random: pass key, such as jax.random.key(0), or samples")
    samples = as_array("samples", samples)
    given = shape[1:] if planes.unbatched else shape
    if samples.shape != given:
        raise ValueError(f"samples of shape {samples.shape} must be {given}: a number for every plane and spatial axis")
    if not jnp.issubdtype(samples.dtype, jnp.floating):
        raise TypeError(f"samples are {samples.dtype}, but must be floating point, at least 0 and below 1")
    return samples.reshape(shape).astype(accumulator(samples.dtype))


def _starts(u: jax.Array, n: int, k: int, o: int) -> jax.Array:
    """Where the windows of every plane start along an axis: u (N, C), starts (N, C, o)."""
    last = jnp.full((*u.shape, min(o, 1)), n - k, jnp.int32)
    if o < 2:
        return last
    a = u.dtype.type(n - k) / u.dtype.type(o - 1)  # rounded as PyTorch rounds it
    u = u[..., None]
    i = lax.iota(u.dtype, o - 1)[None, None]
    start = ((i + u) * a).astype(jnp.int32) - (u * a).astype(jnp.int32)
    return jnp.concatenate([start, last], -1)


def _along(planes: Planes, values: jax.Array, axis: int) -> jax.Array:
    """Values (N, C, cells) with the axes of the planes, the cells along `axis`."""
    values = values if planes.first == 2 else jnp.moveaxis(values, 1, -1)
    return jnp.expand_dims(values, [other for other in planes.axes if other != axis])


def _take(planes: Planes, positions: jax.Array, winners: jax.Array | None, taps: int) -> jax.Array:
    """What stands at flat positions in the planes; given the winning taps, each tap reads copies of its own.

    Windows never start at one place, but for the last two along an axis whose sample rounds to 1, and two numbers have
    the same sum in either order. Only where two axes' samples do could the order show.
    """
    first, end = planes.first, planes.first + planes.ndim

    def flat(array: jax.Array) -> jax.Array:
        return array.reshape(*array.shape[:first], math.prod(array.shape[first:end]), *array.shape[end:])

    wide = planes.x.astype(accumulator(planes.x.dtype))  # for the gradient, which adds up what shared elements receive
    elements, at = flat(wide), flat(positions)
    if winners is not None:
        require_int32((*planes.size, taps))
        shape = (*elements.shape[: first + 1], taps, *elements.shape[first + 1 :])
        copies = jnp.broadcast_to(jnp.expand_dims(elements, first + 1), shape)
        elements = copies.reshape(*elements.shape[:first], -1, *elements.shape[first + 1 :])
        at = at * taps + flat(winners)
    taken = jnp.take_along_axis(elements, at, first, mode="clip")
    return taken.reshape(positions.shape).astype(planes.x.dtype)
