"""`accelerate`: nothing of lax's is left, nothing else is changed, and the values and gradients are lax's."""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend import core
from jax.sharding import PartitionSpec
from transforms import assert_close, two_devices

import convjax
from convjax.accelerate import accelerate

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
LAX = r"\b(conv_general_dilated|reduce_window\w*|select_and_(scatter|gather)_add)\["


def conv(x: jax.Array, w: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=DIMENSIONS)


def pool(x: jax.Array, first: float, operation: Any, window: int = 2, strides: int = 2) -> jax.Array:
    return lax.reduce_window(x, first, operation, (1, window, window, 1), (1, strides, strides, 1), "SAME")


@jax.custom_vjp
def scaled_conv(x: jax.Array, w: jax.Array) -> jax.Array:
    return conv(x, w)


def _scaled_forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, Any]:
    return conv(x, w), (x, w)


def _scaled_backward(residuals: Any, g: jax.Array) -> Any:
    return tuple(2 * cotangent for cotangent in jax.vjp(conv, *residuals)[1](g))


scaled_conv.defvjp(_scaled_forward, _scaled_backward)


@jax.custom_jvp
def clipped(x: jax.Array) -> jax.Array:
    return jnp.clip(x, -3, 3)


@clipped.defjvp
def _clipped_jvp(primals: Any, tangents: Any) -> Any:
    """A rule that has a pooling where the function itself has none."""
    (x,), (t,) = primals, tangents
    return clipped(x), pool(t, 0.0, lax.add, strides=1)


@jax.jit
def block(x: jax.Array, w: jax.Array) -> jax.Array:
    return jax.nn.relu(x + conv(x, w))


