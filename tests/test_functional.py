"""What `convjax.functional` refuses and how it says so; PyTorch agrees in test_functional_torch.py."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_bad_input import ways

import convjax
from convjax import functional

Array = tuple[tuple[int, ...], str]
Call = tuple[str, tuple[Any, ...], dict[str, Any]]
Refused = tuple[Call, type[Exception], str]  # the message as a pattern


def array(*shape: int, dtype: str = "float32") -> Array:
    """An operand to be: its shape and dtype."""
    return shape, dtype


def numbers(operand: Array) -> np.ndarray:
    """Small integers, so that sums are exact in every dtype."""
    shape, _ = operand
    return np.random.default_rng(len(shape)).integers(0, 3, shape)


def is_array(argument: Any) -> bool:
    return isinstance(argument, tuple) and len(argument) == 2 and isinstance(argument[1], str)


X, W, V = array(2, 4, 8, 7), array(6, 4, 3, 3), array(4, 6, 3, 3)  # input, weight, transposed weight
COLUMNS, LINE, PLANE = array(2, 36, 30), array(2, 3, 4), array(2, 3, 4, 5)


def ints(operand: Array, dtype: str = "int32") -> Array:
    return operand[0], dtype


def conv2d(x: Any = X, w: Any = W, b: Any = None, **options: Any) -> Call:
    return "conv2d", (x, w, b), options


def conv_transpose2d(x: Any = X, w: Any = V, b: Any = None, **options: Any) -> Call:
    return "conv_transpose2d", (x, w, b), options


def unfold(kernel_size: Any = 3, x: Any = X, **options: Any) -> Call:
    return "unfold", (x, kernel_size), options


def fold(size: Any = (8, 7), kernel_size: Any = 3, x: Any = COLUMNS, **options: Any) -> Call:
    return "fold", (x, size, kernel_size), options


def pad(x: Any, widths: Any, *mode_and_value: Any) -> Call:
    return "pad", (x, widths, *mode_and_value), {}


REFUSED: dict[str, Refused] = {
    # convolutions
    "conv, negative padding": (conv2d(padding=-1), ValueError, r"padding must be at least 0 .*\(-1, -1\)"),
    "conv, one negative padding": (conv2d(padding=(0, -1)), ValueError, r"padding must be .*got \(0, -1\)"),
    "conv, stride 0": (conv2d(stride=0), ValueError, r"stride must be at least 1 .*\(0, 0\)"),
    "conv, negative stride": (conv2d(stride=(1, -1)), ValueError, r"stride must be at least 1 .*\(1, -1\)"),
    "conv, dilation 0": (conv2d(dilation=0), ValueError, r"dilation must be at least 1 .*\(0, 0\)"),
    "conv, negative dilation": (conv2d(dilation=[-1]), ValueError, r"dilation must be at least 1 .*\(-1, -1\)"),
    "conv, groups 0": (conv2d(groups=0), ValueError, "groups must be at least 1, got 0"),
    "conv, negative groups": (conv2d(groups=-2), ValueError, "groups must be at least 1, got -2"),
    "conv, groups and channels": (conv2d(groups=3), ValueError, "has 4 channels, .* groups=3 takes 12"),
    "conv, groups and outputs": (
        conv2d(w=array(5, 2, 3, 3), groups=2),
        ValueError,
        "weight .* has 5 output channels, .*multiple of groups=2",
    ),
    "conv, fractional groups": (conv2d(groups=1.0), TypeError, "groups must be an integer, got 1.0"),
    "conv, groups a bool": (conv2d(groups=True), TypeError, "groups must be an integer, got True"),
    "conv, no outputs": (conv2d(w=array(0, 4, 3, 3)), ValueError, "weight .* has 0 output channels"),
    "conv, channels": (conv2d(w=array(6, 3, 3, 3)), ValueError, "input .* has 4 channels, but weight .* takes 3"),
    "conv, bias length": (conv2d(b=array(2)), ValueError, r"bias of shape \(2,\) must be \(6,\)"),
    "conv, bias of one": (conv2d(b=array(1)), ValueError, r"bias of shape \(1,\) must be \(6,\)"),
    "conv, bias rank": (conv2d(b=array(1, 6)), ValueError, r"bias of shape \(1, 6\) must be \(6,\)"),
    "conv, bias scalar": (conv2d(b=array()), ValueError, r"bias of shape \(\) must be \(6,\)"),
    "conv, bias dtype": (conv2d(b=array(6, dtype="float16")), TypeError, "input is float32 and bias is float16: cast"),
    "conv, dtypes": (conv2d(w=ints(W, "bfloat16")), TypeError, "input is float32 and weight is bfloat16: cast"),
    "conv, bools": (conv2d(ints(X, "bool"), ints(W, "bool")), TypeError, "input is bool, which has no sum"),
    "conv, stride for three": (conv2d(stride=(1, 1, 1)), ValueError, "stride has 3 entries for 2 spatial axes"),
    "conv, padding for three": (conv2d(padding=(1, 1, 1)), ValueError, "padding has 3 entries for 2 spatial axes"),
    "conv, stride for none": (conv2d(stride=()), ValueError, "stride has 0 entries for 2 spatial axes"),
    "conv, fractional stride": (conv2d(stride=2.0), TypeError, "stride must hold integers, got .*2.0"),
    "conv, stride a bool": (conv2d(stride=True), TypeError, "stride must hold integers, got True"),
    "conv, padding pairs": (conv2d(padding=((1, 1), (1, 1))), TypeError, "padding must hold integers, got"),
    "conv, padding None": (conv2d(padding=None), TypeError, "padding must hold integers, got .*None"),
    "conv, padding SAME": (conv2d(padding="SAME"), ValueError, "padding must be 'same', 'valid' or .*'SAME'"),
    "conv, padding full": (conv2d(padding="full"), ValueError, "padding must be 'same', 'valid' or .*'full'"),
    "conv, same with a stride": (conv2d(padding="same", stride=(1, 2)), ValueError, r"stride of 1, got \(1, 2\)"),
    "conv, same with dilation 0": (conv2d(padding="same", dilation=0), ValueError, "dilation must be at least 1"),
    "conv, kernel too large": (conv2d(array(2, 4, 2, 7)), ValueError, "axis 0 has 2 elements.*kernel's 3.*pad by 1"),
    "conv, kernel too large by dilation": (conv2d(dilation=4), ValueError, "axis 0 has 8 elements.*kernel's 9"),
    "conv, kernel too large by padding": (
        conv2d(array(2, 4, 2, 7), w=array(6, 4, 7, 3), padding=(2, 0)),
        ValueError,
        r"has 2 elements, 6 with padding \(2, 2\), fewer than the dilated kernel's 7",
    ),
    "conv, no taps": (conv2d(w=array(6, 4, 0, 3)), ValueError, r"weight of shape \(6, 4, 0, 3\) has no taps"),
    "conv, empty axis": (conv2d(array(2, 4, 0, 7)), ValueError, r"input of shape \(2, 4, 0, 7\) has an empty spatial"),
    "conv, empty axis padded": (conv2d(array(2, 4, 0, 7), padding=2), ValueError, "has an empty spatial axis"),
    "conv, input of two axes": (conv2d(array(8, 7)), ValueError, "input .* must have 4 axes for conv2d.* or 3 without"),
    "conv, input of five axes": (conv2d(array(1, 2, 4, 8, 7)), ValueError, "input .* must have 4 axes for conv2d"),
    "conv, weight of three axes": (conv2d(w=array(4, 3, 3)), ValueError, "weight .* must have 4 axes for conv2d"),
    "conv, weight of five axes": (conv2d(w=array(1, 6, 4, 3, 3)), ValueError, "weight .* must have 4 axes for conv2d"),
    "conv1d, weight of conv2d": (("conv1d", (LINE, W), {}), ValueError, "weight .* must have 3 axes for conv1d"),
    "conv3d, input of conv2d": (("conv3d", (array(4, 8, 7), W), {}), ValueError, "must have 5 axes for conv3d"),
    # transposed convolutions
    "transposed, negative padding": (conv_transpose2d(padding=-1), ValueError, "padding must be at least 0"),
    "transposed, stride 0": (conv_transpose2d(stride=0), ValueError, "stride must be at least 1"),
    "transposed, dilation 0": (conv_transpose2d(dilation=0), ValueError, "dilation must be at least 1"),
    "transposed, negative output_padding": (
        conv_transpose2d(output_padding=-1),
        ValueError,
        "output_padding -1 must be at least 0",
    ),
    "transposed, output_padding of stride": (
        conv_transpose2d(output_padding=1),
        ValueError,
        "output_padding 1 must be .* below the larger of stride 1 and dilation 1",
    ),
    "transposed, output_padding of stride, one axis": (
        conv_transpose2d(output_padding=(1, 1), stride=(2, 1)),
        ValueError,
        "output_padding 1 must be .* stride 1 and dilation 1",
    ),
    "transposed, output_padding of both": (
        conv_transpose2d(output_padding=2, stride=2, dilation=2),
        ValueError,
        "output_padding 2 must be .* stride 2 and dilation 2",
    ),
    "transposed, output_padding for three": (
        conv_transpose2d(output_padding=(0, 0, 0)),
        ValueError,
        "output_padding has 3 entries for 2",
    ),
    "transposed, padding same": (conv_transpose2d(padding="same"), TypeError, "padding must hold integers"),
    "transposed, padding valid": (conv_transpose2d(padding="valid"), TypeError, "padding must hold integers"),
    "transposed, all cropped": (conv_transpose2d(padding=5), ValueError, r"padding \(5, 5\) leaves 0 elements"),
    "transposed, more than all cropped": (
        conv_transpose2d(padding=(0, 6)),
        ValueError,
        r"padding \(6, 6\) leaves -3 elements of spatial axis 1: crop 4 fewer",
    ),
    "transposed, groups 0": (conv_transpose2d(groups=0), ValueError, "groups must be at least 1, got 0"),
    "transposed, groups": (conv_transpose2d(groups=3), ValueError, "weight .* has 4 channels, .*multiple of groups=3"),
    "transposed, channels": (conv_transpose2d(w=array(3, 6, 3, 3)), ValueError, "has 4 channels, but .* takes 3"),
    "transposed, bias of a group": (
        conv_transpose2d(b=array(6), groups=2),
        ValueError,
        r"bias of shape \(6,\) must be \(12,\)",
    ),
    "transposed, bias rank": (conv_transpose2d(b=array(1, 6)), ValueError, r"bias of shape \(1, 6\) must be"),
    "transposed, stride in the place of bias": (("conv_transpose2d", (X, V, 2), {}), ValueError, "bias of shape"),
    "transposed, dtypes": (conv_transpose2d(w=ints(V, "float16")), TypeError, "input is float32 and weight is float16"),
    "transposed, int32": (conv_transpose2d(ints(X), ints(V)), TypeError, "input is int32, .*no conv_transpose2d: cast"),
    "transposed, int8": (conv_transpose2d(ints(X, "int8"), ints(V, "int8")), TypeError, "input is int8, .*cast"),
    "transposed, bools": (conv_transpose2d(ints(X, "bool"), ints(V, "bool")), TypeError, "input is bool"),
    "transposed, no channels": (
        conv_transpose2d(array(2, 0, 8, 7), array(0, 6, 3, 3)),
        ValueError,
        "weight .* has 0 channels",
    ),
    "transposed, no outputs": (conv_transpose2d(w=array(4, 0, 3, 3)), ValueError, "has no output channels"),
    "transposed, no taps": (conv_transpose2d(w=array(4, 6, 0, 3)), ValueError, "weight .* has no taps"),
    "transposed, empty axis": (conv_transpose2d(array(2, 4, 0, 7)), ValueError, "has an empty spatial axis"),
    "transposed, input of two axes": (conv_transpose2d(array(8, 7)), ValueError, "must have 4 axes for conv_trans"),
    "transposed, weight of three axes": (conv_transpose2d(w=array(6, 3, 3)), ValueError, "must have 4 axes for conv_t"),
    # patches
    "unfold, algorithm": (unfold(algorithm="im2col"), ValueError, "algorithm must be None, got 'im2col': unfold is"),
    "unfold, kernel 0": (unfold(0), ValueError, r"kernel_size must be at least 1 .*\(0, 0\)"),
    "unfold, negative kernel": (unfold((2, -1)), ValueError, r"kernel_size must be at least 1 .*\(2, -1\)"),
    "unfold, dilation 0": (unfold(dilation=0), ValueError, "dilation must be at least 1"),
    "unfold, negative padding": (unfold(padding=-1), ValueError, "padding must be at least 0"),
    "unfold, stride 0": (unfold(stride=0), ValueError, "stride must be at least 1"),
    "unfold, list of one": (unfold([3]), ValueError, "kernel_size has 1 entries for 2 spatial axes"),
    "unfold, kernel for three": (unfold((3, 3, 3)), ValueError, "kernel_size has 3 entries for 2 spatial axes"),
    "unfold, padding for three": (unfold(padding=(1, 1, 1)), ValueError, "padding has 3 entries for 2 spatial axes"),
    "unfold, padding same": (unfold(padding="same"), TypeError, "padding must hold integers"),
    "unfold, fractional kernel": (unfold(1.5), TypeError, "kernel_size must hold integers"),
    "unfold, kernel too large": (unfold(9), ValueError, "axis 0 has 8 elements.*kernel's 9"),
    "unfold, kernel too large on one axis": (unfold((3, 8)), ValueError, "axis 1 has 7 elements.*kernel's 8"),
    "unfold, two negative counts": (unfold(20), ValueError, "axis 0 has 8 elements.*kernel's 20"),
    "unfold, two axes": (unfold(x=array(8, 7)), ValueError, "must have 4 axes for unfold: N, C, H, W, or 3 without N"),
    "unfold, five axes": (unfold(x=array(1, 2, 4, 8, 7)), ValueError, "must have 4 axes for unfold"),
    "unfold, no channels": (unfold(x=array(2, 0, 8, 7)), ValueError, "has an empty axis: only N may be 0"),
    "unfold, no channels nor batch": (unfold(x=array(0, 8, 7)), ValueError, "has an empty axis: only N may be 0"),
    "unfold, empty axis": (unfold(x=array(2, 4, 0, 7), padding=2), ValueError, "has an empty axis"),
    "unfold, int32": (unfold(x=ints(X)), TypeError, "input is int32, .*no unfold: cast .*convjax.unfold"),
    "unfold, uint8": (unfold(x=ints(X, "uint8")), TypeError, "input is uint8"),
    "fold, algorithm": (fold(algorithm="im2col"), ValueError, "algorithm must be None, got 'im2col': fold is"),
    "fold, kernel 0": (fold(kernel_size=0), ValueError, "kernel_size must be at least 1"),
    "fold, dilation 0": (fold(dilation=0), ValueError, "dilation must be at least 1"),
    "fold, negative padding": (fold(padding=-1), ValueError, "padding must be at least 0"),
    "fold, stride 0": (fold(stride=0), ValueError, "stride must be at least 1"),
    "fold, output size 0": (fold((0, 7)), ValueError, r"output_size must be at least 1 .*\(0, 7\)"),
    "fold, output size 0 padded": (fold((0, 1), x=array(2, 9, 6), padding=2), ValueError, "output_size must be"),
    "fold, negative output size": (fold((-8, 7)), ValueError, "output_size must be at least 1"),
    "fold, two negative sizes": (fold((-3, -4)), ValueError, "output_size must be at least 1"),
    "fold, two negative counts": (fold((1, 1), x=array(2, 36, 1)), ValueError, "has 1 blocks, but .* has 0 x 0"),
    "fold, list of one": (fold([8]), ValueError, "output_size has 1 entries for 2"),
    "fold, size for three": (fold((8, 7, 7)), ValueError, "output_size has 3 entries for 2"),
    "fold, kernel list of one": (fold(kernel_size=[3]), ValueError, "kernel_size has 1 entries for 2"),
    "fold, blocks": (fold(8), ValueError, "has 30 blocks, .* has 6 x 6"),
    "fold, blocks by padding": (fold(padding=1), ValueError, "has 30 blocks, .* has 8 x 7"),
    "fold, features": (fold((8, 7), (3, 3), x=array(2, 35, 30)), ValueError, "has 35 features, .* the 9 taps"),
    "fold, fractional size": (fold((8.0, 7)), TypeError, "output_size must hold integers"),
    "fold, one axis": (fold(x=array(30)), ValueError, "must have 3 axes for fold: N, C taps, L, or 2 without N"),
    "fold, four axes": (fold(x=array(1, 2, 36, 30)), ValueError, "must have 3 axes for fold"),
    "fold, no features": (fold(x=array(2, 0, 30)), ValueError, "has an empty axis: only N may be 0"),
    "fold, no blocks": (fold((2, 7), x=array(2, 36, 0)), ValueError, "has an empty axis: only N may be 0"),
    "fold, int32": (fold(x=ints(COLUMNS)), TypeError, "input is int32, .*no fold: cast"),
    # padding
    "pad, algorithm": (("pad", (LINE, (1, 1)), {"algorithm": "lax"}), ValueError, "algorithm must be None, got 'lax'"),
    "pad, an int": (pad(LINE, 1), TypeError, "pad must be a sequence of integers"),
    "pad, fractions": (pad(LINE, (1.0, 1.0)), TypeError, "pad must hold integers"),
    "pad, bools": (pad(LINE, (True, 1)), TypeError, "pad must hold integers"),
    "pad, odd": (pad(PLANE, (1, 1, 1)), ValueError, "pad must hold two numbers for each axis, got 3"),
    "pad, too many": (
        pad(array(3), (1, 1, 1, 1)),
        ValueError,
        "pad holds 4 numbers, but input has 1 axes: .*at most 2",
    ),
    "pad, unknown mode": (pad(LINE, (1, 1), "edge"), ValueError, "mode must be one of constant, .*got 'edge'"),
    "pad, mode zeros": (pad(LINE, (1, 1), "zeros"), ValueError, "mode must be one of constant, .*got 'zeros'"),
    "pad, crops more than all": (pad(LINE, (-2, -3)), ValueError, r"pad \(-2, -3\) crops more than the 4 elements"),
    "pad, crops more than all, fills": (pad(LINE, (5, -5)), ValueError, r"pad \(5, -5\) crops more than the 4"),
    "pad, value a text": (pad(LINE, (1, 1), "constant", "a"), TypeError, "value must be a real number, got 'a'"),
    "pad, complex value": (pad(LINE, (1, 1), "constant", 1j), TypeError, "value must be a real number, got 1j"),
    "pad, infinity in int32": (pad(ints(LINE), (1, 1), "constant", float("inf")), ValueError, "value inf must be bet"),
    "pad, NaN in int32": (pad(ints(LINE), (1, 1), "constant", float("nan")), ValueError, "value nan must be between"),
    "pad, 127.5 in int8": (pad(ints(LINE, "int8"), (1, 1), "constant", 127.5), ValueError, "between -128 and 127"),
    "pad, negative in uint8": (pad(ints(LINE, "uint8"), (1, 1), "constant", -1), ValueError, "between 0 and 255"),
    "pad, 1e9 in float16": (pad(ints(LINE, "float16"), (1, 1), "constant", 1e9), ValueError, "at most 65504.0"),
    "reflect, a whole axis": (pad(LINE, (4, 0), "reflect"), ValueError, r"pad \(4, 0\) must be below 4 in mode 'refl"),
    "reflect, a whole axis, cropped": (pad(LINE, (-1, 4), "reflect"), ValueError, r"pad \(-1, 4\) must be below 4"),
    "reflect, nothing left": (pad(LINE, (-2, -2), "reflect"), ValueError, "leaves 0 of the 4 elements"),
    "replicate, nothing left": (pad(LINE, (-6, 2), "replicate"), ValueError, "leaves 0 of the 4 elements"),
    "reflect, no channels": (pad(array(2, 0, 4), (1, 1), "reflect"), ValueError, "only N may be 0"),
    "replicate, no channels": (pad(array(0, 4), (1, 1), "replicate"), ValueError, "only N may be 0"),
    "reflect, empty axis": (pad(array(2, 3, 0), (0, 0), "reflect"), ValueError, "only N may be 0"),
    "replicate, empty axis": (pad(array(2, 3, 0, 4), (1, 1, 0, 0), "replicate"), ValueError, "only N may be 0"),
    "reflect, bools": (pad(ints(LINE, "bool"), (1, 1), "reflect"), TypeError, "input is bool"),
    "replicate, bools": (pad(ints(LINE, "bool"), (1, 1), "replicate"), TypeError, "input is bool"),
    "circular, more than an axis": (pad(LINE, (5, 0), "circular"), ValueError, r"pad \(5, 0\) must be at most 4"),
    "circular, more than is left": (
        pad(array(1, 4), (-1, 4), "circular"),
        ValueError,
        "must be at most 3 in mode 'circular'",
    ),
    "circular, crops more than all": (pad(LINE, (-2, -3), "circular"), ValueError, "crops more than the 4 elements"),
    "circular, empty axis": (pad(array(2, 3, 0), (1, 1), "circular"), ValueError, "must be at most 0"),
} | {
    f"{mode}, {name}": (pad(x, widths, mode, *value), error, message)
    for mode in ("reflect", "replicate", "circular")
    for name, x, widths, value, error, message in (
        ("value", LINE, (1, 1), (1.5,), ValueError, f"value must be left out in mode '{mode}'.*got 1.5"),
        ("value a text", LINE, (1, 1), ("a",), TypeError, "value must be a real number, got 'a'"),
        ("one axis of one", array(3), (1, 1), (), ValueError, r"pad holds 2 numbers for an input of shape \(3,\)"),
        ("one axis of four", PLANE, (1, 1), (), ValueError, "pad holds 2 numbers .*4 for 3 or 4"),
        ("two axes of two", array(3, 3), (1,) * 4, (), ValueError, r"pad holds 4 numbers .*\(3, 3\)"),
        ("two axes of five", array(1, 1, 3, 3, 3), (1,) * 4, (), ValueError, "pad holds 4 numbers"),
        ("three axes of three", array(3, 3, 3), (1,) * 6, (), ValueError, "pad holds 6 numbers"),
        ("four axes of five", array(1, 1, 3, 3, 3), (1,) * 8, (), ValueError, "pad holds 8 numbers"),
        ("no axes", LINE, (), (), ValueError, "pad holds 0 numbers"),
        ("odd", LINE, (1,), (), ValueError, "pad must hold two numbers for each axis, got 1"),
    )
}


def assert_refused(refused: Refused, way: str) -> None:
    """Eagerly, or under the transform named `way`; in one short sentence."""
    (function, (x, *rest), options), error, message = refused
    call = getattr(functional, function)
    first, *others = (jnp.asarray(numbers(a), a[1]) if is_array(a) else a for a in (x, *rest))
    with pytest.raises(error, match=message) as caught:
        ways(lambda x: call(x, *others, **options))[way](first)
    text = str(caught.value).split("\n--------------------\n")[0].strip()  # jax appends a note on hidden frames
    assert "\n" not in text
    assert len(text) < 300


@pytest.mark.parametrize("way", ["eager", "jit", "vmap"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence_that_names_the_argument(name: str, way: str) -> None:
    assert_refused(REFUSED[name], way)


CONV = ["input", "weight", "bias=None", "stride=1", "padding=0", "dilation=1", "groups=1", "algorithm=None"]
CONV_TRANSPOSE = [*CONV[:5], "output_padding=0", "groups=1", "dilation=1", "algorithm=None"]
SIGNATURES = {
    **{f"conv{n}d": CONV for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": CONV_TRANSPOSE for n in (1, 2, 3)},
    "unfold": ["input", "kernel_size", "dilation=1", "padding=0", "stride=1", "algorithm=None"],
    "fold": ["input", "output_size", "kernel_size", "dilation=1", "padding=0", "stride=1", "algorithm=None"],
    "pad": ["input", "pad", "mode='constant'", "value=None", "algorithm=None"],
}


def assert_signature(name: str, due: list[str]) -> None:
    """The parameters are `due`, of which `algorithm` alone is given by name only, and there is an example."""
    parameters = inspect.signature(getattr(functional, name)).parameters.values()
    written = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    assert written == due
    assert all((p.kind is p.KEYWORD_ONLY) == (p.name == "algorithm") for p in parameters)
    assert ">>>" in (inspect.getdoc(getattr(functional, name)) or "")


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_of_pytorch(name: str) -> None:
    assert_signature(name, SIGNATURES[name])


@pytest.mark.parametrize("function", ["conv2d", "conv_transpose2d"])
def test_the_algorithm_asked_for_is_taken_in_either_direction(function: str) -> None:
    x, w = jnp.ones((2, 4, 8, 7)), jnp.ones((4, 4, 3, 3))
    call = getattr(functional, function)
    assert {row.algorithm for row in convjax.explain(lambda x: call(x, w, algorithm="im2col"), x).rows} == {"im2col"}
    with pytest.raises(ValueError, match="'cudnn' is not one of lax"):
        call(x, w, algorithm="cudnn")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precisions_keep_their_dtype_and_are_summed_in_float32(dtype: str) -> None:
    x, w = jnp.full((1, 1, 4096), 1.0, dtype), jnp.full((1, 1, 4096), 1.0, dtype)
    y = functional.conv1d(x, w)
    assert (y.dtype, y.item()) == (dtype, 4096)  # summed in itself, a half precision stops at 256 or 2048


def test_without_channels_the_bias_is_what_is_left() -> None:
    y = functional.conv1d(jnp.ones((2, 0, 5)), jnp.ones((3, 0, 2)), jnp.arange(3.0))
    want = np.broadcast_to(np.arange(3.0)[:, None], (2, 3, 4))
    np.testing.assert_array_equal(y, want)
    assert jax.typeof(y).shape == (2, 3, 4)
