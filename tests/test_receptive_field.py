"""Receptive fields: published ones, layers by formula, every way of combining them, and NaNs that leave their trace."""

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import convjax
from convjax.inspect.empirical import empirical_field
from convjax.inspect.receptive_field import ReceptiveField, equation_fields, receptive_field, stacked_receptive_field

Layer = Callable[[jax.Array], jax.Array]


def image(size: int) -> Any:
    return jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)


def conv(kernel: int, stride: int = 1, padding: Any = 0, dilation: int = 1) -> Layer:
    def layer(x: jax.Array) -> jax.Array:
        n = x.ndim - 2
        letters, w = "HW"[:n], jnp.ones((kernel,) * n + (x.shape[-1], 1))
        pads = padding if isinstance(padding, str) else [(padding, padding)] * n
        names = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
        return jax.nn.relu(lax.conv_general_dilated(x, w, (stride,) * n, pads, None, (dilation,) * n, names))

    return layer


def causal(dilation: int) -> Layer:
    return lambda x: jnp.tanh(convjax.conv(x, jnp.ones((2, 1, 1)), padding="CAUSAL", dilation=dilation))


def max_pool(window: int, stride: int, padding: int = 0) -> Layer:
    def layer(x: jax.Array) -> jax.Array:
        full = (1, *(window,) * (x.ndim - 2), 1), (1, *(stride,) * (x.ndim - 2), 1)
        pads = [(0, 0), *[(padding, padding)] * (x.ndim - 2), (0, 0)]
        return lax.reduce_window(x, -jnp.inf, lax.max, *full, pads)

    return layer


def chain(*layers: Layer) -> Layer:
    return lambda x: functools.reduce(lambda y, layer: layer(y), layers, x)


def pool(window: int, stride: int, padding: int = 0) -> Layer:
    return lambda x: convjax.max_pool(x, window, strides=stride, padding=padding)


def bottleneck(stride: int, early: bool) -> Layer:
    """A residual block that steps in its first convolution, as published, or in its second, as torchvision's."""
    inner = chain(conv(1, stride if early else 1), conv(3, 1 if early else stride, 1), conv(1))
    return lambda x: inner(x) + conv(1, stride)(x)


def inception(x: jax.Array) -> jax.Array:
    branches = conv(1), chain(conv(1), conv(3, 1, 1)), chain(conv(1), conv(5, 1, 2)), chain(max_pool(3, 1, 1), conv(1))
    return jnp.concatenate([branch(x) for branch in branches], axis=-1)


ALEXNET = chain(conv(11, 4, 2), max_pool(3, 2), conv(5, 1, 2), max_pool(3, 2), *[conv(3, 1, 1)] * 3, max_pool(3, 2))
VGG16 = chain(*(layer for n in (2, 2, 3, 3, 3) for layer in (*[conv(3, 1, 1)] * n, max_pool(2, 2))))


def resnet50(early: bool) -> Layer:
    blocks = [2 if stage and not block else 1 for stage, n in enumerate((3, 4, 6, 3)) for block in range(n)]
    return chain(conv(7, 2, 3), max_pool(3, 2, 1), *(bottleneck(stride, early) for stride in blocks))


WAVENET = chain(*(causal(2**i) for i in range(10)))


@pytest.mark.parametrize(
    ("network", "size", "field"),
    [
        (ALEXNET, 224, (195, 32, -66)),
        (VGG16, 224, (212, 32, -90)),
        (resnet50(early=True), 224, (483, 32, -241)),
        (resnet50(early=False), 224, (427, 32, -213)),
        (inception, 28, (5, 1, -2)),
        (chain(conv(7, 2, 3), max_pool(3, 2), inception, inception), 64, (11 + 2 * 4 * 4, 4, -3 - 2 * 2 * 4)),
    ],
    ids=["AlexNet", "VGG-16", "ResNet-50", "ResNet-50 v1.5", "Inception module", "Inception stack"],
)
def test_published_fields(network: Layer, size: int, field: tuple[int, int, int]) -> None:
    found = receptive_field(network, image(size))
    assert (found.size, found.stride, found.offset) == tuple((value, value) for value in field)
    assert found.assumed == found.edges == ()
    assert [axis.input_axis for axis in found.axes] == [axis.output_axis for axis in found.axes] == [1, 2]


def test_wavenet_sees_the_sum_of_its_dilations_and_one() -> None:
    found = receptive_field(WAVENET, jax.ShapeDtypeStruct((1, 4000, 1), jnp.float32))
    assert (found.size, found.offset) == ((1024,), (-1023,))
    assert found == receptive_field(convjax.accelerate(WAVENET), jax.ShapeDtypeStruct((1, 4000, 1), jnp.float32))


