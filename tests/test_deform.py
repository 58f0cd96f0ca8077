"""Deformable convolution: values by the definition and by SciPy, derivatives by a dense formulation, and refusals."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from transforms import assert_close, differentiated, sharded

from convjax.ops.conv import conv
from convjax.ops.deform import deform_conv2d
from convjax.testing.deform import reference_deform_conv2d

Operands = dict[str, np.ndarray]

# Size of x, kernel, groups, offset groups, and the options; offsets reach some elements beyond every border.
CASES: dict[str, tuple[tuple[int, int, int, int], tuple[int, int], int, int, dict[str, Any]]] = {
    "plain": ((2, 5, 6, 3), (3, 3), 1, 1, {}),
    "uneven": ((1, 7, 5, 4), (2, 3), 2, 1, {"strides": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2)}),
    "offset groups": ((2, 4, 5, 6), (3, 1), 1, 3, {"padding": ((1, 1), (0, 0)), "strides": (1, 2)}),
    "groups across offset groups": ((1, 5, 4, 6), (2, 2), 3, 2, {"padding": ((2, 2), (2, 2))}),
    "depthwise": ((1, 5, 5, 4), (3, 3), 4, 4, {"padding": ((1, 1), (1, 1)), "strides": (2, 2)}),
    "cropped": ((1, 6, 6, 2), (2, 2), 1, 1, {"padding": ((-1, 0), (0, -2))}),
}


def operands_of(
    shape: tuple[int, ...], kernel: tuple[int, int], groups: int, offset_groups: int, options: dict[str, Any]
) -> Operands:
    rng = np.random.default_rng(0)
    outputs, channels = 2 * groups, shape[-1]
    w = rng.standard_normal((*kernel, channels // groups, outputs))
    *where, _ = jax.eval_shape(functools.partial(conv, groups=groups, **options), jnp.ones(shape), jnp.asarray(w)).shape
    features = offset_groups * kernel[0] * kernel[1]
    # At least 0.1 from where the derivative jumps.
    offset = rng.integers(-3, 3, (*where, 2 * features)) + rng.uniform(0.1, 0.9, (*where, 2 * features))
    operands = {
        "x": rng.standard_normal(shape),
        "offset": offset,
        "w": w,
        "mask": rng.random((*where, features)),
        "bias": rng.standard_normal(outputs),
    }
    return {name: array.astype(np.float32) for name, array in operands.items()}


def dense(
    x: jax.Array, offset: jax.Array, w: jax.Array, mask: jax.Array, bias: jax.Array, groups: int, offset_groups: int
) -> jax.Array:
    """Stride 1, padding 1: every sample as the tent-weighted sum of all elements of its plane."""
    batch, height, width, _ = offset.shape
    kernel = w.shape[:2]
    taps = kernel[0] * kernel[1]
    moved = offset.reshape(batch, height, width, offset_groups, *kernel, 2)

    def tents(axis: int, size: int) -> jax.Array:
        base = np.indices((height, width, 1, *kernel))
        at = moved[..., axis] + (base[axis] + base[3 + axis] - 1)[None]
        distance = at.reshape(batch, height, width, offset_groups, taps, 1) - np.arange(size).reshape(1, 1, 1, 1, 1, -1)
        return jnp.maximum(1 - jnp.abs(distance), 0)

    planes = x.reshape(*x.shape[:3], offset_groups, -1)
    samples = jnp.einsum("nijotp,nijotq,npqoc->nijtoc", tents(0, x.shape[1]), tents(1, x.shape[2]), planes)
    samples = samples * jnp.swapaxes(mask.reshape(batch, height, width, offset_groups, taps), 3, 4)[..., None]
    grouped = samples.reshape(batch, height, width, taps, groups, -1)
    y = jnp.einsum("nijtgc,tcgk->nijgk", grouped, w.reshape(taps, w.shape[2], groups, -1))
    return y.reshape(batch, height, width, -1) + bias[None, None, None]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_equal_the_definition_in_both_layouts_and_without_a_batch(case: Any) -> None:
    _, _, groups, offset_groups, options = case
    operands = operands_of(*case)
    numbers: dict[str, Any] = {"groups": groups, "offset_groups": offset_groups, **options}

    @jax.jit
    def ours(x: jax.Array, offset: jax.Array, w: jax.Array, mask: jax.Array, bias: jax.Array) -> dict[str, jax.Array]:
        x_first, offset_first, mask_first = (jnp.moveaxis(a, -1, 1) for a in (x, offset, mask))
        first = deform_conv2d(x_first, offset_first, w, mask=mask_first, layout="NCHW", **numbers)
        return {
            "with mask and bias": deform_conv2d(x, offset, w, mask=mask, bias=bias, **numbers),
            "without": deform_conv2d(x, offset, w, **numbers),
            "channels first": jnp.moveaxis(first, 1, -1),
            "no batch": deform_conv2d(x[0], offset[0], w, mask=mask[0], **numbers)[None],
        }

    x, offset, w, mask, bias = operands.values()
    weighed = reference_deform_conv2d(x, offset, w, mask=mask, **numbers)
    want = {
        "with mask and bias": weighed + bias.astype(np.float64),
        "without": reference_deform_conv2d(x, offset, w, **numbers),
        "channels first": weighed,
        "no batch": weighed[:1],
    }
    assert_close(ours(*operands.values()), want, 5e-6)


def test_samples_equal_scipy_map_coordinates() -> None:
    rng = np.random.default_rng(1)
    x, offset = rng.standard_normal((6, 7, 1)), rng.uniform(-9, 9, (6, 7, 2))
    offset[::2] = np.round(offset[::2])
    at = np.moveaxis(offset, -1, 0) + np.indices((6, 7))
    want = scipy.ndimage.map_coordinates(x[..., 0], at, order=1, mode="grid-constant")
    np.testing.assert_allclose(reference_deform_conv2d(x[None], offset[None], np.ones((1,) * 4))[0, ..., 0], want)
    got = deform_conv2d(jnp.asarray(x, jnp.float32), jnp.asarray(offset, jnp.float32), jnp.ones((1,) * 4))
    np.testing.assert_allclose(got[..., 0], want, atol=5e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("transform", [differentiated, sharded])
def test_derivatives_equal_those_of_a_dense_formulation(transform: Callable[..., dict[str, Any]]) -> None:
    operands = operands_of((2, 3, 2, 4), (2, 3), 2, 2, {"padding": 1})
    # What `vmap` sees second: offsets of another size that are no integers either.
    seconds = {name: a[::-1] if name != "offset" else 0.05 * a for name, a in operands.items()}
    pairs = [jnp.asarray(np.stack([a, seconds[name]]), jnp.float64) for name, a in operands.items()]
    numbers: dict[str, Any] = {"groups": 2, "offset_groups": 2}

    def ours(x: jax.Array, offset: jax.Array, w: jax.Array, mask: jax.Array, bias: jax.Array) -> jax.Array:
        return deform_conv2d(x, offset, w, mask=mask, bias=bias, padding=1, **numbers)

    shape = jax.eval_shape(ours, *(pair[0] for pair in pairs)).shape
    c = jnp.asarray(np.random.default_rng(1).standard_normal((2, *shape)))
    got, want = (
        jax.jit(functools.partial(transform, f))(c, *pairs) for f in (ours, functools.partial(dense, **numbers))
    )
    assert_close(got, want, 1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_offsets_of_zero_give_convolution(groups: int, rng: np.random.Generator) -> None:
    """Exactly, as small integers; NaN and infinity reach only the outputs whose window holds them."""
    x = rng.integers(-2, 3, (2, 9, 8, 4)).astype(np.float32)
    x[0, 3, 4, 1], x[1, 0, 0, 2], x[1, 8, 7, 0] = np.nan, np.inf, np.nan
    w = rng.integers(1, 3, (3, 2, 4 // groups, 6)).astype(np.float32)
    options: dict[str, Any] = {"strides": (2, 1), "padding": ((2, 1), (1, 0)), "dilation": (1, 3), "groups": groups}

    @jax.jit
    def both(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        plain = conv(x, w, algorithm="shift", **options)
        offset = jnp.zeros((*plain.shape[:3], 2 * 2 * 6))
        return plain, deform_conv2d(x, offset, w, offset_groups=2, **options)

    plain, deformed = both(x, w)
    assert np.isnan(plain).any()
    assert np.isfinite(plain).any()
    np.testing.assert_array_equal(deformed, plain)


def test_named_padding_means_what_it_means_for_conv(rng: np.random.Generator) -> None:
    x, w = rng.standard_normal((1, 7, 8, 2)).astype(np.float32), rng.standard_normal((3, 2, 2, 3)).astype(np.float32)
    forms: tuple[Any, ...] = ("SAME", "SAME_LOWER", "VALID", "FULL", "CAUSAL", 1, (2, 0), (0, (-1, 3)))

    @jax.jit
    def both(x: jax.Array, w: jax.Array) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        plain = {str(form): conv(x, w, padding=form, strides=(2, 1)) for form in forms}
        offsets = [jnp.zeros((*y.shape[:3], 12)) for y in plain.values()]
        deformed = [deform_conv2d(x, o, w, padding=f, strides=(2, 1)) for f, o in zip(forms, offsets, strict=True)]
        return dict(zip(plain, deformed, strict=True)), plain

    deformed, plain = both(x, w)
    assert_close(deformed, plain, 2e-6)


def test_derivative_at_an_element_is_towards_larger_positions() -> None:
    """Also at -1, where padded taps stand before training: the sample is 0 there and grows towards element 0."""
    x = jnp.asarray([[2.0, 3.0, 7.0]])[..., None]
    right = jnp.asarray([[[0.0, 1.0]] * 6])

    def samples(offset: jax.Array) -> jax.Array:
        return deform_conv2d(x, offset, jnp.ones((1, 1, 1, 1)), padding=((0, 0), (2, 1)))[0, :, 0]

    value, tangent = jax.jvp(samples, (0 * right,), (right,))
    np.testing.assert_array_equal(value, [0, 0, 2, 3, 7, 0])
    np.testing.assert_array_equal(tangent, [0, 2, 1, 4, -7, 0])


def test_offsets_that_are_no_numbers() -> None:
    x = jnp.ones((1, 4, 1))
    offset = jnp.asarray([[0.5, jnp.inf], [-jnp.inf, 0.5], [jnp.nan, 0], [0, 0]])[None].astype(jnp.float32)
    value, gradient = jax.value_and_grad(
        lambda offset: jnp.sum(deform_conv2d(x, offset, jnp.ones((1, 1, 1, 1)))[0, :, 0] * jnp.array([1.0, 1, 0, 1]))
    )(jnp.where(jnp.isnan(offset), 0, offset))
    assert value == 1
    np.testing.assert_array_equal(np.isfinite(gradient), True)
    y = deform_conv2d(x, offset, jnp.ones((1, 1, 1, 1)))[0, :, 0]
    np.testing.assert_array_equal(y, [0, 0, np.nan, 1])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precisions_are_placed_and_summed_in_float32(dtype: str) -> None:
    """Position 300.5 is not a bfloat16, and 400 ones do not add up in it."""
    x = jnp.zeros((1, 400, 1), dtype).at[0, 300].set(4)
    offset, w = jnp.full((1, 400, 2), jnp.asarray([0, 0.5], dtype)), jnp.ones((1, 1, 1, 1), dtype)
    y = jax.jit(deform_conv2d)(x, offset, w)
    assert y.dtype == dtype
    np.testing.assert_array_equal(np.flatnonzero(y), [299, 300])
    to_300 = jnp.stack([jnp.zeros(400), 300 - jnp.arange(400.0)], -1)[None]
    gradient = jax.grad(lambda x: jnp.sum(jax.jit(deform_conv2d)(x, to_300, w).astype(jnp.float32)))(x)
    assert gradient[0, 300, 0] == 400


def test_empty_operands_give_empty_or_zero_results() -> None:
    x, w = jnp.ones((0, 5, 5, 2)), jnp.ones((3, 3, 2, 4))

    def f(x: jax.Array, offset: jax.Array, w: jax.Array) -> jax.Array:
        return deform_conv2d(x, offset, w, padding=1)

    y, pullback = jax.vjp(f, x, jnp.ones((0, 5, 5, 18)), w)
    assert y.shape == (0, 5, 5, 4)
    dx, doffset, dw = pullback(y)
    assert (dx.shape, doffset.shape) == (x.shape, (0, 5, 5, 18))
    np.testing.assert_array_equal(dw, jnp.zeros_like(w))
    np.testing.assert_array_equal(deform_conv2d(x[:, :0], jnp.ones((0, 1, 4, 18)), w, padding=((2, 1), (1, 0))), 0)
    nothing = jnp.ones((1, 0, 3, 2))
    np.testing.assert_array_equal(deform_conv2d(nothing, jnp.ones((1, 2, 3, 18)), w, padding=((2, 2), (1, 1))), 0)


def test_the_gradient_keeps_the_samples_but_not_their_corners() -> None:
    x, offset, w = jnp.ones((1, 8, 8, 16)), jnp.full((1, 8, 8, 18), 0.5), jnp.ones((3, 3, 16, 16))
    pullback = jax.vjp(functools.partial(deform_conv2d, padding=1), x, offset, w)[1]
    assert sum(kept.nbytes for kept in jax.tree.leaves(pullback)) < 2 * 9 * x.nbytes


X, OFFSET, W = jnp.ones((2, 6, 6, 4)), jnp.ones((2, 4, 4, 18)), jnp.ones((3, 3, 4, 2))
REFUSED: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "offset channels": ((X, OFFSET[..., :9], W), {}, ValueError, r"offset of .* 9\) must be \(2, 4, 4, 18\): .*2 for"),
    "offset size": ((X, OFFSET, W), {"padding": 1}, ValueError, r"offset of shape .* must be \(2, 6, 6, 18\)"),
    "offset batch": ((X[0], OFFSET, W), {}, ValueError, r"offset of shape .* must be \(4, 4, 18\)"),
    "offset layout": ((X, OFFSET, W[:, :, :3]), {"layout": "NCHW"}, ValueError, r"w .* takes 3 .*x has 6"),
    "offset of groups": ((X, OFFSET, W), {"offset_groups": 2}, ValueError, r"must be \(2, 4, 4, 36\).* in each of 2"),
    "mask": ((X, OFFSET, W), {"mask": OFFSET}, ValueError, r"mask .* must be \(2, 4, 4, 9\): .*1 for each of 9"),
    "offset groups": ((X, OFFSET, W), {"offset_groups": 3}, ValueError, "offset_groups=3 must divide the 4 channels"),
    "no offset groups": ((X, OFFSET, W), {"offset_groups": 0}, ValueError, "offset_groups must be at least 1, got 0"),
    "groups": ((X, OFFSET, W), {"groups": 3}, ValueError, "groups=3 must divide the 4 channels of x and the 2"),
    "channels": ((X, OFFSET, W[:, :, :3]), {}, ValueError, r"w of shape \(3, 3, 3, 2\) takes 3 .*x has 4"),
    "rank of w": ((X, OFFSET, W[0]), {}, ValueError, r"w of shape \(3, 4, 2\) must have 4 axes for deform_conv2d"),
    "bias": ((X, OFFSET, W), {"bias": jnp.ones(3)}, ValueError, r"bias of shape \(3,\) must be \(2,\)"),
    "stride": ((X, OFFSET, W), {"strides": 0}, ValueError, "strides must be at least 1"),
    "empty": ((X[:, :2], OFFSET, W), {}, ValueError, "axis 0 has 2 elements.*kernel's 3"),
    "integers": ((X.astype(int), OFFSET, W.astype(int)), {}, TypeError, "x is int32, but .*cast it to a float"),
    "offset dtype": ((X, OFFSET.astype(int), W), {}, TypeError, "offset is int32, but samples .*cast it to a float"),
    "dtypes": ((X, OFFSET, W.astype("bfloat16")), {}, TypeError, "x is float32 and w is bfloat16"),
    "algorithm": ((X, OFFSET, W), {"algorithm": "cudnn"}, ValueError, "'cudnn' is not one of lax, shift"),
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused_in_one_sentence_that_names_the_argument(case: Any, jit: bool) -> None:
    operands, options, error, message = case
    call = functools.partial(deform_conv2d, **options)
    with pytest.raises(error, match=message) as caught:
        (jax.jit(call) if jit else call)(*operands)
    assert "\n" not in str(caught.value).split("\n--------------------\n")[0].strip()
