"""What the fields of a problem may hold: each as it is kept, or an error that says what would be right."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from jax import export

from convjax.text_form import Ints

_INT = {int}  # and not bool
_PRECISIONS = ("default", "high", "highest")


def require_positive(name: str, values: Iterable[int]) -> None:
    values = tuple(values)
    if any(v < 1 for v in values):
        shown = values[0] if len(values) == 1 else values
        raise ValueError(f"{name} must be at least 1 on every axis, got {shown}")


def require_integers(problem: Any, but: tuple[str, ...]) -> None:
    """That all fields hold what the text form has digits for, `but` those called so."""
    for name, value in vars(problem).items():
        if name not in but and not _holds_integers(value):
            raise TypeError(f"{name} must hold integers, in tuples where there are several, got {value!r}")


def _holds_integers(value: Any) -> bool:
    kinds = {*map(type, value)} if type(value) is tuple else {type(value)}
    if kinds == {tuple}:
        return all(map(_holds_integers, value))
    if kinds <= _INT or all(issubclass(kind, np.integer) for kind in kinds - _INT):
        return True
    # Sizes that `jax.export` does not know; lax computes such a problem, which has no text.
    return type(value) is tuple and all(type(n) in _INT or export.is_symbolic_dim(n) for n in value)


def require_shape(name: str, shape: Ints) -> None:
    if any(not export.is_symbolic_dim(n) and n < 0 for n in shape):
        raise ValueError(f"{name} of shape {shape} must have 0 or more elements on every axis")


def precision_name(precision: Any) -> str | None:
    """Lax's precision by its name, in lower case."""
    if precision is None or precision in _PRECISIONS:
        return precision
    name = str(getattr(precision, "name", precision)).lower()
    if name not in _PRECISIONS:
        raise ValueError(f"precision={precision} must be one of {', '.join(_PRECISIONS)}, or None")
    return name


def axis_orders(dimension_numbers: Any, rank: int) -> tuple[Ints, Ints, Ints]:
    """The axes of lhs, rhs and out in lax's order."""
    axes = list(range(rank))
    try:
        lhs, rhs, out = map(tuple, dimension_numbers)
        if sorted(lhs) == sorted(rhs) == sorted(out) == axes:
            return lhs, rhs, out
    except (TypeError, ValueError):
        pass
    last, spatial = (0, rank - 1, *axes[1:-1]), (rank - 1, rank - 2, *axes[:-2])
    raise ValueError(
        f"dimension_numbers must hold three orders of the axes 0 to {rank - 1}, such as {(last, spatial, last)}, "
        f"got {dimension_numbers!r}"
    )
