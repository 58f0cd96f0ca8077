"""Every refusal: one sentence that names the argument and the numbers, the same eagerly, under jit and under vmap."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convjax
from convjax.layer import Layer
from convjax.problem import ConvSpec, WindowSpec, parse

X, W = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 6))
EMPTY = r"spatial axis 0 has 2 elements, 2 with padding \(0, 0\), fewer than the dilated kernel's 3.*pad by 1 or more"

Case = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], type[Exception], str]

CONVOLUTIONS: dict[str, Case] = {
    "channels": (convjax.conv, (X, W[:, :, :3]), {}, ValueError, r"w .*takes 3 channels .*x has 4 .*w needs 4"),
    "groups": (convjax.conv, (X, W), {"groups": 3}, ValueError, "groups=3 must divide the 4 channels of x and the 6"),
    "no groups": (convjax.conv, (X, W), {"groups": 0}, ValueError, "groups must be at least 1, got 0"),
    "fractional groups": (convjax.conv, (X, W), {"groups": 2.0}, TypeError, "groups must be an integer, got 2.0"),
    "channels in groups": (convjax.conv, (X, W), {"groups": 2}, ValueError, "x has 4 in 2 groups: w needs 2"),
    "zero stride": (convjax.conv, (X, W), {"strides": 0}, ValueError, r"strides must be at least 1.*got \(0, 0\)"),
    "negative stride": (convjax.conv, (X, W), {"strides": (1, -2)}, ValueError, r"strides must .*got \(1, -2\)"),
    "zero dilation": (convjax.conv, (X, W), {"dilation": 0}, ValueError, r"dilation must be at least 1.*got \(0, 0\)"),
    "strides for two axes": (convjax.conv, (X, W), {"strides": (1, 1, 1)}, ValueError, "strides has 3 entries for 2"),
    "a bool of padding": (convjax.conv, (X, W), {"padding": True}, TypeError, "padding must hold integers, got .*True"),
    "fractional stride": (convjax.conv, (X, W), {"strides": 1.5}, TypeError, "strides must hold integers, got .*1.5"),
    "empty output": (convjax.conv, (X[:, :2], W), {}, ValueError, EMPTY),
    "empty by dilation": (convjax.conv, (X, W), {"dilation": 4}, ValueError, "axis 0 has 8 elements.*kernel's 9"),
    "cropped away": (convjax.conv, (X, W), {"padding": -5}, ValueError, r"padding \(-5, -5\) crops more than the 8"),
    "bias length": (convjax.conv, (X, W), {"bias": jnp.ones(2)}, ValueError, r"bias of shape \(2,\) must be \(6,\)"),
    "bias rank": (convjax.conv, (X, W), {"bias": jnp.ones((1, 6))}, ValueError, r"bias of shape \(1, 6\) must be"),
    "bias a bool": (convjax.conv, (X, W), {"bias": True}, ValueError, r"bias of shape \(\) must be \(6,\)"),
    "rank of x": (convjax.conv, (X[0, 0], W), {}, ValueError, r"x of shape \(8, 4\) must have 4 axes .*or 3 without"),
    "rank of w": (convjax.conv, (X, W[0, 0]), {}, ValueError, r"w of shape \(4, 6\) must have 3, 4 or 5 axes"),
    "no taps": (convjax.conv, (X, W[:0]), {}, ValueError, r"w of shape \(0, 3, 4, 6\) has no taps"),
    "rank for conv1d": (convjax.conv1d, (X, W), {}, ValueError, r"w of shape .* must have 3 axes for conv1d"),
    "rank for conv3d": (convjax.conv3d, (X, W), {}, ValueError, r"w of shape .* must have 5 axes for conv3d"),
    "padding name": (convjax.conv, (X, W), {"padding": "same"}, ValueError, "padding must be one of SAME.*got 'same'"),
    "padding pairs": (
        convjax.conv,
        (X, W),
        {"padding": [(1, 1)] * 3},
        ValueError,
        "padding has 3 entries for 2 spatial axes",
    ),
    "padding triples": (
        convjax.conv,
        (X, W),
        {"padding": [(1, 1, 1)] * 2},
        ValueError,
        r"\(1, 1, 1\), .* a \(lo, hi\) pair",
    ),
    "padding mode": (convjax.conv, (X, W), {"padding_mode": "mirror"}, ValueError, "padding_mode must be .*'mirror'"),
    "padding modes": (convjax.conv, (X, W), {"padding_mode": ["zeros"]}, ValueError, "one for each of 2 axes"),
    "no padding": (convjax.conv, (X, W), {"padding": None}, TypeError, "padding must be a name, .*got None"),
    "fractional padding": (convjax.conv, (X, W), {"padding": 1.5}, TypeError, "padding must be a name, .*got 1.5"),
    "no padding mode": (convjax.conv, (X, W), {"padding_mode": None}, ValueError, "padding_mode must be .*got None"),
    "layout": (convjax.conv, (X, W), {"layout": "NCW"}, ValueError, "layout must be .*NHWC, NCHW .*got 'NCW'"),
    "dtypes": (convjax.conv, (X, W.astype(jnp.bfloat16)), {}, TypeError, "x is float32 and w is bfloat16: cast"),
    "int8": (convjax.conv, (X.astype("int8"), W.astype("int8")), {}, TypeError, "preferred_element_type=jnp.int32"),
    "sums in int16": (
        convjax.conv,
        (X.astype("int8"), W.astype("int8")),
        {"preferred_element_type": "int16"},
        TypeError,
        "sums of int8 products overflow int16: pass preferred_element_type=jnp.int32",
    ),
    "sums in bfloat16": (
        convjax.conv,
        (X, W),
        {"preferred_element_type": jnp.bfloat16},
        TypeError,
        "preferred_element_type bfloat16 cannot hold products of float32",
    ),
    "sums in nothing": (
        convjax.conv,
        (X, W),
        {"preferred_element_type": "float33"},
        TypeError,
        "preferred_element_type must be a dtype or None, got 'float33'",
    ),
    "cropped below the kernel": (convjax.conv, (X, W), {"padding": -4}, ValueError, "empty; crop 5 or fewer in all"),
    "bool": (convjax.conv, (X > 0, W > 0), {}, TypeError, "x and w are bool, which have no sum: cast"),
    "bias of fractions": (
        convjax.conv,
        (X.astype(int), W.astype(int)),
        {"bias": jnp.ones(6)},
        TypeError,
        "bias is float32, which a result of int32 cannot hold: cast bias, or x and w",
    ),
    "depthwise groups": (convjax.depthwise_conv, (X, W), {"groups": 4}, ValueError, "leave groups out"),
    "depthwise channels": (convjax.depthwise_conv, (X, W[:, :, :2]), {}, ValueError, "groups=2|channels"),
    "algorithm": (convjax.conv, (X, W), {"algorithm": "cudnn"}, ValueError, "'cudnn' is not one of lax, shift"),
    "number of an algorithm": (convjax.conv, (X, W), {"algorithm": 3}, TypeError, "algorithm must be a name, .*got 3"),
}

POOLINGS: dict[str, Case] = {
    "ceil mode": (
        convjax.max_pool,
        (X, 2),
        {"ceil_mode": "floor"},
        TypeError,
        "ceil_mode must be True or False, got 'fl",
    ),
    "indices": (convjax.max_pool, (X, 2), {"return_indices": 1}, TypeError, "return_indices must be True or False"),
    "padding counted": (convjax.avg_pool, (X, 2), {"count_include_pad": "no"}, TypeError, "count_include_pad must be"),
    "a bool of a stride": (convjax.max_pool, (X, 2), {"strides": True}, TypeError, r"strides must hold integers.*True"),
    "a bool of a divisor": (
        convjax.avg_pool,
        (X, 2),
        {"divisor_override": True},
        TypeError,
        "must be an integer, got T",
    ),
    "zero window": (convjax.max_pool, (X, 0), {}, ValueError, r"window must be at least 1 .*got \(0, 0\)"),
    "negative window": (convjax.avg_pool, (X, (2, -2)), {}, ValueError, r"window must be .*got \(2, -2\)"),
    "zero stride": (convjax.max_pool, (X, 2), {"strides": 0}, ValueError, r"strides must be .*got \(0, 0\)"),
    "zero dilation": (convjax.sum_pool, (X, 2), {"dilation": 0}, ValueError, r"dilation must be .*got \(0, 0\)"),
    "empty output": (convjax.min_pool, (X, 9), {}, ValueError, "axis 0 has 8 elements, 8 with padding, fewer .*9"),
    "half the window": (convjax.max_pool, (X, 3), {"padding": 2}, ValueError, r"padding \(2, 2\) .* window, 1"),
    "negative padding": (convjax.avg_pool, (X, 3), {"padding": -1}, ValueError, r"padding \(-1, -1\) .*between 0 and"),
    "padding alone": (convjax.max_pool, (X, 2), {"padding": "FULL", "dilation": 9}, ValueError, "no element of x"),
    "padding name": (convjax.max_pool, (X, 2), {"padding": "reflect"}, ValueError, "padding must be one of .*reflect"),
    "window for four axes": (convjax.max_pool, (X, (2,) * 4), {}, ValueError, r"x of shape .* for 4 spatial axes"),
    "layout": (convjax.max_pool, (X, 2), {"layout": "CHWN"}, ValueError, "layout must be .*NHWC, NCHW .*got 'CHWN'"),
    "rank": (convjax.max_pool, (X[0, 0], (2, 2)), {}, ValueError, r"x of shape \(8, 4\) must have 4 axes"),
    "mean of integers": (convjax.avg_pool, (X.astype(int), 2), {}, TypeError, "x is int32, whose averages .*cast"),
    "divisor": (convjax.avg_pool, (X, 2), {"divisor_override": 0}, ValueError, "divisor_override must .*got 0"),
    "divisor of a fraction": (
        convjax.avg_pool,
        (X, 2),
        {"divisor_override": 1.5},
        TypeError,
        "divisor_override must be an integer, got 1.5",
    ),
    "norm by name": (convjax.lp_pool, (X, 2), {"p": "2"}, TypeError, "p must be a real number, got '2'"),
    "fractional pool padding": (
        convjax.avg_pool,
        (X, 3),
        {"padding": 1.5},
        TypeError,
        "padding must be a name, .*got 1.5",
    ),
    "no pool padding": (convjax.max_pool, (X, 3), {"padding": None}, TypeError, "padding must be a name, .*got None"),
    "no axis": (convjax.max_pool, (X[0, 0, 0], 2), {}, ValueError, r"x of shape \(4,\) has no spatial axis"),
    "window for no axis": (convjax.sum_pool, (X, ()), {}, ValueError, "has no spatial axis: it must have one between"),
    "largest of complex": (convjax.max_pool, (X + 0j, 2), {}, TypeError, "x is complex64, which has no order: take"),
    "least of complex": (convjax.min_pool, (X + 0j, 2), {}, TypeError, "x is complex64, which has no order: take"),
    "sum of bools": (
        convjax.sum_pool,
        (X > 0, 2),
        {},
        TypeError,
        "x is bool, which has no sums: cast it to an integer",
    ),
    "algorithm": (convjax.max_pool, (X, 2), {"algorithm": "im2col"}, ValueError, "'im2col' is not one of .*for max"),
}


def ways(call: Callable[[jax.Array], Any]) -> dict[str, Callable[[jax.Array], Any]]:
    return {"eager": call, "jit": jax.jit(call), "vmap": lambda x: jax.vmap(call)(jnp.stack([x, x]))}


@pytest.mark.parametrize("way", ["eager", "jit", "vmap"])
@pytest.mark.parametrize("case", [*CONVOLUTIONS.values(), *POOLINGS.values()], ids=[*CONVOLUTIONS, *POOLINGS])
def test_refused_in_one_sentence_that_names_the_argument(case: Case, way: str) -> None:
    function, (x, *rest), options, error, message = case
    with pytest.raises(error, match=message) as caught:
        ways(lambda x: function(x, *rest, **options))[way](x)
    text = str(caught.value).split("\n--------------------\n")[0].strip()  # jax appends a note on hidden frames
    assert type(caught.value) is error
    assert "\n" not in text
    assert len(text) < 400


def test_a_traced_norm_is_refused() -> None:
    with pytest.raises(TypeError, match=r"p must be a real number, got .*Tracer"):
        jax.jit(lambda p: convjax.lp_pool(X, 2, p=p))(2.0)


@pytest.mark.parametrize("way", ["eager", "jit", "vmap"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_strides": (0, 1)}, r"strides must be at least 1 .*\(0, 1\)"),  # lax only fails to lower it
        ({"window_strides": (1, -1)}, r"strides must be at least 1 .*\(1, -1\)"),
        ({"rhs_dilation": (1, 0)}, r"dilations? must .*\(1, 0\)"),
        ({"lhs_dilation": (0, 1)}, r"dilations? must .*\(0, 1\)"),
        ({"feature_group_count": 3}, "feature_group_count.* 4 .* 3|3 .* 4"),
        ({"batch_group_count": 0}, "batch_group_count must be .* 0"),
        ({"rhs": jnp.ones((6, 3, 3, 3))}, "3.* 4|4.* 3"),
        ({"algorithm": "cudnn"}, "'cudnn' is not one of lax, shift"),
    ],
)
def test_the_drop_in_refuses_too(options: dict[str, Any], message: str, way: str) -> None:
    given = {"rhs": jnp.ones((6, 4, 3, 3)), "window_strides": (1, 1), "padding": [(0, 0), (0, 0)]} | options
    with pytest.raises((ValueError, TypeError), match=message):
        ways(functools.partial(convjax.conv_general_dilated, **given))[way](jnp.ones((2, 4, 8, 8)))


PROBLEM = "conv float32[4,8,8,4] float32[3,3,4,6] b01f_01io->b01f"
WINDOWS = "max float32[8,8] window=2x2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{PROBLEM} stride=0x1", r"strides must be at least 1 on every axis, got \(0, 1\)"),
        (f"{PROBLEM} rhs_dilate=1x-1", r"rhs_dilation must be at least 1 on every axis, got \(1, -1\)"),
        (f"{PROBLEM} stride=2", "strides has 1 entries for 2 spatial axes: give one per axis"),
        (f"{PROBLEM} feature_groups=2", "x has 4 channels but w takes 4 in each of 2 groups: x needs 8"),
        (f"{PROBLEM} batch_groups=4", "w has 6 output channels, which 4 groups do not divide"),
        (f"{PROBLEM} batch_groups=3", "lhs has batch 4, which 3 batch groups do not divide"),
        (f"{PROBLEM} stride=2x2 stride=1x1", "has stride twice: give it once"),
        (f"{PROBLEM} precision=best", "precision=best must be one of default, high, highest"),
        (f"{PROBLEM} out=float33", "'float33' is not a dtype"),
        (f"{PROBLEM} strides=2x2", "cannot read 'strides=2x2'; the fields are stride, pad"),
        (PROBLEM.replace("float32[4", "float33[4"), "'float33' is not a dtype"),
        (PROBLEM.replace("[4,8", "4,8"), r"is not an array like float32\[1,28,28,3\]"),
        (PROBLEM.replace("[4,", "[4,,"), r"is not an array like float32\[1,28,28,3\]"),
        (PROBLEM.replace("float32[4", "object[4"), "'object' is not a dtype"),
        ("max float32[,8] window=1", r"is not an array like float32\[1,28,28,3\]"),
        (PROBLEM.replace("b01f_", "b0f_"), "dimension labels 'b0f_01io->b01f' must read like"),
        ("conv float32[4,8]", "must begin with 'conv' and 3 more words"),
        ("", "must begin with one of max, min"),
        ("mean float32[4] window=2", "must begin with one of max, min"),
        ("max float32[8,8] window=2x0", r"window must be at least 1 on every axis, got \(2, 0\)"),
        ("max float32[8,8] window=2", "window has 1 entries for 2 axes"),
        ("argmax float32[8] window=2 base_dilate=2", r"argmax is not defined with base_dilation \(2,\)"),
    ],
)
def test_problems_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conv2d 3x10x10x1 -> 5 k3 float16 bfloat16", "bfloat16 comes after float16: write one"),
        ("conv2d 3x10x10x1 -> 5 float32 k3 float32", "float32 comes after float32: write one"),
        ("conv2d 3x10x10x1 -> 5 k3 k5", "k5 comes after k3: write one"),
    ],
)
def test_a_layer_says_nothing_twice(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layer.parse("a", text)


def test_the_parts_of_a_problem_must_fit_together() -> None:
    spec = ConvSpec.parse(PROBLEM)
    parts = {field: getattr(spec, field) for field in spec.__dataclass_fields__}
    with pytest.raises(ValueError, match="padding has 1 entries for 2 spatial axes"):
        ConvSpec(**parts | {"padding": ((0, 0),)})
    with pytest.raises(
        ValueError, match=r"lhs of shape \(8,\) has 1 axes and rhs of shape .* has 4: they need as many"
    ):
        ConvSpec(**parts | {"lhs_shape": (8,)})
    with pytest.raises(ValueError, match=r"feature_groups \(2\) and batch_groups \(2\) cannot both be above 1"):
        ConvSpec(**parts | {"feature_groups": 2, "batch_groups": 2, "rhs_shape": (3, 3, 2, 8)})
    with pytest.raises(ValueError, match="padding has 1 entries for 2 axes"):
        WindowSpec("max", (8, 8), "float32", (2, 2), (1, 1), ((0, 0),), (1, 1), (1, 1))


@pytest.mark.parametrize(
    ("text", "given", "error", "message"),
    [
        (PROBLEM, {"lhs_dtype": "nonsense"}, ValueError, "'nonsense' is not a dtype; name one like float32"),
        (PROBLEM, {"rhs_dtype": None}, ValueError, "None is not a dtype; name one like float32"),
        (PROBLEM, {"preferred_element_type": "object"}, ValueError, "'object' is not a dtype"),
        (PROBLEM, {"precision": "bogus"}, ValueError, "precision=bogus must be one of default, high, highest, or None"),
        (PROBLEM, {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}, ValueError, "three orders of the axes 0 to 3, such"),
        (PROBLEM, {"dimension_numbers": None}, ValueError, r"such as \(\(0, 3, 1, 2\), \(3, 2, 0, 1\), .* got None"),
        (PROBLEM, {"strides": (1.0, 1.0)}, TypeError, r"strides must hold integers, .* got \(1.0, 1.0\)"),
        (PROBLEM, {"padding": ((0, 0), [1, 1])}, TypeError, "padding must hold integers, in tuples where"),
        (PROBLEM, {"lhs_shape": (-4, 8, 8, 3)}, ValueError, r"lhs of shape \(-4, 8, 8, 3\) must have 0 or more"),
        (WINDOWS, {"operation": "mean"}, ValueError, "operation must be one of max, min, .* got 'mean'"),
        (WINDOWS, {"dtype": "f33"}, ValueError, "'f33' is not a dtype"),
        (WINDOWS, {"window": (2.5, 1)}, TypeError, r"window must hold integers, .* got \(2.5, 1\)"),
        (WINDOWS, {"shape": (8, np.int64(-1))}, ValueError, "must have 0 or more elements"),
        (WINDOWS, {"shape": (8, -1)}, ValueError, r"x of shape \(8, -1\) must have 0 or more elements"),
    ],
)
def test_problems_hold_what_their_text_can_say(
    text: str, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        dataclasses.replace(parse(text), **given)
