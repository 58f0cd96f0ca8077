"""Reading arguments as PyTorch does: integers that are no bools, one-element lists, padding that never crops."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from convjax.ops import arguments
from convjax.problem import Ints, require_positive

LAYOUTS = {1: "NCW", 2: "NCHW", 3: "NCDHW"}


def per_axis(name: str, value: int | Sequence[int], ndim: int) -> Ints:
    """One int an axis."""
    require_no_bools(name, value)
    return arguments.per_axis(name, value, ndim)


def expanded(name: str, value: int | Sequence[int], ndim: int) -> Ints:
    """One int an axis, where a list of one stands for all of them: so for convolutions, not for fold and unfold."""
    one = isinstance(value, Sequence) and len(value) == 1
    return per_axis(name, value[0] if one else value, ndim)  # type: ignore[index]


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


def check_pooled(name: str, input: jax.Array, ndim: int) -> None:
    """What PyTorch asks of the input of a pooling over `ndim` axes."""
    if input.ndim not in (ndim + 1, ndim + 2):
        raise ValueError(
            f"input of shape {input.shape} must have {ndim + 2} axes for {name}: N, C and {ndim} spatial, "
            f"or {ndim + 1} without N"
        )
    if 0 in input.shape[-ndim - 1 :]:
        raise ValueError(f"input of shape {input.shape} has an empty axis: only N may be 0")
    if not jnp.issubdtype(input.dtype, jnp.floating):
        raise TypeError(f"input is {input.dtype}, for which PyTorch has no {name}: cast it to a floating dtype")
