"""Reading arguments as PyTorch does: integers that are no bools, one-element lists, padding that never crops."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from convjax.ops import arguments
from convjax.problem import Ints, require_positive

LAYOUTS = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
AXES = {1: "N, C, W", 2: "N, C, H, W", 3: "N, C, D, H, W"}
# An array; with `return_indices` a pair of them. PyTorch does not tell its type checkers more.
Pooled = Any


def per_axis(name: str, value: int | Sequence[int], ndim: int) -> Ints:
    """One int an axis."""
    require_no_bools(name, value)
    return arguments.per_axis(name, value, ndim)


def expanded(name: str, value: int | Sequence[int], ndim: int) -> Ints:
    """One int an axis, where a list of one stands for all of them: so for convolutions, not for fold and unfold."""
    one = isinstance(value, Sequence) and len(value) == 1
    return per_axis(name, value[0] if one else value, ndim)  # type: ignore[index]


def windows(kernel_size: int | Sequence[int], stride: int | Sequence[int] | None, ndim: int) -> tuple[Ints, Ints]:
    """Kernel size and stride of a pooling: without a stride, None or an empty list, its windows do not overlap."""
    window = positive("kernel_size", expanded("kernel_size", kernel_size, ndim))
    if stride is None or (isinstance(stride, Sequence) and not len(stride)):
        return window, window
    return window, positive("stride", expanded("stride", stride, ndim))


def positive(name: str, values: Ints) -> Ints:
    require_positive(name, values)
    return values


def non_negative(name: str, values: Ints) -> Ints:
    if any(v < 0 for v in values):
        raise ValueError(f"{name} must be at least 0 on every axis, got {values}")
    return values


def require_no_bools(name: str, value: object) -> None:
    values = value if isinstance(value, Sequence) else (value,)
    if any(isinstance(v, bool) for v in values):
        raise TypeError(f"{name} must hold integers, got {value!r}")


def require_one_way(name: str, algorithm: object) -> None:
    """Refuses a wish for an algorithm where there is nothing to choose."""
    if algorithm is not None:
        raise ValueError(f"algorithm must be None, got {algorithm!r}: {name} is computed in one way")


def check_axes(name: str, input: jax.Array, axes: str) -> None:
    """Whether input of function `name` has `axes`, as in "N, C, W", or all but N; only N may be empty."""
    ndim = axes.count(",") + 1
    if not hasattr(input, "dtype"):
        raise TypeError(f"input must be an array, got {type(input).__name__}")
    if input.ndim not in (ndim - 1, ndim):
        raise ValueError(
            f"input of shape {input.shape} must have {ndim} axes for {name}: {axes}, or {ndim - 1} without N"
        )
    if 0 in input.shape[1 - ndim :]:
        raise ValueError(f"input of shape {input.shape} has an empty axis: only N may be 0")


def check_pooled(name: str, input: jax.Array, ndim: int) -> None:
    """What PyTorch asks of the input of a pooling over `ndim` axes."""
    check_axes(name, input, AXES[ndim])
    if not jnp.issubdtype(input.dtype, jnp.floating):
        raise TypeError(f"input is {input.dtype}, for which PyTorch has no {name}: cast it to a floating dtype")
