"""The layers of Flax, Haiku and Equinox: accelerated, they have lax's values and gradients and nothing of lax left."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_accelerate import left
from transforms import assert_close

import convjax
from convjax.accelerate import accelerate

Loss = Callable[[Any, Any], jax.Array]
Model = tuple[Loss, Any, Any]
SHAPES = {1: (2, 9, 4), 2: (2, 7, 6, 4), 3: (2, 5, 4, 6, 4)}


def inputs(shapes: dict[int, tuple[int, ...]]) -> dict[int, jax.Array]:
    rng = np.random.default_rng(0)
    return {n: jnp.asarray(rng.standard_normal(shape), jnp.float32) for n, shape in shapes.items()}


def squares(outputs: Any) -> jax.Array:
    return sum((jnp.mean(jnp.square(y)) for y in jax.tree.leaves(outputs)), jnp.zeros(()))


def linen() -> Model:
    class Network(nn.Module):
        @nn.compact
        def __call__(self, xs: dict[int, jax.Array]) -> list[jax.Array]:
            x = nn.Conv(8, (3, 3), strides=2, padding="CIRCULAR")(xs[2])
            x = nn.max_pool(nn.relu(x), (2, 2), padding="SAME")
            x = nn.ConvTranspose(4, (3, 2), strides=(2, 2))(x)
            x = nn.pooling.min_pool(x, (2, 2), strides=(2, 1)) + nn.avg_pool(x, (2, 2), (2, 1), count_include_pad=False)
            x = nn.ConvLocal(4, (2, 2))(x)
            y = nn.max_pool(nn.Conv(4, (3,), kernel_dilation=2, feature_group_count=2, padding="CAUSAL")(xs[1]), (3,))
            z = nn.avg_pool(nn.Conv(4, (2, 2, 2))(xs[3]), (2, 2, 2), (1, 2, 2), "SAME")
            return [x, y, z]

    model, xs = Network(), inputs(SHAPES)
    return lambda params, xs: squares(model.apply(params, xs)), jax.jit(model.init)(jax.random.key(0), xs), xs


def nnx_layers() -> Model:
    class Network(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first = nnx.Conv(4, 6, (3, 3), strides=2, rngs=rngs)
            self.norm = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)
            self.second = nnx.ConvTranspose(6, 4, (3, 3), strides=2, rngs=rngs)
            self.third = nnx.Conv(4, 4, (2, 2, 2), padding="VALID", rngs=rngs)

        def __call__(self, xs: dict[int, jax.Array]) -> list[jax.Array]:
            x = nnx.max_pool(nnx.relu(self.norm(self.first(xs[2]))), (2, 2))
            x = self.second(x)
            return [nnx.avg_pool(x, (2, 2)), nnx.min_pool(x, (2, 2)), nnx.max_pool(self.third(xs[3]), (2, 2, 2))]

    graph, params, rest = nnx.split(Network(nnx.Rngs(0)), nnx.Param, ...)
    return lambda params, xs: squares(nnx.merge(graph, params, rest)(xs)), params, inputs(SHAPES)


def haiku() -> Model:
    def network(xs: dict[int, jax.Array]) -> list[jax.Array]:
        x = hk.MaxPool((2, 1), (2, 1), "SAME")(hk.Conv1D(4, 3)(xs[1]))
        y = hk.SeparableDepthwiseConv2D(2, 3)(hk.DepthwiseConv2D(2, 3)(hk.Conv2D(4, 3, rate=2)(xs[2])))
        y = hk.AvgPool((3, 2, 1), (2, 2, 1), "SAME")(hk.Conv2DTranspose(4, 3, stride=2)(y))
        z = hk.AvgPool((2, 2, 2, 1), (2, 2, 2, 1), "VALID")(hk.Conv3D(4, 2)(xs[3]))
        return [hk.Conv1DTranspose(4, 3)(x), y, hk.Conv3DTranspose(2, 2)(z)]

    model, xs = hk.without_apply_rng(hk.transform(network)), inputs(SHAPES)
    return lambda params, xs: squares(model.apply(params, xs)), jax.jit(model.init)(jax.random.key(0), xs), xs


def equinox() -> Model:
    layers, key = eqx.nn, jax.random.key(0)
    model = {
        1: layers.Sequential(
            [
                layers.Conv1d(4, 6, 3, padding=1, key=key),
                layers.MaxPool1d(2, 1),
                layers.ConvTranspose1d(6, 4, 3, stride=2, key=key),
                layers.AvgPool1d(2, 2),
                layers.AdaptiveAvgPool1d(4),
            ]
        ),
        2: layers.Sequential(
            [
                layers.Conv2d(4, 6, 3, padding="SAME", groups=2, key=key),
                layers.Lambda(jax.nn.relu),
                layers.MaxPool2d(3, 2, padding=1, use_ceil=True),
                layers.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1, key=key),
                layers.AvgPool2d(2, 2),
                layers.AdaptiveMaxPool2d(2),
            ]
        ),
        3: layers.Sequential(
            [
                layers.Conv3d(4, 4, 2, key=key),
                layers.MaxPool3d(2, 1),
                layers.ConvTranspose3d(4, 4, 2, key=key),
            ]
        ),
    }
    params, static = eqx.partition(model, eqx.is_array)

    def loss(params: Any, xs: dict[int, jax.Array]) -> jax.Array:
        model = eqx.combine(params, static)
        return squares([jax.vmap(model[n])(x) for n, x in xs.items()])

    return loss, params, inputs({n: (shape[0], shape[-1], *shape[1:-1]) for n, shape in SHAPES.items()})


@pytest.fixture(autouse=True)
def ranks_promoted() -> Iterator[None]:
    """Haiku and Equinox add biases of lower rank."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("library", [linen, nnx_layers, haiku, equinox])
def test_accelerated_layers_are_lax_s(library: Callable[[], Model]) -> None:
    loss, params, xs = library()
    step = jax.value_and_grad(loss)
    accelerated = accelerate(step)
    assert len(left(step, params, xs)) > 12
    assert left(accelerated, params, xs) == left(jax.value_and_grad(accelerate(loss)), params, xs) == []
    got, want = jax.jit(lambda params, xs: (accelerated(params, xs), step(params, xs)))(params, xs)
    assert_close({"step": got}, {"step": want}, 1e-4)


@pytest.mark.parametrize("algorithm", [None, "winograd"])
def test_flax_takes_convjax_s_convolution(algorithm: str | None) -> None:
    conv = convjax.conv_general_dilated
    if algorithm is not None:
        conv = functools.partial(conv, algorithm=algorithm)
    x = inputs(SHAPES)[2]

    def both(conv: Any) -> tuple[Any, Any]:
        of_linen = nn.Conv(8, (3, 3), conv_general_dilated=conv)
        of_nnx = nnx.Conv(4, 8, (3, 3), conv_general_dilated=conv, rngs=nnx.Rngs(0))
        graph, state = nnx.split(of_nnx)
        params = of_linen.init(jax.random.key(0), x), state
        return lambda params, x: squares([of_linen.apply(params[0], x), nnx.merge(graph, params[1])(x)]), params

    (ours, params), (stock, _) = both(conv), both(jax.lax.conv_general_dilated)
    explanation = convjax.explain(ours, params, x, platform="cpu")
    assert {row.role for row in explanation.rows} == {"fprop"}
    if algorithm is not None:
        assert all(row.algorithm.startswith(algorithm) for row in explanation.rows)
    got, want = jax.jit(lambda *args: tuple(jax.value_and_grad(f)(*args) for f in (ours, stock)))(params, x)
    assert_close({"step": got}, {"step": want}, 1e-4)
