"""Large windows followed in stages: the same winners as in one, in less work, added up in one accumulator."""

import dataclasses
import math

import jax
import numpy as np
import pytest

import convjax
from convjax.problem import WindowSpec
from convjax.testing import reference_max_vjp, reference_window
from convjax.window_stages import stages

# By axes, by blocks and by both; blocks that padding, dilation or a short axis could leave without an element.
LARGE = [
    WindowSpec.parse(text)
    for text in (
        "max float32[2,9,11,3] window=1x7x9x1 pad=0_0x3_3x4_4x0_0",
        "min float32[2,13,12] window=1x7x9 stride=1x2x1 pad=0_0x3_0x-1_5",
        "max float32[40,30] window=24x13 pad=12_12x6_7",
        "max float32[71] window=64 pad=63_63",
        "min float32[3] window=23 pad=22_21",
        "max float32[1,90] window=1x63 stride=1x2 pad=0_0x60_12",
        "max float32[90] window=25 pad=48_30 window_dilate=2",
        "max float32[4] window=25 pad=71_72 window_dilate=3",
        "max float32[5,20,6] window=1x16x5 stride=2x1x1 pad=1_0x8_7x2_2",
        "max float32[12,10,11] window=5x4x6 pad=2_2x0_0x5_0",
    )
]


@pytest.mark.parametrize("problem", LARGE, ids=str)
def test_the_first_winner_of_a_window_is_found_in_stages(problem: WindowSpec) -> None:
    chain = stages(problem)
    assert len(chain) > 1
    rng = np.random.default_rng(0)
    x = rng.choice([-np.inf, np.inf, 0.0, 1.0, np.nan], problem.shape, p=[0.5, 0.02, 0.3, 0.16, 0.02]).astype(
        np.float32
    )
    cotangent = rng.integers(-4, 5, problem.windows_shape).astype(np.float32)
    values, gradient, taps = x, cotangent, []
    for stage in chain:
        taps.append(reference_window(dataclasses.replace(stage, operation=f"arg{problem.operation}"), values))
        values = reference_window(stage, values)
    for stage, tap in zip(reversed(chain), reversed(taps), strict=True):
        gradient = reference_window(dataclasses.replace(stage, operation="put"), gradient, tap)
    np.testing.assert_array_equal(values, reference_window(problem, x))
    np.testing.assert_array_equal(gradient, reference_max_vjp(problem, x, cotangent))


def test_work_grows_with_the_logarithm_of_the_window() -> None:
    for window in (64, 301, 4001, 100_000):
        chain = stages(WindowSpec.parse(f"max float32[200000] window={window}"))
        assert sum(stage.taps for stage in chain) <= 6 * math.log(window, 4), window


def test_windows_that_are_as_fast_at_once_are_left_whole() -> None:
    for text in (
        "max float32[2,8,8,3] window=1x2x2x1 stride=1x2x2x1",
        "max float32[2,9,9,3] window=1x3x3x1 stride=1x2x2x1 pad=0_0x1_1x1_1x0_0",
        "max float32[64] window=5",
        "max float32[0,40] window=9x9",
    ):
        problem = WindowSpec.parse(text)
        assert stages(problem) == (problem,)


def test_half_precisions_are_added_up_in_float32() -> None:
    """Rounded between the stages, 257 windows of a column would bring 256 to their row."""
    x = jax.ShapeDtypeStruct((1, 600, 32, 1), "bfloat16")
    gradient = jax.grad(lambda x: convjax.max_pool(x, (257, 17), strides=1).sum())
    puts = [row.problem for row in convjax.explain(gradient, x, platform="cpu").rows if row.problem.operation == "put"]
    assert len(puts) > 1
    assert {put.dtype for put in puts} == {"float32"}
    assert jax.eval_shape(gradient, x) == x


def test_explain_shows_the_stages() -> None:
    x = jax.ShapeDtypeStruct((1, 64, 64, 8), np.float32)
    gradient = jax.grad(lambda x: convjax.max_pool(x, 13, strides=1).sum())
    rows = [row for row in convjax.explain(gradient, x, platform="cpu").rows if row.role == "dgrad"]
    chain = stages(WindowSpec.parse("max float32[1,64,64,8] window=1x13x13x1"))
    assert [row.problem.windows_shape for row in rows if row.problem.operation == "argmax"] == [
        stage.windows_shape for stage in chain
    ]
    assert len([row for row in rows if row.problem.operation == "put"]) == len(chain)
