"""`count` and `summary` of models of four libraries: layers found, parameters, shapes, MACs and receptive fields."""

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

import convjax
import convjax.nn
from convjax.inspect.count import count
from convjax.inspect.summary import Summary, summary

# The output and parameters of a 3x3 convolution of 3x10x10 to 5 maps, and of a 2x2x2 one of 5x4x10x10 to 4.
EXPECTED = {2: ((5, 8, 8), 140), 3: ((4, 3, 9, 9), 164)}
IN, OUT = {2: 3, 3: 5}, {2: 5, 3: 4}
KERNEL = {2: (3, 3), 3: (2, 2, 2)}
SIZES = {2: (10, 10), 3: (4, 10, 10)}
FIRST = {2: "NCHW", 3: "NCDHW"}
KEY = jax.ShapeDtypeStruct((2,), np.uint32)


def array(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)


@pytest.fixture(autouse=True)
def ranks_promoted() -> Iterator[None]:
    """Haiku and Equinox add biases of lower rank."""
    with jax.numpy_rank_promotion("allow"):
        yield


def nnx_conv(ndim: int, first: bool) -> tuple[Any, ...]:
    def build() -> Any:
        kind = convjax.nn.Conv if first else nnx.Conv
        options = {"layout": FIRST[ndim]} if first else {}
        return kind(IN[ndim], OUT[ndim], KERNEL[ndim], padding="VALID", rngs=nnx.Rngs(0), **options)

    return nnx.eval_shape(build), inputs(ndim, first)


def linen_conv(ndim: int, first: bool) -> tuple[Any, ...]:
    module, x = nn.Conv(OUT[ndim], KERNEL[ndim], padding="VALID"), inputs(ndim, False)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    return module, variables, x


def equinox_conv(ndim: int, first: bool) -> tuple[Any, ...]:
    kind = {2: eqx.nn.Conv2d, 3: eqx.nn.Conv3d}[ndim]
    module = eqx.filter_eval_shape(kind, IN[ndim], OUT[ndim], KERNEL[ndim], key=KEY)
    return module, array(IN[ndim], *SIZES[ndim])


def haiku_conv(ndim: int, first: bool) -> tuple[Any, ...]:
    kind, layout = {2: hk.Conv2D, 3: hk.Conv3D}[ndim], FIRST[ndim] if first else None
    options = {"data_format": layout} if layout else {}
    fn = hk.transform(lambda x: kind(OUT[ndim], KERNEL[ndim], padding="VALID", **options)(x))
    x = inputs(ndim, first)
    return fn, jax.eval_shape(fn.init, KEY, x), None, x


def inputs(ndim: int, first: bool) -> jax.ShapeDtypeStruct:
    return array(1, IN[ndim], *SIZES[ndim]) if first else array(1, *SIZES[ndim], IN[ndim])


LAYOUTS = {nnx_conv: (True, False), linen_conv: (False,), equinox_conv: (True,), haiku_conv: (True, False)}
CASES = [(build, first, ndim) for build, layouts in LAYOUTS.items() for first in layouts for ndim in (2, 3)]


@pytest.mark.parametrize(("build", "first", "ndim"), CASES)
def test_known_layers(build: Callable[..., Any], first: bool, ndim: int) -> None:
    model, *args = build(ndim, first)
    (channels, *spatial), parameters = EXPECTED[ndim]
    batch = () if build is equinox_conv else (1,)
    shape = (*batch, channels, *spatial) if first else (*batch, *spatial, channels)
    macs = int(np.prod(spatial) * np.prod(KERNEL[ndim]) * IN[ndim] * OUT[ndim])

    counted = count(model, *args)
    assert (counted.parameters, counted.macs) == (parameters, macs)
    assert counted.bias_adds == channels * np.prod(spatial)
    (layer,) = counted.layers
    assert (layer.parameters, layer.macs, layer.output_shape) == (parameters, macs, shape)
    assert counted.training_bytes == layer.training_bytes == counted.activation_bytes == 4 * np.prod(shape)

    row = summary(model, *args).rows[-1]
    assert (row.parameters, row.trainable, row.macs, row.output_shapes) == (parameters, parameters, macs, (shape,))
    assert row.receptive_field == KERNEL[ndim]
    text = str(summary(model, *args))
    assert f" {'x'.join(map(str, shape))} " in text
    assert f" {parameters} " in text


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return x + nn.relu(nn.Conv(4, (3, 3), name="conv")(x))


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, x: Any, train: bool) -> Any:
        x = nn.BatchNorm(use_running_average=not train, name="norm")(nn.Conv(4, (3, 3), name="stem")(x))
        x = nn.max_pool(LinenBlock(name="block")(x), (2, 2), (2, 2))
        return nn.Dense(10, name="head")(x.reshape(x.shape[0], -1))


class NnxBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(4, 4, (3, 3), rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return x + nnx.relu(self.conv(x))


class NnxModel(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem, self.norm = nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.block, self.head = NnxBlock(rngs), nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        x = nnx.max_pool(self.block(self.norm(self.stem(x))), (2, 2), (2, 2))
        return self.head(x.reshape(x.shape[0], -1))


class EqxBlock(eqx.Module):
    conv: eqx.nn.Conv2d

    def __call__(self, x: Any) -> Any:
        return x + jax.nn.relu(self.conv(x))


class EqxModel(eqx.Module):
    stem: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    block: EqxBlock
    pool: eqx.nn.MaxPool2d
    head: eqx.nn.Linear

    def __init__(self, key: Any) -> None:
        self.stem = eqx.nn.Conv2d(3, 4, 3, padding=1, key=key)
        self.norm = eqx.nn.GroupNorm(1, 4)
        self.block = EqxBlock(eqx.nn.Conv2d(4, 4, 3, padding=1, key=key))
        self.pool, self.head = eqx.nn.MaxPool2d(2, 2), eqx.nn.Linear(64, 10, key=key)

    def __call__(self, x: Any) -> Any:
        return self.head(self.pool(self.block(self.norm(self.stem(x)))).ravel())


class HaikuBlock(hk.Module):
    def __call__(self, x: Any) -> Any:
        return x + jax.nn.relu(hk.Conv2D(4, 3, name="conv")(x))


def haiku_model(x: Any) -> Any:
    x = hk.BatchNorm(True, True, 0.9, name="norm")(hk.Conv2D(4, 3, name="stem")(x), is_training=True)
    x = hk.MaxPool((1, 2, 2, 1), (1, 2, 2, 1), "VALID", name="pool")(HaikuBlock(name="block")(x))
    return hk.Linear(10, name="head")(x.reshape(x.shape[0], -1))


def a_nnx_model() -> tuple[Any, ...]:
    return nnx.eval_shape(lambda: NnxModel(nnx.Rngs(0))), array(1, 8, 8, 3)


def a_linen_model() -> tuple[Any, ...]:
    model, x = LinenModel(), array(1, 8, 8, 3)
    return model, jax.eval_shape(lambda key, x: model.init(key, x, False), jax.random.key(0), x), x, False


def an_equinox_model() -> tuple[Any, ...]:
    return eqx.filter_eval_shape(EqxModel, KEY), array(3, 8, 8)


def a_haiku_model() -> tuple[Any, ...]:
    model, x = hk.transform_with_state(haiku_model), array(1, 8, 8, 3)
    return model, *jax.eval_shape(model.init, KEY, x), x


OWN = {"stem": 112, "norm": 8, "block.conv": 148, "head": 650}
MACS = {"stem": 8 * 8 * 27 * 4, "block.conv": 8 * 8 * 36 * 4, "head": 640}


@pytest.mark.parametrize("build", [a_nnx_model, a_linen_model, an_equinox_model, a_haiku_model])
def test_layers_are_nested_as_the_model_is(build: Callable[[], Any]) -> None:
    counted = count(*build())
    assert {row.path: row.parameters for row in counted.layers if row.parameters} == OWN
    assert {row.path: row.macs for row in counted.layers if row.macs} == MACS
    assert (counted.parameters, counted.macs) == (sum(OWN.values()), sum(MACS.values()))
    assert counted.window_operations == 8 * 8 * 4
    assert counted.training_bytes is not None
    assert counted.training_bytes > counted.activation_bytes

    shown = summary(*build())
    own = ("pool", "norm.mean_ema", "norm.var_ema")  # modules that only some of the libraries have
    depths = [(row.path, row.depth) for row in shown.rows if row.path not in own]
    assert depths == [("", 0), ("stem", 1), ("norm", 1), ("block", 1), ("block.conv", 2), ("head", 1)]
    rows = {row.path: row for row in shown.rows}
    assert rows[""].parameters == counted.parameters
    assert rows[""].macs == counted.macs
    assert (rows["block"].parameters, rows["block"].macs) == (148, MACS["block.conv"])
    assert rows[""].output_shapes[0][-1] == rows["head"].output_shapes[0][-1] == 10


def nnx_transposed(s: int) -> tuple[Any, ...]:
    return nnx.eval_shape(lambda: nnx.ConvTranspose(3, 2, (4, 4), s, padding="VALID", rngs=nnx.Rngs(0))), array(
        1, 2, 1, 3
    )


def linen_transposed(s: int) -> tuple[Any, ...]:
    module, x = nn.ConvTranspose(2, (4, 4), (s, s), padding="VALID"), array(1, 2, 1, 3)
    return module, jax.eval_shape(module.init, jax.random.key(0), x), x


def equinox_transposed(s: int) -> tuple[Any, ...]:
    return eqx.filter_eval_shape(eqx.nn.ConvTranspose2d, 3, 2, 4, s, key=KEY), array(3, 2, 1)


def haiku_transposed(s: int) -> tuple[Any, ...]:
    fn, x = hk.transform(lambda x: hk.Conv2DTranspose(2, 4, s, padding="VALID")(x)), array(1, 2, 1, 3)
    return fn, jax.eval_shape(fn.init, KEY, x), x


@pytest.mark.parametrize("build", [nnx_transposed, linen_transposed, equinox_transposed, haiku_transposed])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_input_of_a_transposed_layer_meets_every_tap(build: Callable[[int], Any], stride: int) -> None:
    counted = count(*build(stride))
    assert counted.macs == 2 * 1 * 16 * 3 * 2
    assert counted.bias_adds == np.prod(counted.layers[0].output_shape)


def test_rows_of_a_summary_can_be_frozen_and_shown() -> None:
    model, x = a_nnx_model()
    shown = summary(model, x, trainable=lambda path: path.startswith("head") or path == "norm.scale")
    assert {row.path: row.trainable for row in shown.rows} == {
        "": 654,
        "stem": 0,
        "norm": 4,
        "block": 0,
        "block.conv": 0,
        "head": 650,
    }
    lines = str(shown).splitlines()
    assert lines[0].split() == ["Layer", "(type)", "Output", "Trainable", "Parameters", "MACs", "Receptive", "field"]
    assert lines[2].startswith("NnxModel ")
    assert lines[3].split()[:6] == ["stem", "(Conv)", "1x8x8x4", "no", "112", "6,912"]
    assert lines[4].split()[:7] == ["norm", "(BatchNorm)", "1x8x8x4", "in", "part", "8", "0"]
    assert lines[6].startswith("    conv (Conv) ")
    assert lines[-1] == "918 parameters, 654 of them trainable; 16.8 k MACs"
    html = shown._repr_html_()
    assert html.count("<tr>") == 1 + len(shown.rows)
    assert ">    conv (Conv)</td>" in html


def test_a_module_called_twice_is_one_layer_of_twice_the_macs() -> None:
    class Twice(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.layer = nnx.Linear(8, 8, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.layer(self.layer(x))

    counted = count(nnx.eval_shape(lambda: Twice(nnx.Rngs(0))), array(2, 8))
    assert (counted.parameters, counted.macs, counted.bias_adds) == (72, 2 * 128, 2 * 16)
    assert len(counted.layers) == 1


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(4, name="last")(nn.Dense(8, name="first")(x))


JittedInner = nn.jit(Inner)


class Outer(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return JittedInner(name="inner")(x)


class Jitted(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.last = nnx.Linear(8, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)

    @nnx.jit
    def __call__(self, x: Any) -> Any:
        return self.last(self.first(x))


def test_layers_are_found_again_in_jitted_calls() -> None:
    model, x = nnx.eval_shape(lambda: Jitted(nnx.Rngs(0))), array(2, 8)
    nnx.eval_shape(lambda model, x: model(x), model, x)  # its program is cached, without layers
    for _ in range(2):
        assert [(row.path, row.macs) for row in count(model, x).layers] == [("first", 128), ("last", 64)]

    outer = Outer()
    variables = jax.eval_shape(outer.init, jax.random.key(0), x)
    jax.eval_shape(outer.apply, variables, x)
    for _ in range(2):
        rows = count(outer, variables, x).layers
        assert [(row.path, row.macs) for row in rows] == [("inner.first", 128), ("inner.last", 64)]


def test_layers_are_found_in_transformed_calls() -> None:
    class Scanned(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.blocks = nnx.vmap(lambda rngs: nnx.Linear(8, 8, rngs=rngs))(rngs.split(4))
            self.last = nnx.Linear(8, 8, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.blocks)
            return nnx.remat(lambda last, x: last(x))(self.last, x)

    counted = count(nnx.eval_shape(lambda: Scanned(nnx.Rngs(0))), array(2, 8))
    assert {row.path: (row.parameters, row.macs) for row in counted.layers} == {
        "blocks": (4 * 72, 4 * 128),
        "last": (72, 128),
    }

    class Mapped(eqx.Module):
        blocks: eqx.nn.Linear

        def __call__(self, x: Any) -> Any:
            return jax.vmap(self.blocks)(x)

    model = Mapped(eqx.filter_eval_shape(eqx.nn.Linear, 8, 8, key=KEY))
    assert [(row.path, row.macs) for row in count(model, array(3, 8)).layers] == [("blocks", 3 * 64)]


def test_a_bound_module_and_one_with_its_variables_are_the_same() -> None:
    model, variables, x = linen_conv(2, False)
    assert count(model.bind(variables), x) == count(model, variables, x)
    assert str(summary(model.bind(variables), x)) == str(summary(model, variables, x))


def test_haiku_s_rng_may_be_left_out() -> None:
    model, parameters, rng, x = haiku_conv(2, False)
    keys = (rng, KEY, jax.eval_shape(lambda: jax.random.key(0)))
    without = hk.without_apply_rng(model)
    assert [count(model, parameters, key, x) for key in keys] == [count(without, parameters, x)] * 3
    assert count(model, parameters, x).macs == count(without, parameters, x).macs


def test_the_model_stays_as_it_was() -> None:
    model, x = a_nnx_model()
    before = jax.tree.leaves(nnx.state(model))
    summary(model, x)
    assert all(a is b for a, b in zip(before, jax.tree.leaves(nnx.state(model)), strict=True))
    assert type(model.block) is NnxBlock
    model, x = an_equinox_model()
    summary(model, x)
    assert type(model.block) is EqxBlock


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: summary(jnp.tanh, 1.0), TypeError, "tanh is a function, whose layers are not known"),
        (lambda: count(nn.Dense(3)), TypeError, "Dense is not bound: pass its variables before its inputs"),
        (lambda: count(nn.Dense(3), jnp.ones((1, 2))), TypeError, "Dense is not bound: pass its variables before"),
        (lambda: count(hk.transform(lambda: 0)), TypeError, "Haiku's apply takes parameters first"),
        (lambda: count(*nnx_conv(2, False), parameters=0), ValueError, "parameters=0 names .*flax.nnx knows its own"),
    ],
)
def test_refusals_say_what_to_pass(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_summaries_are_data() -> None:
    shown = Summary(summary(*a_nnx_model()).rows)
    assert [row.kind for row in shown.rows] == ["NnxModel", "Conv", "BatchNorm", "NnxBlock", "Conv", "Linear"]


def test_bins_of_unequal_size_see_as_much_as_the_longest() -> None:
    conv = nnx.eval_shape(lambda: nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0)))
    model = nnx.Sequential(conv, convjax.nn.AdaptiveAvgPool(7))
    assert [row.receptive_field for row in summary(model, array(1, 16, 16, 3)).rows] == [(6, 6), (3, 3), (6, 6)]


def test_a_model_without_layers_is_one_row() -> None:
    class Lookup(nnx.Module):
        def __init__(self) -> None:
            self.table = nnx.Param(array(10, 4))

        def __call__(self, i: Any) -> Any:
            return i

    shown = summary(Lookup(), 3)
    assert [(row.kind, row.parameters, row.macs, row.receptive_field) for row in shown.rows] == [
        ("Lookup", 40, 0, None)
    ]
