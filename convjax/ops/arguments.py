"""Reading arguments: one value or one per axis, the forms of padding, layouts and unbatched inputs."""

import contextlib
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convjax import sizes
from convjax.problem import Ints, Pads, require_positive

PADDING_STRINGS = ("SAME", "SAME_LOWER", "VALID", "FULL", "CAUSAL")
Padding = str | int | Sequence[int | Sequence[int]]

_CHANNELS_FIRST = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
_CHANNELS_LAST = {1: "NWC", 2: "NHWC", 3: "NDHWC"}


def as_array(name: str, value: Any) -> jax.Array:
    """What jax makes of the operand `value`: of NumPy's arrays and nested lists an array of its own."""
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be an array, got {type(value).__name__}") from None


def listed(value: Any) -> Any:
    """An array of numbers, unless it is traced, as a list of them, all else as it is."""
    is_array = isinstance(value, np.ndarray | jax.Array) and not isinstance(value, jax.core.Tracer)
    return value.tolist() if is_array else value


def per_axis(name: str, value: int | Sequence[int], ndim: int) -> Ints:
    """One int an axis from an int or a sequence of them."""
    value = listed(value)
    values = _integers(name, value) if isinstance(value, Sequence) else _integers(name, (value,)) * ndim
    if len(values) != ndim:
        raise ValueError(f"{name} has {len(values)} entries for {ndim} spatial axes: give one int or {ndim} of them")
    return values


def positive_per_axis(name: str, value: int | Sequence[int], ndim: int) -> Ints:
    values = per_axis(name, value, ndim)
    require_positive(name, values)
    return values


def is_same(padding: object) -> bool:
    """Whether it is what the stride has to be known for."""
    return isinstance(padding, str) and padding in ("SAME", "SAME_LOWER")


def padding_pairs(padding: Padding, size: Ints, extent: Ints, strides: Ints) -> Pads:
    """(lo, hi) an axis from any form of padding; `extent` is the dilated kernel's or window's."""
    if isinstance(padding, str):
        return _named_padding(padding, size, extent, strides)
    ndim, padding = len(size), listed(padding)
    try:
        entries = (padding,) * ndim if isinstance(padding, int | np.integer) else tuple(padding)
    except TypeError:
        raise TypeError(
            f"padding must be a name, an int, or an int or (lo, hi) for each axis, got {padding!r}"
        ) from None
    if len(entries) != ndim:
        raise ValueError(
            f"padding has {len(entries)} entries for {ndim} spatial axes: give one int, or an int or (lo, hi) for each"
        )
    return tuple(_pair(entry) for entry in entries)


def _named_padding(name: str, size: Ints, extent: Ints, strides: Ints) -> Pads:
    match name:
        case "SAME" | "SAME_LOWER":
            return tuple(
                sizes.same_padding(n, e, s, odd_at_end=name == "SAME")
                for n, e, s in zip(size, extent, strides, strict=True)
            )
        case "VALID":
            return tuple((0, 0) for _ in size)
        case "FULL":
            return tuple((e - 1, e - 1) for e in extent)
        case "CAUSAL":
            return tuple((e - 1, 0) for e in extent)
    right = f": write {name.upper()!r}" if name.upper() in PADDING_STRINGS else ""
    raise ValueError(f"padding must be one of {', '.join(PADDING_STRINGS)} or numbers, got {name!r}{right}")


def _pair(entry: Any) -> tuple[int, int]:
    entry = listed(entry)
    values = _integers("padding", entry if isinstance(entry, Sequence) else (entry, entry))
    if len(values) != 2:
        raise ValueError(f"padding holds {entry!r}, which is neither an int nor a (lo, hi) pair")
    return values[0], values[1]


def channels_first(layout: str | None, ndim: int) -> bool:
    """Whether `layout` puts channels before the spatial axes; None is channels last."""
    if layout is None or layout == _CHANNELS_LAST.get(ndim):
        return False
    if layout == _CHANNELS_FIRST.get(ndim):
        return True
    valid = ["None", *(names[ndim] for names in (_CHANNELS_LAST, _CHANNELS_FIRST) if ndim in names)]
    raise ValueError(f"layout must be one of {', '.join(valid)} for {ndim} spatial axes, got {layout!r}")


def spatial_axes(x: jax.Array, per_axis: object, layout: str | None) -> int:
    """As many as an argument has entries or the layout letters; else all of x but channels and, from rank 3, batch."""
    if isinstance(listed(per_axis), Sequence) and not isinstance(per_axis, str):
        return len(per_axis)  # type: ignore[arg-type]
    if isinstance(layout, str):
        layouts = [*_CHANNELS_LAST.values(), *_CHANNELS_FIRST.values()]
        if len(layout) not in map(len, layouts):
            raise ValueError(f"layout must be None or one of {', '.join(layouts)}, got {layout!r}")
        return len(layout) - 2
    return x.ndim - 2 if x.ndim > 2 else x.ndim - 1


def with_batch(x: jax.Array, ndim: int, name: str = "x") -> tuple[jax.Array, bool]:
    """x as an array with a batch axis, and whether one was added."""
    x = as_array(name, x)
    if x.ndim == ndim + 2:
        return x, False
    if x.ndim == ndim + 1:
        return x[None], True
    raise ValueError(
        f"{name} of shape {x.shape} must have {ndim + 2} axes for {ndim} spatial axes, or {ndim + 1} without a batch"
    )


def integer(name: str, value: int) -> int:
    with contextlib.suppress(TypeError):
        if not isinstance(value, bool):
            return operator.index(value)
    raise TypeError(f"{name} must be an integer, got {value!r}")


def positive_integer(name: str, value: int) -> int:
    number = integer(name, value)
    require_positive(name, (number,))
    return number


def require_bool(name: str, value: object) -> None:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def number(name: str, value: Any) -> float:
    """A real number that is known where the operation is traced."""
    if not isinstance(value, str):
        with contextlib.suppress(TypeError):
            return float(value)
    raise TypeError(f"{name} must be a real number, got {value!r}")


def require_floating(operation: str, x: jax.Array) -> jax.Array:
    """x as an array of real fractions."""
    x = as_array("x", x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x is {x.dtype}, but {operation} needs real fractions: cast it to a floating dtype first")
    return x


def require_ordered(x: jax.Array) -> jax.Array:
    """x as an array whose elements can be compared."""
    x = as_array("x", x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"x is {x.dtype}, which has no order: take its absolute value or cast it to a real dtype first")
    return x


def require_sums(x: jax.Array) -> jax.Array:
    """x as an array whose elements can be added."""
    x = as_array("x", x)
    if x.dtype == jnp.bool_:
        raise TypeError("x is bool, which has no sums: cast it to an integer or a floating dtype first")
    return x


def require_averages(x: jax.Array) -> jax.Array:
    """x as an array whose means are of its dtype."""
    x = as_array("x", x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(f"x is {x.dtype}, whose averages are fractions: cast it to a floating dtype first")
    return x


def _integers(name: str, values: Sequence[int]) -> Ints:
    with contextlib.suppress(TypeError):
        if not any(isinstance(v, bool) for v in values):
            return tuple(operator.index(v) for v in values)
    raise TypeError(f"{name} must hold integers, got {values!r}")
