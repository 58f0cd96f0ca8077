"""Transposed convolution and padding: layouts, dtypes, transformations, refusals.

That it is the adjoint of `conv` under every padding is in test_public_transposes.py; PyTorch's numbers are in
test_functional_torch.py and test_parity_torch.py, second derivatives in test_second_derivatives.py.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transforms import assert_close, differentiated, sharded

import convjax
from convjax.testing import reference_conv_vjp

RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((2, 3, 4, 5, 4)), RNG.standard_normal((3, 2, 4, 3))  # pairs of N H W C, and R S C K / G


def options(**more: Any) -> dict[str, Any]:
    return {"strides": (2, 3), "padding": ((1, 0), (0, 1)), "dilation": (2, 1), "groups": 2, **more}


def stated(x: jax.Array, w: jax.Array, **more: Any) -> jax.Array:
    return convjax.conv_transpose(x, w, **options(**more))


def test_it_equals_the_input_gradient_of_the_reference() -> None:
    forward = functools.partial(convjax.conv, strides=2, padding=1, groups=2)
    x, w = X[0].astype(np.float32), RNG.standard_normal((3, 3, 2, 4)).astype(np.float32)
    image = jax.ShapeDtypeStruct((3, 7, 9, 4), np.float32)
    (row,) = convjax.explain(forward, image, w, platform="cpu").rows
    want, _ = reference_conv_vjp(row.problem, np.zeros(image.shape), w, x)
    transposed = np.moveaxis(w.reshape(3, 3, 2, 2, 2), 3, 2).reshape(3, 3, 4, 2).swapaxes(-1, -2)
    by_group = transposed.reshape(3, 3, 2, 2, 2).swapaxes(2, 3)  # C of one group and K of one group change places
    kernel = by_group.reshape(3, 3, 4, 2)
    got = convjax.conv_transpose(x, kernel, strides=2, padding=1, groups=2)
    assert got.shape == want.shape
    assert_close({"value": got}, {"value": want}, 4e-5)


def test_layouts_and_unbatched_inputs_agree() -> None:
    x, w = X[0].astype(np.float32), W.astype(np.float32)
    y = stated(x, w, bias=jnp.arange(6.0))
    first = stated(np.moveaxis(x, -1, 1), w, bias=jnp.arange(6.0), layout="NCHW")
    np.testing.assert_allclose(np.moveaxis(first, 1, -1), y, atol=1e-5)
    np.testing.assert_allclose(stated(x[0], w, bias=jnp.arange(6.0)), y[0], atol=1e-5)
    assert stated(x[:0], w).shape == (0, *y.shape[1:])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precisions_are_summed_in_float32(dtype: str) -> None:
    x, w = jnp.asarray(X[0], dtype), jnp.asarray(W, dtype)
    y = stated(x, w)
    assert y.dtype == dtype
    assert_close({"y": y}, {"y": stated(x.astype(jnp.float32), w.astype(jnp.float32))}, float(jnp.finfo(dtype).eps))


def test_small_integers_are_summed_as_asked() -> None:
    x, w = jnp.full((1, 4, 100), 100, "int8"), jnp.full((2, 100, 1), 100, "int8")
    y = convjax.conv_transpose(x, w, strides=2, preferred_element_type=jnp.int32)
    assert y.dtype == jnp.int32
    np.testing.assert_array_equal(y, 10**6)


def test_complex_values_and_gradients_agree_with_their_parts() -> None:
    x, w = (RNG.standard_normal((2, *shape)).astype(np.float32) for shape in ((1, 5, 2), (3, 2, 2)))
    f = functools.partial(convjax.conv_transpose, strides=2, padding=1)
    got = f(x[0] + 1j * x[1], w[0] + 1j * w[1])
    want = f(x[0], w[0]) - f(x[1], w[1]) + 1j * (f(x[0], w[1]) + f(x[1], w[0]))
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_transformations_agree_with_float64(mode: str) -> None:
    f = functools.partial(stated, padding_mode=mode)
    operands = [X.astype(np.float32), np.stack([W, W[::-1]]).astype(np.float32)]
    output = jax.eval_shape(f, operands[0][0], operands[1][0])
    cotangents = RNG.standard_normal((2, *output.shape)).astype(np.float32)
    for transform in (differentiated, sharded):
        got = jax.jit(functools.partial(transform, f))(cotangents, *operands)
        with jax.enable_x64(True):
            wide = (a.astype(np.float64) for a in (cotangents, *operands))
            want = jax.device_get(jax.jit(functools.partial(transform, f))(*wide))
        assert_close(got, want, 4e-5)


def test_no_zeros_are_multiplied_where_that_is_slower() -> None:
    x, w = jnp.zeros((1, 64, 64, 128)), jnp.zeros((4, 4, 128, 64))
    f = functools.partial(convjax.conv_transpose, strides=2, padding=1)
    (row,) = convjax.explain(f, x, w, platform="cpu").rows
    assert row.algorithm.startswith(("polyphase", "sub_pixel"))
    strided = jax.grad(lambda x, w: convjax.depthwise_conv(x, w, strides=2, padding=1).sum())
    rows = convjax.explain(strided, jnp.zeros((1, 112, 112, 64)), jnp.zeros((3, 3, 64, 1)), platform="cpu").rows
    assert {row.algorithm for row in rows if row.role == "dgrad"} == {"polyphase(by=shift(by=multiply))"}


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "channels": ({"w": W[:, :, :3]}, ValueError, "w of shape .* takes 3 channels, but x has 4: w needs 4"),
    "groups": ({"groups": 3}, ValueError, "groups=3 must divide the 4 channels of x and the 9 outputs"),
    "rank": ({"w": W[0, 0]}, ValueError, "w of shape .* must have 3, 4 or 5 axes"),
    "bias": ({"bias": np.ones(4)}, ValueError, r"bias of shape \(4,\) must be \(6,\)"),
    "stride": ({"strides": 0}, ValueError, "strides must be at least 1"),
    "output padding": ({"output_padding": 3}, ValueError, "output_padding 3 must be .* stride 2 and dilation 2"),
    "negative output padding": ({"output_padding": -1}, ValueError, "output_padding -1 must be at least 0"),
    "both sizes": ({"output_padding": 1, "output_size": 9}, ValueError, "output_size .* and output_padding .* one"),
    "output size": ({"output_size": (20, 12)}, ValueError, "output_size 20 of spatial axis 0 must be 10 to 11"),
    "cropped away": (
        {"padding": 6},
        ValueError,
        r"padding \(6, 6\) leaves -1 elements of spatial axis 0: crop 2 fewer",
    ),
    "same and more": ({"padding": "SAME", "output_padding": 1}, ValueError, "'SAME' makes n s elements"),
    "dtypes": ({"w": W.astype(np.float16)}, TypeError, "x is float32 and w is float16"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused_in_one_sentence(case: tuple[dict[str, Any], type[Exception], str]) -> None:
    given, error, message = case
    x, w = jnp.asarray(X[0], jnp.float32), jnp.asarray(given.get("w", W.astype(np.float32)))
    with pytest.raises(error, match=message):
        stated(x, w, **{name: value for name, value in given.items() if name != "w"})


@pytest.mark.parametrize("padding", ["SAME", "VALID", 1])
def test_of_an_empty_axis_comes_an_empty_axis(padding: Any) -> None:
    x, w = jnp.ones((2, 0, 5, 3)), jnp.ones((3, 3, 3, 4))

    def f(x: jax.Array, w: jax.Array, **more: Any) -> jax.Array:
        return convjax.conv_transpose(x, w, strides=2, padding=padding, **more)

    y, pullback = jax.vjp(f, x, w)
    assert y.shape[:2] == (2, 0)
    assert f(x, w, output_size=(0, y.shape[2])).shape == y.shape
    if padding not in ("SAME", "SAME_LOWER"):
        assert f(x, w, output_padding=1).shape == (2, 0, y.shape[2] + 1, 4)
    with pytest.raises(ValueError, match="output_size 1 of spatial axis 0 must be 0 to 0"):
        f(x, w, output_size=(1, y.shape[2]))
    dx, dw = pullback(y)
    assert dx.shape == x.shape
    np.testing.assert_array_equal(dw, jnp.zeros_like(w))


def test_pad_by_every_mode() -> None:
    x = jnp.arange(1.0, 4.0)[:, None]
    want = {
        "zeros": [0, 0, 1, 2, 3, 0],
        "reflect": [3, 2, 1, 2, 3, 2],
        "replicate": [1, 1, 1, 2, 3, 3],
        "circular": [2, 3, 1, 2, 3, 1],
    }
    for mode, values in want.items():
        np.testing.assert_array_equal(convjax.pad(x, [(2, 1)], mode=mode)[:, 0], values)
    np.testing.assert_array_equal(convjax.pad(x, [(-1, 1)], mode="replicate")[:, 0], [2, 3, 3])
    both = convjax.pad(jnp.ones((1, 1, 2, 3)), [(1, 0), (0, 2)], mode=["zeros", "replicate"], layout="NCHW")
    np.testing.assert_array_equal(both[0, 0], [[0] * 5, [1] * 5, [1] * 5])
    with pytest.raises(ValueError, match=r"padding \(-2, -2\) crops more than the 3 elements"):
        convjax.pad(x, -2)
    with pytest.raises(ValueError, match="widths must be numbers, got 'SAME'"):
        convjax.pad(x, "SAME")
    with pytest.raises(ValueError, match=r"^mode must be one of zeros, .* got 'edge'"):
        convjax.pad(x, 1, mode="edge")
    with pytest.raises(ValueError, match="cannot fill"):
        convjax.pad(jnp.ones((0, 1)), 1, mode="reflect")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_of_padding_are_summed_in_float32(dtype: str) -> None:
    """Every sum is rounded once; in itself, a half precision stops at 256 or 2048."""
    x = jnp.ones((3, 1), dtype)
    long = functools.partial(convjax.pad, widths=[(0, 4095)], mode="replicate")
    pads = {mode: functools.partial(convjax.pad, widths=[(20, 31)], mode=mode) for mode in ("reflect", "circular")}
    c = jnp.asarray(RNG.uniform(1, 2, (54, 1)), dtype)

    @jax.jit
    def gradients(x: jax.Array, c: jax.Array) -> dict[str, jax.Array]:
        of_sum = jax.vjp(long, x)[1](jnp.ones((4098, 1), x.dtype))[0]
        return {"replicate": of_sum} | {mode: jax.vjp(pad, x)[1](c)[0] for mode, pad in pads.items()}

    got, want = gradients(x, c), gradients(x.astype(jnp.float32), c.astype(jnp.float32))
    np.testing.assert_array_equal(want["replicate"][:, 0], [1, 1, 4096])
    for mode, gradient in got.items():
        assert gradient.dtype == dtype
        np.testing.assert_array_equal(gradient, want[mode].astype(dtype), err_msg=mode)
