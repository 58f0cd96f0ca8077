"""Kernels reversed for a convolution, as input gradients have them, are read by it as they lie."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend import core

import convjax

# Large enough for their reversal to wait for the convolution.
LARGE = (3, 3, 256, 256)


def conv(x: jax.Array, w: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def of_flipped(x: jax.Array, w: jax.Array) -> jax.Array:
    return conv(x, lax.rev(w, (0, 1)))


def of_flipped_twice(x: jax.Array, w: jax.Array) -> jax.Array:
    return conv(x, lax.rev(lax.rev(w, (0, 1)), (0, 1)))


def of_flipped_rows(x: jax.Array, w: jax.Array) -> jax.Array:
    return conv(x, lax.rev(w, (0,)))


def of_flipped_and_kernel(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    w = lax.rev(w, (0, 1))
    return conv(x, w), w


def input_gradient(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.grad(lambda x: (conv(x, w) ** 2).sum())(x)


def own_input_gradient(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.grad(lambda x: (convjax.accelerate(conv)(x, w) ** 2).sum())(x)


# With how many reversals each keeps of its own, and whether its last convolution reverses.
FUNCTIONS: dict[str, tuple[Callable[..., Any], int, bool]] = {
    "flipped": (of_flipped, 0, True),
    "flipped twice": (of_flipped_twice, 0, False),
    "rows flipped": (of_flipped_rows, 1, False),
    "flipped for more": (of_flipped_and_kernel, 1, True),
    "input gradient": (input_gradient, 0, True),
    "input gradient of accelerated": (own_input_gradient, 0, True),
}


def operands(shape: tuple[int, ...] = (3, 2, 5, 4)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 7, 6, shape[2]), np.float32)
    return x, rng.standard_normal(shape, np.float32)


def equations(jaxpr: Any) -> list[Any]:
    inner = [e for eqn in jaxpr.eqns for j in core.jaxprs_in_params(eqn.params) for e in equations(j)]
    return [*jaxpr.eqns, *inner]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_convolution_reverses_its_kernel_itself(name: str) -> None:
    function, kept, reverses = FUNCTIONS[name]
    ours = equations(jax.make_jaxpr(convjax.accelerate(function))(*operands()).jaxpr)
    assert sum(eqn.primitive.name == "rev" for eqn in ours) == kept
    assert [eqn for eqn in ours if eqn.primitive.name == "convjax_conv"][-1].params["rhs_reversed"] == reverses


@pytest.mark.parametrize("transform", ["value", "vmapped kernels", "vmapped gradients", "jvp"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_derivatives_stay(name: str, transform: str) -> None:
    function = FUNCTIONS[name][0]
    x, w = operands()
    transformed: dict[str, Callable[[Callable[..., Any]], Any]] = {
        "value": lambda f: f(x, w),
        "vmapped kernels": lambda f: jax.vmap(f, (None, 0))(x, np.stack([w, 2 * w])),
        "vmapped gradients": lambda f: jax.vmap(
            jax.grad(lambda x, w: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(f(x, w))), (0, 1)), (None, 0)
        )(x, np.stack([w, 2 * w])),
        "jvp": lambda f: jax.jvp(f, (x, w), (x[::-1], w[::-1])),
    }
    got = jax.tree.leaves(transformed[transform](convjax.accelerate(function)))
    want = jax.tree.leaves(transformed[transform](function))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("algorithm", ["winograd", "im2col", "shift", "lax", "fft"])
def test_every_algorithm_computes_it(algorithm: str) -> None:
    x, w = operands(LARGE)
    ours = functools.partial(convjax.conv, padding="SAME", algorithm=algorithm)

    def input_gradient(conv: Callable[..., jax.Array]) -> jax.Array:
        return jax.jit(lambda x, w: jax.grad(lambda x: (conv(x, w) * x).sum())(x))(x, w)

    np.testing.assert_allclose(input_gradient(ours), input_gradient(conv), rtol=1e-3, atol=1e-2)


def test_a_large_kernel_is_not_copied_to_be_reversed() -> None:
    x, w = operands(LARGE)
    x = x[:, :4, :4]
    gradient = convjax.accelerate(input_gradient)
    taken = {row.algorithm.split("(")[0] for row in convjax.explain(gradient, x, w).rows}
    assert taken <= {"winograd", "im2col", "shift"}
    assert " reverse(" not in jax.jit(gradient).lower(x, w).compile().as_text()
