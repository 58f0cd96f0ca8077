"""Dtypes by name: the strings that problems carry."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np


@functools.cache
def dtype_of(name: str) -> np.dtype:
    """The NumPy dtype of numbers or booleans called `name`, bfloat16 included."""
    try:
        dtype = None if name is None else jnp.dtype(name)
    except TypeError:
        dtype = None
    if dtype is None or not (jnp.issubdtype(dtype, np.number) or dtype == np.bool_):
        raise ValueError(f"{name!r} is not a dtype; name one like float32, bfloat16 or int8")
    return dtype


@functools.cache
def dtype_name(name: str) -> str:
    """The one name, of several such as f4 and float32, that problems carry."""
    return dtype_of(name).name


def accumulator(dtype: np.dtype) -> np.dtype:
    """The dtype in which elements of `dtype` are added: float32 for half precisions, else its own."""
    return np.dtype(np.float32) if jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4 else np.dtype(dtype)


def extremes(dtype: np.dtype) -> tuple[Any, Any]:
    """The least and the greatest value of `dtype`, as its scalars: infinities where it has them, as some float8 do not.

    Example:
        >>> [float(value) for dtype in ("int8", "float16") for value in extremes(np.dtype(dtype))]
        [-128.0, 127.0, -inf, inf]
    """
    if dtype == np.bool_:
        return np.False_, np.True_
    if jnp.issubdtype(dtype, jnp.integer):
        limits: Any = jnp.iinfo(dtype)
    elif np.isinf(dtype.type(np.inf)):
        return dtype.type(-np.inf), dtype.type(np.inf)
    else:
        limits = jnp.finfo(dtype)
    return dtype.type(limits.min), dtype.type(limits.max)


def itemsize(name: str) -> int:
    return dtype_of(name).itemsize
