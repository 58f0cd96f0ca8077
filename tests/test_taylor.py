"""Taylor series by `jax.experimental.jet` against derivatives along the same curve, taken one after another."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import jet

import convjax

ORDER = 3
IMAGE, KERNEL = (2, 5, 6, 4), (3, 2, 2, 6)


def stock(x: jax.Array, w: jax.Array) -> jax.Array:
    y = jnp.tanh(lax.conv_general_dilated(x, w, (2, 1), ((2, 1), (0, -1)), (1, 2), (2, 1), ("NHWC", "HWIO", "NHWC"), 2))
    return lax.reduce_window(y, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 2, 1), "VALID")


def squared(pool: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
    """The gradient of a function that is not piecewise linear."""
    return jax.grad(lambda x: jnp.sum(pool(jnp.sin(x), (3, 2), strides=(1, 2), padding=1) ** 3))(x)


CASES: dict[str, tuple[Callable[..., jax.Array], tuple[tuple[int, ...], ...]]] = {
    "conv": (functools.partial(convjax.conv, strides=(2, 1), padding=1, groups=2), (IMAGE, KERNEL)),
    "conv of a constant kernel": (lambda x: convjax.conv(jnp.exp(x), jnp.ones(KERNEL), groups=2), (IMAGE,)),
    "transposed": (functools.partial(convjax.conv_transpose, strides=2, groups=2), (IMAGE, (3, 2, 4, 3))),
    "accelerate": (convjax.accelerate(stock), (IMAGE, KERNEL)),
    "jit": (jax.jit(convjax.accelerate(jax.jit(stock))), (IMAGE, KERNEL)),
    "max": (lambda x: convjax.max_pool(jnp.sin(x), (3, 2), padding=1), (IMAGE,)),
    "min of a pair": (lambda x, y: convjax.min_pool(x * y, 2), (IMAGE, IMAGE)),
    "average": (lambda x: convjax.avg_pool(jnp.sin(x), 3, count_include_pad=False, padding=1), (IMAGE,)),
    "logsumexp": (functools.partial(convjax.logsumexp_pool, window=(2, 3)), (IMAGE,)),
    "gradient of max": (functools.partial(squared, convjax.max_pool), (IMAGE,)),
    "gradient of average": (functools.partial(squared, convjax.avg_pool), (IMAGE,)),
}


@pytest.mark.parametrize("name", CASES)
def test_series(name: str) -> None:
    f, shapes = CASES[name]
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        points = tuple(jnp.asarray(rng.normal(size=shape)) for shape in shapes)
        series = tuple([jnp.asarray(rng.normal(size=shape)) for _ in range(ORDER)] for shape in shapes)

        def curve(t: jax.Array) -> jax.Array:
            return f(*(x + t * a + t**2 / 2 * b + t**3 / 6 * c for x, (a, b, c) in zip(points, series, strict=True)))

        value, terms = jet.jet(f, points, series)
        expected, derivative = [], curve
        for _ in range(ORDER + 1):
            expected.append(derivative(jnp.zeros(())))
            derivative = functools.partial(lambda g, t: jax.jvp(g, (t,), (jnp.ones(()),))[1], derivative)
        assert float(jnp.abs(terms[-1]).max()) > 1e-3
        for ours, right in zip([value, *terms], expected, strict=True):
            np.testing.assert_allclose(ours, right, rtol=1e-9, atol=1e-9 * float(jnp.abs(right).max()))
