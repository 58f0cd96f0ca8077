"""Sums over the rows of maps that stand beside convolutions: joined where they read the same, in one pass on CPUs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.experimental import jet
from jax.extend import core
from jax.interpreters import partial_eval as pe
from jax.sharding import NamedSharding, PartitionSpec
from transforms import assert_close, compiled, two_devices

import convjax
from convjax import accelerate, explain
from convjax.algorithms.sums import sums_of_rows
from convjax.sums import sums_p

SHAPES = [(1, 64, 5), (3, 32, 1), (2, 37, 8), (1, 74, 3), (2, 49, 4), (1, 3136, 7), (1, 1, 2), (2, 0, 3), (0, 4, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_sums_of_rows(shape: tuple[int, ...], count: int, rng: np.random.Generator) -> None:
    arrays = [rng.standard_normal(shape, np.float32) for _ in range(count)]
    sums = jax.jit(sums_of_rows)(arrays)
    assert len(sums) == count
    for y, x in zip(sums, arrays, strict=True):
        np.testing.assert_allclose(y, x.sum(1, dtype=np.float64), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_column(value: float) -> None:
    x = np.ones((1, 64, 3), np.float32)
    x[0, 5, 1] = value
    for y in jax.jit(sums_of_rows)([x, x]) + jax.jit(sums_of_rows)([x]):
        np.testing.assert_array_equal(y, [[64, value, 64]])


# A layer that normalises, behind a convolution.


def normalised(x: jax.Array, w: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    mean, square = (a.mean((0, 1, 2), keepdims=True) for a in (y, y * y))
    y = (y - mean) * (lax.rsqrt(square - mean**2 + 1e-3) * scale) + shift
    return jnp.minimum(jnp.maximum(y, 0), 6)


def loss(x: jax.Array, w: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    return jnp.sum(jnp.cos(normalised(normalised(x, w, scale, shift), w, shift, scale)))


@pytest.fixture
def operands(rng: np.random.Generator) -> tuple[jax.Array, ...]:
    shapes = [(4, 17, 16, 32), (3, 3, 32, 32), (1, 1, 1, 32), (1, 1, 1, 32)]
    return tuple(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)


def sums(fn: Callable[..., Any], *args: Any) -> tuple[int, ...]:
    return explain(fn, *args).sums


def test_a_layer_s_statistics_are_one_equation_and_its_gradients_another(operands: Any) -> None:
    assert sums(accelerate(loss), *operands) == (2, 2)
    gradients = accelerate(jax.grad(loss, argnums=(0, 1, 2, 3)))
    assert sums(gradients, *operands) == (2, 2, 3, 3)
    assert sums(loss, *operands) == ()
    assert "sums   10 over the rows of maps, in 4 equations" in str(explain(gradients, *operands))


WAYS: dict[str, Callable[[Callable[..., Any], Any], Any]] = {
    "values": lambda f, args: jax.jit(f)(*args),
    "gradients inside": lambda f, args: jax.jit(accelerate(jax.grad(f, argnums=(1, 2, 3))))(*args),
    "gradients outside": lambda f, args: jax.jit(jax.grad(f, argnums=(1, 2, 3)))(*args),
    "tangents": lambda f, args: jax.jit(lambda *args: jax.jvp(f, args, args)[1])(*args),
    "one tangent": lambda f, args: jax.jvp(lambda w: f(args[0], w, *args[2:]), args[1:2], (args[1][::-1],))[1],
    "forward over reverse": lambda f, args: jax.jvp(jax.grad(lambda s: f(*args[:3], s)), args[3:], args[2:3])[1],
    "reverse over reverse": lambda f, args: jax.grad(lambda s: jnp.sum(jax.grad(f, 3)(*args[:3], s) ** 2))(args[3]),
    "a batch of scales": lambda f, args: jax.vmap(f, (None, None, 0, None))(
        *args[:2], jnp.stack([args[2], -args[2]]), args[3]
    ),
    "batches of maps": lambda f, args: jax.jit(jax.vmap(lambda x: f(x, *args[1:]), in_axes=4))(
        jnp.stack([args[0], -args[0]], axis=4)
    ),
    "eagerly": lambda f, args: f(*args),
    "remat": lambda f, args: jax.grad(jax.checkpoint(f), 1)(*args),
    "scan": lambda f, args: lax.scan(lambda c, s: (c + f(*args[:3], s), s), 0.0, jnp.stack([args[3], args[2]]))[0],
}


@pytest.mark.parametrize("way", WAYS)
def test_values_are_those_of_lax(way: str, operands: Any) -> None:
    got, want = (WAYS[way](f, operands) for f in (accelerate(loss), loss))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3 * np.abs(b).max())


def test_the_primitive_is_linear(rng: np.random.Generator) -> None:
    x, y = (jnp.asarray(rng.standard_normal((2, 64, 3)), jnp.float32) for _ in range(2))

    def both(x: jax.Array, y: jax.Array) -> list[jax.Array]:
        return sums_p.bind(x, y, axes=(1,))

    cotangents = [jnp.arange(6.0).reshape(2, 3), jnp.ones((2, 3))]
    for got, want in zip(jax.linear_transpose(both, x, y)(cotangents), cotangents, strict=True):
        np.testing.assert_array_equal(got, jnp.broadcast_to(want[:, None], x.shape))
    (got,) = jax.linear_transpose(lambda x: both(x, x)[:1], x)(cotangents[:1])
    np.testing.assert_array_equal(got, jnp.broadcast_to(cotangents[0][:, None], x.shape))
    (got,) = jax.linear_transpose(lambda x: jnp.divide(*both(x, y)), x)(cotangents[0])
    np.testing.assert_allclose(got, jnp.broadcast_to((cotangents[0] / y.sum(1))[:, None], x.shape), rtol=1e-5)
    values, terms = jet.jet(lambda x: both(x, 2 * x), (x,), ([y, x],))
    np.testing.assert_allclose(values[1], 2 * x.sum(1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(terms[0][0], y.sum(1), rtol=1e-5, atol=1e-5)


def test_policies_of_checkpoint_know_them(operands: Any) -> None:
    asked = []

    def policy(primitive: Any, *avals: Any, **params: Any) -> bool:
        asked.append(primitive.name)
        return False

    kept = jax.checkpoint(normalised, policy=policy)
    jax.grad(accelerate(lambda *args: kept(*args).sum()), 1)(*operands)
    assert "reduce_sum" in asked
    assert "convjax_sums" not in asked


# What is joined, and in which order the rest follows.


def convolved(x: jax.Array) -> jax.Array:
    """x as it is, by a convolution, so that `accelerate` has something to replace."""
    return lax.conv_general_dilated(x, jnp.eye(8)[None], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))


def with_convolution(fn: Callable[[jax.Array], Any]) -> Callable[[jax.Array], Any]:
    return lambda x: fn(convolved(x))


def entangled(x: jax.Array) -> list[jax.Array]:
    """Sums of two arrays, in pairs that wait for each other: a pair of one array cannot become one equation."""
    y = jnp.sort(x, 1)
    of_x, of_y = x.sum((0, 1), keepdims=True), y.sum((0, 1), keepdims=True)
    return [of_x, of_y, (x * of_y).sum((0, 1)), (y * of_x).sum((0, 1))]


def with_effects(x: jax.Array) -> list[jax.Array]:
    first = (x + 1).sum((0, 1))
    jax.debug.print("of the first {}", first[0] > 0, ordered=True)
    y = x * 2
    jax.debug.print("of y {}", y[0, 0, 0] > 0, ordered=True)
    return [first, (x * x).sum((0, 1)), y.sum((0, 1))]


def with_memory(x: jax.Array) -> list[jax.Array]:
    """What is added last was read after a write that waits for the first sum."""
    memory = jax.new_ref(x)
    before = memory[...] + 0 * x
    first = (x * before).sum((0, 1), keepdims=True)
    memory[...] = x + first
    return [first[0, 0], (x * memory[...]).sum((0, 1)), (x * before * 2).sum((0, 1))]


PROGRAMS: dict[str, tuple[Callable[[jax.Array], Any], tuple[int, ...]]] = {
    "more than a loop holds": (lambda x: [(x * n).sum((0, 1)) for n in range(6)], (4, 2)),
    "axes that differ": (lambda x: [(x * 2).sum(1), (x * 3).sum((0, 1)), (x * 4).sum(1)], (1, 2)),
    "waiting for each other": (entangled, (1, 1)),
    "with effects": (with_effects, (3,)),
    "with memory": (with_memory, (2, 1)),
    "one that nothing reads": (lambda x: [(x * n).sum((0, 1)) for n in range(3)][:2], (2,)),
    "a lone sum of what is computed for it": (lambda x: [(x * x).sum((0, 1))], (1,)),
    "a lone sum of what is there": (lambda x: [x.sum((0, 1))], ()),
    "a lone sum of what is read again": (lambda x: [x.sum((0, 1)), (y := x * x), jnp.cumsum(y, 1)][:2], ()),
    "nothing in common": (lambda x: [jnp.sort(x * n, 1).sum((0, 1)) for n in (1, 2)], ()),
    "constants alone": (lambda x: [(x + 0 * jnp.sort(x)).sum((0, 1)), jnp.full_like(x, 2).sum((0, 1))], (1,)),
    "the last axis": (lambda x: [(x * x).sum((1, 2)), x.sum((1, 2)), x.sum((0, 2))], ()),
    "few rows": (lambda x: [(x[:, :8] * n).sum((0, 1)) for n in (1, 2)], ()),
    "a result of its own": (lambda x: [x.sum((0, 1)), (x * x).sum((0, 1)), x], (2,)),
    "in other types": (lambda x: [f.sum(1) for n in (1, 2) for f in [(n * x).astype(jnp.bfloat16)]], (2,)),
    "of integers": (lambda x: [(n * x).astype(jnp.int32).sum(1) for n in (1, 2)], ()),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_joined(name: str, capfd: pytest.CaptureFixture[str], rng: np.random.Generator) -> None:
    fn, expected = PROGRAMS[name]
    x = jnp.asarray(rng.standard_normal((2, 2048, 8)), jnp.float32)
    program = with_convolution(fn)
    assert sums(accelerate(program), x) == expected
    core.check_jaxpr(jax.make_jaxpr(accelerate(program))(x).jaxpr)
    outputs = []
    for f in (accelerate(program), program):
        result = jax.block_until_ready(jax.jit(f)(x))
        jax.effects_barrier()
        outputs.append((result, capfd.readouterr().out))
    (got, printed), (want, stock) = outputs
    assert printed == stock
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        # XLA may leave out the rounding of what it adds to bfloat16.
        bound = 0.5 if a.dtype == jnp.bfloat16 else 2e-2
        np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), rtol=1e-2, atol=bound)


def test_without_a_convolution_nothing_is_joined(rng: np.random.Generator) -> None:
    x = jnp.asarray(rng.standard_normal((2, 2048, 8)), jnp.float32)
    got, want = (jax.make_jaxpr(f)(x) for f in (accelerate(entangled), entangled))
    assert str(got) == str(want)

    def activated(x: jax.Array) -> tuple[jax.Array, jax.Array]:  # a custom derivative, whose rule may hold anything
        y = jax.nn.relu(x)
        return (y * y).sum((0, 1)), y.sum((0, 1))

    assert convjax.explain(accelerate(activated), x).sums == ()
    assert convjax.explain(accelerate(lambda x: jax.checkpoint(activated)(convolved(x))), x).sums == (2,)


# Sums that are joined have nothing to do with each other.


def statistics(x: jax.Array, s: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = convolved(x)
    return (y * y).sum((0, 1)), (y * s).sum((0, 1))


@pytest.fixture
def x(rng: np.random.Generator) -> jax.Array:
    return jnp.asarray(rng.standard_normal((2, 1024, 8)), jnp.float32)


def test_what_is_not_mapped_stays_so(x: jax.Array) -> None:
    assert sums(accelerate(statistics), x, x) == (2,)
    scales = jnp.arange(3.0)
    got, want = (jax.vmap(f, (None, 0), (None, 0))(x, scales) for f in (accelerate(statistics), statistics))
    assert_close({"sums": got}, {"sums": want}, 1e-5)


def test_what_is_known_is_not_differentiated(x: jax.Array) -> None:
    def linear(x: jax.Array) -> jax.Array:
        return jnp.divide(*statistics(c, x)[::-1])

    c = x + 1
    got, want = (jax.linear_transpose(f, x)(jnp.ones(8)) for f in (accelerate(linear), linear))
    assert_close({"cotangents": got}, {"cotangents": want}, 1e-5)


@jax.custom_jvp
def energy(x: jax.Array) -> jax.Array:
    return statistics(x, x)[0]


@energy.defjvp
def _energy_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return statistics(*primals, *tangents)


WRAPPED: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "as it is": lambda f: f,
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "scan": lambda f: lambda x: lax.scan(lambda c, _: (c + f(x), None), jnp.zeros(8), length=2)[0],
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_rules_of_derivatives(wrapper: str, x: jax.Array) -> None:
    fn = WRAPPED[wrapper](energy)
    got, want = (jax.grad(lambda x: jnp.sum(jnp.sin(f(x))))(x) for f in (accelerate(fn), fn))  # noqa: B023
    assert_close({"gradient": got}, {"gradient": want}, 1e-4)


def test_what_nothing_reads_is_dropped(x: jax.Array) -> None:
    first = jax.make_jaxpr(jax.jit(lambda x: accelerate(statistics)(x, x)[0]))(x).jaxpr
    kept, _ = pe.dce_jaxpr(first.eqns[0].params["jaxpr"].jaxpr, [True])
    assert [len(eqn.outvars) for eqn in kept.eqns if eqn.primitive is sums_p] == [1]


# Where programs run.


def test_without_jit(operands: Any) -> None:
    with jax.disable_jit():
        np.testing.assert_allclose(accelerate(loss)(*operands), loss(*operands), rtol=1e-4)


def test_for_several_platforms(operands: Any) -> None:
    gradient = jax.jit(accelerate(jax.grad(loss, argnums=1)))
    exported = export.export(gradient, platforms=["cpu", "cuda", "tpu"])(*operands)
    assert_close({"gradient": exported.call(*operands)}, {"gradient": gradient(*operands)}, 1e-4)


def test_of_a_batch_whose_size_is_not_known(x: jax.Array) -> None:
    f = jax.jit(jax.vmap(accelerate(lambda x: statistics(x, 2 * x))))
    (size,) = export.symbolic_shape("b")
    exported = export.export(f)(jax.ShapeDtypeStruct((size, *x.shape), x.dtype))
    stacked = jnp.stack([x, x + 1, -x])
    assert_close({"sums": exported.call(stacked)}, {"sums": f(stacked)}, 1e-5)


def test_over_shards(operands: Any) -> None:
    everywhere = [PartitionSpec()] * (len(operands) - 1)

    def mean(f: Callable[..., Any]) -> Callable[..., Any]:
        specs = (PartitionSpec("batch"), *everywhere)
        return jax.shard_map(
            lambda *args: lax.pmean(f(*args), "batch"), mesh=two_devices(), in_specs=specs, out_specs=PartitionSpec()
        )

    for program in (mean(accelerate(loss)), accelerate(mean(loss))):
        assert sums(jax.grad(program), *operands)
        got, want = (jax.jit(jax.value_and_grad(f, argnums=(1, 2)))(*operands) for f in (program, mean(loss)))
        assert_close({"value and gradients": got}, {"value and gradients": want}, 1e-3)


def test_rows_that_are_divided_are_added_where_they_are(operands: Any) -> None:
    x, *rest = operands
    rows, whole = (NamedSharding(two_devices(), PartitionSpec(*axes)) for axes in (("batch",), ()))
    placed = (jax.device_put(x, rows), *jax.device_put(rest, whole))
    assert "all-gather" not in compiled(accelerate(loss), *placed)
    np.testing.assert_allclose(jax.jit(accelerate(loss))(*placed), loss(*operands), rtol=1e-4)


def test_what_inspects_a_program_knows_them(operands: Any) -> None:
    gradients = jax.grad(loss, argnums=(1, 2))
    got, want = (convjax.count(f, *operands) for f in (accelerate(gradients), gradients))
    assert got.elementwise == want.elementwise

    def of_one(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A sum that sees x, and one of a constant, which does not."""
        y = lax.conv_general_dilated(x, operands[1], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        c = jnp.cos(jnp.ones_like(y))
        return (y * c).sum((1, 2)), (c * c).sum((1, 2))

    assert sums(accelerate(of_one), operands[0]) == (2,)
    seen, unseen = (convjax.receptive_field(f, operands[0]) for f in (accelerate(of_one), of_one))
    assert seen == unseen
