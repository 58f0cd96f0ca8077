"""Dtypes by name: the strings that problems carry."""

import jax.numpy as jnp
import numpy as np


def dtype_of(name: str) -> np.dtype:
    """The NumPy dtype called `name`, bfloat16 included."""
    try:
        return jnp.dtype(name)
    except TypeError:
        raise ValueError(f"{name!r} is not a dtype; name one like float32, bfloat16 or int8") from None


def accumulator(dtype: np.dtype) -> np.dtype:
    """The dtype in which elements of `dtype` are added: float32 for half precisions, else its own."""
    return np.dtype(np.float32) if jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4 else np.dtype(dtype)


def itemsize(name: str) -> int:
    return dtype_of(name).itemsize
