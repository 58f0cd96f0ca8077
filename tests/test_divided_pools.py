"""Poolings and patches in programs that XLA divides, where a device has fewer rows than a stride passes over."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import convjax
from convjax.algorithms import algorithms
from convjax.algorithms.protocol import Algorithm


def values(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def stock(x: jax.Array) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 8, 4, 1), (1, 8, 4, 1), "VALID")


# Functions of x (N, 8, 4, 24).
OPERATIONS: dict[str, Callable[[jax.Array], Any]] = {
    "max": lambda x: convjax.max_pool(x, (8, 4)),
    "max of two in three": lambda x: convjax.max_pool(x, 2, strides=3),
    "indices": lambda x: convjax.max_pool(x, (8, 4), return_indices=True)[1],
    "global": convjax.global_max_pool,
    "accelerated": convjax.accelerate(stock),
    "average": lambda x: convjax.avg_pool(x, (4, 2), strides=(4, 1), padding=((2, 1), (0, 1))),
    "norm": lambda x: convjax.lp_pool(x, (8, 4)),
    "logsumexp": lambda x: convjax.logsumexp_pool(x, (8, 4)),
    "median": lambda x: convjax.median_pool(x, (8, 3), strides=(3, 2), padding="SAME"),
    "dilation": lambda x: convjax.dilation2d(x, values(8, 4, 24), strides=(8, 4)),
    "erosion": lambda x: convjax.erosion2d(x, values(3, 4, 24), strides=(4, 2), padding="SAME"),
    "unfold": lambda x: convjax.unfold(x, 3, strides=4, padding=((0, 1), (0, 0))),
    "fold": lambda x: convjax.fold(x, (24, 8), (3, 2), strides=(3, 2)),
    "local": lambda x: convjax.conv_local(x, values(2, 1, 216, 2), kernel_size=3, strides=4, padding=((0, 1), (0, 0))),
    "blur": lambda x: convjax.blur_pool(x, filter_size=3, strides=(4, 2)),
    "bins": lambda x: convjax.adaptive_max_pool(x, (2, 2)),
}


def rows() -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.devices()[:4]), ("rows",)), PartitionSpec(None, "rows"))


def with_gradient(operation: Callable[[jax.Array], Any], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The result, and the gradient of its sum with weights that tell its elements apart."""

    def loss(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = operation(x)
        return jnp.sum(y * jnp.arange(1.0, y.size + 1).reshape(y.shape)) / y.size, y

    gradient, y = jax.grad(loss, has_aux=True)(x)
    return y, gradient


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_device_has_two_rows(name: str) -> None:
    fn, x = jax.jit(functools.partial(with_gradient, OPERATIONS[name])), values(2, 8, 4, 24)
    for got, want in zip(fn(jax.device_put(x, rows())), fn(x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OPERATIONS)
def test_one_device_has_them_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices are plain there. Tests have four devices otherwise."""
    x = values(3, 8, 4, 24)
    want = with_gradient(OPERATIONS[name], x)
    jax.clear_caches()  # or what is jitted inside would not be traced anew
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    for got, expected in zip(with_gradient(OPERATIONS[name], x), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    jax.clear_caches()


@pytest.mark.parametrize("algorithm", algorithms("max"), ids=str)
def test_every_algorithm_is_right_where_windows_are_larger_than_what_a_device_has(algorithm: Algorithm) -> None:
    x = values(2, 8, 4, 4).at[0, 3, 1, 2].set(jnp.nan)
    for window, strides in (((8, 4), (8, 4)), ((2, 2), (3, 1)), ((8, 3), (4, 1))):

        def pooled(x: jax.Array, window: Any = window, strides: Any = strides) -> jax.Array:
            return convjax.max_pool(x, window, strides=strides, algorithm=[algorithm, "lax"])

        np.testing.assert_array_equal(jax.jit(pooled)(jax.device_put(x, rows())), jax.jit(pooled)(x))


@pytest.mark.parametrize("algorithm", [None, "lax", "polyphase"])
def test_kernels_whose_rows_are_divided(algorithm: str | None) -> None:
    """Of which polyphase takes every second or third."""
    x, w = values(1, 8, 8), values(8, 8, 8)
    of_w = NamedSharding(rows().mesh, PartitionSpec("rows"))
    asked: Any = algorithm and [algorithm, "lax"]

    def both(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        names = ("NHC", "HIO", "NHC")
        dilated = convjax.conv_general_dilated(x, w, (1,), [(7, 7)], (3,), None, names, algorithm=asked)
        strided, pullback = jax.vjp(lambda x: convjax.conv(x, w, strides=3, algorithm=asked), x)
        return dilated, pullback(jnp.ones_like(strided))[0]

    for got, want in zip(jax.jit(both)(x, jax.device_put(w, of_w)), jax.jit(both)(x, w), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
