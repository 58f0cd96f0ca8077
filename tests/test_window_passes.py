"""Windows reduced axis by axis: each pass is computed once, work grows as it should, and long windows stay right."""

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from transforms import two_devices

import convjax
from convjax.algorithms.bands import KEPT_BYTES
from convjax.algorithms.window import passes as window_passes
from convjax.algorithms.window.doubling import Doubling
from convjax.algorithms.window.passes import passes
from convjax.algorithms.window.separable import Separable
from convjax.problem import WindowSpec
from convjax.testing import check_algorithm

Window = Separable | Doubling
# Taps around the powers at which another pass begins, and primes, of which nothing is a multiple.
WIDE = [
    WindowSpec.parse(text)
    for text in (
        "max float32[2,37,3] window=1x8x1 stride=1x3x1 pad=0_0x4_4x0_0 window_dilate=1x3x1",
        "sum float32[2,37,3] window=1x13x1 pad=0_0x6_6x0_0",
        "min bfloat16[2,70,3] window=1x31x1 stride=1x2x1 pad=0_0x30_15x0_0",
        "sum float16[1,70,2] window=1x32x1 pad=0_0x31_0x0_0",
        "sum int8[70] window=37",
        "argmax float32[2,70,3] window=1x33x1 pad=0_0x32_32x0_0",
        "argmin float32[2,19,23,3] window=1x9x13x1 pad=0_0x4_4x6_6x0_0",
        "argmax float32[19,2,23] window=8x1x11 stride=2x1x3 pad=7_7x0_0x12_12",
        "max float32[2,3,19,23] window=1x1x9x13 stride=1x1x1x2 pad=0_0x0_0x-1_4x6_6",
        "sum float32[9,12,11] window=3x8x2 base_dilate=1x2x3",
    )
]


def flops(algorithm: Window, problem: WindowSpec) -> float:
    """Counted in the compiled program."""
    x = jax.ShapeDtypeStruct(problem.shape, problem.dtype)
    return float(jax.jit(functools.partial(algorithm, problem)).lower(x).compile().cost_analysis()["flops"])


@pytest.mark.parametrize("problem", WIDE, ids=str)
def test_wide_windows(problem: WindowSpec) -> None:
    assert check_algorithm(Doubling(), [problem], eager=False) == 1


def test_windows_of_one_tap_may_be_padded() -> None:
    problem = WindowSpec.parse("sum float32[2,3,2] window=1x1x1 pad=0_0x0_2x1_0 base_dilate=1x3x1")
    assert check_algorithm(Separable(), [problem], eager=False) == 1
    assert Separable().cost(problem).workspace >= 0


def combined(problem: WindowSpec, widths: tuple[int, ...]) -> int:
    """Elements combined by all passes of a window that is widened so."""
    return sum((p.slices - 1) * math.prod(p.shape) for along in passes(problem, lambda _: widths) for p in along)


def test_every_pass_is_computed_once() -> None:
    """Fused into the next, a pass would be computed again for each of that one's slices."""
    problem = WindowSpec.parse("sum float32[2,40,40,8] window=1x3x5x1")
    per_output = flops(Separable(), problem) / math.prod(problem.windows_shape)
    assert 6 <= per_output <= 6.5  # 2 and 4 additions, those of the first pass on a few more elements

    problem = WindowSpec.parse("max float32[1,4096] window=1x32")
    assert flops(Doubling(), problem) == pytest.approx(combined(problem, (2, 8, 32)), rel=0.01)


