"""Poolings under requests, limits, strict promotion and extreme arguments: what holds there, and what is refused."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convjax
from convjax import functional


@pytest.mark.parametrize("p", [1e9, 3e9, 1e10, 1e30])
def test_a_large_p_is_the_largest_element(p: float) -> None:
    """A ratio to the largest that is rounded to less than 1 would be nothing to such a power."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((64, 1)), jnp.float32)
    y, pullback = jax.vjp(lambda x: convjax.lp_pool(x, 4, p=p), x)
    want, largest = jax.vjp(lambda x: convjax.lp_pool(x, 4, p=jnp.inf), x)
    np.testing.assert_allclose(y, want, rtol=1e-6)
    np.testing.assert_allclose(pullback(jnp.ones_like(y))[0], largest(jnp.ones_like(y))[0], atol=1e-6)


def test_the_gradient_of_a_median_is_a_pass_of_its_own() -> None:
    x = jnp.arange(162.0).reshape(2, 9, 9, 1) * 37 % 101

    def told(algorithm: Any) -> list[tuple[str, str, str]]:
        gradient = jax.grad(lambda x: convjax.median_pool(x, 3, algorithm=algorithm).sum())
        return [(row.role, row.problem.operation, row.algorithm) for row in convjax.explain(gradient, x).rows]

    taken = told({"fprop": "reshape", "dgrad": "lax"})
    assert taken == [("fprop", "take", "reshape"), ("dgrad", "put", "lax")]
    with pytest.raises(ValueError, match="algorithm does not apply to dgrad of put"):
        told({"dgrad": "mask"})


def test_what_only_writes_one_value_an_element_is_exact() -> None:
    x = jnp.arange(243.0).reshape(3, 9, 9, 1)
    tiling: list[Callable[[jax.Array], jax.Array]] = [
        convjax.global_max_pool,
        lambda x: convjax.max_pool(x, 3),
        lambda x: convjax.adaptive_max_pool(x, 3),
    ]
    with convjax.using(max_error=0.0):
        for pool in tiling:
            assert jax.grad(lambda x, pool=pool: pool(x).sum())(x).sum() == pool(x).size
        with pytest.raises(ValueError, match=r"no algorithm keeps the limits max_error=0\.0 for put"):
            jax.grad(lambda x: convjax.max_pool(x, 3, strides=2).sum())(x)


def test_the_first_wish_that_applies_within_the_limits_is_taken() -> None:
    x = jnp.arange(486.0).reshape(2, 9, 9, 3)

    def gradient(algorithm: Any) -> jax.Array:
        options: Any = {"strides": 2, "padding": 1, "algorithm": {"dgrad": algorithm}}
        return jax.grad(lambda x: convjax.max_pool(x, 3, **options).sum())(x)

    with convjax.using(max_workspace_bytes=4000):
        np.testing.assert_array_equal(gradient(("mask", "shift")), gradient("shift"))


def test_a_gradient_for_which_no_wish_applies_is_chosen() -> None:
    """What binds the forward pass is only preferred in gradients."""
    x = jnp.arange(486.0).reshape(2, 9, 9, 3)
    with convjax.using(max_workspace_bytes=0):
        got, want = (
            jax.grad(lambda x, a=a: convjax.max_pool(x, 3, strides=2, algorithm=a).sum())(x)
            for a in (("mask", "lax"), None)
        )
    np.testing.assert_array_equal(got, want)


SAMPLES = np.random.default_rng(1).random((2, 3, 2))
STRICT: dict[str, Callable[[jax.Array], jax.Array]] = {
    "dilation": lambda x: convjax.dilation2d(x, jnp.ones((2, 2, 3), x.dtype)),
    "erosion": lambda x: convjax.erosion2d(x, jnp.ones((2, 2, 3), x.dtype)),
    "fractional": lambda x: convjax.fractional_max_pool(x, 2, output_size=4, samples=jnp.asarray(SAMPLES, x.dtype)),
    "negative norm": lambda x: functional.lp_pool2d(x, -2, 2),
    "overhanging norm": lambda x: functional.lp_pool2d(x, 1, 4, ceil_mode=True),
    "deform": lambda x: convjax.deform_conv2d(x, jnp.zeros((2, 6, 5, 8), x.dtype), jnp.ones((2, 2, 3, 1), x.dtype)),
    "bias": lambda x: convjax.conv(x, jnp.ones((2, 2, 3, 1), x.dtype), bias=jnp.ones(1, x.dtype)),
    "local": lambda x: convjax.conv_local(x, jnp.ones((6, 5, 12, 1), x.dtype), kernel_size=2),
}


@pytest.mark.parametrize("name", STRICT)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precisions_under_strict_promotion(name: str, dtype: str) -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 7, 6, 3)), dtype)
    want = STRICT[name](x)
    with jax.numpy_dtype_promotion("strict"):
        got = STRICT[name](x)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got.astype(float), want.astype(float))


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda x: convjax.max_pool(x, 3, layout="NC"), "layout must be None or one of NWC, NHWC.*got 'NC'"),
        (lambda x: convjax.adaptive_avg_pool(x, 4, layout=""), "layout must be None or one of NWC, NHWC.*got ''"),
        (lambda x: convjax.global_max_pool(x, keepdims="no"), "keepdims must be True or False, got 'no'"),
        (lambda x: functional.fractional_max_pool2d(x, 2, output_ratio=-0.5), "output_ratio must not be negative"),
        (lambda x: functional.fractional_max_pool2d(x, 2, output_ratio="ab"), "output_ratio must be a real number"),
    ],
)
def test_the_argument_at_fault_is_named(attempt: Callable[[jax.Array], Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        attempt(jnp.ones((2, 7, 6, 3)))
