"""Operands for a problem, by seed: normal, small integers that float sums hold exactly, or awkward values."""

import dataclasses
import math
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from convjax.dtypes import dtype_of, itemsize
from convjax.problem import ConvSpec, Ints, Problem, WindowSpec
from convjax.testing.window import reference_window

Kind = Literal["normal", "integers", "special"]


def random_operands(problem: Problem, seed: int, kind: Kind = "normal") -> tuple[np.ndarray, ...]:
    """Operands of `problem` in its shapes and dtypes.

    Args:
        problem: a convolution or a window operation.
        seed: the same seed gives the same operands.
        kind: "normal", standard normal (integers of -4 to 4 for integer dtypes); "integers", integers of
            -2 to 2, the sparser the more terms a sum has, so that it is exact in the output's dtype;
            "special", for windows only, few distinct values with NaN, infinities and both zeros, or with
            an integer dtype's extremes.

    Returns:
        (lhs, rhs) of a convolution; (x,), (t, taps) or (g, taps), (t, x, y) or (g, x, y) of a window operation. Taps
        are drawn from the whole window, those that lie on padding included; y are the windows' maxima, of few distinct
        values in x.

    Example:
        >>> problem = ConvSpec.parse("conv float32[1,4,1] float32[2,1,1] b0f_0io->b0f")
        >>> [array.shape for array in random_operands(problem, 0)]
        [(1, 4, 1), (2, 1, 1)]
    """
    rng = np.random.default_rng(seed)
    if isinstance(problem, ConvSpec):
        terms = problem.C * math.prod(problem.kernel)
        density = min(1.0, math.sqrt(_exact_range(problem.output_dtype) / (16 * max(terms, 1))))
        return (
            _draw(rng, problem.lhs_shape, problem.lhs_dtype, kind, density),
            _draw(rng, problem.rhs_shape, problem.rhs_dtype, kind, density),
        )
    shape = problem.windows_shape if problem.puts else problem.shape
    adds = problem.puts or problem.operation == "sum"
    density = min(1.0, _exact_range(problem.dtype) / (8 * problem.taps)) if adds else 1.0
    first = _special(rng, problem, shape) if kind == "special" else _draw(rng, shape, problem.dtype, kind, density)
    if problem.compares:
        x = _special(rng, problem, problem.shape)
        maxima = reference_window(dataclasses.replace(problem, operation="max"), x)
        return first, x, maxima.astype(x.dtype)
    if problem.operation not in ("take", "put"):
        return (first,)
    return first, rng.integers(0, problem.taps, problem.windows_shape, dtype=np.int32)


def needs_x64(problem: Problem) -> bool:
    """Whether jax must be allowed 64 bits for the dtypes of `problem`; complex64 is two floats of 32 and needs none.

    Example:
        >>> needs_x64(WindowSpec.parse("max float64[8] window=2"))
        True
    """
    if isinstance(problem, ConvSpec):
        names = [problem.lhs_dtype, problem.rhs_dtype, problem.output_dtype]
    else:
        names = [problem.dtype]
    return any(itemsize(name) >= 8 and name != "complex64" for name in names)


def _exact_range(name: str) -> int:
    """The largest integer up to which the dtype called `name` holds every integer."""
    dtype = dtype_of(name)
    if dtype == np.bool_:
        return 1
    return int(jnp.iinfo(dtype).max) if jnp.issubdtype(dtype, jnp.integer) else 2 ** (jnp.finfo(dtype).nmant + 1)


def _draw(rng: np.random.Generator, shape: Ints, name: str, kind: Kind, density: float) -> np.ndarray:
    if kind not in ("normal", "integers"):
        raise ValueError(f"kind is {kind!r}: a convolution's operands are 'normal' or 'integers'")
    dtype = dtype_of(name)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        parts = [_draw(rng, shape, "float64", kind, density / 2) for _ in range(2)]
        return (parts[0] + 1j * parts[1]).astype(dtype)
    if dtype == np.bool_:
        return rng.random(shape) < 0.5
    if kind == "normal" and jnp.issubdtype(dtype, jnp.floating):
        return rng.standard_normal(shape).astype(dtype)
    reach = 4 if kind == "normal" else 2
    lowest = 0 if name.startswith("uint") else -reach
    values = rng.integers(lowest, reach, shape, endpoint=True)
    return (
        np.where(rng.random(shape) < density, values, 0).astype(dtype) if kind == "integers" else values.astype(dtype)
    )


def _special(rng: np.random.Generator, problem: WindowSpec, shape: Ints) -> np.ndarray:
    """Few distinct values; the one that padding holds is common enough to fill whole windows."""
    dtype = dtype_of(problem.dtype)
    values: list[Any]
    if dtype == np.bool_:
        values = [False, True]
    elif jnp.issubdtype(dtype, jnp.integer):
        values = [jnp.iinfo(dtype).min, jnp.iinfo(dtype).max, 0, 1]
    else:
        values = [-np.inf, np.inf, -1.0, -0.0, 0.0, 1.0, np.nan]
    if problem.operation in ("min", "argmin"):
        values[:2] = values[1::-1]
    weights = np.array([0.5, *[0.5 / (len(values) - 1)] * (len(values) - 1)])
    return np.array(values, dtype)[rng.choice(len(values), shape, p=weights)]