def network(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    x = conv(x, weights["first"])
    x = (x - x.mean((0, 1, 2), keepdims=True)) / jnp.sqrt(x.var((0, 1, 2), keepdims=True) + 1e-3)
    x = pool(jax.nn.relu(x), -jnp.inf, lax.max, window=3)
    second = weights["second"]
    x = block(block(x, second), second)
    x = lax.scan(lambda x, w: (jax.checkpoint(lambda x: jnp.tanh(conv(x, w)))(x), None), x, weights["scanned"])[0]
    x = lax.cond(second.sum() > 0, lambda x: conv(x, second), lambda x: pool(x, jnp.inf, lax.min, strides=1), x)
    x = clipped(scaled_conv(x, second))
    return jnp.mean(jnp.square(pool(x, 0.0, lax.add)))


@pytest.fixture(scope="module")
def operands() -> tuple[dict[str, jax.Array], jax.Array]:
    rng = np.random.default_rng(0)
    shapes = {"first": (3, 3, 2, 4), "second": (3, 3, 4, 4), "scanned": (2, 3, 3, 4, 4)}
    weights = {name: jnp.asarray(rng.standard_normal(shape) / 4, jnp.float32) for name, shape in shapes.items()}
    return weights, jnp.asarray(rng.standard_normal((2, 9, 7, 2)), jnp.float32)


def traced(fn: Callable[..., Any], *args: Any) -> str:
    return str(jax.make_jaxpr(fn)(*args))


def left(fn: Callable[..., Any], *args: Any) -> list[str]:
    """The convolutions and poolings of lax in a function."""
    return [match[0] for match in re.findall(LAX, traced(fn, *args))]


def over_shards(fn: Callable[..., Any]) -> Callable[..., Any]:
    batch, both = PartitionSpec("batch"), PartitionSpec()
    sharded = jax.shard_map(
        lambda weights, x: lax.pmean(fn(weights, x), "batch"),
        mesh=two_devices(),
        in_specs=(both, batch),
        out_specs=both,
    )
    return lambda weights, x: sharded(weights, x)


def members(x: jax.Array) -> jax.Array:
    return jnp.stack([x, 2 * x])


def inside_scan(fn: Callable[..., Any]) -> Callable[..., Any]:
    def total(weights: Any, x: jax.Array) -> jax.Array:
        return lax.scan(lambda so_far, x: (so_far + fn(weights, x), None), 0.0, members(x))[0]

    return total


gradient = jax.value_and_grad
COMPOSITIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "grad of accelerate": (gradient(accelerate(network)), gradient(network)),
    "accelerate of grad": (accelerate(gradient(network)), gradient(network)),
    "accelerate of jit": (accelerate(jax.jit(gradient(network))), gradient(network)),
    "accelerate of accelerate": (accelerate(gradient(accelerate(network))), gradient(network)),
    "vmap of accelerate": (
        lambda weights, x: jax.vmap(accelerate(gradient(network)), (None, 0))(weights, members(x)),
        lambda weights, x: jax.vmap(gradient(network), (None, 0))(weights, members(x)),
    ),
    "accelerate of vmap": (
        accelerate(lambda weights, x: jax.vmap(gradient(network), (None, 0))(weights, members(x))),
        lambda weights, x: jax.vmap(gradient(network), (None, 0))(weights, members(x)),
    ),
    "inside scan": (gradient(inside_scan(accelerate(network))), gradient(inside_scan(network))),
    "inside shard_map": (gradient(over_shards(accelerate(network))), gradient(over_shards(network))),
    "around shard_map": (accelerate(gradient(over_shards(network))), gradient(over_shards(network))),
    "grad around shard_map": (gradient(accelerate(over_shards(network))), gradient(over_shards(network))),
    "jvp of accelerate of grad": (
        lambda weights, x: jax.jvp(accelerate(jax.grad(network)), (weights, x), (weights, x)),
        lambda weights, x: jax.jvp(jax.grad(network), (weights, x), (weights, x)),
    ),
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_nothing_of_lax_is_left(name: str, operands: Any) -> None:
    accelerated, stock = COMPOSITIONS[name]
    assert len(left(stock, *operands)) > 8
    assert left(accelerated, *operands) == []
    core.check_jaxpr(jax.make_jaxpr(accelerated)(*operands).jaxpr)


@pytest.mark.parametrize("name", ["grad around shard_map"])
def test_values_and_gradients_are_those_of_lax(name: str, operands: Any) -> None:
    both = jax.jit(lambda *args: tuple(fn(*args) for fn in COMPOSITIONS[name]))
    got, want = both(*operands)
    assert_close({"gradients": got}, {"gradients": want}, 2e-4)


# What is kept.


def equations(jaxpr: Any) -> list[Any]:
    inner = [e for eqn in jaxpr.eqns for j in core.jaxprs_in_params(eqn.params) for e in equations(j)]
    return [*jaxpr.eqns, *inner]


def test_jit_keeps_its_name_donation_and_shared_function(operands: Any) -> None:
    @functools.partial(jax.jit, donate_argnums=1, keep_unused=True, static_argnames="times", compiler_options={})
    def step(weights: dict[str, jax.Array], x: jax.Array, unused: jax.Array, times: int) -> jax.Array:
        for _ in range(times):
            x = block(conv(x, weights["first"]), weights["second"])[..., :2]
        return x

    weights, x = operands
    args = (weights, x, jnp.ones(3))
    (got,), (want,) = (jax.make_jaxpr(functools.partial(f, times=3))(*args).eqns for f in (accelerate(step), step))
    assert got.primitive is want.primitive
    assert {**got.params, "jaxpr": None} == {**want.params, "jaxpr": None}
    assert got.params["name"] == "step"
    assert got.params["donated_invars"] == (False,) * len(weights) + (True, False)
    blocks = [eqn.params["jaxpr"] for eqn in got.params["jaxpr"].eqns if eqn.params.get("name") == "block"]
    assert len(blocks) == 3
    assert len({id(jaxpr) for jaxpr in blocks}) == 1
    (again,) = jax.make_jaxpr(functools.partial(accelerate(step), times=3))(*args).eqns
    assert again.params["jaxpr"] is got.params["jaxpr"]  # for which the program is compiled

    given = jnp.array(x)
    result = accelerate(step)(weights, given, jnp.ones(3), times=2)
    assert given.is_deleted()
    np.testing.assert_allclose(result, step(weights, jnp.array(x), jnp.ones(3), times=2), rtol=2e-4, atol=1e-5)


def test_all_else_stays_as_it_is(operands: Any) -> None:
    def without(weights: dict[str, jax.Array], x: jax.Array) -> Any:
        with jax.named_scope("inner"):
            y = jax.jit(jnp.cumsum)(x)
        jax.debug.print("{}", y.sum())
        return lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, y), weights, 2.0 * jnp.float32(3)

    weights, x = operands
    got, want = (jax.make_jaxpr(fn)(weights, x) for fn in (accelerate(without), without))
    assert str(got) == str(want)
    assert got.effects == want.effects
    assert [e.params.get("jaxpr") for e in got.jaxpr.eqns] == [e.params.get("jaxpr") for e in want.jaxpr.eqns]

    got, want = (jax.make_jaxpr(fn)(weights, x) for fn in (accelerate(network), network))
    assert got.out_avals == want.out_avals

    def named(fn: Callable[..., Any]) -> list[str]:
        def scoped(x: jax.Array) -> jax.Array:
            with jax.named_scope("layer"):
                return pool(conv(x, weights["first"]), -jnp.inf, lax.max)

        return [str(e.source_info.name_stack) for e in jax.make_jaxpr(fn(scoped))(x).eqns]

    assert named(accelerate) == named(lambda fn: fn) == ["layer"] * len(named(accelerate))


