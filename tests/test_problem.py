"""Problems: the text form, the sizes that lax computes too, and what is counted."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax
from transforms import lax_arguments

import convjax
from convjax import sizes
from convjax.problem import ConvSpec, WindowSpec, parse
from convjax.testing import sample_conv_problems, sample_window_problems

DTYPES = ("float32", "float64", "bfloat16", "float16", "int8", "complex64")


@st.composite
def conv_problems(draw: st.DrawFn) -> ConvSpec:
    ndim = draw(st.integers(0, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(low, high), min_size=ndim, max_size=ndim)))

    def order() -> tuple[int, ...]:
        return tuple(draw(st.permutations(range(ndim + 2))))

    def placed(values: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(values[axes.index(axis)] for axis in range(ndim + 2))

    feature_groups, batch_groups = draw(st.sampled_from([(1, 1), (1, 1), (3, 1), (1, 2)]))
    channels, outputs, batch = (draw(st.integers(1, 4)) for _ in range(3))
    lhs, rhs, out = order(), order(), order()
    return ConvSpec(
        lhs_shape=placed((batch * batch_groups, channels * feature_groups, *each(0, 12)), lhs),
        rhs_shape=placed((outputs * feature_groups * batch_groups, channels, *each(1, 5)), rhs),
        lhs_dtype=(dtype := draw(st.sampled_from(DTYPES))),
        rhs_dtype=dtype,
        strides=each(1, 3),
        padding=tuple(zip(each(-2, 5), each(-2, 5), strict=True)),
        lhs_dilation=each(1, 3),
        rhs_dilation=each(1, 3),
        dimension_numbers=(lhs, rhs, out),
        feature_groups=feature_groups,
        batch_groups=batch_groups,
        precision=draw(st.sampled_from([None, "high", "highest"])),
        preferred_element_type=draw(st.sampled_from([None, dtype])),
    )


@st.composite
def window_problems(draw: st.DrawFn) -> WindowSpec:
    ndim = draw(st.integers(1, 4))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(low, high), min_size=ndim, max_size=ndim)))

    operation = draw(st.sampled_from(WindowSpec.OPERATIONS))
    return WindowSpec(
        operation=operation,
        shape=each(0, 12),
        dtype=draw(st.sampled_from(DTYPES[:-1])),
        window=each(1, 5),
        strides=each(1, 3),
        padding=tuple(zip(each(0, 5), each(0, 5), strict=True)),
        base_dilation=each(1, 3) if operation in ("max", "min", "sum") else (1,) * ndim,
        window_dilation=each(1, 3),
    )


@given(st.one_of(conv_problems(), window_problems()))
def test_the_text_form_parses_back(problem: ConvSpec | WindowSpec) -> None:
    assert parse(str(problem)) == problem
    assert hash(parse(str(problem))) == hash(problem)


def test_a_problem_has_one_text_whatever_its_dtypes_and_precision_are_called() -> None:
    problem = parse("conv f4[1,8,8,4] float[3,3,4,2] b01f_01io->b01f precision=HIGH out=f8")
    assert str(problem) == "conv float32[1,8,8,4] float64[3,3,4,2] b01f_01io->b01f precision=high out=float64"
    assert dataclasses.replace(problem, lhs_dtype=jnp.float32, precision=lax.Precision.HIGH) == problem
    assert parse("max f4[8] window=2") == parse("max float32[8] window=2")
    dims = lax.conv_dimension_numbers((1, 8, 8, 4), (3, 3, 4, 2), ("NHWC", "HWIO", "NHWC"))
    assert dataclasses.replace(problem, dimension_numbers=dims) == problem


@given(conv_problems())
@settings(max_examples=60)
def test_convolution_shapes_equal_lax(problem: ConvSpec) -> None:
    assume(all(n + min(lo, 0) + min(hi, 0) >= 0 for n, (lo, hi) in zip(problem.input, problem.padding, strict=True)))
    with jax.enable_x64(True):
        lhs, rhs = (
            jax.ShapeDtypeStruct(shape, jnp.dtype(problem.lhs_dtype))
            for shape in (problem.lhs_shape, problem.rhs_shape)
        )
        convolve = (lax.conv_general_dilated, convjax.conv_general_dilated)
        stock, ours = (jax.eval_shape(lambda x, w, f=f: f(x, w, *_arguments(problem)), lhs, rhs) for f in convolve)
    assert problem.output_shape == stock.shape == ours.shape
    assert problem.output_dtype == stock.dtype == ours.dtype


def _arguments(problem: ConvSpec) -> tuple[Any, ...]:
    return (
        *lax_arguments(problem),
        problem.precision,
        problem.preferred_element_type,
    )


@given(window_problems())
@settings(max_examples=60)
def test_window_shapes_equal_lax(problem: WindowSpec) -> None:
    x = jax.ShapeDtypeStruct(problem.shape, np.float32)
    parameters = (problem.window, problem.strides, problem.padding, problem.base_dilation, problem.window_dilation)
    stock = jax.eval_shape(lambda x: lax.reduce_window(x, 0.0, lax.add, *parameters), x)
    assert problem.windows_shape == stock.shape
    assert problem.output_shape == (problem.shape if problem.puts else stock.shape)


# One axis: size, kernel, stride, dilation.
AXIS = (st.integers(1, 20), st.integers(1, 6), st.integers(1, 5), st.integers(1, 3))


@given(*AXIS, st.sampled_from(["SAME", "SAME_LOWER", "VALID", "FULL", "CAUSAL"]))
def test_named_paddings_make_the_sizes_they_promise(n: int, k: int, s: int, d: int, padding: str) -> None:
    extent = d * (k - 1) + 1
    assume(padding != "VALID" or n >= extent)
    x, w = jax.ShapeDtypeStruct((1, n, 1), np.float32), jax.ShapeDtypeStruct((k, 1, 1), np.float32)
    size = jax.eval_shape(lambda x, w: convjax.conv(x, w, strides=s, dilation=d, padding=padding), x, w).shape[1]
    unstrided = {"VALID": n - extent + 1, "FULL": n + extent - 1}.get(padding, n)
    assert size == math.ceil(unstrided / s)
    if padding.startswith("SAME"):
        lo, hi = sizes.same_padding(n, extent, s, odd_at_end=padding == "SAME")
        assert (lo, hi) == (hi, lo) or (lo < hi) == (padding == "SAME")
        assert abs(hi - lo) <= 1
        stock = lax.padtype_to_pads((n,), (extent,), (s,), padding)
        assert (lo, hi) == stock[0]


@given(*AXIS, st.integers(0, 6), st.integers(0, 6))
def test_ceil_mode_keeps_windows_that_start_inside(n: int, k: int, s: int, d: int, lo: int, hi: int) -> None:
    extent = d * (k - 1) + 1
    assume(max(lo, hi) <= extent // 2)
    kept, end = 0, n + lo + hi
    while kept == 0 or ((kept - 1) * s + extent < end and kept * s < n + lo):
        kept += 1
    # No window overhangs by a whole stride, not even a first one that is alone.
    assert sizes.ceil_windows(n, extent, s, lo, hi) == (kept if extent - end < s else 0)


@given(*AXIS, st.booleans())
def test_pools_have_the_sizes_of_their_windows(n: int, k: int, s: int, d: int, ceil: bool) -> None:
    extent = d * (k - 1) + 1
    count = sizes.ceil_windows(n, extent, s, 0, 0) if ceil else sizes.windows(n, extent, s)
    assume(count > 0)
    x = jax.ShapeDtypeStruct((1, n, 1), np.float32)
    for pool in (convjax.max_pool, convjax.min_pool, convjax.sum_pool, convjax.avg_pool):
        y = jax.eval_shape(lambda x, pool=pool: pool(x, k, strides=s, dilation=d, ceil_mode=ceil), x)
        assert y.shape == (1, count, 1)


@pytest.mark.parametrize(
    ("text", "output", "macs"),
    [
        ("conv float32[1,56,56,64] float32[3,3,64,64] b01f_01io->b01f pad=1_1x1_1", (1, 56, 56, 64), 115_605_504),
        (
            "conv float32[1,224,224,3] float32[7,7,3,64] b01f_01io->b01f stride=2x2 pad=3_3x3_3",
            (1, 112, 112, 64),
            118_013_952,
        ),
        (
            "conv float32[1,112,112,32] float32[3,3,1,32] b01f_01io->b01f pad=1_1x1_1 feature_groups=32",
            (1, 112, 112, 32),
            3_612_672,
        ),
        ("conv float32[1,1,128,128] float32[128,1,3,3] bf01_oi01->bf01", (1, 128, 126, 126), 18_289_152),
        (
            "conv float32[2,8,8,4] float32[4,4,4,6] b01f_01io->b01f pad=2_2x2_2 lhs_dilate=2x2",
            (2, 16, 16, 6),
            49_152,
        ),
        ("max float32[8,112,112,64] window=1x3x3x1 stride=1x2x2x1 pad=0_0x1_1x1_1x0_0", (8, 56, 56, 64), 14_450_688),
    ],
)  # fmt: skip
def test_known_layers_have_their_known_costs(text: str, output: tuple[int, ...], macs: int) -> None:
    problem = parse(text)
    assert problem.output_shape == output
    assert problem.macs == macs
    assert problem.flops == (2 * macs if isinstance(problem, ConvSpec) else macs)


def test_costs_count_every_product_and_every_byte() -> None:
    for problem in sample_conv_problems(seed=3, count=64, dtypes=("float32", "bfloat16")):
        size = {"float32": 4, "bfloat16": 2}[problem.lhs_dtype]
        positions = problem.N * problem.G * problem.K * math.prod(problem.output)
        assert problem.products == positions * problem.taps * problem.C
        if set(problem.lhs_dilation) <= {1}:
            assert problem.macs == problem.products
        elif set(problem.strides) <= {1} and problem.taps <= math.prod(problem.output):
            assert (
                problem.macs <= problem.N * problem.G * problem.K * problem.C * math.prod(problem.input) * problem.taps
            )
        elements = math.prod(problem.lhs_shape) + math.prod(problem.rhs_shape) + positions
        assert problem.bytes == size * elements
        assert problem.empty == (math.prod(problem.lhs_shape) == 0)
    for window in sample_window_problems(seed=3, count=91):
        taps = 4 * math.prod(window.windows_shape) if window.operation in ("argmax", "argmin", "take", "put") else 0
        values = math.prod(window.shape) + math.prod(window.windows_shape)
        assert window.bytes == 4 * values * (2 if window.compares else 1) + taps


@pytest.mark.parametrize(
    ("operation", "dtype", "identity"),
    [
        ("max", "float32", -np.inf),
        ("min", "bfloat16", np.inf),
        ("max", "int8", -128),
        ("max", "uint8", 0),
        ("argmin", "int32", 2**31 - 1),
        ("max", "bool", False),
        ("min", "bool", True),
        ("sum", "float16", 0),
        ("put", "float32", 0),
    ],
)
def test_padding_holds_the_identity_of_the_operation_and_dtype(operation: str, dtype: str, identity: Any) -> None:
    value = WindowSpec.parse(f"{operation} {dtype}[4] window=2").identity
    assert value == identity
    assert value.dtype == jnp.dtype(dtype)
