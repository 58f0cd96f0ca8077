"""Log-sum-exp pooling: a smooth maximum of every window."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from convjax import window_primitive
from convjax.algorithms.window.geometry import stacked_taps
from convjax.dtypes import accumulator
from convjax.ops.arguments import Padding, require_floating
from convjax.ops.windows import read_windows
from convjax.problem import WindowSpec
from convjax.request import AlgorithmLike, Request, request


def logsumexp_pool(
    x: jax.Array,
    window: int | Sequence[int],
    *,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    layout: str | None = None,
    algorithm: AlgorithmLike = None,
) -> jax.Array:
    """The logarithm of the sum of exponentials of every window.

    y[n, o, c] = log(sum over taps t of exp(x[n, o s + t d - lo, c]))

    A sum, not a mean: a window of T equal elements a gives a + log(T), and padding, which is -inf, adds nothing.
    Subtract `jnp.log` of the windows' counts for the mean. Exponentials are taken of differences to the window's
    maximum, so that none overflows. The gradient is the softmax of the window.

    A window that holds NaN gives NaN, else one that holds inf gives inf, and one of -inf alone gives -inf; the
    gradient of an infinite window is 0.

    Args:
        x, window, strides, padding, dilation, ceil_mode, layout: as `max_pool`. x is floating point.
        algorithm: of the windows' maxima; see `conv_general_dilated`.

    Returns:
        (N, *output, C) of x's dtype; half precisions are computed in float32.

    Raises:
        ValueError: as `max_pool`.
        TypeError: x is not real floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> logsumexp_pool(jnp.array([1000.0, 1000.0, -jnp.inf, 3.0])[:, None], 2)[:, 0]
        Array([1000.6932,    3.    ], dtype=float32)

    Source:
        P. O. Pinheiro, R. Collobert, From Image-level to Pixel-level Labeling with Convolutional Networks,
        arXiv:1411.6228, equation 3 with r = 1 and a sum for its mean.
    """
    x = require_floating("logsumexp_pool", x)
    pool = read_windows(x, window, strides, padding, dilation, ceil_mode, layout)
    return pool.finish(_logsumexp(pool.problem("max"), request(algorithm, "max"), pool.x))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logsumexp(problem: WindowSpec, asked: Request, x: jax.Array) -> jax.Array:
    wide = accumulator(x.dtype)
    # The result does not vary with what is subtracted, so that needs no derivative.
    largest = window_primitive.reduce(lax.stop_gradient(x), problem, asked).astype(wide)
    taps = stacked_taps(problem, x.astype(wide))  # T *windows
    below = jnp.where(jnp.isinf(largest)[None], 0, taps - largest[None])
    return (largest + jnp.log(jnp.sum(jnp.exp(below), 0))).astype(x.dtype)
