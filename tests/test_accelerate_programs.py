"""Programs as the documentation of Flax, Haiku and Equinox writes them: accelerated without a change to them."""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training import train_state
from test_accelerate import left
from transforms import assert_close

import convjax
from convjax.accelerate import accelerate
from convjax.explain import Explanation

Step = Callable[..., Any]
OPTIMIZER = optax.sgd(0.1)
CLASSES = 3


@pytest.fixture(autouse=True)
def ranks_promoted() -> Iterator[None]:
    """Haiku and Equinox add biases of lower rank."""
    with jax.numpy_rank_promotion("allow"):
        yield


def batch(channels_last: bool = True) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((4, 8, 8, 3) if channels_last else (4, 3, 8, 8)).astype(np.float32)
    return jnp.asarray(images), jnp.arange(4) % CLASSES


def drawn(init: Callable[..., Any], *args: Any) -> Any:
    """Parameters for what `init` makes of its arguments, without compiling it."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(init, *args)
    return jax.tree.map(lambda s: jnp.asarray(0.3 * rng.standard_normal(s.shape), s.dtype), shapes)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    return -0.5 * jnp.mean(1 + log_variance - mean**2 - jnp.exp(log_variance))


def flax_resnet() -> tuple[Step, tuple[Any, ...]]:
    class Block(nn.Module):
        features: int
        strides: int = 1

        @nn.compact
        def __call__(self, x: jax.Array, train: bool) -> jax.Array:
            y = nn.Conv(self.features, (3, 3), self.strides, use_bias=False)(x)
            y = nn.relu(nn.BatchNorm(use_running_average=not train)(y))
            y = nn.BatchNorm(use_running_average=not train)(nn.Conv(self.features, (3, 3), use_bias=False)(y))
            if x.shape != y.shape:
                x = nn.Conv(self.features, (1, 1), self.strides, use_bias=False)(x)
            return nn.relu(x + y)

    class ResNet(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
            x = nn.max_pool(nn.Conv(4, (5, 5), 2)(x), (3, 3), (2, 2), "SAME")
            return nn.Dense(CLASSES)(Block(6, 2)(x, train).mean((1, 2)))

    class TrainState(train_state.TrainState):
        batch_stats: Any

    def step(state: TrainState, batch: tuple[jax.Array, jax.Array]) -> tuple[TrainState, jax.Array]:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, updates = state.apply_fn(variables, batch[0], mutable=["batch_stats"])
            return cross_entropy(logits, batch[1]), updates

        (value, updates), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        return state.apply_gradients(grads=gradient, batch_stats=updates["batch_stats"]), value

    network = ResNet()
    variables = drawn(network.init, jax.random.key(0), batch()[0])
    state = TrainState.create(apply_fn=network.apply, tx=OPTIMIZER, **variables)
    return step, (state, batch())


def haiku_cnn() -> tuple[Step, tuple[Any, ...]]:
    def network(x: jax.Array) -> jax.Array:
        x = hk.MaxPool((2, 2, 1), (2, 2, 1), "SAME")(jax.nn.relu(hk.Conv2D(6, 3)(x)))
        x = hk.AvgPool((2, 2, 1), (2, 2, 1), "VALID")(jax.nn.relu(hk.Conv2D(8, 3)(x)))
        return hk.Linear(CLASSES)(hk.dropout(hk.next_rng_key(), 0.5, hk.Flatten()(x)))

    model = hk.transform(network)

    def step(params: Any, memory: Any, key: jax.Array, batch: tuple[jax.Array, jax.Array]) -> Any:
        def loss(params: Any) -> jax.Array:
            return cross_entropy(model.apply(params, key, batch[0]), batch[1])

        value, gradient = jax.value_and_grad(loss)(params)
        updates, memory = OPTIMIZER.update(gradient, memory)
        return optax.apply_updates(params, updates), memory, value

    params = drawn(model.init, jax.random.key(0), batch()[0])
    return step, (params, OPTIMIZER.init(params), jax.random.key(1), batch())


def haiku_resnet() -> tuple[Step, tuple[Any, ...]]:
    def block(x: jax.Array) -> jax.Array:
        def norm(x: jax.Array) -> jax.Array:
            return hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(x, is_training=True)

        y = norm(hk.Conv2D(6, 3, with_bias=False)(jax.nn.relu(norm(hk.Conv2D(6, 3, 2, with_bias=False)(x)))))
        return jax.nn.relu(hk.Conv2D(6, 1, 2, with_bias=False)(x) + y)

    model = hk.without_apply_rng(hk.transform_with_state(lambda x: hk.Linear(CLASSES)(block(x).mean((1, 2)))))

    def step(params: Any, state: Any, batch: tuple[jax.Array, jax.Array]) -> Any:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            logits, new = model.apply(params, state, batch[0])
            return cross_entropy(logits, batch[1]), new

        (value, new), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), new, value

    return step, (*drawn(model.init, jax.random.key(0), batch()[0]), batch())


def haiku_gan() -> tuple[Step, tuple[Any, ...]]:
    def generate(z: jax.Array) -> jax.Array:
        x = jax.nn.relu(hk.Linear(2 * 2 * 6)(z)).reshape(-1, 2, 2, 6)
        x = jax.nn.relu(hk.Conv2DTranspose(4, 4, 2)(x))
        return jnp.tanh(hk.Conv2DTranspose(3, 4, 2)(x))

    def judge(x: jax.Array) -> jax.Array:
        x = jax.nn.leaky_relu(hk.Conv2D(4, 4, 2)(x))
        return hk.Linear(1)(hk.Flatten()(jax.nn.leaky_relu(hk.Conv2D(6, 4, 2)(x))))

    generator, judgement = (hk.without_apply_rng(hk.transform(fn)) for fn in (generate, judge))

    def step(params: tuple[Any, Any], z: jax.Array, images: jax.Array) -> Any:
        def of_judgement(theirs: Any, ours: Any) -> jax.Array:
            real, made = (judgement.apply(theirs, x) for x in (images, generator.apply(ours, z)))
            return jnp.mean(jax.nn.softplus(-real) + jax.nn.softplus(made))

        def of_generator(ours: Any, theirs: Any) -> jax.Array:
            return jnp.mean(jax.nn.softplus(-judgement.apply(theirs, generator.apply(ours, z))))

        ours, theirs = params
        value, gradient = jax.value_and_grad(of_judgement)(theirs, ours)
        theirs = jax.tree.map(lambda p, g: p - 0.1 * g, theirs, gradient)
        gradient = jax.grad(of_generator)(ours, theirs)
        return (jax.tree.map(lambda p, g: p - 0.1 * g, ours, gradient), theirs), value

    z, (images, _) = jax.random.normal(jax.random.key(0), (4, 5)), batch()
    params = drawn(generator.init, jax.random.key(1), z), drawn(judgement.init, jax.random.key(2), images)
    return step, (params, z, images)


def equinox_cnn() -> tuple[Step, tuple[Any, ...]]:
    class CNN(eqx.Module):
        layers: list[Any]

        def __init__(self, key: jax.Array) -> None:
            first, second = jax.random.split(key)
            self.layers = [
                eqx.nn.Conv2d(3, 6, 3, key=first),
                eqx.nn.MaxPool2d(2, 2),
                jax.nn.relu,
                jnp.ravel,
                eqx.nn.Linear(54, CLASSES, key=second),
            ]

        def __call__(self, x: jax.Array) -> jax.Array:
            for layer in self.layers:
                x = layer(x)
            return x

    @eqx.filter_jit
    def step(model: CNN, memory: Any, batch: tuple[jax.Array, jax.Array]) -> Any:
        def loss(model: CNN) -> jax.Array:
            return cross_entropy(jax.vmap(model)(batch[0]), batch[1])

        value, gradient = eqx.filter_value_and_grad(loss)(model)
        updates, memory = OPTIMIZER.update(gradient, memory, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), memory, value

    model = CNN(jax.random.key(0))
    return step, (model, OPTIMIZER.init(eqx.filter(model, eqx.is_array)), batch(channels_last=False))


def equinox_resnet() -> tuple[Step, tuple[Any, ...]]:
    class ResNet(eqx.Module):
        first: eqx.nn.Conv2d
        norm: eqx.nn.BatchNorm
        second: eqx.nn.Conv2d
        shortcut: eqx.nn.Conv2d
        head: eqx.nn.Linear

        def __init__(self, key: jax.Array) -> None:
            keys = jax.random.split(key, 4)
            self.first = eqx.nn.Conv2d(3, 6, 3, 2, 1, use_bias=False, key=keys[0])
            self.norm = eqx.nn.BatchNorm(6, axis_name="batch", mode="batch")
            self.second = eqx.nn.Conv2d(6, 6, 3, 1, 1, key=keys[1])
            self.shortcut = eqx.nn.Conv2d(3, 6, 1, 2, key=keys[2])
            self.head = eqx.nn.Linear(6, CLASSES, key=keys[3])

        def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
            y, state = self.norm(self.first(x), state)
            x = jax.nn.relu(self.shortcut(x) + self.second(jax.nn.relu(y)))
            return self.head(x.mean((1, 2))), state

    def step(model: ResNet, state: eqx.nn.State, batch: tuple[jax.Array, jax.Array]) -> Any:
        def loss(model: ResNet, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
            of_batch = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
            logits, state = of_batch(batch[0], state)
            return cross_entropy(logits, batch[1]), state

        (value, state), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(model, state)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradient)), state, value

    model, state = eqx.nn.make_with_state(ResNet)(jax.random.key(0))
    return step, (model, state, batch(channels_last=False))


def equinox_vae() -> tuple[Step, tuple[Any, ...]]:
    class VAE(eqx.Module):
        encoder: eqx.nn.Sequential
        decoder: eqx.nn.Sequential

        def __init__(self, key: jax.Array) -> None:
            keys = jax.random.split(key, 4)
            relu, flat = eqx.nn.Lambda(jax.nn.relu), eqx.nn.Lambda(jnp.ravel)
            square = eqx.nn.Lambda(lambda x: x.reshape(4, 4, 4))
            first, last = eqx.nn.Linear(64, 4, key=keys[1]), eqx.nn.Linear(2, 64, key=keys[2])
            self.encoder = eqx.nn.Sequential([eqx.nn.Conv2d(3, 4, 3, 2, 1, key=keys[0]), relu, flat, first])
            up = eqx.nn.ConvTranspose2d(4, 3, 4, 2, padding=1, key=keys[3])
            self.decoder = eqx.nn.Sequential([last, relu, square, up])

        def __call__(self, x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            mean, log_variance = jnp.split(self.encoder(x), 2)
            z = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
            return self.decoder(z), mean, log_variance

    def step(model: VAE, key: jax.Array, images: jax.Array) -> Any:
        def loss(model: VAE) -> jax.Array:
            made, mean, log_variance = jax.vmap(model)(images, jax.random.split(key, len(images)))
            return jnp.mean((made - images) ** 2) + divergence(mean, log_variance)

        value, gradient = eqx.filter_value_and_grad(loss)(model)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradient)), value

    return step, (VAE(jax.random.key(0)), jax.random.key(1), batch(channels_last=False)[0])


def convolutions(explanation: Explanation) -> int:
    return sum(row.count for row in explanation.rows if row.problem.operation == "conv")


@pytest.mark.parametrize(
    "program", [flax_resnet, haiku_cnn, haiku_resnet, haiku_gan, equinox_cnn, equinox_resnet, equinox_vae]
)
def test_a_step_that_returns_what_is_new(
    program: Callable[[], tuple[Step, tuple[Any, ...]]], pytestconfig: pytest.Config
) -> None:
    step, args = program()
    explanation = convjax.explain(accelerate(step), *args)
    assert explanation.left == ()
    assert "stock" not in {row.role for row in explanation.rows}
    stock = convjax.explain(step, *args)
    assert {row.role for row in stock.rows} == {"stock"}
    assert convolutions(explanation) == convolutions(stock) > 1
    if program is not equinox_resnet and not pytestconfig.getoption("--thorough"):
        return
    # What is accelerated comes first: Equinox's states can be used once.
    got, want = eqx.filter_jit(lambda *args: (accelerate(step)(*args), step(*args)))(*args)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    assert_close({"step": eqx.filter(got, eqx.is_array)}, {"step": eqx.filter(want, eqx.is_array)}, 1e-3)


# Flax NNX, whose modules change in place.


class CNN(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.norm = nnx.Conv(3, 6, (3, 3), use_bias=False, rngs=rngs), nnx.BatchNorm(6, rngs=rngs)
        self.second = nnx.Conv(6, 6, (3, 3), rngs=rngs)
        self.third = self.second  # its variables are shared
        self.head = nnx.Linear(6, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.max_pool(nnx.relu(self.norm(self.first(x))), (2, 2), (2, 2))
        x = nnx.avg_pool(nnx.relu(self.third(nnx.relu(self.second(x)))), (2, 2), (2, 2))
        return self.head(x.mean((1, 2)))


def nnx_cnn() -> tuple[Step, tuple[Any, ...]]:
    def loss(model: CNN, batch: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        logits = model(batch[0])
        return cross_entropy(logits, batch[1]), logits

    def step(model: CNN, optimizer: Any, metrics: nnx.MultiMetric, batch: tuple[jax.Array, jax.Array]) -> None:
        (value, logits), gradient = nnx.value_and_grad(loss, has_aux=True)(model, batch)
        metrics.update(loss=value, logits=logits, labels=batch[1])
        optimizer.update(model, gradient)

    model = CNN(nnx.Rngs(0))
    metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))
    return step, (model, nnx.Optimizer(model, OPTIMIZER, wrt=nnx.Param), metrics, batch())


def nnx_vae() -> tuple[Step, tuple[Any, ...]]:
    class VAE(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.encoder, self.first = nnx.Conv(3, 4, (3, 3), 2, rngs=rngs), nnx.Linear(64, 4, rngs=rngs)
            self.last, self.decoder = nnx.Linear(2, 64, rngs=rngs), nnx.ConvTranspose(4, 3, (4, 4), 2, rngs=rngs)
            self.rngs = rngs

        def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            x = nnx.relu(self.encoder(x))
            mean, log_variance = jnp.split(self.first(x.reshape(len(x), -1)), 2, axis=-1)
            z = mean + jnp.exp(log_variance / 2) * self.rngs.normal(mean.shape)
            return self.decoder(nnx.relu(self.last(z)).reshape(-1, 4, 4, 4)), mean, log_variance

    def step(model: VAE, optimizer: Any, images: jax.Array) -> jax.Array:
        def loss(model: VAE) -> jax.Array:
            made, mean, log_variance = model(images)
            return jnp.mean((made - images) ** 2) + divergence(mean, log_variance)

        value, gradient = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradient)
        return value

    model = VAE(nnx.Rngs(0))
    return step, (model, nnx.Optimizer(model, OPTIMIZER, wrt=nnx.Param), batch()[0])


@pytest.mark.parametrize(
    ("program", "way"),
    [
        (nnx_cnn, lambda step: accelerate(nnx.jit(step))),
        (nnx_vae, lambda step: nnx.jit(accelerate(step))),
    ],
)
def test_a_step_that_changes_modules_in_place(
    program: Any, way: Callable[[Step], Step], pytestconfig: pytest.Config
) -> None:
    def stepped(way: Callable[[Step], Step]) -> Any:
        step, args = program()
        fast = way(step)
        losses = [fast(*args) for _ in range(2)]
        return losses, [nnx.to_pure_dict(nnx.state(arg)) for arg in args[:-1]]

    step, args = program()
    assert {row.role for row in convjax.explain(step, *args).rows} == {"stock"}
    assert left(lambda *args: accelerate(step)(*args), *args) == []
    if program is nnx_vae and not pytestconfig.getoption("--thorough"):
        return
    got, want = stepped(way), stepped(nnx.jit)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    assert_close(*({"step": jax.tree.map(_data, tree)} for tree in (got, want)), 1e-3)


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def test_a_module_is_a_function() -> None:
    def network() -> nnx.Sequential:
        rngs = nnx.Rngs(0)
        return nnx.Sequential(
            nnx.Conv(3, 4, (1, 1), rngs=rngs), nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        )

    stock, fast = network(), network()
    want = nnx.jit(lambda model, x: model(x))(stock, batch()[0])
    got = nnx.jit(lambda model, x: accelerate(model)(x))(fast, batch()[0])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    for got, want in zip(*(jax.tree.leaves(nnx.state(model)) for model in (fast, stock)), strict=True):
        np.testing.assert_allclose(_data(got), _data(want), rtol=1e-4, atol=1e-6)
    assert int(fast.layers[2].rngs.count[...]) == 1