def test_types_of_results_are_kept() -> None:
    def fn(x: jax.Array, scale: Any) -> Any:
        return conv(x, jnp.ones((1, 1, 2, 2), x.dtype)), scale * 2, 3, "text", None, np.float64(2)

    x = jnp.ones((1, 2, 2, 2), jnp.bfloat16)
    got, want = accelerate(fn)(x, 1.5), fn(x, 1.5)
    assert jax.tree.map(type, got[1:]) == jax.tree.map(type, want[1:])
    assert got[1:] == want[1:]
    # A weak type, which jit's arguments have where they were Python's numbers.
    got, want = (jax.jit(lambda s, f=f: f(x, s)[:2])(1.5) for f in (accelerate(fn), fn))
    assert [(a.dtype, a.weak_type) for a in got] == [(a.dtype, a.weak_type) for a in want]


def test_arguments_that_are_no_arrays_reach_the_function(operands: Any) -> None:
    weights, x = operands

    def fn(config: dict[str, Any], x: Any, times: int, *, activation: Callable[..., Any], mode: str = "train") -> Any:
        """Applies."""
        assert config["none"] is None
        for _ in range(times if mode == "train" else 0):
            x = activation(block(x, config["w"]))
        return {"x": x.reshape(config["rows"], -1), "mode": mode}

    config = {"w": weights["second"], "none": None, "rows": np.int64(2)}
    x = np.ones((2, 4, 4, 4), np.float32)
    got, want = (f(config, x, 2, activation=jnp.tanh) for f in (accelerate(fn), fn))
    assert got["mode"] == "train"
    np.testing.assert_allclose(got["x"], want["x"], rtol=1e-4, atol=1e-5)
    wrapped = accelerate(fn)
    assert (wrapped.__name__, wrapped.__doc__) == ("fn", "Applies.")
    assert inspect.signature(wrapped) == inspect.signature(fn)

    # Jitted by the user, the static ones are found by name and by number.
    def static(x: jax.Array, w: jax.Array, times: int, mode: str) -> jax.Array:
        return fn({"w": w, "none": None, "rows": 2}, x, times, activation=jnp.tanh, mode=mode)["x"]

    jitted = jax.jit(accelerate(static), static_argnums=2, static_argnames="mode")
    assert left(lambda x, w: jitted(x, w, 2, mode="train"), x, weights["second"]) == []
    np.testing.assert_allclose(jitted(x, weights["second"], 2, mode="train"), want["x"], rtol=1e-4, atol=1e-5)