def test_layers_by_the_formula_and_by_the_program_agree() -> None:
    layers = [(3, 1, dilation, 0) for dilation in (1, 2, 3)]
    assert stacked_receptive_field(layers).size == (13,)
    assert stacked_receptive_field(layers * 2).size == (25,)
    rng = np.random.default_rng(0)
    for _ in range(6):
        layers = [tuple(map(int, rng.integers([1, 1, 1, 0], [6, 4, 4, 4]))) for _ in range(5)]
        network = chain(*(conv(k, s, p, d) for k, s, d, p in layers))
        by_program = receptive_field(network, jax.ShapeDtypeStruct((1, 3000, 1), jnp.float32))
        by_formula = stacked_receptive_field(layers)
        assert (by_program.size, by_program.stride, by_program.offset) == (
            by_formula.size,
            by_formula.stride,
            by_formula.offset,
        )
    assert stacked_receptive_field([(2, 2)] * 3) == stacked_receptive_field([(2, 2, 1, (0, 5))] * 3)


# Programs on (2, n, 3): what the middle output sees is found by NaNs, and so is whatever the others see.
def transposed(kernel: int, stride: int) -> Layer:
    # By lax, since algorithms that multiply zeros spread NaN to neighbours.
    return lambda x: convjax.conv_transpose(x, jnp.ones((kernel, x.shape[-1], 3)), strides=stride, algorithm="lax")


def depth_and_back(x: jax.Array) -> jax.Array:
    """Two elements to a place, each channel convolved, and laid out again."""
    n, size, channels = x.shape
    y = x.reshape(n, size // 2, 2 * channels)
    y = convjax.depthwise_conv(y, jnp.ones((3, y.shape[-1], 1)))
    return y.reshape(n, -1, channels)


def in_groups(x: jax.Array) -> jax.Array:
    """Channels that see different elements, kept apart by groups."""
    y = jnp.concatenate([x[:, 2:], x[:, :-2]], axis=-1)
    return convjax.conv(y, jnp.ones((2, x.shape[-1], 2)), groups=2)[..., 1:]


def scanned(x: jax.Array) -> jax.Array:
    return lax.scan(lambda y, _: (conv(3, 1, 1)(y) + y, None), x, length=3)[0]


def counted(x: jax.Array) -> jax.Array:
    """Taps cut out at places that a loop counts."""
    size = x.shape[1] - 6
    return lax.fori_loop(0, 3, lambda i, y: y + lax.dynamic_slice_in_dim(x, 3 * i, size, 1), x[:, :size])


def laid_over(x: jax.Array) -> jax.Array:
    """Laid into zeros, and a row of constants over it."""
    y = lax.dynamic_update_slice(jnp.zeros((2, x.shape[1] + 4, 3)), jnp.sin(x), (0, 3, 0))
    return conv(3)(y.at[:, 0].set(1))


def mapped(x: jax.Array) -> jax.Array:
    return lax.map(lambda row: conv(3)(row[None])[0], x)


def until(x: jax.Array) -> jax.Array:
    """A loop that adds nothing to what is seen."""
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * 2), (0, conv(3)(x)))[1]


def chosen(x: jax.Array) -> jax.Array:
    return lax.cond(jnp.ones(()) > 0, conv(5, 1, 2), lambda y: conv(3, 1, 1)(y) * 2, x)


def ensemble(x: jax.Array) -> jax.Array:
    """Kernels that vmap makes groups of, and reshapes that transpose."""
    twice = lambda w: convjax.conv(convjax.conv(x, w, padding=1, strides=2), w)  # noqa: E731
    return jax.vmap(twice)(jnp.ones((4, 3, 3, 3)))[2]


def tokens(x: jax.Array) -> jax.Array:
    """Patches of four, each a token, mixed over their channels by a matrix."""
    y = x.reshape(x.shape[0], -1, 4, x.shape[-1]).swapaxes(2, 3).reshape(x.shape[0], -1, 4 * x.shape[-1])
    return y @ jnp.ones((y.shape[-1], 3))


