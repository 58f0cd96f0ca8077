"""What negative padding crops away enters no result, however large it is: no zeros of an algorithm take its place."""

import jax
import numpy as np
import pytest

from convjax.algorithms import algorithms
from convjax.problem import ConvSpec
from convjax.target import Target, compiling_for
from convjax.testing import random_operands, reference

PROBLEMS = [
    "conv float32[2,27,20,8] float32[3,3,8,16] b01f_01io->b01f pad=1_1x1_-5",
    "conv float32[2,27,20,8] float32[3,3,8,16] b01f_01io->b01f pad=-3_-4x-5_2",
    "conv float32[1,21,22,8] float32[3,5,4,8] b01f_01io->b01f pad=2_-3x1_-4 feature_groups=2",
    "conv float32[2,23,24,8] float32[3,3,8,8] b01f_01io->b01f pad=1_-4x1_-3 stride=2x2",
    "conv float32[2,23,24,8] float32[3,3,8,8] b01f_01io->b01f pad=1_-4x1_-3 rhs_dilate=2x2",
    "conv float32[2,13,14,8] float32[3,4,8,8] b01f_01io->b01f pad=3_-7x2_-6 lhs_dilate=2x2",
    "conv float32[2,13,14,8] float32[3,4,8,8] b01f_01io->b01f pad=3_-6x2_-5 lhs_dilate=2x3",
    "conv float32[2,17,18,8] float32[16,15,8,8] b01f_01io->b01f pad=1_-1x-2_1",
    "conv float32[1,4096,4] float32[64,4,4] b0f_0io->b0f pad=0_-40",
    "conv float32[2,11,12,16] float32[3,3,1,16] b01f_01io->b01f pad=1_-3x1_-2 feature_groups=16",
    "conv float32[1,3,4] float32[2,4,5] b0f_0io->b0f pad=-5_12",
]


@pytest.mark.parametrize("text", PROBLEMS)
def test_what_is_cropped_enters_no_result(text: str) -> None:
    problem = ConvSpec.parse(text)
    x, w = random_operands(problem, 0)
    x = np.array(x)
    for axis, n, b, (lo, hi) in zip(
        problem.dimension_numbers[0][2:], problem.input, problem.lhs_dilation, problem.padding, strict=True
    ):
        place = np.arange(n) * b
        cropped = (place < -lo) | (place > (n - 1) * b + hi)
        x[(slice(None),) * axis + (cropped,)] = 1e12
    want = np.asarray(reference(problem, x, w))
    largest = np.abs(want).max() or 1.0
    tried = [a for a in algorithms("conv") if not a.unsupported(problem, "cpu")]
    assert len(tried) > 2
    for algorithm in tried:
        with compiling_for(Target("cpu")):
            got = jax.jit(lambda x, w, a=algorithm: a(problem, x, w))(x, w)
        assert np.abs(got - want).max() <= 2 * algorithm.error(problem) * largest, algorithm