@pytest.mark.parametrize("operation", ["max", "sum"])
def test_work_grows_with_the_logarithm_of_the_window(operation: str) -> None:
    windows = [9, 128, 2048]
    work = []
    for window in windows:
        problem = WindowSpec.parse(f"{operation} float32[1,{window + 4095}] window=1x{window}")
        work.append(flops(Doubling(), problem) / 4096)
    for window, per_output in zip(windows, work, strict=True):
        # At most six combined with the first in each pass, on up to 1.5 times as many elements as there are outputs.
        assert per_output <= 6 * 1.5 * math.log(window, 4), (window, per_output)
    assert work[-1] < 5 * work[0]
    assert flops(Separable(), WindowSpec.parse(f"{operation} float32[1,4222] window=1x127")) > 125 * 4096


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_the_windows_that_hold_it(value: float) -> None:
    """Row i holds `value` at i alone, so that it stands at every place in the blocks once."""
    x = np.arange(64 * 64, dtype=np.float32).reshape(64, 64) % 7 - 3
    np.fill_diagonal(x, value)
    problems = [WindowSpec.parse(f"{op} float32[64,64] window=1x23") for op in ("max", "min", "sum")]
    results = jax.jit(lambda x: [Doubling()(problem, x) for problem in problems])(x)
    windows = np.lib.stride_tricks.sliding_window_view(x, 23, axis=1)
    for result, reduce in zip(results, (np.max, np.min, np.sum), strict=True):
        np.testing.assert_array_equal(result, reduce(windows, axis=-1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_long_sums_keep_the_error_stated(dtype: str) -> None:
    problem = WindowSpec.parse(f"sum {dtype}[24000] window=20001")
    x = jnp.asarray(np.random.default_rng(0).standard_normal(problem.shape), dtype)
    before = np.concatenate([[0.0], np.cumsum(np.asarray(x, np.float64))])
    want = before[20001:] - before[:-20001]
    got = np.asarray(jax.jit(functools.partial(Doubling(), problem))(x), np.float64)
    assert np.max(np.abs(got - want)) <= Doubling().error(problem) * np.max(np.abs(want))


@pytest.mark.parametrize("in_bands", [False, True])
def test_batches_divided_over_devices_stay_where_they_are(in_bands: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if in_bands:
        monkeypatch.setattr(window_passes, "KEPT_BYTES", 2**16)
        monkeypatch.setattr(window_passes, "_BAND_BYTES", 2**14)
    x = jnp.ones((2, 24, 24, 7 if in_bands else 8))  # equal problems lower to one function
    x = jax.device_put(x, NamedSharding(two_devices(), PartitionSpec("batch")))
    pool = functools.partial(convjax.max_pool, window=13, strides=1, padding="SAME", algorithm="doubling")
    program = jax.jit(pool).lower(x).compile().as_text()
    assert ("while" in program) == in_bands
    assert not re.findall("all-gather|all-to-all|collective-permute", program)
    moved = re.findall(r"= (\S+)\[[\d,]*\]\S* all-reduce\(", program)
    assert set(moved) <= {"pred", "s32", "u32"}, moved


def test_elsewhere_passes_are_kept_apart_by_barriers() -> None:
    def fn(x: jax.Array) -> jax.Array:
        return convjax.max_pool(x, 9, strides=1, algorithm="separable")

    exported = jax.export.export(jax.jit(fn), platforms=["cuda"])(jnp.ones((1, 9, 9, 1)))
    assert "optimization_barrier" in exported.mlir_module()


def test_windows_with_nothing_to_double_are_refused() -> None:
    (reason,) = Doubling().unsupported(WindowSpec.parse("max float32[1,9,9,2] window=1x7x7x1"), "cpu")
    assert "nothing to double" in reason
    (reason,) = Separable().unsupported(WindowSpec.parse("sum float32[999] window=129"), "cpu")
    assert "129 taps" in reason
    for operation in ("take", "put"):
        problem = WindowSpec.parse(f"{operation} float32[99] window=9")
        assert all("follows one tap" in a.unsupported(problem, "cpu")[0] for a in (Separable(), Doubling()))


BANDED = [
    WindowSpec.parse(text)
    for text in (
        "max float32[2,23,9,5] window=1x13x4x1 stride=1x2x1x1 pad=0_0x6_6x2_1x0_0",
        "sum float32[2,23,19,3] window=1x11x13x1 pad=0_0x5_5x6_6x0_0",
        "sum bfloat16[3,40,7] window=1x15x1 pad=0_0x7_0x0_0 window_dilate=1x2x1",
        "argmin float32[2,9,23,3] window=1x5x17x1 pad=0_0x2_2x8_8x0_0",
    )
]


@pytest.mark.parametrize("problem", BANDED, ids=str)
def test_axes_are_reduced_in_bands_where_workspace_is_large(
    problem: WindowSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Doubling().cost(problem)
    monkeypatch.setattr(window_passes, "KEPT_BYTES", whole.workspace - 1)
    monkeypatch.setattr(window_passes, "_BAND_BYTES", whole.workspace / 4)
    assert Doubling().cost(problem).workspace < whole.workspace
    check_algorithm(Doubling(), [problem], eager=False)


def test_large_problems_have_little_workspace() -> None:
    """Above 32 MB every page of it costs a fault in every run."""
    algorithms = (Separable(), Doubling())
    for operation, window, algorithm in [
        *itertools.product(("max", "sum"), (63, 127), algorithms[1:]),
        ("sum", 9, *algorithms[:1]),
    ]:
        side = (window - 1) // 2
        text = f"{operation} float32[4,128,128,32] window=1x{window}x{window}x1 pad=0_0x{side}_{side}x{side}_{side}x0_0"
        problem = WindowSpec.parse(text)
        x = jax.ShapeDtypeStruct(problem.shape, problem.dtype)
        program = jax.jit(functools.partial(algorithm, problem)).lower(x).compile()
        held = program.memory_analysis().temp_size_in_bytes
        assert held < KEPT_BYTES, (text, held)
        assert held == pytest.approx(algorithm.cost(problem).workspace, rel=0.1), text