PROGRAMS: dict[str, Layer] = {
    "strides and dilation": chain(conv(3, 2, 1), conv(3, 1, 2, 2), conv(2, 3)),
    "poolings": chain(pool(3, 2, 1), lambda x: convjax.max_pool(x, 2, strides=1, dilation=3), conv(1, 2)),
    "mean": chain(lambda x: convjax.avg_pool(x, 3, strides=2, padding=1), conv(3)),
    "transposed": chain(conv(3, 2), transposed(4, 2), conv(3)),
    "gaps of a transposed": transposed(2, 3),
    "transposed twice": chain(transposed(3, 2), transposed(5, 3), pool(2, 1)),
    "residual": lambda x: conv(3, 1, 1)(x) + chain(conv(5, 1, 2), conv(3, 1, 1))(x) * x,
    "branches": chain(lambda x: jnp.concatenate([conv(3)(x), x[:, :-2], pool(3, 1)(x)], -1), conv(3)),
    "repeated": chain(lambda x: jnp.repeat(x, 2, axis=1), conv(3), lambda x: x[:, 1::3]),
    "nearest": chain(lambda x: jax.image.resize(x, (2, 72, 3), "nearest"), conv(3)),
    "shuffled": lambda x: jnp.stack([conv(3)(x), x[:, 1:-1, :1]], axis=2).reshape(2, -1, 1),
    "reversed": chain(lambda x: x[:, ::-1], conv(3, 2), lambda x: lax.rev(x, (1,)), conv(2)),
    "reflected": lambda x: convjax.conv(x, jnp.ones((5, 3, 1)), padding=2, padding_mode="reflect"),
    "circular": lambda x: convjax.conv(x, jnp.ones((4, 3, 1)), padding=2, padding_mode="circular", strides=2),
    "depth and back": depth_and_back,
    "in groups": in_groups,
    "tokens": chain(conv(3, 1, 1), tokens, conv(3)),
    "channels first": lambda x: convjax.conv(x.swapaxes(1, 2), jnp.ones((3, 3, 2)), layout="NCW").swapaxes(1, 2),
    "vmapped": jax.vmap(lambda x: convjax.conv(x, jnp.ones((3, 3, 2)), padding=1)),
    "vmapped kernels": ensemble,
    "checkpoint and jit": jax.checkpoint(jax.jit(chain(conv(3), conv(3)))),
    "scan": scanned,
    "map": mapped,
    "cond": chosen,
    "while": until,
    "unfold": lambda x: convjax.unfold(x, 3, strides=2),
    "bins": lambda x: convjax.adaptive_max_pool(x, 16),
    "counted": counted,
    "laid over": laid_over,
    "blur": convjax.blur_pool,
    "local": lambda x: convjax.conv_local(x, jnp.ones((34, 9, 2)), kernel_size=3),
}


def traces(network: Layer, size: int) -> np.ndarray:
    """Whether output o shows a NaN that is at input i: [o, i]."""
    x = jnp.ones((2, size, 3))
    marked = jax.jit(jax.vmap(lambda i: network(x.at[:, i].set(jnp.nan))))(jnp.arange(size))
    return np.asarray(jnp.isnan(marked).any((1, 3))).T


def compare(network: Layer, size: int) -> int:
    """Compares what is seen by outputs away from the edges; how many there are."""
    (axis,) = receptive_field(network, jax.ShapeDtypeStruct((2, size, 3), jnp.float32)).axes
    compared = 0
    for output, seen in enumerate(traces(network, size)):
        reach = axis.reach(output)
        if reach.start >= 0 and reach.stop <= size:
            (places,) = np.nonzero(seen)
            assert (places.min(), places.max() + 1) == (reach.start, reach.stop) if len(places) else not len(reach)
            compared += 1
    return compared


@pytest.mark.parametrize("network", PROGRAMS.values(), ids=PROGRAMS)
def test_the_field_is_where_nans_come_from(network: Layer) -> None:
    assert compare(network, 36) > 2


@pytest.mark.parametrize("pooling", [convjax.adaptive_avg_pool, convjax.adaptive_max_pool])
@pytest.mark.parametrize(("size", "bins"), [(16, 7), (7, 5), (20, 13), (12, 5), (20, 12), (5, 7)])
def test_bins_see_their_own_elements(pooling: Callable[..., jax.Array], size: int, bins: int) -> None:
    found = receptive_field(lambda x: pooling(x, bins), jax.ShapeDtypeStruct((2, size, 3), jnp.float32))
    seen = traces(lambda x: pooling(x, bins), size)
    assert found.assumed == found.edges == ()
    assert [list(found.axes[0].seen(o)) for o in range(bins)] == [list(np.flatnonzero(row)) for row in seen]
    assert found.size == (seen.sum(1).max(),)


def rows_from(start: int) -> Callable[[jax.Array, str], jax.Array]:
    numbers = lax.GatherDimensionNumbers((0, 1, 2), (), (1,))
    return lambda y, mode: lax.gather(y, jnp.array([start]), numbers, (2, 2, 1), mode=mode, fill_value=0)


