"""Sums by prefix sums of blocks: the definition at every place in a block, the error stated, when they are taken."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from transforms import two_devices

import convjax
from convjax.algorithms.window.summed_area import SummedArea
from convjax.choose import choose
from convjax.device import Device
from convjax.problem import WindowSpec
from convjax.request import request
from convjax.target import Target
from convjax.testing import check_algorithm

# Windows that end with a block, begin in the last, are longer than x, dilated, cropped, over one axis or all.
PROBLEMS = [
    WindowSpec.parse(text)
    for text in (
        "sum float32[2,36,3] window=1x12x1 stride=1x12x1",
        "sum float32[2,37,3] window=1x13x1 pad=0_0x6_6x0_0",
        "sum float32[9,7] window=15x1 pad=14_14x0_0",
        "sum float64[2,41,2] window=1x5x1 stride=1x3x1 window_dilate=1x4x1 pad=0_0x-2_7x0_0",
        "sum float32[9,12,11] window=3x8x2 stride=1x2x3 base_dilate=1x2x3",
        "sum bfloat16[2,30,31,2] window=1x9x30x1 pad=0_0x4_4x15_14x0_0",
        "sum int8[70] window=37",
        "sum complex64[3,20] window=2x6 stride=1x2",
    )
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_values(problem: WindowSpec) -> None:
    assert check_algorithm(SummedArea(), [problem], eager=False) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_the_windows_that_hold_it(value: float) -> None:
    """Row i holds `value` at i alone, so that it stands at every place in the blocks."""
    x = np.arange(64 * 64, dtype=np.float32).reshape(64, 64) % 7 - 3
    np.fill_diagonal(x, value)
    result = jax.jit(functools.partial(SummedArea(), WindowSpec.parse("sum float32[64,64] window=1x23")))(x)
    want = np.lib.stride_tricks.sliding_window_view(x, 23, axis=1).sum(-1)
    np.testing.assert_array_equal(result, want)


def test_a_large_element_costs_only_its_own_windows_their_digits() -> None:
    """A difference of prefixes would err by 1 or more wherever it follows 1e8."""
    x = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    x[100] = 1e8
    got = np.asarray(jax.jit(functools.partial(SummedArea(), WindowSpec.parse("sum float32[4000] window=64")))(x))
    want = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), 64).sum(-1)
    np.testing.assert_allclose(got[101:], want[101:], atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("window", [300, 20001])
def test_the_error_stated_is_kept(dtype: str, window: int) -> None:
    problem = WindowSpec.parse(f"sum {dtype}[24000] window={window}")
    x = jnp.asarray(np.random.default_rng(window).standard_normal(problem.shape), dtype)
    before = np.concatenate([[0.0], np.cumsum(np.asarray(x, np.float64))])
    want = before[window:] - before[:-window]
    got = np.asarray(jax.jit(functools.partial(SummedArea(), problem))(x), np.float64)
    error = np.max(np.abs(got - want)) / np.max(np.abs(want))
    assert error <= SummedArea().error(problem)
    with convjax.using(max_error=SummedArea().error(problem) / 2), pytest.raises(ValueError, match="states an error"):
        convjax.explain(lambda x: convjax.sum_pool(x[:, None], window, strides=1, algorithm="summed_area"), x)


def test_batches_divided_over_devices_stay_where_they_are() -> None:
    x = jax.device_put(jnp.ones((2, 24, 20, 8)), NamedSharding(two_devices(), PartitionSpec("batch")))
    pool = functools.partial(convjax.sum_pool, window=9, strides=1, algorithm="summed_area")
    program = jax.jit(jax.value_and_grad(lambda x: pool(x).sum())).lower(x).compile().as_text()
    assert not re.findall("all-gather|all-to-all|collective-permute", program)


def test_only_sums_have_prefix_sums() -> None:
    assert SummedArea().unsupported(WindowSpec.parse("max float32[9] window=3"), "cpu") == ("max is no sum",)
    (reason,) = SummedArea().unsupported(WindowSpec.parse("sum float32[9] window=1 stride=2"), "cpu")
    assert "one tap" in reason
    with pytest.raises(ValueError, match="summed_area"):
        convjax.explain(lambda x: convjax.max_pool(x, 3, algorithm="summed_area"), jnp.ones((1, 9, 1)))


def test_taken_where_they_are_faster() -> None:
    """As measured: on long rows that stay in cache, for windows of two hundred taps and more."""
    device = Device(gemm=5.8e10, vector=4.1e9, library=3.3e10, scalar=2.8e8, memory=1.7e10, call=1.4e-5)

    def taken(text: str) -> str:
        problem = WindowSpec.parse(text)
        with convjax.using(device=device):
            return choose(problem, request(None, "sum"), Target("cpu")).algorithm.name

    for text in (
        "sum float32[1,512,64,16] window=1x255x1x1 pad=0_0x127_127x0_0x0_0",
        "sum float32[1,2048,256] window=1x255x1 pad=0_0x127_127x0_0",
        "sum float32[1,1000,512] window=1x301x1",
    ):
        assert taken(text) == "summed_area", text
    for text in (
        "sum float32[4,128,128,32] window=1x127x127x1 pad=0_0x63_63x63_63x0_0",
        "sum float32[2,256,128,8] window=1x127x1x1 pad=0_0x63_63x0_0x0_0",
        "sum float32[1,4096,64] window=1x1025x1",
        "sum float32[1,3000,256] window=1x63x1",
        "sum float32[1,8192,512] window=1x1001x1 pad=0_0x500_500x0_0",
        "sum float32[8,100000] window=1x5001",
    ):
        assert taken(text) == "doubling", text
