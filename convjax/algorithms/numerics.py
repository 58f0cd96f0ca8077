"""Arithmetic that algorithms share: what to accumulate in, and how far direct summation can err."""

import jax.numpy as jnp
import numpy as np

from convjax import dtypes
from convjax.dtypes import dtype_of
from convjax.problem import ConvSpec


def accumulator(problem: ConvSpec) -> np.dtype:
    """The dtype sums run in: float32 for half precisions, int32 for small integers, else the wider operand's."""
    dtype = jnp.promote_types(dtype_of(problem.lhs_dtype), dtype_of(problem.output_dtype))
    if jnp.issubdtype(dtype, jnp.integer) and dtype.itemsize < 4:
        return np.dtype(np.int32)
    return dtypes.accumulator(dtype)


def epsilon(dtype: np.dtype) -> float:
    """Spacing of the floats at 1; 0 for integers, which do not round."""
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.inexact) else 0.0


def direct_error(problem: ConvSpec) -> float:
    """Bound for adding the products one after another."""
    return rounding_error(problem, fixed=4.0, growing=0.5)


def rounding_error(problem: ConvSpec, fixed: float, growing: float) -> float:
    """Bound of `fixed` + `growing` sqrt(n) spacings of the accumulator's floats, and one rounding to the output.

    On standard normal operands the running sum of n products grows as sqrt(n) and its rounding error with it,
    while the largest output is some multiple of sqrt(n). The bound is a fraction of that output.
    """
    terms = problem.taps * problem.C
    out = dtype_of(problem.output_dtype)
    rounded = epsilon(out) if out != accumulator(problem) else 0.0
    return epsilon(accumulator(problem)) * (fixed + growing * terms**0.5) + rounded
