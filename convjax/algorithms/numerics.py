"""Arithmetic that algorithms share: what to accumulate in, and how far direct summation can err."""

import jax.numpy as jnp
import numpy as np

from convjax import dtypes
from convjax.algorithms.protocol import Algorithm
from convjax.dtypes import dtype_of
from convjax.problem import ConvSpec, Problem

# Spacing at 1 of the floats that a platform's matrix units round float32 to before they multiply, by precision:
# TensorFloat-32 has 10 bits of mantissa, bfloat16 7, and three products of parts of it as good as 16.
_MULTIPLIED = {"cuda": {"default": 2.0**-10, "high": 2.0**-10}, "tpu": {"default": 2.0**-7, "high": 2.0**-16}}
# Matrix units also accumulate with fewer bits: the extra error, in the spacings above, is this times the root of the
# number of terms.
_ADDED = 0.005
# Spacings that direct summation errs by, beside what grows with the products that it adds.
DIRECT = 4.0
# What cuDNN makes of such rounding at worst: now and then it multiplies by Winograd's algorithm.
LIBRARY = 12.0


def accumulator(problem: ConvSpec) -> np.dtype:
    """The dtype sums run in: float32 for half precisions, int32 for small integers, else the wider operand's."""
    operand, result = dtype_of(problem.lhs_dtype), dtype_of(problem.output_dtype)
    # Not by jax's promotion, which refuses what a user has not asked for: fractions of 8 bits, all when it is strict.
    dtype = result if result.itemsize >= operand.itemsize else operand
    if jnp.issubdtype(dtype, jnp.integer) and dtype.itemsize < 4:
        return np.dtype(np.int32)
    return dtypes.accumulator(dtype)


def epsilon(dtype: np.dtype) -> float:
    """Spacing of the floats at 1; 0 for integers, which do not round."""
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.inexact) else 0.0


def direct_error(problem: ConvSpec) -> float:
    """Bound for adding the products one after another."""
    return rounding_error(problem, fixed=DIRECT, growing=0.5)


def rounding_error(problem: ConvSpec, fixed: float, growing: float) -> float:
    """Bound of `fixed` + `growing` sqrt(n) spacings of the accumulator's floats, and one rounding to the output.

    On standard normal operands the running sum of n products grows as sqrt(n) and its rounding error with it,
    while the largest output is some multiple of sqrt(n). The bound is a fraction of that output.
    """
    terms = problem.taps * problem.C
    out = dtype_of(problem.output_dtype)
    rounded = epsilon(out) if out != accumulator(problem) else 0.0
    return epsilon(accumulator(problem)) * (fixed + growing * terms**0.5) + rounded


def error_on(platform: str, algorithm: Algorithm, problem: Problem) -> float:
    """The bound that `algorithm` states, and what matrix products round beyond it at the problem's precision."""
    rounded = rounding_on(platform, problem, transformed=not algorithm.exact)
    return algorithm.error(problem) + (rounded and rounded * amplification(algorithm))


def rounding_on(platform: str, problem: Problem, *, transformed: bool = False) -> float:
    """What sums of products by `platform`'s matrix units err by beyond their own bound; 0 where they do not round.

    Narrow operands are multiplied as they are, unless they were `transformed` in the accumulator's dtype before.
    """
    if not isinstance(problem, ConvSpec) or accumulator(problem) not in (np.float32, np.complex64):
        return 0.0
    spacing = _MULTIPLIED.get(platform, {}).get(problem.precision or "default", 0.0)
    narrow = epsilon(dtype_of(problem.lhs_dtype)) >= spacing
    return 0.0 if narrow and not transformed else spacing * (1 + _ADDED * (problem.taps * problem.C) ** 0.5)


def amplification(algorithm: Algorithm) -> float:
    """By how much the rounding of a matrix product's inputs is multiplied on its way to the result; 0 without any."""
    return float(getattr(algorithm, "amplification", 1.0))
