"""A window is a product of intervals: reduce along one axis, then reduce the result along the next.

k1 + k2 elements an output instead of k1 k2, for one intermediate array in memory.
"""

import dataclasses
from typing import ClassVar

import jax

from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.algorithms.window.geometry import sum_error
from convjax.algorithms.window.pass_by_pass import in_passes
from convjax.algorithms.window.passes import passes_cost, passes_gpu_cost
from convjax.problem import WindowSpec

_MOST_TAPS = 128


@dataclasses.dataclass(frozen=True)
class Separable:
    """One pass an axis, each a fused loop over that axis's taps."""

    name: ClassVar[str] = "separable"
    version: ClassVar[int] = 4
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = ()
    __str__ = describe

    def unsupported(self, problem: WindowSpec, platform: str) -> Reasons:
        if problem.follows_taps:
            return (f"{problem.operation} follows one tap of each window and reduces none",)
        if max(problem.window, default=1) > _MOST_TAPS:
            return (f"{max(problem.window)} taps along an axis: above {_MOST_TAPS} slices compiling takes too long",)
        return ()

    def cost(self, problem: WindowSpec) -> Cost:
        return passes_cost(problem, _at_once)

    def gpu_cost(self, problem: WindowSpec) -> Cost:
        return passes_gpu_cost(problem, _at_once)

    def error(self, problem: WindowSpec) -> float:
        return sum_error(problem)

    def __call__(self, problem: WindowSpec, *operands: jax.Array) -> jax.Array:
        return in_passes(problem, _at_once, *operands)


def _at_once(window: int) -> tuple[int, ...]:
    return (window,)
