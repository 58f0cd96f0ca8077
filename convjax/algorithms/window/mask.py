"""The gradient of maxima and minima by comparison: a window's winner is the first tap at which x equals their value.

No tap is kept from the forward pass. The backward pass reads x and the windows' values instead, which the layers
before and behind often hold anyway.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from convjax.algorithms.fusion import apart
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.algorithms.window.follow import put
from convjax.algorithms.window.geometry import few_tiles, padded, real_taps, sum_error, tap_slices
from convjax.problem import WindowSpec

_MOST_TAPS = 64
# Vector operations for each tap and window, as measured.
_WORK = {"take_equal": 6, "put_equal": 7}


@dataclasses.dataclass(frozen=True)
class Mask:
    """Compares every window with its value, tap by tap; an element that is equal and the first counts."""

    name: ClassVar[str] = "mask"
    version: ClassVar[int] = 1
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = ()
    __str__ = describe

    def unsupported(self, problem: WindowSpec, platform: str) -> Reasons:
        if not problem.compares:
            return (f"{problem.operation} is given no values of windows to compare with",)
        if problem.taps > _MOST_TAPS:
            return (f"{problem.taps} taps: above {_MOST_TAPS} slices compiling takes too long",)
        return ()

    def cost(self, problem: WindowSpec) -> Cost:
        # As long as finding the taps by search and following them: in small tiles neither way keeps them in memory.
        copied = any(lo > 0 or hi > 0 for lo, hi in problem.padding)
        held = (0 if few_tiles(problem) else 4 * math.prod(problem.windows_shape)) + (problem.bytes if copied else 0)
        return Cost(
            vector=_WORK[problem.operation] * problem.macs,
            bytes=problem.bytes + 2 * held,
            workspace=held,
            calls=2 + 2 * sum(lo > 0 or hi > 0 for lo, hi in problem.padding),
        )

    def error(self, problem: WindowSpec) -> float:
        return sum_error(problem)

    def __call__(self, problem: WindowSpec, value: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        equal = list(enumerate(_equal(problem, x, y)))
        if problem.operation == "take_equal":
            candidates = list(tap_slices(problem, padded(problem, value)))
            taken = jnp.zeros(problem.windows_shape, value.dtype)
            for tap, first in reversed(equal):
                taken = jnp.where(first, candidates[tap], taken)
            return taken
        winner = jnp.full(problem.windows_shape, jnp.int32(-1))
        for tap, first in reversed(equal):
            winner = jnp.where(first, jnp.int32(tap), winner)
        return put(problem, value, winner if few_tiles(problem) else apart(lambda taps: taps, winner))


def _equal(problem: WindowSpec, x: jax.Array, y: jax.Array) -> Iterator[jax.Array]:
    """For every tap, row-major, whether it stands on an element of x that equals the window's value."""
    real = [real_taps(problem, axis) for axis in range(problem.ndim)]
    for tap, element in zip(np.ndindex(*problem.window), tap_slices(problem, padded(problem, x)), strict=True):
        equal = element == y
        if jnp.issubdtype(x.dtype, jnp.inexact):
            equal |= jnp.isnan(element) & jnp.isnan(y)
        for axis, t in enumerate(tap):
            if not real[axis][t].all():
                equal &= real[axis][t].reshape([-1 if a == axis else 1 for a in range(problem.ndim)])
        yield equal
