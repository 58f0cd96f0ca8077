"""What `explain` and `tune` find in functions: passes of gradients that `accelerate` met, arguments by name."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import convjax
from convjax.accelerate import accelerate

KERNELS = {(3, 3, 6, 6): 1, (1, 1, 6, 6): 1, (3, 3, 1, 6): 6, (3, 3, 2, 6): 3}  # with their groups


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_gradients_that_accelerate_meets_are_told_as_such(first: bool, mapped: bool) -> None:
    layout = ("NCHW", "OIHW", "NCHW") if first else ("NHWC", "HWIO", "NHWC")

    def loss(weights: Any, x: jax.Array) -> jax.Array:
        for w, groups in zip(weights, KERNELS.values(), strict=True):
            x = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout, feature_group_count=groups)
        return (x**2).sum()

    members, vmap = ((2,), jax.vmap) if mapped else ((), lambda function: function)
    weights = [jnp.ones((*members, *(shape[::-1] if first else shape))) for shape in KERNELS]
    x = jnp.ones((*members, *((2, 6, 8, 8) if first else (2, 8, 8, 6))))
    inside = convjax.explain(vmap(jax.grad(accelerate(loss), argnums=(0, 1))), weights, x).rows
    outside = convjax.explain(accelerate(vmap(jax.grad(loss, argnums=(0, 1)))), weights, x).rows
    assert [(row.role, row.problem) for row in outside] == [(row.role, row.problem) for row in inside]
    assert {role: sum(row.role == role for row in outside) for role in ("fprop", "dgrad", "wgrad")} == {
        "fprop": 4,
        "dgrad": 4,
        "wgrad": 4,
    }


def test_arguments_are_passed_by_name_as_by_place() -> None:
    def pooled(x: jax.Array, *, window: int) -> jax.Array:
        return convjax.max_pool(x, window)

    x = jnp.ones((1, 8, 8, 1))
    (row,) = convjax.explain(pooled, x=x, window=2, platform="cpu").rows
    (plan,) = convjax.tune(pooled, x, window=2, seconds=0.001)
    assert plan.problem == str(row.problem) == "max float32[1,8,8,1] window=1x2x2x1 stride=1x2x2x1"


def test_an_algorithm_that_is_taken_is_not_among_those_that_are_not() -> None:
    """Reasons are told of whole families where none of them is left out."""
    x, w = jnp.ones((1, 8, 8, 2)), jnp.ones((2, 2, 2, 2))

    def transposed(x: jax.Array) -> jax.Array:
        return convjax.conv_transpose(x, w, strides=2, algorithm="polyphase(by=lax)")

    (told,) = [
        line for line in str(convjax.explain(transposed, x, platform="cpu")).splitlines() if "asked for" in line
    ][1:]
    assert "winograd," in told  # a whole family
    assert "polyphase(by=shift(by=dot))" in told
    assert "polyphase," not in told