def test_values_closed_over_are_differentiated(operands: Any) -> None:
    weights, x = operands

    def loss(w: jax.Array) -> jax.Array:
        return accelerate(lambda x: jnp.sum(jnp.square(conv(x, w))))(x)

    got = jax.jit(jax.grad(loss))(weights["first"])
    want = jax.jit(jax.grad(lambda w: jnp.sum(jnp.square(conv(x, w)))))(weights["first"])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_an_argument_changed_in_place_is_refused() -> None:
    @jax.tree_util.register_pytree_node_class
    class Statistics:
        def __init__(self, mean: Any) -> None:
            self.mean = mean

        def tree_flatten(self) -> Any:
            return (self.mean,), None

        @classmethod
        def tree_unflatten(cls, _: Any, leaves: Any) -> "Statistics":
            return cls(*leaves)

    def step(statistics: Statistics, x: jax.Array) -> jax.Array:
        statistics.mean = statistics.mean + x.mean()
        return x - statistics.mean

    with pytest.raises(ValueError, match=r"changes its argument of type Statistics in place.*return the new one"):
        accelerate(step)(Statistics(jnp.ones(())), jnp.ones(3))

    def returning(statistics: Statistics, x: jax.Array) -> tuple[Statistics, jax.Array]:
        return statistics, step(statistics, x)

    statistics, y = accelerate(returning)(Statistics(jnp.ones(())), jnp.ones(3))
    assert (statistics.mean, y.tolist()) == (2, [-1, -1, -1])


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="fn must be a function, got dict: pass the function itself, not its result"):
        accelerate({})  # type: ignore[arg-type]


# What is replaced.


def test_the_gradient_of_a_maximum_goes_to_the_first_of_equals_as_lax_sends_it() -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 3, (2, 7, 7, 3)), jnp.float32)
    t = jnp.asarray(rng.standard_normal(x.shape), jnp.float32)

    def both(operation: Any, first: float) -> Any:
        def derivatives(x: jax.Array, t: jax.Array) -> Any:
            def fn(x: jax.Array) -> jax.Array:
                return jnp.sum(jnp.sin(1 + pool(x, first, operation, window=3)))

            return jax.jvp(jax.grad(fn), (x,), (t,))

        return derivatives

    def everything(of: Callable[..., Any]) -> Any:
        return lambda x, t: [of(both(*kind))(x, t) for kind in ((lax.max, -jnp.inf), (lax.min, jnp.inf))]

    assert left(everything(accelerate), x, t) == []
    got, want = jax.jit(lambda *args: (everything(accelerate)(*args), everything(lambda fn: fn)(*args)))(x, t)
    assert_close({"derivatives": got}, {"derivatives": want}, 1e-6)


