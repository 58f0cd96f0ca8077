"""What differs on GPUs, as far as a machine without one can tell: choices, bounds, lowered programs, and timing."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import export

import convjax
from convjax import ConvSpec, WindowSpec, timing
from convjax.algorithms import algorithms, named
from convjax.algorithms.numerics import error_on, rounding_on
from convjax.algorithms.protocol import cost_on
from convjax.calibrate import _ON_GPUS
from convjax.choose import admitted_error
from convjax.device import devices
from convjax.explain import explain_problem

DENSE = "conv float32[32,56,56,64] float32[3,3,64,64] b01f_01io->b01f pad=1_1x1_1"
# Layers with what was fastest of all that were timed on an H200, or within a tenth of it.
FASTEST = {
    DENSE: "lax",
    "conv float32[32,28,28,192] float32[7,7,1,192] b01f_01io->b01f pad=3_3x3_3 feature_groups=192": "lax",
    "conv float32[32,28,28,192] float32[32,28,28,192] f01b_i01o->01bf pad=3_3x3_3 batch_groups=192": (
        "positions(by=reduce)"
    ),
    "conv float32[32,28,28,240] float32[32,28,28,240] f01b_i01o->01bf pad=2_2x2_2 batch_groups=240": "lax",
    "conv float32[32,14,14,512] float32[27,27,1,512] b01f_01io->b01f pad=13_13x13_13 feature_groups=512": (
        "shift(by=multiply)"
    ),
    "conv float32[32,14,14,512] float32[32,14,14,512] f01b_i01o->01bf pad=13_13x13_13 batch_groups=512": "kn2row",
    "conv float32[32,400,512] float32[31,1,512] b0f_0io->b0f pad=15_15 feature_groups=512": "shift(by=multiply)",
    "conv float32[32,8,56,56,54] float32[3,3,3,1,54] b012f_012io->b012f pad=1_1x1_1x1_1 feature_groups=54": (
        "shift(by=multiply)"
    ),
    "conv float32[32,56,56,64] float32[3,3,64,1] b01f_01oi->b01f pad=1_2x1_2 lhs_dilate=2x2 feature_groups=64": (
        "polyphase(by=shift(by=multiply))"
    ),
    "conv float32[32,8007,32] float32[32,8000,32] f0b_i0o->0bf stride=8": "positions(by=dot)",
    "conv float32[32,28,28,256] float32[32,28,28,256] f01b_i01o->01bf pad=1_1x1_1 batch_groups=32": "lax",
    "conv float32[32,28,28,128] float32[3,3,128,128] b01f_01oi->b01f pad=1_2x1_2 lhs_dilate=2x2": "lax",
    "conv float32[32,56,56,128] float32[31,31,1,128] b01f_01io->b01f pad=15_15x15_15 feature_groups=128": "fft",
    "conv float32[32,56,56,128] float32[32,56,56,128] f01b_i01o->01bf pad=15_15x15_15 batch_groups=128": "fft",
    "conv bfloat16[32,56,56,128] bfloat16[31,31,1,128] b01f_01io->b01f pad=15_15x15_15 feature_groups=128": "fft",
    "conv float32[32,56,56,96] float32[32,56,56,96] f01b_i01o->01bf pad=3_3x3_3 batch_groups=96": "fft",
    "conv float32[32,4096,256] float32[4096,1,256] b0f_0io->b0f pad=4095_0 feature_groups=256": "fft",
    "conv float32[32,224,224,3] float32[7,7,3,64] b01f_01io->b01f stride=2x2 pad=3_3x3_3": "space_to_depth(by=lax)",
    "conv float32[32,112,112,64] float32[7,7,3,64] b01f_01oi->b01f pad=3_4x3_4 lhs_dilate=2x2": "sub_pixel(by=lax)",
    "conv float32[32,56,56,96] float32[4,4,3,96] b01f_01oi->b01f pad=3_3x3_3 lhs_dilate=4x4": "sub_pixel(by=lax)",
    "conv float32[32,100,512] float32[32,800,256] f0b_i0o->0bf pad=11_11 lhs_dilate=8": "sub_pixel(by=lax)",
    "conv float32[16,7,72,160] float32[16,7,72,96] f01b_i01o->01bf stride=2x2 pad=3_3x3_3": "lax",
    "conv float32[32,56,56,3] float32[5,5,1,3] b01f_01io->b01f pad=2_2x2_2 feature_groups=3": "shift(by=multiply)",
    "conv float32[32,56,56,8] float32[5,5,8,1] b01f_01oi->b01f pad=2_2x2_2 feature_groups=8": "shift(by=multiply)",
    "conv float32[32,32,32,256] float32[32,64,64,128] f01b_i01o->01bf pad=2_2x2_2 lhs_dilate=2x2": (
        "polyphase(by=lax)"
    ),
}
# The same of windows.
FASTEST_WINDOWS = {
    "max float32[32,112,112,64] window=1x3x3x1 stride=1x2x2x1 pad=0_0x1_1x1_1x0_0": "lax",
    "max float32[32,19,19,512] window=1x13x13x1 pad=0_0x6_6x6_6x0_0": "separable",
    "max float32[32,64,64,64] window=1x31x31x1 pad=0_0x15_15x15_15x0_0": "doubling",
    "argmax float32[32,112,112,64] window=1x3x3x1 stride=1x2x2x1 pad=0_0x1_1x1_1x0_0": "shift",
    "argmax float32[32,64,64,64] window=1x31x31x1 pad=0_0x15_15x15_15x0_0": "doubling",
    "put float32[32,112,112,64] window=1x3x3x1 stride=1x2x2x1 pad=0_0x1_1x1_1x0_0": "shift",
    "put float32[32,19,19,512] window=1x1x13x1 pad=0_0x0_0x6_6x0_0": "shift",  # in a fixed order
}


@pytest.mark.parametrize(("text", "fastest"), FASTEST.items())
def test_what_was_fastest_is_chosen(text: str, fastest: str) -> None:
    (row,) = explain_problem(ConvSpec.parse(text), platform="cuda").rows
    assert row.algorithm == fastest


@pytest.mark.parametrize(("text", "fastest"), FASTEST_WINDOWS.items())
def test_of_windows_too(text: str, fastest: str) -> None:
    (row,) = explain_problem(WindowSpec.parse(text), platform="cuda").rows
    assert row.algorithm == fastest


# Forward layers that look like weight gradients: patches that do not overlap, a small map strided.
@pytest.mark.parametrize(
    "text",
    [
        "conv float32[32,224,224,3] float32[32,32,3,768] b01f_01io->b01f stride=32x32",
        "conv float32[32,4,4,512] float32[3,3,512,512] b01f_01io->b01f stride=2x2 pad=1_1x1_1",
        "conv float32[32,14,14,1024] float32[1,1,1024,2048] b01f_01io->b01f",
    ],
)
def test_dense_layers_are_left_to_cudnn(text: str) -> None:
    (row,) = explain_problem(ConvSpec.parse(text), platform="cuda").rows
    assert row.algorithm == "lax"
    assert row.predicted is not None
    assert row.predicted < 1e-3


@pytest.mark.parametrize("batch", [1, 32])
def test_weight_gradients_of_few_examples_are_no_loops_over_taps(batch: int) -> None:
    text = f"conv float32[{batch},112,112,32] float32[{batch},112,112,32] f01b_i01o->01bf pad=1_1x1_1 batch_groups=32"
    (row,) = explain_problem(ConvSpec.parse(text), platform="cuda").rows
    assert row.algorithm == "lax"


def test_bfloat16_has_a_kernel_for_gradients_that_float32_lacks() -> None:
    text = "conv {0}[32,28,28,192] {0}[32,28,28,192] f01b_i01o->01bf pad=3_3x3_3 batch_groups=192"
    (row,) = explain_problem(ConvSpec.parse(text.format("bfloat16")), platform="cuda").rows
    assert row.algorithm == "lax"


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_integers_are_not_left_to_cudnn(dtype: str) -> None:
    problem = ConvSpec.parse(f"conv {dtype}[1,8,8,4] {dtype}[3,3,4,4] b01f_01io->b01f")
    (row,) = explain_problem(problem, platform="cuda").rows
    assert row.algorithm == "shift(by=multiply)"
    assert dict(row.rejected)["lax"] == (f"cuDNN has no convolution of {dtype}",)


def test_every_sampled_convolution_has_a_choice() -> None:
    for problem in convjax.testing.sample_conv_problems(0, 160, dtypes=("float32", "bfloat16", "int32", "complex64")):
        (row,) = explain_problem(problem, platform="cuda").rows
        assert row.algorithm


def test_bounds_hold_what_matrix_units_round() -> None:
    lax, winograd, multiply, reduce = (
        named("conv", name)[0] for name in ("lax", "winograd(tile=4)", "shift(by=multiply)", "positions(by=reduce)")
    )
    problem = ConvSpec.parse(DENSE)
    # As measured on an H200: stock lax 3.5e-4 of the largest output and now and then 1.2e-2, Winograd's F(4) 9.2e-3.
    assert 1.2e-2 < error_on("cuda", lax, problem) < 3e-2
    assert 9.2e-3 < error_on("cuda", winograd, problem) < 6e-2
    for elementwise in (multiply, reduce):
        assert error_on("cuda", elementwise, problem) == elementwise.error(problem)
    for algorithm in (a for a in algorithms("conv") if not a.unsupported(problem, "cpu")):
        assert error_on("cpu", algorithm, problem) == error_on("rocm", algorithm, problem) == algorithm.error(problem)


@pytest.mark.parametrize(
    ("dtype", "precision", "rounds"),
    [
        ("float32", "", True),
        ("float32", " precision=high", True),
        ("float32", " precision=highest", False),
        ("complex64", "", True),
        ("bfloat16", "", False),
        ("float64", "", False),
        ("int32", "", False),
    ],
)
def test_what_is_rounded(dtype: str, precision: str, rounds: bool) -> None:
    text = re.sub("float32", dtype, DENSE) + precision
    assert bool(rounding_on("cuda", ConvSpec.parse(text))) == rounds


def test_transformed_operands_are_rounded_though_they_were_narrow() -> None:
    problem = ConvSpec.parse(re.sub("float32", "bfloat16", DENSE))
    for name, rounds in (("winograd(tile=4)", True), ("lax", False), ("shift(by=dot)", False)):
        (algorithm,) = named("conv", name)
        assert (error_on("cuda", algorithm, problem) > algorithm.error(problem)) == rounds


def test_an_error_that_is_asked_for_can_be_kept() -> None:
    x, w = jax.ShapeDtypeStruct((32, 28, 28, 128), "float32"), jax.ShapeDtypeStruct((3, 3, 128, 128), "float32")
    depthwise = jax.ShapeDtypeStruct((3, 3, 1, 128), "float32")

    def chosen(precision: str | None, w: jax.ShapeDtypeStruct, groups: int = 1) -> str:
        fn = functools.partial(convjax.conv, precision=precision, groups=groups)
        (row,) = convjax.explain(fn, x, w, platform="cuda").rows
        return row.algorithm

    with convjax.using(max_error=1e-5):
        assert chosen(None, depthwise, groups=128) == "shift(by=multiply)"
        assert chosen("highest", w) == "lax"
        with pytest.raises(ValueError, match="precision='highest' multiplies unrounded"):
            chosen(None, w)


def test_winograd_with_rounded_factors_waits_for_precision() -> None:
    refused = dict(explain_problem(ConvSpec.parse(DENSE), platform="cuda").rows[0].rejected)
    assert "states an error" in refused["winograd(tile=4)"][0]
    assert "admits" in refused["winograd(tile=4)"][0]
    high = dict(explain_problem(ConvSpec.parse(DENSE + " precision=highest"), platform="cuda").rows[0].rejected)
    assert "admits" in high["winograd(tile=2)"][0]  # only what is as exact as direct summation
    assert admitted_error(ConvSpec.parse(DENSE), "cuda") >= error_on(
        "cuda", named("conv", "lax")[0], ConvSpec.parse(DENSE)
    )


def test_more_sums_than_a_compiler_keeps_are_refused() -> None:
    problem = ConvSpec.parse(
        "conv float32[32,7,7,768] float32[7,7,1,768] b01f_01io->b01f pad=3_3x3_3 feature_groups=768"
    )
    (reduce,) = named("conv", "positions(by=reduce)")
    assert not reduce.unsupported(problem, "cpu")
    assert reduce.unsupported(problem, "cuda") == ("49 x 32 x 1 sums are more than a GPU's compiler can keep",)


def lowered(fn: Callable[..., Any], platform: str, *args: jax.Array | jax.ShapeDtypeStruct) -> str:
    return str(export.export(jax.jit(fn), platforms=[platform])(*args).mlir_module())


def test_weight_gradients_of_groups_stay_groups_of_the_batch() -> None:
    x, w = jnp.ones((2, 12, 12, 8)), jnp.ones((3, 3, 1, 8))

    def gradient(w: jax.Array, x: jax.Array) -> jax.Array:
        return jax.grad(lambda w: jnp.sum(convjax.conv(x, w, groups=8, algorithm="lax")))(w)

    assert "batch_group_count = 8" in lowered(gradient, "cuda", w, x)
    assert "batch_group_count = 8" not in lowered(gradient, "cpu", w, x)


def test_a_dilated_input_is_convolved_as_an_input_gradient() -> None:
    x, w = jnp.ones((2, 12, 12, 8)), jnp.ones((4, 4, 8, 16))

    def fn(x: jax.Array, w: jax.Array) -> jax.Array:
        return convjax.conv_transpose(x, w, strides=2, algorithm="lax")

    text = lowered(fn, "cuda", x, w)
    assert re.search(r"reverse.*\n.*optimization_barrier.*\n.*reverse", text)
    assert "optimization_barrier" not in lowered(fn, "cpu", x, w)
    expected = convjax.conv_transpose(x, w, strides=2, algorithm="im2col")
    assert jnp.allclose(jax.jit(fn)(x, w), expected, rtol=1e-5, atol=1e-4)


def test_transforms_are_of_all_groups_at_once_where_they_run_side_by_side() -> None:
    x, w = jnp.ones((2, 64, 64, 64)), jnp.ones((15, 15, 1, 64))

    def fn(x: jax.Array, w: jax.Array) -> jax.Array:
        return convjax.conv(x, w, groups=64, algorithm="fft")

    assert "stablehlo.while" in lowered(fn, "cpu", x, w)
    text = lowered(fn, "cuda", x, w)
    assert "stablehlo.while" not in text
    assert "tensor<128x64x64xf32>" in re.search(r"stablehlo.fft .*", text)[0]  # type: ignore[index]


def test_transforms_are_of_fewer_groups_where_all_need_too_much_memory() -> None:
    (fft,) = named("conv", "fft")
    for groups in (64, 61):
        problem = ConvSpec.parse(
            f"conv bfloat16[2,64,64,{groups}] bfloat16[31,31,1,{groups}] b01f_01io->b01f feature_groups={groups}"
        )
        assert (
            not dict(explain_problem(problem, platform="cuda").rows[0].rejected)
            .get(str(fft), ("",))[0]
            .startswith("needs")
        )


def test_maxima_are_xlas_own_on_gpus_alone() -> None:
    def fn(x: jax.Array) -> jax.Array:
        return convjax.max_pool(x, 3, algorithm="lax")

    x = jnp.ones((1, 9, 9, 4))
    assert "stablehlo.compare" in lowered(fn, "cpu", x)  # the order of NaN, spelled out
    assert "stablehlo.compare" not in lowered(fn, "cuda", x)


def test_passes_over_windows_are_in_no_bands_on_gpus() -> None:
    def fn(x: jax.Array) -> jax.Array:
        return convjax.max_pool(x, 8, strides=1, padding="SAME", algorithm="separable")

    x = jax.ShapeDtypeStruct((32, 8192, 192), "float32")
    assert "stablehlo.while" in lowered(fn, "cpu", x)
    assert "stablehlo.while" not in lowered(fn, "cuda", x)


@pytest.mark.parametrize(("taps", "barriers"), [(4, 0), (31, 1)])
def test_lines_are_padded_once_where_many_taps_read_them(taps: int, barriers: int) -> None:
    def fn(x: jax.Array, w: jax.Array) -> jax.Array:
        return convjax.conv(x, w, groups=64, padding="CAUSAL", algorithm="shift(by=multiply)")

    text = lowered(fn, "cuda", jnp.ones((2, 400, 64)), jnp.ones((taps, 1, 64)))
    assert text.count("stablehlo.optimization_barrier") == barriers
    assert text.count("stablehlo.pad") == 1


def test_short_programs_run_in_a_row_where_the_host_is_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def executable() -> jax.Array:
        nonlocal calls
        calls += 1
        return jnp.zeros(())

    program = timing.Program(executable, (), 0.0)
    budgets = {"": timing.Budget(0.0, 4, 4)}
    counts = {}
    for behind in (False, True):
        monkeypatch.setattr(timing.Program, "is_behind_host", behind)
        calls = 0
        samples = timing.interleave({"": program}, budgets)
        assert len(samples[""]) == 4
        counts[behind] = calls
    assert counts[True] - counts[False] == 4 * 9 + 1  # one tells that it is short


def test_a_row_counts_as_the_calls_that_it_is() -> None:
    budget = timing.Budget(1.0, 2, 100)
    assert budget.spent([0.1, 0.1], calls=10)
    assert not budget.spent([0.1, 0.1])


@pytest.mark.parametrize("kind", _ON_GPUS)
def test_a_calibration_measures_mostly_what_it_is_for(kind: str) -> None:
    algorithm, text = _ON_GPUS[kind]
    cost = cost_on("cuda", algorithm, ConvSpec.parse(text))
    assert cost is not None
    device = devices()["cuda"]
    assert getattr(cost, kind) / getattr(device, kind) > 0.4 * device.seconds(cost)
