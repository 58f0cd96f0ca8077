"""Window reductions and the maps that differentiate them, tap by tap in the widest dtype.

Only real elements are ever combined: padding, and the holes of base dilation, are visited by no tap.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from convjax.problem import WindowSpec
from convjax.testing.positions import meetings, require_shape, wide_dtype, window_count

Slices = tuple[slice, ...]


@np.errstate(invalid="ignore")  # inf - inf is NaN, as it is in any sum
def reference_window(problem: WindowSpec, *operands: Any) -> np.ndarray:
    """What `problem` asks of `operands`: x, (t, taps) for take, (g, taps) for put, or either with (x, y) for taps.

    Returns:
        The windows' values (x's shape for put and put_equal) in the wide dtype; for argmax and argmin the winning
        taps, int32, 0 where a window has no real element.

    Example:
        >>> reference_window(WindowSpec.parse("max float32[4] window=2"), np.array([1.0, 3.0, 2.0, 0.0]))
        array([3., 3., 2.])
    """
    wide = [np.asarray(operands[0]).astype(wide_dtype(problem.dtype)), *map(np.asarray, operands[1:])]
    windows = _windows(problem)
    require_shape("the first operand", wide[0], windows if problem.puts else problem.shape)
    match problem.operation:
        case "take" | "put" | "take_equal" | "put_equal":
            array, taps = (wide[0], _first_equal(problem, *wide[1:])) if problem.compares else wide
            require_shape("taps", taps, windows)
            return (_put if problem.puts else _take)(problem, array, taps)
        case "sum":
            (x,) = wide
            total = np.zeros(windows, x.dtype)
            for _, seen, met in _taps(problem):
                total[seen] += x[met]
            return total
        case "max" | "min":
            return _winners(problem, *wide)[0]
        case _:
            return _winners(problem, *wide)[1]


def reference_max_vjp(problem: WindowSpec, x: Any, cotangent: Any) -> np.ndarray:
    """The gradient of a `max` or `min` problem: each window's cotangent goes to its first winner.

    Args:
        problem: the reduction that is differentiated.
        x: array of `problem.shape`.
        cotangent: one value per window.

    Returns:
        The gradient of x, in the wide dtype.

    Example:
        >>> problem = WindowSpec.parse("max float32[4] window=2")
        >>> reference_max_vjp(problem, np.array([1.0, 3.0, 2.0, 0.0]), np.ones(3))
        array([0., 2., 1., 0.])
    """
    if problem.operation not in ("max", "min", "argmax", "argmin"):
        raise ValueError(f"problem {str(problem)!r} has no winners: the operation must be max or min")
    wide = wide_dtype(problem.dtype)
    _, taps = _winners(problem, np.asarray(x).astype(wide))
    return _put(problem, np.asarray(cotangent).astype(wide), taps)


def _winners(problem: WindowSpec, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The extreme of each window and its tap: the first NaN, else the first of the equal best."""
    largest = problem.operation in ("max", "argmax")
    better = np.greater if largest else np.less
    best = np.full(_windows(problem), _worst(problem, largest), x.dtype)
    taps = np.zeros(best.shape, np.int32)
    found = np.zeros(best.shape, np.bool_)
    for tap, seen, met in _taps(problem):
        new, old = x[met], best[seen]
        wins = ~found[seen] | better(new, old) | (np.isnan(new) & ~np.isnan(old))
        best[seen] = np.where(wins, new, old)
        taps[seen] = np.where(wins, tap, taps[seen])
        found[seen] = True
    return best, taps


def _first_equal(problem: WindowSpec, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The first tap of each window that stands on an element equal to its value, -1 where none does."""
    require_shape("x", x, problem.shape)
    require_shape("y", y, _windows(problem))
    taps = np.full(y.shape, -1, np.int32)
    for tap, seen, met in _taps(problem):
        equal = (x[met] == y[seen]) | (np.isnan(x[met]) & np.isnan(y[seen]))
        taps[seen] = np.where((taps[seen] < 0) & equal, tap, taps[seen])
    return taps


def _take(problem: WindowSpec, t: np.ndarray, taps: np.ndarray) -> np.ndarray:
    taken = np.zeros(taps.shape, t.dtype)
    for tap, seen, met in _taps(problem):
        taken[seen] = np.where(taps[seen] == tap, t[met], taken[seen])
    return taken


def _put(problem: WindowSpec, g: np.ndarray, taps: np.ndarray) -> np.ndarray:
    x = np.zeros(problem.shape, g.dtype)
    for tap, seen, met in _taps(problem):
        x[met] += np.where(taps[seen] == tap, g[seen], np.zeros((), g.dtype))
    return x


def _worst(problem: WindowSpec, largest: bool) -> Any:
    """The identity of max (`largest`) or min in the problem's own dtype."""
    if problem.dtype == "bool":
        return not largest
    if problem.dtype.startswith(("int", "uint")):
        signed = problem.dtype.startswith("int")
        bits = int(problem.dtype.removeprefix("u").removeprefix("int"))
        smallest, greatest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        return smallest if largest else greatest
    return -np.inf if largest else np.inf


def _taps(problem: WindowSpec) -> Iterator[tuple[int, Slices, Slices]]:
    """Each tap by its row-major number, the windows in which it meets an element, and those elements."""
    tables = [
        meetings(k, wd, e, stride, lo, n, bd)
        for n, k, e, stride, (lo, _), bd, wd in zip(
            problem.shape,
            problem.window,
            _windows(problem),
            problem.strides,
            problem.padding,
            problem.base_dilation,
            problem.window_dilation,
            strict=True,
        )
    ]
    for tap, axes in enumerate(itertools.product(*tables)):
        yield tap, tuple(a[1] for a in axes), tuple(a[2] for a in axes)


def _windows(problem: WindowSpec) -> tuple[int, ...]:
    return tuple(
        map(
            window_count,
            problem.shape,
            problem.window,
            problem.strides,
            problem.padding,
            problem.base_dilation,
            problem.window_dilation,
        )
    )
