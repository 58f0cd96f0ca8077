"""Receptive fields of what is computed over whole axes, and of rows that become parts of others."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from test_receptive_field import conv, image

import convjax
from convjax.inspect.empirical import empirical_field
from convjax.inspect.receptive_field import receptive_field


def statistics(x: jax.Array) -> jax.Array:
    """Batch normalization, then squeeze-and-excitation, between convolutions."""
    y = conv(3, 1, 1)(x)
    y = (y - y.mean((0, 1, 2))) / jnp.sqrt(y.var((0, 1, 2)) + 1)
    y = y * jax.nn.sigmoid(y.mean((1, 2), keepdims=True))
    return conv(3, 2, 1)(y)


def test_what_is_computed_over_an_axis_sees_all_of_it() -> None:
    with jax.numpy_rank_promotion("allow"):
        for network in (statistics, lambda x: convjax.global_avg_pool(conv(3, 1, 1)(x)), lambda x: x.sort(1).sum(2)):
            found = receptive_field(network, image(16))
            assert (found.size, found.stride, found.offset, found.assumed) == ((16, 16), (0, 0), (0, 0), ())
        left = receptive_field(statistics, image(16), through_statistics=False)
    assert (left.size, left.stride, left.offset) == ((5, 5), (2, 2), (-2, -2))
    head = receptive_field(lambda x: x.reshape(1, -1) @ jnp.ones((256, 10)), image(16))
    assert (head.size, head.stride) == ((16, 16), (0, 0))
    assert head.box(3, 4) == (slice(0, 16), slice(0, 16))


def test_rows_that_become_tokens_are_still_seen_by_few() -> None:
    found = receptive_field(lambda x: conv(4, 4)(x).reshape(1, -1, 1), image(16))
    assert (found.size, found.stride, found.assumed) == ((4, 4), (1, 0), ())
    assert [found.box(place, place) for place in (0, 5, 15)] == [
        (slice(0, 4), slice(0, 4)),
        (slice(4, 8), slice(4, 8)),
        (slice(12, 16), slice(12, 16)),
    ]
    mixed = receptive_field(
        lambda x: convjax.conv1d(conv(4, 4)(x).reshape(1, -1, 1), jnp.ones((3, 1, 1)), padding=1), image(16)
    )
    assert mixed.size == (8, 16)  # beside a row's last token stands the next one's first
    pooled = [lambda x, k=k: convjax.global_avg_pool(conv(k, 1, k // 2)(x)) for k in (3, 5)]
    whole = receptive_field(lambda x: jnp.concatenate([pool(x) for pool in pooled], -1), image(16))
    assert (whole.size, whole.axes[0].output_axis) == ((16, 16), None)
    repeated = receptive_field(lambda x: jnp.tile(x, (1, 2, 1)), jnp.ones((1, 9, 1)))
    assert (repeated.size, repeated.axes[0].seen(10)) == ((1,), range(1, 2))
    x = jnp.ones((1, 16, 16, 1))
    heat = empirical_field(lambda x: conv(4, 4)(x).reshape(1, -1, 1), x, position=(6, 6))
    assert heat.within
    assert heat.box == (slice(4, 8), slice(8, 12))
    with pytest.raises(ValueError, match=r"position \(6, 5\) has two numbers for axis 1 of the output"):
        empirical_field(lambda x: conv(4, 4)(x).reshape(1, -1, 1), x, position=(6, 5))


def test_statistics_are_of_all_that_is_seen() -> None:
    def flattened(x: jax.Array) -> jax.Array:
        y = conv(3, 1, 1)(x)
        return y * y.reshape(1, -1, 1).mean(1)[:, None, None]

    without = functools.partial(receptive_field, through_statistics=False)
    assert without(flattened, image(16)).size == (3, 3)
    assert receptive_field(flattened, image(16)).size == (16, 16)

    def normalized_blocks(x: jax.Array) -> jax.Array:  # whose channels see different elements
        y = x.reshape(1, 8, 2, 8, 2, 1).transpose(0, 1, 3, 2, 4, 5).reshape(1, 8, 8, 4)
        return y - y.mean((0, 1, 2), keepdims=True)

    blocks = without(normalized_blocks, image(16))
    assert (blocks.size, blocks.stride) == ((2, 2), (2, 2))
    pooled = without(lambda x: x.reshape(1, 4, 4, 1).mean(2), jnp.ones((1, 16, 1)))
    assert (pooled.size, pooled.stride) == ((4,), (4,))
    assert without(lambda x: x.reshape(1, 4, 4, 1).mean(2).mean(1), jnp.ones((1, 16, 1))).size == (0,)


@pytest.mark.parametrize("operation", [convjax.dilation2d, convjax.erosion2d])
@pytest.mark.parametrize(("strides", "padding"), [(1, 1), (2, 0), ((1, 2), (0, 1))])
def test_what_is_looked_up_in_a_table_sees_what_its_index_does(operation: Any, strides: Any, padding: Any) -> None:
    """The element of a dilation is read at the winning tap."""
    x, element = jnp.ones((1, 20, 20, 1)), jnp.zeros((3, 2, 1))

    def dilated(x: jax.Array) -> jax.Array:
        return operation(x, element, strides=strides, padding=padding)

    def pooled(x: jax.Array) -> jax.Array:
        return convjax.max_pool(x, (3, 2), strides=strides, padding=padding)

    assert str(receptive_field(dilated, x)) == str(receptive_field(pooled, x))
    assert receptive_field(dilated, x).assumed == ()


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_what_is_added_to_margins_alone_is_noted(mode: Any) -> None:
    """Transposed paddings add what was cropped back to a few elements at the other end, or at the same."""
    x, w = jnp.ones((1, 40, 1)), jnp.ones((3, 1, 1))
    found = receptive_field(lambda x: convjax.conv_transpose(x, w, padding=1, padding_mode=mode), x)
    assert (found.size, found.stride, found.offset, found.assumed) == ((3,), (1,), (-1,), ())
    assert found.edges

    def gradient(x: jax.Array) -> jax.Array:
        return jax.grad(lambda x: (convjax.conv(x, w, padding=1, padding_mode=mode) ** 2).sum())(x)

    found = receptive_field(gradient, x)
    assert (found.size, found.stride, found.offset, found.assumed) == ((5,), (1,), (-2,), ())
    assert found.edges