def rows_at(*index: int) -> Callable[[jax.Array, str], jax.Array]:
    return lambda y, mode: y.at[:, np.array(index)].get(mode=mode, fill_value=0)


@pytest.mark.parametrize("mode", ["fill", "clip", "promise_in_bounds"])
@pytest.mark.parametrize(
    "taken", [rows_at(0, 1, 2, 9), rows_at(9, 1, -8, 3), rows_at(7, 8), rows_at(4), rows_from(3), rows_from(4)]
)
def test_indices_out_of_bounds_read_what_their_mode_says(
    taken: Callable[[jax.Array, str], jax.Array], mode: str
) -> None:
    def network(x: jax.Array) -> jax.Array:
        return taken(conv(2)(x), mode)

    found = receptive_field(network, jax.ShapeDtypeStruct((2, 6, 3), jnp.float32), axes=(1,))
    assert found.assumed == ()
    for output, row in enumerate(traces(network, 6)):
        assert list(found.axes[0].seen(output)) == list(np.flatnonzero(row))


def any_layer(rng: np.random.Generator) -> Layer:
    k, s, d = (int(n) for n in rng.integers([1, 1, 1], [4, 3, 3]))
    p = d * (k - 1) // 2
    same = chain(conv(3, 1, d, d), conv(k, 1, "SAME"))
    return (
        conv(k, s, p, d),
        pool(k, s, p // (2 * d)),
        lambda x: convjax.avg_pool(x, k, strides=s, dilation=d),
        transposed(k, s),
        lambda x: same(x) + x,
        lambda x: jnp.concatenate([same(x), conv(1)(x)], -1),
        lambda x: x[:, ::s],
        lambda x: jnp.repeat(x, s, axis=1),
    )[rng.integers(8)]


@pytest.mark.parametrize("seed", range(6))
def test_any_stack_of_layers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert compare(chain(*(any_layer(rng) for _ in range(4))), 48) > 2


def test_gradients_reach_just_the_exact_field() -> None:
    def network(x: jax.Array) -> jax.Array:
        y = convjax.avg_pool(nn.softplus(convjax.conv(x, jnp.ones((3, 5, 1, 2)), padding=1)), 2, padding=(0, 1))
        return convjax.conv(y, jnp.ones((2, 1, 2, 1)), dilation=2) + y[:, :-2, :, :1]

    x = jnp.asarray(np.random.default_rng(0).random((1, 20, 22, 1)), jnp.float32)
    for position in (None, (0, 1)):
        found = empirical_field(network, x, position=position)
        assert found.within
        assert found.heat.shape == (20, 22)
        assert found.box == found.exact.box(*found.position)
    assert found.exact.size == (8, 6)


def test_parts_of_an_axis_and_nothing() -> None:
    found = receptive_field(lambda x: (x[:, 3:5].sum(1), x * 0 + 1, jnp.ones(3)), image(8))
    assert [(f.size, f.stride, f.offset) for f in found] == [
        ((2, 1), (0, 1), (3, 0)),
        ((1, 1), (1, 1), (0, 0)),
        ((0, 0), (0, 0), (0, 0)),
    ]
    assert found[2].box(0, 0) == (slice(0, 0), slice(0, 0))


@pytest.mark.parametrize(
    ("method", "size", "stride"),
    [("linear", 16, Fraction(3, 4)), ("cubic", 6, 2)],
)
def test_resizing_is_followed(method: str, size: int, stride: Any) -> None:
    found = receptive_field(lambda x: jax.image.resize(x, (1, size, 12, 1), method), image(12))
    taps = {"linear": 2, "cubic": 4}[method]
    assert found.assumed == ()
    assert found.stride[0] == stride
    assert found.size[0] == (taps if size > 12 else 2 * taps)  # downsampling averages over its stride


def test_what_no_rule_knows_is_taken_to_see_everything_and_said() -> None:
    found = receptive_field(lambda x: conv(3, 1, 1)(jnp.fft.fft(x, axis=1).real), image(8))
    assert found.assumed == ("fft",)
    assert found.size == (8, 8)
    assert "taking fft to see everything" in str(found)

    def attention(x: jax.Array) -> jax.Array:
        return jax.nn.softmax(x @ x.swapaxes(1, 2), axis=-1) @ x

    attended = receptive_field(attention, jnp.ones((1, 6, 2)))
    assert (attended.size, attended.stride) == ((6,), (0,))
    running = receptive_field(lambda x: jnp.cumsum(x, 1), jnp.ones((1, 6, 2)))
    assert (running.size, running.assumed) == ((6,), ("cumsum",))


def test_joined_parts_that_see_differently_are_said() -> None:
    found = receptive_field(PROGRAMS["reflected"], jnp.ones((1, 9, 3)))
    assert (found.size, found.offset, found.edges) == ((5,), (-2,), ("concatenate",))


def test_fields_of_equations_by_scope() -> None:
    def network(x: jax.Array) -> jax.Array:
        with jax.named_scope("stem"):
            x = checkpoint_name(conv(3, 2)(x), "stem")
        with jax.named_scope("block"):
            return jax.jit(chain(conv(3), conv(3)))(x)

    closed = jax.make_jaxpr(network)(image(32))
    found = equation_fields(closed)
    (stem,) = [e for e in found if e.eqn.primitive.name == "name"]
    assert (stem.scope, stem.fields[0].size, stem.fields[0].stride) == ("stem", (3, 3), (2, 2))
    convs = [e for e in found if e.eqn.primitive.name == "conv_general_dilated"]
    assert [(e.scope, e.fields[0].size[0]) for e in convs] == [("stem", 3), ("block", 7), ("block", 11)]
    assert found[-1].fields[0] == receptive_field(network, image(32))


def test_refusals_name_the_argument() -> None:
    x = jnp.ones((1, 8, 8, 1))
    with pytest.raises(ValueError, match=r"argnum=1 must be the position of an argument that is one array.* 1 argum"):
        receptive_field(conv(3), x, argnum=1)
    with pytest.raises(ValueError, match=r"argnum=0 must .* it has 2 of them in 1 arguments"):
        receptive_field(lambda xs: xs[0], (x, x))
    with pytest.raises(ValueError, match="argnum=0 is the position of a single number"):
        receptive_field(jnp.sin, jnp.ones(()))
    with pytest.raises(ValueError, match=r"axes \(1, 4\) must be axes of the input, which has 4"):
        receptive_field(conv(3), x, axes=(1, 4))
    with pytest.raises(ValueError, match="box takes one position for each of 2 spatial axes, got 1"):
        receptive_field(conv(3), x).box(1)
    with pytest.raises(ValueError, match=r"a layer is \(kernel, stride.*: \(3, 1, 1, 0, 2\)"):
        stacked_receptive_field([(3, 1, 1, 0, 2)])
    with pytest.raises(ValueError, match="stride must be at least 1 on every axis, got 0"):
        stacked_receptive_field([(3, 0)])
    assert stacked_receptive_field(np.array([[3, 1], [3, 2]])).size == (5,)
    layers: Any
    for layers, message in (
        ([(2.5,)], "kernel must be an integer, got 2.5"),
        ([(3, 1, 1, 1.5)], "padding must be an integer, got 1.5"),
        ([(3, 1, 1, "SAME")], "padding must be an integer, got 'SAME'"),
        ([(3, 1, 1, (1, 2, 3))], r"padding must be a number or a pair \(low, high\), got \(1, 2, 3\)"),
        ([3, 3], "a layer is .*: 3"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            stacked_receptive_field(layers)
    with pytest.raises(ValueError, match=r"position \(8, 0\) must be below \(6, 6\)"):
        empirical_field(conv(3), x, position=(8, 0))
    with pytest.raises(ValueError, match="fn must return one array"):
        empirical_field(lambda x: (x, x), x)


def test_axes_may_be_chosen() -> None:
    found: ReceptiveField = receptive_field(lambda x: jnp.sin(x) * 2, jnp.ones((4, 5)), axes=(-1,))
    assert found == receptive_field(lambda x: jnp.sin(x) * 2, jnp.ones((4, 5)), axes=-1)
    assert (found.size, found.axes[0].input_axis, found.axes[0].input_size) == ((1,), 1, 5)


@pytest.mark.parametrize("pooling", [max_pool(3, 2), pool(3, 2), lambda x: convjax.sum_pool(x, 3, strides=2)])
def test_gradients_see_the_windows_that_hold_them(pooling: Layer) -> None:
    x = jnp.arange(36.0).reshape(1, 9, 4) % 5

    def gradient(g: jax.Array) -> jax.Array:
        return jax.vjp(pooling, x)[1](g)[0]

    found = receptive_field(gradient, jnp.ones((1, 4, 4)))
    assert (found.size, found.stride, found.axes[0].bounds) == ((2,), (Fraction(1, 2),), ((-1, 0), (0, 0)))
    tangents = receptive_field(lambda t: jax.jvp(pooling, (x,), (t,))[1], x)
    assert (tangents.size, tangents.stride, tangents.offset) == ((3,), (2,), (0,))
