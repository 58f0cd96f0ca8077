"""Modules of Flax NNX that accelerated functions change in place, or that belong to a trace around them."""

import operator
from collections.abc import Callable
from typing import Any

import flax.errors
import jax
import numpy as np
import pytest
from flax import nnx
from test_accelerate_programs import batch

import convjax
from convjax.accelerate import accelerate


def test_settings_and_intermediates_of_modules_are_kept() -> None:
    class Network(nnx.Module):
        def __init__(self) -> None:
            self.blocks = nnx.List([nnx.BatchNorm(3, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1))])
            self.sizes = (3, 3)

    def step(model: Network, x: jax.Array) -> jax.Array:
        model.eval()
        model.sizes = (*model.sizes, len(model.blocks))
        model.blocks[0].seen = nnx.Intermediate(x.mean())
        return model.blocks[1](model.blocks[0](x))

    model, x = Network(), batch()[0]
    nnx.jit(accelerate(step))(model, x)
    norm, dropout = model.blocks
    assert (norm.use_running_average, dropout.deterministic, model.sizes) == (True, True, (3, 3, 2))
    np.testing.assert_allclose(norm.seen[...], x.mean(), rtol=1e-6)


CLOSED_OVER: dict[str, Callable[[nnx.Module, jax.Array], Any]] = {
    "jit": lambda module, x: jax.jit(accelerate(module))(x),
    "jit of a call": lambda module, x: jax.jit(lambda x: accelerate(module)(x))(x),
    "an argument": lambda module, x: jax.jit(lambda x: accelerate(lambda module, x: module(x))(module, x))(x),
    "grad": lambda module, x: jax.grad(lambda x: accelerate(module)(x).sum())(x),
    "vmap": lambda module, x: jax.vmap(accelerate(module))(x),
    "scan": lambda module, x: jax.lax.scan(lambda carry, x: (carry, accelerate(module)(x)), 0, x),
    "eval_shape": lambda module, x: jax.eval_shape(accelerate(module), x),
    "make_jaxpr": lambda module, x: jax.make_jaxpr(accelerate(module))(x),
    "explain": lambda module, x: convjax.explain(accelerate(module), x),
}


@pytest.mark.parametrize("name", CLOSED_OVER)
def test_modules_of_an_outer_trace_are_read(name: str) -> None:
    module, x = nnx.Conv(3, 3, (3, 3), rngs=nnx.Rngs(0)), batch()[0]
    before, parameters = dict(vars(module)), nnx.state(module)
    CLOSED_OVER[name](module, x)
    assert vars(module) == before
    assert all(map(operator.is_, jax.tree.leaves(nnx.state(module)), jax.tree.leaves(parameters)))


@pytest.mark.parametrize(
    "change",
    [lambda module, x: module(x), lambda module, x: setattr(module, "seen", nnx.Intermediate(x.mean()))],
    ids=["a value", "a part"],
)
def test_modules_of_an_outer_trace_that_would_change_are_left_as_they_were(change: Any) -> None:
    module, x = nnx.BatchNorm(3, rngs=nnx.Rngs(0)), batch()[0]
    before = dict(vars(module))
    with pytest.raises(flax.errors.TraceContextError):
        jax.jit(lambda x: accelerate(change)(module, x))(x)
    assert vars(module) == before
    module(x)


@pytest.mark.parametrize("way", [nnx.jit, accelerate, lambda step: nnx.jit(accelerate(accelerate(step)))])
def test_parts_of_modules_are_added_shared_and_deleted(way: Any) -> None:
    def step(model: nnx.Sequential, x: jax.Array) -> jax.Array:
        model.added = nnx.Conv(3, 3, (1, 1), rngs=nnx.Rngs(1))
        model.again = model.layers[0]
        del model.old
        return model.added(model.again(x))

    model, x = nnx.Sequential(nnx.Conv(3, 3, (1, 1), rngs=nnx.Rngs(0))), batch()[0]
    model.old = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
    first = model.layers[0]
    y = way(step)(model, x)
    assert not hasattr(model, "old")
    assert model.again is model.layers[0] is first
    np.testing.assert_allclose(y, model.added(model.again(x)), rtol=1e-5, atol=1e-5)


class Tied(nnx.Module):
    """Two layers that are one."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(3, 3, (1, 1), rngs=rngs)
        self.last = self.first

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.first(x))


def test_modules_that_are_returned_are_those_that_were_given() -> None:
    model, x = Tied(nnx.Rngs(0)), batch()[0]

    def step(model: Tied, x: jax.Array) -> Any:
        model.first.bias[...] += 1
        return {"model": model, "part": model.last, "y": model(x), "number": 3}

    bias = model.first.bias[...]
    found = accelerate(step)(model, x)
    assert found["model"] is model
    assert found["part"] is model.first is model.last
    assert found["number"] == 3
    np.testing.assert_array_equal(model.first.bias[...], bias + 1)
    np.testing.assert_allclose(found["y"], model(x), rtol=1e-5, atol=1e-6)


def test_modules_are_made_where_those_given_are_of_an_outer_trace() -> None:
    module, x = nnx.Conv(3, 3, (3, 3), rngs=nnx.Rngs(0)), batch()[0]

    def cloned(module: nnx.Module, x: jax.Array) -> Any:
        return module(x), nnx.clone(module)  # type: ignore[operator]

    with jax.checking_leaks():
        y = jax.jit(lambda x: accelerate(cloned)(module, x)[0])(x)
        _, new = accelerate(cloned)(module, x)
    np.testing.assert_allclose(y, new(x), rtol=1e-5, atol=1e-6)


def test_modules_that_are_made_share_what_they_shared() -> None:
    model, x = Tied(nnx.Rngs(0)), batch()[0]

    def copied(model: Tied, x: jax.Array) -> Any:
        new = Tied(nnx.Rngs(1))
        new.first.kernel[...] = 2 * model.first.kernel[...]
        return new, new(x), nnx.List([model.first, new.last])

    new, y, both = accelerate(copied)(model, x)
    assert both[0] is model.first
    assert both[1] is new.first
    assert new is not model
    assert new.first is new.last
    assert model.first is model.last
    np.testing.assert_array_equal(new.first.kernel[...], 2 * model.first.kernel[...])
    np.testing.assert_allclose(y, new(x), rtol=1e-5, atol=1e-6)
