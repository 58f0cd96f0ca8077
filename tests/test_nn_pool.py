"""Poolings as modules: flax's numbers for flax's arguments, and those of convjax's functions for all of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from transforms import assert_close

import convjax
from convjax.nn import AdaptiveAvgPool, AdaptiveMaxPool, AvgPool, BlurPool, Conv, LpPool, MaxPool
from convjax.ops.adaptive import adaptive_avg_pool, adaptive_max_pool
from convjax.ops.blur import blur_pool
from convjax.ops.lp import lp_pool
from convjax.ops.pool import avg_pool, max_pool

PLANE, LINE, SPACE = (2, 7, 6, 3), (2, 9, 3), (1, 4, 5, 4, 2)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def value_and_gradient(f: Callable[[jax.Array], jax.Array], x: jax.Array) -> dict[str, jax.Array]:
    y, pullback = jax.vjp(f, x)
    return {"value": y, "gradient": pullback(jnp.asarray(normal(*y.shape)))[0]}


# Input shape, window and arguments that flax takes as well; it has a stride of 1 where none is given.
OF_FLAX: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "valid": (PLANE, (3, 2), {"strides": (2, 3)}),
    "same": (PLANE, (3, 4), {"strides": (2, 1), "padding": "SAME"}),
    "numbers": (PLANE, (3, 2), {"strides": (1, 2), "padding": ((1, 0), (0, 1))}),
    "line": (LINE, (4,), {"strides": (3,), "padding": "SAME"}),
    "space": (SPACE, (2, 3, 2), {"strides": (1, 2, 2), "padding": "SAME"}),
    "no batch": ((7, 6, 3), (2, 2), {"strides": (2, 2)}),
    "three batch axes": ((2, 1, 3, 5, 2), (3,), {"strides": (2,), "padding": "SAME"}),
}


@pytest.mark.parametrize("case", OF_FLAX)
def test_flax_arguments_give_flax_numbers(case: str) -> None:
    shape, window, options = OF_FLAX[case]
    pairs = [
        (MaxPool(window, **options), lambda x: nnx.max_pool(x, window, **options)),
        (AvgPool(window, **options), lambda x: nnx.avg_pool(x, window, **options)),
        (
            AvgPool(window, count_include_pad=False, **options),
            lambda x: nnx.avg_pool(x, window, count_include_pad=False, **options),
        ),
    ]

    @jax.jit
    def both(x: jax.Array) -> Any:
        return [[value_and_gradient(f, x) for f in pair] for pair in pairs]

    for got, want in both(normal(*shape)):
        assert_close(got, want, 1e-6)


WINDOWS: dict[str, Any] = {"strides": [2, 1], "padding": [[1, 0], [0, 1]], "dilation": (1, 2), "ceil_mode": True}
# The module, and the function with the argument that comes first, if there is one, and the others.
FUNCTIONS: dict[str, tuple[Any, Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = {
    "MaxPool": (MaxPool, max_pool, ([3, 2],), {"return_indices": True, "algorithm": "shift", **WINDOWS}),
    "AvgPool": (AvgPool, avg_pool, ((3, 2),), {"count_include_pad": False, **WINDOWS}),
    "AvgPool by a divisor": (AvgPool, avg_pool, ((3, 2),), {"divisor_override": 5}),
    "LpPool": (LpPool, lp_pool, ((3, 2),), {"p": 3.0, **WINDOWS}),
    "AdaptiveAvgPool": (AdaptiveAvgPool, adaptive_avg_pool, ([3, 4],), {}),
    "AdaptiveMaxPool": (AdaptiveMaxPool, adaptive_max_pool, ((None, 4),), {"return_indices": True}),
    "BlurPool": (BlurPool, blur_pool, (), {"filter_size": 5, "strides": (2, 1), "padding_mode": ["circular", "zeros"]}),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_modules_are_the_functions(name: str) -> None:
    """Over more batch axes, and over channels first."""
    module, function, first, options = FUNCTIONS[name]
    layer, channels_first = module(*first, **options), module(*first, layout="NCHW", **options)

    @jax.jit
    def run(x: jax.Array) -> Any:
        return layer(x[:, None, None]), channels_first(jnp.moveaxis(x, -1, 1)), function(x, *first, **options)

    got, moved, want = run(normal(*PLANE))
    for a, b, c in zip(*map(jax.tree.leaves, (got, moved, want)), strict=True):
        np.testing.assert_allclose(a[:, 0, 0], c, rtol=1e-6)
        np.testing.assert_allclose(jnp.moveaxis(b, 1, -1), c, rtol=1e-6)


def test_an_integer_window_is_for_all_axes() -> None:
    for shape, out in ((PLANE, (2, 3, 3, 3)), (LINE, (2, 4, 3)), ((9, 3), (4, 3)), (SPACE, (1, 2, 2, 2, 2))):
        for layer in (MaxPool(2), AvgPool(2), LpPool(2)):
            assert jax.eval_shape(layer, jnp.ones(shape)).shape == out
    assert jax.eval_shape(MaxPool(2, layout="NCW"), jnp.ones((2, 2, 3, 9))).shape == (2, 2, 3, 4)


def test_lists_are_arrays_as_to_the_functions() -> None:
    np.testing.assert_array_equal(MaxPool(2)([[1.0], [2.0]]), [[2.0]])


def test_a_network_of_poolings_trains() -> None:
    """In nnx.Sequential, under nnx.jit and nnx.grad; they have no parameters, and are equal when built alike."""

    def build() -> nnx.Sequential:
        return nnx.Sequential(
            Conv(2, 3, (3, 3), rngs=nnx.Rngs(0)),
            MaxPool([2, 2], [1, 1]),
            BlurPool(),
            LpPool(2, padding="SAME", strides=1),
            AvgPool((2, 2), strides=1),
            AdaptiveMaxPool([4, 4]),
            AdaptiveAvgPool((1, 2)),
        )

    network, x = build(), jnp.asarray(normal(2, 14, 12, 2))
    assert nnx.split(network)[0] == nnx.split(build())[0]
    assert hash(nnx.split(network)[0]) == hash(nnx.split(build())[0])
    conv, *poolings = network.layers
    assert not any(jax.tree.leaves(nnx.state(layer)) for layer in poolings)

    def by_functions(kernel: jax.Array) -> jax.Array:
        y = convjax.conv(x, kernel, bias=conv.bias[...], padding="SAME")
        y = lp_pool(blur_pool(max_pool(y, 2, strides=1)), 2, padding="SAME", strides=1)
        return jnp.sum(adaptive_avg_pool(adaptive_max_pool(avg_pool(y, 2, strides=1), 4), (1, 2)) ** 2)

    @nnx.jit
    def gradient(network: nnx.Sequential) -> Any:
        return nnx.grad(lambda network: jnp.sum(network(x) ** 2))(network)

    got = gradient(network)["layers"][0]["kernel"][...]
    want = jax.jit(jax.grad(by_functions))(conv.kernel[...])
    assert_close({"gradient": got}, {"gradient": want}, 1e-5)


REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "algorithm": (lambda: MaxPool(2, algorithm="cudnn"), "'cudnn' is not one of"),
    "blur algorithm": (lambda: BlurPool(algorithm="cudnn"), "'cudnn' is not one of"),
    "window": (lambda: AvgPool((3, 0))(jnp.ones(PLANE)), r"window must be at least 1.*\(3, 0\)"),
    "rank": (lambda: MaxPool((2, 2))(jnp.ones((5, 3))), r"x of shape \(5, 3\) must have 4 axes for 2 spatial axes"),
    "layout": (lambda: LpPool((2, 2), layout="NCW")(jnp.ones(PLANE)), "layout must be .*got 'NCW'"),
    "output size": (lambda: AdaptiveMaxPool((2, 0))(jnp.ones(PLANE)), r"output_size must be at least 1.*\(2, 0\)"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_in_one_sentence(name: str) -> None:
    attempt, message = REFUSALS[name]
    with pytest.raises(ValueError, match=message) as caught:
        attempt()
    assert "\n" not in str(caught.value).split("\n--------------------\n")[0].strip()
