"""The passes that `explain` tells of gradients which had been taken before `accelerate` met them."""

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
