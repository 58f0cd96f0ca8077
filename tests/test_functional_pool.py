"""The poolings of `convjax.functional`: what they refuse and how; PyTorch agrees in test_functional_pool_torch.py."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_functional import LINE, Call, Refused, array, assert_refused, assert_signature, ints

import convjax
from convjax import functional

X, SPACE = array(2, 4, 8, 7), array(2, 3, 4, 5, 6)


def max2d(kernel_size: Any = 3, x: Any = X, **options: Any) -> Call:
    return "max_pool2d", (x, kernel_size), options


def max1d(kernel_size: Any = 2, x: Any = LINE, **options: Any) -> Call:
    return "max_pool1d", (x, kernel_size), options


def avg2d(kernel_size: Any = 3, x: Any = X, **options: Any) -> Call:
    return "avg_pool2d", (x, kernel_size), options


def avg3d(kernel_size: Any = 3, x: Any = SPACE, **options: Any) -> Call:
    return "avg_pool3d", (x, kernel_size), options


def lp2d(norm_type: Any = 2, kernel_size: Any = 3, x: Any = X, **options: Any) -> Call:
    return "lp_pool2d", (x, norm_type, kernel_size), options


# Options that max_pool2d and avg_pool2d refuse alike.
ALIKE: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "kernel 0": (0, {}, ValueError, r"kernel_size must be at least 1 .*\(0, 0\)"),
    "negative kernel": ((2, -1), {}, ValueError, r"kernel_size must be at least 1 .*\(2, -1\)"),
    "kernel for three": ((2, 2, 2), {}, ValueError, "kernel_size has 3 entries for 2 spatial axes"),
    "kernel for none": ((), {}, ValueError, "kernel_size has 0 entries for 2 spatial axes"),
    "fractional kernel": (1.5, {}, TypeError, "kernel_size must hold integers, got .*1.5"),
    "kernel None": (None, {}, TypeError, "kernel_size must hold integers, got .*None"),
    "kernel a bool": (True, {}, TypeError, "kernel_size must hold integers, got True"),
    "stride 0": (3, {"stride": 0}, ValueError, r"stride must be at least 1 .*\(0, 0\)"),
    "negative stride": (3, {"stride": (1, -1)}, ValueError, r"stride must be at least 1 .*\(1, -1\)"),
    "stride for three": (3, {"stride": (1, 1, 1)}, ValueError, "stride has 3 entries for 2"),
    "fractional stride": (3, {"stride": 2.0}, TypeError, "stride must hold integers, got .*2.0"),
    "negative padding": (3, {"padding": -1}, ValueError, r"padding must be at least 0 .*\(-1, -1\)"),
    "one negative padding": (3, {"padding": (0, -1)}, ValueError, r"padding must be at least 0 .*\(0, -1\)"),
    "padding above half": (3, {"padding": 2}, ValueError, r"padding \(2, 2\) on spatial axis 0 .*half the dilated .*1"),
    "padding above half on one axis": ((4, 3), {"padding": (2, 2)}, ValueError, r"padding \(2, 2\) on spatial axis 1"),
    "padding of one tap": (1, {"padding": 1}, ValueError, r"padding \(1, 1\) on spatial axis 0 .*half the .*0"),
    "padding for three": (3, {"padding": (1, 1, 1)}, ValueError, "padding has 3 entries for 2"),
    "padding for none": (3, {"padding": ()}, ValueError, "padding has 0 entries for 2"),
    "padding pairs": (3, {"padding": ((1, 1), (1, 1))}, TypeError, "padding must hold integers"),
    "padding same": (3, {"padding": "same"}, TypeError, "padding must hold integers"),
    "padding None": (3, {"padding": None}, TypeError, "padding must hold integers, got .*None"),
    "ceil_mode a number": (3, {"ceil_mode": 1}, TypeError, "ceil_mode must be True or False, got 1"),
    "ceil_mode None": (3, {"ceil_mode": None}, TypeError, "ceil_mode must be True or False, got None"),
    "kernel too large": (9, {}, ValueError, "axis 0 has 8 elements, 8 with padding, fewer than .* window's 9"),
    "kernel too large on one axis": ((3, 8), {}, ValueError, "axis 1 has 7 elements.* window's 8"),
    "kernel too large by padding": ((12, 3), {"padding": (1, 0)}, ValueError, "8 elements, 10 with padding.*12"),
    "kernel too large in ceil mode": ((12, 3), {"stride": 4, "ceil_mode": True}, ValueError, "output would be empty"),
}
OPERANDS: dict[str, tuple[Any, type[Exception], str]] = {
    "two axes": (array(8, 7), ValueError, r"\(8, 7\) must have 4 axes for .*_pool2d: N, C, H, W, or 3 without N"),
    "five axes": (array(1, 2, 4, 8, 7), ValueError, "must have 4 axes for .*_pool2d"),
    "no channels": (array(2, 0, 8, 7), ValueError, "has an empty axis: only N may be 0"),
    "no channels nor batch": (array(0, 8, 7), ValueError, "has an empty axis: only N may be 0"),
    "empty axis": (array(2, 4, 0, 7), ValueError, "has an empty axis: only N may be 0"),
    "bools": (ints(X, "bool"), TypeError, "input is bool.*cast"),
    "complex": (ints(X, "complex64"), TypeError, "input is complex64.*cast"),
}
REFUSED: dict[str, Refused] = {
    **{
        f"{call()[0]}, {name}": (call(kernel, **options), error, message)
        for call in (max2d, avg2d)
        for name, (kernel, options, error, message) in ALIKE.items()
    },
    **{
        f"{call()[0]}, {name}": (call(x=x), error, message)
        for call in (max2d, avg2d)
        for name, (x, error, message) in OPERANDS.items()
    },
    **{
        f"lp, {name}": (lp2d(2, kernel, **options), error, message)
        for name, (kernel, options, error, message) in ALIKE.items()
        if "padding" not in options
    },
    **{
        f"lp, {name}": (lp2d(x=x), error, message)
        for name, (x, error, message) in OPERANDS.items()
        if name != "bools"  # which PyTorch takes
    },
    "max, dilation 0": (max2d(dilation=0), ValueError, r"dilation must be at least 1 .*\(0, 0\)"),
    "max, negative dilation": (max2d(dilation=[-1]), ValueError, r"dilation must be at least 1 .*\(-1, -1\)"),
    "max, dilation for three": (max2d(dilation=(1, 1, 1)), ValueError, "dilation has 3 entries for 2"),
    "max, dilation None": (max2d(dilation=None), TypeError, "dilation must hold integers, got .*None"),
    "max, kernel too large by dilation": (max2d(dilation=4), ValueError, "axis 0 has 8 elements.* window's 9"),
    "max, padding above half, dilated": (max2d(dilation=2, padding=3), ValueError, r"padding \(3, 3\) .*window, 2"),
    "max1d, kernel for two": (max1d((2, 2)), ValueError, "kernel_size has 2 entries for 1 spatial axes"),
    "max1d, stride for two": (max1d(stride=(2, 2)), ValueError, "stride has 2 entries for 1"),
    "max1d, padding above half": (max1d(padding=2), ValueError, r"padding \(2, 2\) .*half the dilated window, 1"),
    "max1d, four axes": (max1d(x=X), ValueError, "must have 3 axes for max_pool1d: N, C, W, or 2 without N"),
    "max1d, empty axis": (max1d(x=array(2, 3, 0)), ValueError, "has an empty axis"),
    "max1d, kernel too large": (max1d(6), ValueError, "axis 0 has 4 elements.* window's 6"),
    "max3d, plane": (("max_pool3d", (array(8, 7, 6), 3), {}), ValueError, "must have 5 axes for max_pool3d"),
    "max3d, empty axis": (("max_pool3d", (array(1, 2, 0, 5, 6), 3), {}), ValueError, "has an empty axis"),
    "max3d, kernel for two": (("max_pool3d", (SPACE, (2, 2)), {}), ValueError, "kernel_size has 2 entries for 3"),
    "avg, int32": (avg2d(x=ints(X)), TypeError, "input is int32, whose averages are fractions: cast"),
    "avg, uint8": (avg2d(x=ints(X, "uint8")), TypeError, "input is uint8"),
    "avg, divisor 0": (avg2d(divisor_override=0), ValueError, "divisor_override must not be 0"),
    "avg, fractional divisor": (avg2d(divisor_override=2.0), TypeError, "divisor_override must be an integer .*2.0"),
    "avg, divisor a bool": (avg2d(divisor_override=True), TypeError, "divisor_override must be an integer .*True"),
    "avg, count_include_pad a number": (avg2d(count_include_pad=1), TypeError, "count_include_pad must be True or F"),
    "avg1d, kernel for two": (("avg_pool1d", (LINE, (2, 2)), {}), ValueError, "kernel_size has 2 entries for 1"),
    "avg1d, four axes": (("avg_pool1d", (X, 2), {}), ValueError, "must have 3 axes for avg_pool1d"),
    "avg1d, divisor": (("avg_pool1d", (LINE, 2), {"divisor_override": 2}), TypeError, "divisor_override"),
    "avg3d, divisor 0": (avg3d(divisor_override=0), ValueError, "divisor_override must not be 0"),
    "avg3d, plane": (avg3d(x=array(8, 7, 6)), ValueError, "must have 5 axes for avg_pool3d"),
    "avg3d, kernel fits with padding": (avg3d((5, 3, 3), padding=(1, 0, 0)), ValueError, r"\(4, 5, 6\) must be at lea"),
    "avg3d, kernel fits in ceil mode": (avg3d((5, 3, 3), ceil_mode=True), ValueError, r"at least .*\(5, 3, 3\)"),
    "lp, norm 0": (lp2d(0), ValueError, "norm_type must be a number other than 0, got 0"),
    "lp, norm None": (lp2d(None), TypeError, "norm_type must be a real number, got None"),
    "lp, norm a text": (lp2d("2"), TypeError, "norm_type must be a real number, got '2'"),
    "lp, list of one": (lp2d(2, [3]), ValueError, "kernel_size has 1 entries for 2 spatial axes"),
    "lp, int32": (lp2d(x=ints(X)), TypeError, "input is int32, whose averages are fractions: cast"),
    "lp, largest of bools": (lp2d(np.inf, x=ints(X, "bool")), TypeError, "input is bool"),
    "lp1d, list of one": (("lp_pool1d", (LINE, 2, [2]), {}), TypeError, "kernel_size of lp_pool1d must be an int"),
    "lp3d, list of one": (("lp_pool3d", (SPACE, 2, [2]), {}), ValueError, "kernel_size has 1 entries for 3"),
    "lp3d, kernel fits in ceil mode": (
        ("lp_pool3d", (SPACE, 2, 5, 2, True), {}),
        ValueError,
        r"at least .*\(5, 5, 5\)",
    ),
}


@pytest.mark.parametrize("way", ["eager", "jit", "vmap"])
@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence_that_names_the_argument(name: str, way: str) -> None:
    assert_refused(REFUSED[name], way)


MAX = ["input", "kernel_size", "stride=None", "padding=0", "dilation=1", "ceil_mode=False", "return_indices=False"]
AVG = ["input", "kernel_size", "stride=None", "padding=0", "ceil_mode=False", "count_include_pad=True"]
SIGNATURES = {
    **{f"max_pool{n}d": [*MAX, "algorithm=None"] for n in (1, 2, 3)},
    "avg_pool1d": [*AVG, "algorithm=None"],
    **{f"avg_pool{n}d": [*AVG, "divisor_override=None", "algorithm=None"] for n in (2, 3)},
    **{
        f"lp_pool{n}d": ["input", "norm_type", "kernel_size", "stride=None", "ceil_mode=False", "algorithm=None"]
        for n in (1, 2, 3)
    },
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_of_pytorch(name: str) -> None:
    assert_signature(name, SIGNATURES[name])


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_algorithm_asked_for_is_taken(name: str) -> None:
    x = jnp.ones((2, 3, *(6, 5, 4)[: int(name[-2])]))
    sizes = (2, 2) if name.startswith("lp") else (2,)
    pool = getattr(functional, name)
    taken = convjax.explain(lambda x: pool(x, *sizes, algorithm="reshape"), x).rows
    assert {row.algorithm for row in taken} == {"reshape"}
    with pytest.raises(ValueError, match="'cudnn' is not one of"):
        pool(x, *sizes, algorithm="cudnn")


def test_indices_are_flat_int32_positions_in_the_unpadded_plane() -> None:
    x = jnp.arange(20.0).reshape(1, 4, 5)
    y, indices = functional.max_pool2d(x, (3, 2), (2, 3), (1, 1), return_indices=True)
    np.testing.assert_array_equal(y, [[[5, 8], [15, 18]]])
    np.testing.assert_array_equal(indices, y)
    assert indices.dtype == jnp.int32


def test_dilated_windows_may_be_padded_by_half_their_extent() -> None:
    x = jnp.array([[1.0, 4.0, 2.0, 3.0]])
    np.testing.assert_array_equal(functional.max_pool1d(x, 3, 1, 2, 2), [[2, 4, 2, 4]])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precisions_keep_their_dtype_and_are_summed_in_float32(dtype: str) -> None:
    y = functional.avg_pool1d(jnp.full((1, 4096), 200, dtype), 4096)
    assert (y.dtype, y.item()) == (dtype, 200)  # the sum is beyond float16, and bfloat16 stops at 256 times 200


def test_a_divisor_may_be_negative() -> None:
    y = functional.avg_pool2d(jnp.ones((1, 2, 4)), 2, divisor_override=-2)
    np.testing.assert_array_equal(y, [[[-2, -2]]])


def test_an_empty_batch_gives_an_empty_batch() -> None:
    x = jnp.ones((0, 2, 5, 4))
    y, indices = functional.max_pool2d(x, 3, ceil_mode=True, return_indices=True)
    assert y.shape == indices.shape == functional.avg_pool2d(x, 3, ceil_mode=True).shape == (0, 2, 2, 2)
    assert jax.grad(lambda x: jnp.sum(functional.avg_pool2d(x, 3)))(x).shape == x.shape


def test_a_negative_norm_is_0_beside_zeros_and_so_is_its_gradient() -> None:
    x = jnp.array([[0.0, 0.0, 0.0, 2.0, 3.0, 4.0, 0.0, jnp.nan]])
    y, pullback = jax.vjp(lambda x: functional.lp_pool1d(x, -2, 2), x)
    np.testing.assert_allclose(y, [[0, 0, (1 / 9 + 1 / 16) ** -0.5, np.nan]], rtol=1e-6)
    (dx,) = pullback(jnp.ones_like(y))
    np.testing.assert_array_equal(dx[0, :4], [0, 0, 0, 0])
    assert bool(jnp.all(dx[0, 4:6] > 0))


def test_an_overhanging_window_has_the_norm_of_a_full_one_but_of_signed_odd_powers() -> None:
    """There PyTorch knows no norm, and convjax's is of the elements that there are."""
    x = jnp.array([[3.0, 4.0, 5.0], [3.0, 4.0, -5.0]])
    for p, want in ((2, [[5, 50**0.5], [5, 50**0.5]]), (3, [[91 ** (1 / 3), 250 ** (1 / 3)], [91 ** (1 / 3), 5]])):
        np.testing.assert_allclose(functional.lp_pool1d(x, p, 2, ceil_mode=True), want, rtol=1e-6)
