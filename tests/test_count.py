"""`count` of functions: loops, branches, products, memory, and what it refuses and says it cannot see."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec
from transforms import two_devices

import convjax
from convjax.inspect.count import count

MACS = 6 * 6 * 9 * 3 * 5
X, W, B = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((1, 8, 8, 3), (3, 3, 3, 5), (5,)))
SQUARE = jax.ShapeDtypeStruct((16, 16), np.float32)


def layer(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
    return convjax.conv(x, w, bias=b)


def rematerialized(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
    return jax.checkpoint(jax.jit(layer))(x, w, b)


def over_batch(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
    return jax.vmap(layer, (0, None, None))(x, w, b)


@pytest.mark.parametrize("fn", [layer, jax.jit(layer), rematerialized, over_batch])
def test_calls_are_entered(fn: Any) -> None:
    counted = count(fn, X, W, B)
    assert (counted.macs, counted.bias_adds) == (MACS, 6 * 6 * 5)
    assert counted.flops_with_bias == 2 * MACS + 6 * 6 * 5
    assert [(row.kind, row.macs) for row in counted.layers] == [("conv", MACS)]
    assert counted.bytes == 4 * (8 * 8 * 3 + 9 * 3 * 5 + 6 * 6 * 5)
    assert counted.intensity == counted.flops / counted.bytes
    assert counted.elementwise == 0
    assert counted.left == ()


def test_half_precision_biases_are_biases_too() -> None:
    halves = [jax.ShapeDtypeStruct(a.shape, jnp.bfloat16) for a in (X, W, B)]
    counted = count(layer, *halves)
    assert (counted.macs, counted.bias_adds) == (MACS, 6 * 6 * 5)
    assert counted.bytes == 2 * (8 * 8 * 3 + 9 * 3 * 5 + 6 * 6 * 5)


def test_a_shortcut_is_no_bias() -> None:
    counted = count(lambda x, w: x + convjax.conv(x, w, padding=1), X, jax.ShapeDtypeStruct((3, 3, 3, 3), np.float32))
    assert (counted.bias_adds, counted.elementwise) == (0, 8 * 8 * 3)


def test_an_input_is_no_bias_whatever_its_size() -> None:
    row, vector = jax.ShapeDtypeStruct((1, 16), np.float32), jax.ShapeDtypeStruct((16,), np.float32)
    states = jax.ShapeDtypeStruct((7, 16), np.float32)

    def recurrent(h: jax.Array, xs: jax.Array, w: jax.Array) -> jax.Array:
        return lax.scan(lambda h, x: (jnp.tanh(h @ w + x), None), h, xs)[0]

    for counted, elements in (
        (count(lambda x, w: x + x @ w, row, SQUARE), 16),
        (count(lambda x, y, w: y + x @ w, row, row, SQUARE, parameters=2), 16),
        (count(recurrent, vector, states, SQUARE), 2 * 7 * 16),
    ):
        assert (counted.bias_adds, counted.elementwise) == (0, elements)


def test_a_bias_may_be_added_to_the_sum_of_two_products() -> None:
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((2, 8), (2, 4), (8, 4), (4, 4), (1, 4))]
    counted = count(lambda x, h, wi, wh, b: x @ wi + h @ wh + b, *shapes)
    assert (counted.bias_adds, counted.elementwise) == (8, 8)


def test_reductions_of_several_arrays_and_scattering_are_counted() -> None:
    x, i = jax.ShapeDtypeStruct((9,), np.float32), jax.ShapeDtypeStruct((9,), np.int32)
    pair = (np.float32(0), np.float32(1))
    both = count(lambda x, y: lax.reduce((x, y), pair, lambda a, b: (a[0] + b[0], a[1] * b[1]), (0,)), x, x)
    assert both.elementwise == 2 * 9
    added, put = (count(lambda x, i, f=f: getattr(jnp.zeros(4).at[i], f)(x), x, i).elementwise for f in ("add", "set"))
    assert added == put + 9


def test_scans_count_as_often_as_they_run() -> None:
    def fn(x: jax.Array, ws: jax.Array, bs: jax.Array) -> jax.Array:
        return lax.scan(lambda x, wb: (jnp.tanh(x @ wb[0] + wb[1][None]), None), x, (ws, bs))[0]

    ws, bs = jax.ShapeDtypeStruct((7, 16, 16), np.float32), jax.ShapeDtypeStruct((7, 16), np.float32)
    counted = count(fn, SQUARE, ws, bs, parameters=(1, 2))
    assert counted.macs == 7 * 16**3
    assert counted.bias_adds == counted.elementwise == 7 * 16**2
    assert counted.parameters == 7 * (16**2 + 16)
    assert counted.layers[0].parameters == counted.parameters
    assert counted.activation_bytes == 2 * 16**2 * 4  # the carry and what is made of it
    assert counted.left == ()


def test_what_a_scan_stacks_is_alive_while_it_runs() -> None:
    def fn(x: jax.Array) -> jax.Array:
        return lax.scan(lambda x, _: (x @ x, x @ x), x, None, length=7)[1]

    assert count(fn, SQUARE).activation_bytes >= 7 * 16**2 * 4


def test_the_costliest_branch_counts_and_loops_of_unknown_length_count_once() -> None:
    def branches(x: jax.Array) -> jax.Array:
        return lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    counted = count(branches, SQUARE)
    assert counted.macs == 2 * 16**3
    assert counted.left == ("cond: the branch with the most MACs is counted",)
    pooled = count(lambda x: lax.cond(x[0, 0] > 0, lambda x: convjax.max_pool(x, 2), lambda x: x[::2], x), SQUARE)
    assert pooled.window_operations == 16 * 16
    assert pooled.left == ("cond: the branch with the most MACs is counted",)
    counted = count(lambda x: lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ x, x), SQUARE)
    assert counted.macs == 16**3
    assert counted.left[0] == "while: how often it is run is not known, and it is counted once"


def test_what_is_not_seen_is_said() -> None:
    out = jax.ShapeDtypeStruct((16, 16), np.float32)
    counted = count(lambda x: jax.pure_callback(np.tanh, out, x @ x), SQUARE)
    assert counted.macs == 16**3
    assert counted.training_bytes is None
    assert counted.left[0] == "pure_callback: what it computes is not counted"
    assert counted.left[1].startswith("training_bytes is not known: ")
    assert str(counted).endswith("\n".join(counted.left))
    assert "unknown kept for a training step" in str(counted)
    counted = count(lambda x: jnp.linalg.cholesky(x @ x.T), SQUARE)
    assert (counted.macs, counted.left) == (16**3, ("cholesky: what it computes is not counted",))


def test_every_device_of_a_mesh_counts() -> None:
    spec = PartitionSpec("batch")
    on_each = jax.shard_map(lambda x: x @ x.T, mesh=two_devices(), in_specs=spec, out_specs=spec)
    assert count(on_each, SQUARE).macs == 2 * 8 * 8 * 16


def test_products_count_batches_and_contractions() -> None:
    x, y = jax.ShapeDtypeStruct((4, 3, 5, 6), np.float32), jax.ShapeDtypeStruct((4, 6, 7, 5), np.float32)
    counted = count(lambda x, y: jnp.einsum("bijk,bklj->bil", x, y), x, y)
    assert counted.macs == 4 * 3 * 7 * 5 * 6
    assert counted.bytes == 4 * (x.size + y.size + 4 * 3 * 7)
    assert counted.layers[0].output_shape == (4, 3, 7)


def test_what_nothing_uses_costs_nothing() -> None:
    def fn(x: jax.Array) -> jax.Array:
        x @ x @ x
        return x @ x

    assert count(fn, SQUARE).macs == 16**3


def test_rows_of_functions_are_named_by_their_scopes() -> None:
    def fn(x: jax.Array) -> jax.Array:
        with jax.named_scope("encoder"):
            x = x @ x
        return x @ x

    assert [row.path for row in count(fn, SQUARE).layers] == ["encoder", ""]


def test_results_are_freed_after_their_last_use_and_kept_for_the_gradient() -> None:
    kib = 16 * 16 * 4

    def chain(x: jax.Array, w: jax.Array) -> jax.Array:
        for _ in range(5):
            x = jnp.tanh(x @ w)
        return x

    counted = count(chain, SQUARE, SQUARE, parameters=1)
    assert counted.activation_bytes == 2 * kib  # a product and what it multiplies, tanh in the product's place
    assert counted.training_bytes == 5 * kib  # every tanh, the output among them
    remat = count(lambda x, w: jax.checkpoint(chain)(x, w), SQUARE, SQUARE, parameters=1)
    assert remat.training_bytes == kib
    assert remat.macs == counted.macs
    wide = count(lambda x: (x @ x) @ (x @ x @ x), SQUARE)
    assert wide.activation_bytes == 3 * kib
    assert count(lambda x: x[:, :1] @ x[:1], SQUARE).training_bytes == kib + 2 * 16 * 4


def test_gradients_are_functions_like_others() -> None:
    counted = count(jax.grad(lambda w, x: jnp.sum((x @ w) ** 2)), SQUARE, SQUARE)
    assert counted.macs == 2 * 16**3


def test_nothing_is_run() -> None:
    huge = jax.ShapeDtypeStruct((2**20, 2**20), np.float32)
    counted = count(lambda x: jnp.tanh(x @ x), huge)
    assert counted.macs == 2**60
    assert counted.activation_bytes == 2**42


def test_prints_as_a_table() -> None:
    lines = str(count(layer, X, W, B, parameters=(1, 2))).splitlines()
    assert lines[2].split() == ["conv", "1x6x6x5", "140", "4,860", "180", "0", "1.98", "KiB", "720", "B", "4.8"]
    assert lines[3].startswith("140 parameters; 4.86 k MACs = 9.72 k FLOPs, 9.90 k with biases; ")


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        (3, ValueError, "parameters holds 3, but there are 3 arguments: 0 to 2"),
        ((0, -1), ValueError, "parameters holds -1"),
        ("wb", TypeError, "parameters must hold positions of arguments, got 'wb'"),
    ],
)
def test_parameters_are_positions_of_arguments(parameters: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        count(layer, X, W, B, parameters=parameters)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="int is neither callable nor a model of Flax NNX"):
        count(3, X)  # type: ignore[arg-type]
