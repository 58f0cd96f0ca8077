"""Toom and Cook's interpolation, by which Winograd's minimal filtering is done.

m outputs of r taps are a product of polynomials, or its transpose, at m + r - 1 = tile + 2 points, the last of which is
infinity. B of Y = A^T [(G g) * (B^T d)] depends on the points alone; A and G hold their powers, so all m and r of
one tile share B.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from convjax import layout
from convjax.algorithms.bands import Bands
from convjax.algorithms.fusion import apart

_POINTS = {2: (0, 1, -1), 4: (0, 1, -1, 2, -2)}
# 1 over the product of a point's distances to the others.
_SCALES = {2: (1, 1 / 2, 1 / 2, 1), 4: (1 / 4, -1 / 6, -1 / 6, 1 / 24, 1 / 24, 1)}
_B = {
    2: np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]], np.float64),
    4: np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        np.float64,
    ),
}


def inputs_at_points(tile: int) -> np.ndarray:
    """B^T."""
    return _B[tile]


def powers(tile: int, terms: int) -> np.ndarray:
    """A polynomial of `terms` coefficients at every point; at infinity it is the last of them."""
    return np.array([*([point**i for i in range(terms)] for point in _POINTS[tile]), [0] * (terms - 1) + [1]], float)


def scales(tile: int) -> np.ndarray:
    """What every point's product is multiplied by, before it or after."""
    return np.array(_SCALES[tile])


def at_points(matrix: np.ndarray, x: jax.Array, axis: int, start: int, step: int, count: int) -> jax.Array:
    """`matrix` times `count` blocks of x, `step` apart from `start` on: its rows in front, the blocks along `axis`."""
    columns = [layout.every(x, axis, start + i, step, count) for i in range(matrix.shape[1])]
    return jnp.stack([combine(row, columns) for row in matrix])


def combine(row: np.ndarray, terms: list[jax.Array]) -> jax.Array:
    """The sum of row[i] terms[i]; a coefficient of 1 or -1 costs no multiplication."""
    scaled = [
        term if c == 1 else -term if c == -1 else term * np.asarray(c, term.dtype)
        for c, term in zip(row, terms, strict=True)
        if c
    ]
    return functools.reduce(jnp.add, scaled)


def of_band(tile: int, bands: Bands, transform: Callable[..., jax.Array], *operands: jax.Array) -> jax.Array:
    """`transform` of a band's slices of its operands, for a small tile once they are in memory.

    Fused into sums of so few terms, XLA would read a slice element by element.
    """
    return apart(transform, *operands) if tile == 2 and bands.count > 1 else transform(*operands)
