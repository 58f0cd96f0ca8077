"""Arithmetic that algorithms share: what to accumulate in, and how far direct summation can err."""

import jax.numpy as jnp
import numpy as np

from convjax.dtypes import dtype_of
from convjax.problem import ConvSpec


def accumulator(problem: ConvSpec) -> np.dtype:
    """The dtype sums run in: float32 for half precisions, int32 for small integers, else the wider operand's."""
    dtype = jnp.promote_types(dtype_of(problem.lhs_dtype), dtype_of(problem.output_dtype))
    if dtype in (jnp.bfloat16, jnp.float16):
        return np.dtype(np.float32)
    if jnp.issubdtype(dtype, jnp.integer) and dtype.itemsize < 4:
        return np.dtype(np.int32)
    return np.dtype(dtype)


def epsilon(dtype: np.dtype) -> float:
    """Spacing of the floats at 1; 0 for integers, which do not round."""
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.inexact) else 0.0


def direct_error(problem: ConvSpec) -> float:
    """Bound for adding the products one after another, then rounding once to the output dtype.

    On standard normal operands the running sum of n products grows as sqrt(n) and so does its rounding
    error, while the largest output is some multiple of sqrt(n); the bound is therefore stated against
    sqrt(n) steps and tested on sampled problems.
    """
    terms = problem.taps * problem.C
    return epsilon(accumulator(problem)) * (4.0 + 0.5 * terms**0.5) + _output_rounding(problem)


def amplified_error(problem: ConvSpec, factor: float) -> float:
    """`direct_error` with the accumulation part multiplied by a transform's amplification `factor`."""
    return factor * (direct_error(problem) - _output_rounding(problem)) + _output_rounding(problem)


def _output_rounding(problem: ConvSpec) -> float:
    out = dtype_of(problem.output_dtype)
    return epsilon(out) if out != accumulator(problem) else 0.0
