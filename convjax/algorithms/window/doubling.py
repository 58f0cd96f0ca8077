"""Large windows in a logarithm of their taps: reduce a few elements, then a few of those results, and so on.

Maxima of 2 w elements are maxima of two neighbouring maxima of w; a window that is no multiple takes two that
overlap. Sums may not overlap, so they take what is left over from x itself (Horner's rule in the window). Nothing
is ever subtracted: NaN and infinities stay in the windows that hold them, and sums err as plain ones do.
"""

import dataclasses
from typing import ClassVar

import jax

from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.algorithms.window.geometry import sum_error
from convjax.algorithms.window.pass_by_pass import in_passes
from convjax.algorithms.window.passes import passes_cost, passes_gpu_cost
from convjax.problem import WindowSpec

# Two doublings a pass: a pass over memory costs as much as a few slices combined.
_GROWTH = 4


@dataclasses.dataclass(frozen=True)
class Doubling:
    """Axis by axis, in passes that each widen what an element stands for four times or a little more."""

    name: ClassVar[str] = "doubling"
    version: ClassVar[int] = 4
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = ()
    __str__ = describe

    def unsupported(self, problem: WindowSpec, platform: str) -> Reasons:
        if problem.follows_taps:
            return (f"{problem.operation} follows one tap of each window and reduces none",)
        if max(problem.window, default=1) < 2 * _GROWTH:
            return (f"no axis of windows {problem.window} has {2 * _GROWTH} taps or more: nothing to double",)
        return ()

    def cost(self, problem: WindowSpec) -> Cost:
        return passes_cost(problem, _widths)

    def gpu_cost(self, problem: WindowSpec) -> Cost:
        return passes_gpu_cost(problem, _widths)

    def error(self, problem: WindowSpec) -> float:
        return sum_error(problem)

    def __call__(self, problem: WindowSpec, *operands: jax.Array) -> jax.Array:
        return in_passes(problem, _widths, *operands)


def _widths(window: int) -> tuple[int, ...]:
    """From the window down: a quarter, rounded down, as long as that is two taps or more.

    Example:
        >>> _widths(31), _widths(32), _widths(7)
        ((7, 31), (2, 8, 32), (7,))
    """
    return (window,) if window < 2 * _GROWTH else (*_widths(window // _GROWTH), window)