def test_general_window_reductions_of_one_operation_are_poolings() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 5, 5, 2)), jnp.float32)

    def fn(x: jax.Array) -> Any:
        return (
            pool(x, 0.25, lax.max),
            pool(x, 0.0, lambda a, b: a + b, window=3),
            pool(x.astype(jnp.int32), 1, lax.min),
        )

    assert left(accelerate(fn), x) == []
    for got, want in zip(*jax.jit(lambda x: (accelerate(fn)(x), fn(x)))(x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)

    def others(x: jax.Array) -> Any:
        return pool(x, 1.0, lax.mul), pool(x, 2.0, lax.add)

    assert left(accelerate(others), x) == left(others, x) == ["reduce_window"] * 2
    (said,) = convjax.explain(accelerate(others), x).left
    assert said == "reduce_window stays lax's where no problem expresses it: 2 times"


def test_limits_in_force_reach_the_function(operands: Any) -> None:
    weights, x = operands
    wide = jnp.ones((4, 28, 28, 128)), jnp.ones((3, 3, 128, 128))

    def taken() -> str:
        (row,) = convjax.explain(accelerate(jax.jit(conv)), *wide, platform="cpu").rows
        return row.algorithm

    free = taken()
    assert free.startswith("winograd")
    with convjax.using(max_workspace_bytes=0):
        assert taken() != free
    assert taken() == free
    assert convjax.explain(accelerate(gradient(network)), weights, x).left == ()


def test_what_is_not_entered_stays_and_is_said_once(operands: Any) -> None:
    weights, _ = operands

    @jax.custom_batching.custom_vmap
    def own(x: jax.Array, w: jax.Array) -> jax.Array:
        return conv(x, w)

    own.def_vmap(lambda size, batched, x, w: (jax.vmap(conv)(x, w), True))

    def fn(x: jax.Array, w: jax.Array) -> jax.Array:
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(np.asarray, shape, own(own(conv(x, w), w), w))

    x = jnp.ones((1, 4, 4, 4))
    explanation = convjax.explain(accelerate(fn), x, weights["second"])
    assert explanation.left == (
        "custom_vmap_call is not entered: 2 of lax's convolutions and poolings stay in it",
        "pure_callback is not entered: what it computes is not seen",
    )
    assert [row.role for row in explanation.rows] == ["fprop", "stock"]
    for sentence in explanation.left:
        assert f"left   {sentence}" in str(explanation)


def test_explain_traces_the_arrays_alone(operands: Any) -> None:
    weights, x = operands

    def fn(config: dict[str, Any], x: jax.Array, times: int, activation: Callable[..., Any]) -> jax.Array:
        for _ in range(times if config["mode"] == "train" else 0):
            x = activation(conv(x, config["w"]))
        return x

    x = jax.ShapeDtypeStruct((2, 4, 4, 4), jnp.float32)
    (row,) = convjax.explain(accelerate(fn), {"mode": "train", "w": weights["second"]}, x, 3, jnp.tanh).rows
    assert (row.role, row.count) == ("fprop", 3)


def test_what_problems_do_not_express_stays() -> None:
    def fn(x: jax.Array) -> jax.Array:
        return lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (1, 1), "VALID", base_dilation=(2, 1))

    assert left(accelerate(fn), jnp.ones((5, 5))) == ["reduce_window_max"]
    (n,) = jax.export.symbolic_shape("n")
    exported = jax.export.export(jax.jit(accelerate(lambda x: conv(x, jnp.ones((1, 1, 2, 2))))))(
        jax.ShapeDtypeStruct((n, 4, 4, 2), jnp.float32)
    )
    assert exported.call(jnp.ones((3, 4, 4, 2))).shape == (3, 4, 4, 2)


def test_policies_of_checkpoint_know_the_convolutions(operands: Any) -> None:
    weights, x = operands

    def loss(policy: Any) -> Callable[..., jax.Array]:
        return lambda w: jax.checkpoint(
            lambda w: jnp.sum(jnp.sin(block(conv(x, w), weights["second"]))), policy=policy
        )(w)

    def convolutions(fn: Callable[..., Any]) -> int:
        return len(re.findall(r"(conv_general_dilated|convjax_conv)\[", traced(jax.grad(fn), weights["first"])))

    saved, computed_again = loss(jax.checkpoint_policies.dots_saveable), loss(None)
    assert convolutions(accelerate(saved)) == convolutions(saved)
    assert convolutions(accelerate(computed_again)) == convolutions(computed_again) > convolutions(saved)


def test_where_jit_is_disabled(operands: Any) -> None:
    weights, x = operands

    def fn(x: jax.Array) -> jax.Array:
        return pool(conv(x, weights["first"]), -jnp.inf, lax.max)

    want = jax.jit(fn)(x)
    with jax.disable_jit():
        got = accelerate(jax.jit(fn))(x), convjax.max_pool(conv(x, weights["first"]), 2, padding="SAME")
    for y in got:
        np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
