"""Depthwise and grouped programs where small samples do not reach: clipped taps, loops over taps, channels and
positions, changed roles, joined groups, Winograd's products as a loop.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convjax.algorithms.conv import many_groups, multiply_add, narrow_groups, position_sums
from convjax.algorithms.conv.positions import Positions
from convjax.algorithms.conv.shift import Shift
from convjax.algorithms.conv.winograd import Winograd
from convjax.problem import parse
from convjax.testing import check_algorithm, random_operands


@pytest.mark.parametrize(
    "text",
    [
        "conv float32[2,3,4,6] float32[7,5,1,6] b01f_01io->b01f pad=3_3x2_2 feature_groups=6",
        "conv float32[2,5,3,4] float32[6,4,2,6] b01f_01io->b01f stride=2x1 lhs_dilate=1x2 rhs_dilate=2x1 pad=7_6x4_3"
        " feature_groups=2",
        "conv bfloat16[1,9,9,3] bfloat16[9,10,1,3] b01f_01io->b01f pad=5_4x4_4 feature_groups=3",
    ],
)
def test_a_kernel_larger_than_its_input_changes_roles_with_it(text):
    problem = parse(text)
    assert multiply_add._roles_change(problem)
    check_algorithm(Shift("multiply"), [problem], eager=False)


@pytest.mark.parametrize(
    "text",
    [
        "conv float32[1,9,8,18] float32[5,5,1,18] b01f_01io->b01f pad=2_2x2_2 feature_groups=18",
        "conv float32[2,9,11,32] float32[3,3,2,32] b01f_01io->b01f stride=1x2 rhs_dilate=4x12 pad=5_9x12_13"
        " feature_groups=16",
        "conv bfloat16[2,9,7,17] bfloat16[3,2,1,34] b01f_01io->b01f stride=2x3 pad=-1_9x8_-3 feature_groups=17",
        "conv float32[1,3,4,5,16] float32[2,2,3,1,16] b012f_012io->b012f pad=1_1x1_0x2_2 feature_groups=16",
        "conv float32[2,1,16] float32[4,1,16] b0f_0io->b0f stride=2 pad=9_7 feature_groups=16",
    ],
)
def test_taps_that_padding_clips(text):
    problem = parse(text)
    assert multiply_add._is_clipped(problem)
    check_algorithm(Shift("multiply"), [problem], eager=False)


@pytest.mark.parametrize(
    "text",
    [
        "conv float32[1,9,8,6] float32[5,5,1,6] b01f_01io->b01f pad=2_2x2_2 feature_groups=6",
        "conv float32[2,9,11,2] float32[3,3,2,20] b01f_01io->b01f stride=1x2 rhs_dilate=4x12 pad=5_9x12_13",
        "conv bfloat16[2,9,7,3] bfloat16[3,2,1,6] b01f_01io->b01f stride=2x3 pad=-1_9x8_-3 feature_groups=3",
    ],
)
def test_rows_of_few_groups_are_padded(text):
    problem = parse(text)
    assert not multiply_add._is_clipped(problem)
    check_algorithm(Shift("multiply"), [problem], eager=False)


@pytest.mark.parametrize("channels", [1, 16])
def test_padding_meets_no_infinity(channels):
    """What a tap would read beyond x is zero, whatever stands at the other edge."""
    problem = parse(
        f"conv float32[1,4,5,{channels}] float32[3,3,1,{channels}] b01f_01io->b01f pad=1_1x1_1"
        f" feature_groups={channels}"
    )
    x = jnp.zeros(problem.lhs_shape).at[0, 1, 4].set(jnp.inf).at[0, 3, 0].set(jnp.nan)
    y = jax.jit(functools.partial(Shift("multiply"), problem))(x, jnp.ones(problem.rhs_shape))[0]
    reached = np.zeros((4, 5, 1), bool)
    reached[:3, 3:] = reached[2:, :2] = True
    np.testing.assert_array_equal(~np.isfinite(y), np.broadcast_to(reached, y.shape))


@pytest.mark.parametrize(
    "text",
    [
        "conv float32[1,6,7,192] float32[7,6,1,192] b01f_01io->b01f pad=3_3x2_3 feature_groups=192",
        "conv bfloat16[2,5,6,200] bfloat16[4,4,2,100] b01f_01io->b01f pad=-1_2x3_-1 feature_groups=100",
        "conv float32[1,3,4,3,104] float32[3,3,3,1,104] b012f_012io->b012f pad=1_1x1_1x0_0 feature_groups=104",
    ],
)
def test_outputs_in_pairs(text, monkeypatch):
    """An even and an odd number of them, and one; by blocks of channels, and several channels a group."""
    monkeypatch.setattr(multiply_add, "_LARGE", 0)
    problem = parse(text)
    assert multiply_add._is_paired(problem)
    check_algorithm(Shift("multiply"), [problem], eager=False)


def test_an_infinity_reaches_no_output_beside_those_of_its_pair_that_meet_it(monkeypatch):
    monkeypatch.setattr(multiply_add, "_LARGE", 0)
    problem = parse("conv float32[1,1,12,100] float32[4,7,1,100] b01f_01io->b01f pad=3_0x0_0 feature_groups=100")
    assert multiply_add._is_paired(problem)
    x = jnp.zeros((1, 1, 12, 100)).at[0, 0, 9, 1].set(jnp.inf)
    y = jax.jit(functools.partial(Shift("multiply"), problem))(x, jnp.ones((4, 7, 1, 100)))
    reached = np.zeros((1, 1, 6, 100), bool)
    reached[..., 3:, 1] = True
    np.testing.assert_array_equal(~np.isfinite(y), reached)


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("conv float32[2,9,8,128] float32[6,5,1,128] b01f_01io->b01f pad=2_3x2_2 feature_groups=128", 4),
        ("conv float32[1,7,8,128] float32[4,4,2,64] b01f_01io->b01f stride=2x1 lhs_dilate=1x2 feature_groups=64", 2),
        ("conv float32[1,7,8,131] float32[6,5,1,131] b01f_01io->b01f pad=2_3x2_2 feature_groups=131", 1),
    ],
)
def test_many_taps_by_blocks_of_channels(text, blocks, monkeypatch):
    monkeypatch.setattr(multiply_add, "_LARGE", 0)
    problem = parse(text)
    assert multiply_add._equal_blocks(problem) == blocks
    check_algorithm(Shift("multiply"), [problem], eager=False)


@pytest.mark.parametrize(
    ("text", "axes"),
    [
        ("conv float32[2,12,11,3] float32[9,9,1,3] b01f_01io->b01f stride=2x1 pad=4_4x4_4 feature_groups=3", 1),
        ("conv float32[1,24,13,2] float32[8,10,1,2] b01f_01io->b01f rhs_dilate=2x1 pad=3_4x0_0 feature_groups=2", 1),
        ("conv float32[1,6,7,6,3] float32[3,5,5,3,2] b012f_012io->b012f stride=2x2x1 pad=1_1x2_2x2_2", 2),
        ("conv float32[1,90,3] float32[70,1,3] b0f_0io->b0f pad=3_0 feature_groups=3", 1),
    ],
)
def test_taps_of_leading_axes_in_a_loop(text, axes):
    problem = parse(text)
    assert multiply_add._rolled_axes(problem) == axes
    check_algorithm(Shift("multiply"), [problem], eager=False)


@pytest.mark.parametrize(
    ("text", "looped"),
    [
        ("conv float32[2,20,20,3] float32[2,14,14,3] f01b_i01o->01bf batch_groups=3", True),
        ("conv float32[2,32,27,3] float32[2,14,23,3] f01b_i01o->01bf rhs_dilate=2x1 pad=0_1x1_1 batch_groups=3", True),
        ("conv float32[2,23,3] float32[2,23,3] f0b_i0o->0bf pad=1_1 batch_groups=3", False),
        ("conv float32[2,16,16,1] float32[2,14,14,5] f01b_i01o->01bf", False),
        ("conv float32[3,19,17,1] float32[3,9,15,16] f01b_i01o->01bf rhs_dilate=2x1 pad=1_0x2_-1", False),
        ("conv float32[1,23,2] float32[13,2,40] b0f_0io->b0f stride=2 pad=3_3", False),  # of one image
        ("conv bfloat16[2,4,5,6,1] bfloat16[2,3,4,5,3] f012b_i012o->012bf pad=0_1x1_1x1_1", False),
    ],
)
def test_sums_of_stretches(text, looped):
    """Where the positions of one axis are looped over, where stretches do not divide a row, and of a single channel."""
    problem = parse(text)
    assert position_sums.in_stretches(problem, Positions("reduce")._axes(problem))
    assert position_sums.is_looped(problem) is looped
    check_algorithm(Positions("reduce"), [problem], eager=False)


@pytest.mark.parametrize(
    "text",
    [
        "conv float32[2,18,22,3] float32[2,9,11,3] f01b_i01o->01bf pad=1_0x0_1 rhs_dilate=2x2 batch_groups=3",
        "conv bfloat16[2,8,8,3] bfloat16[2,8,8,3] f01b_i01o->01bf pad=2_2x-1_2 batch_groups=3",
        "conv float32[2,23,3] float32[2,23,3] f0b_i0o->0bf stride=2 pad=3_3 batch_groups=3",
        "conv float32[2,18,22,1] float32[2,9,11,7] f01b_i01o->01bf pad=1_0x0_1 rhs_dilate=2x2",
        "conv float32[1,24,12,3] float32[23,11,1,3] b01f_01io->b01f stride=2x1 pad=1_1x0_1 feature_groups=3",
        "conv float32[1,25,12,3] float32[8,11,1,3] b01f_01io->b01f stride=5x1 rhs_dilate=2x1 pad=1_3x0_1"
        " feature_groups=3",
    ],
)
def test_sums_of_slabs(text, monkeypatch):
    """What padding touches apart from what it does not."""
    monkeypatch.setattr(position_sums, "_LARGE", 0)
    problem = parse(text)
    assert position_sums.in_slabs(problem, Positions("reduce")._axes(problem))
    check_algorithm(Positions("reduce"), [problem], eager=False)


@pytest.mark.parametrize(
    "text",
    [
        "conv float32[2,6,7,64] float32[3,3,4,32] b01f_01io->b01f pad=1_1x-1_2 feature_groups=16",
        "conv float32[2,6,7,80] float32[3,3,5,48] b01f_01io->b01f stride=2x1 rhs_dilate=1x2 pad=1_1x0_2"
        " feature_groups=16",
        "conv bfloat16[2,9,34] bfloat16[20,2,51] b0f_0io->b0f lhs_dilate=2 pad=3_2 feature_groups=17",
        "conv float32[6,5,6,32] float32[6,3,2,32] f01b_i01o->01bf pad=1_0x0_1 batch_groups=16",
    ],
)
def test_groups_that_fill_vectors(text):
    problem = parse(text)
    assert many_groups.fill_vectors(problem)
    check_algorithm(Shift("multiply"), [problem], eager=False)


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("conv float32[2,23,16] float32[2,23,24] f0b_i0o->0bf pad=1_1 batch_groups=4", 2),
        (
            "conv float32[3,9,8,12] float32[3,4,5,8] f01b_i01o->01bf stride=2x1 rhs_dilate=2x1 pad=0_1x-1_2"
            " batch_groups=4",
            4,
        ),
        ("conv bfloat16[3,9,6] bfloat16[3,6,10] f0b_i0o->0bf lhs_dilate=2 rhs_dilate=3 pad=1_0 batch_groups=2", 2),
        ("conv float32[1,3,4,6,40] float32[3,2,5,2,60] b012f_012io->b012f pad=1_1x0_0x0_0 feature_groups=20", 5),
        ("conv int8[2,7,32] int8[2,5,32] f0b_i0o->0bf batch_groups=16 out=int32", 8),
    ],
)
def test_products_of_narrow_groups_in_turn(text, joined):
    problem = parse(text)
    algorithm = Positions("dot")
    assert narrow_groups.are_narrow(problem, algorithm._axes(problem))
    assert not narrow_groups._are_sums(problem)
    assert narrow_groups.joined_groups(problem) == joined
    check_algorithm(algorithm, [problem], eager=False)


@pytest.mark.parametrize(
    "text",
    [
        "conv float32[2,7,8,32] float32[2,7,8,64] f01b_i01o->01bf pad=1_1x1_1 batch_groups=8",
        "conv float32[3,9,12,20] float32[3,4,5,16] f01b_i01o->01bf stride=2x1 rhs_dilate=2x1 pad=0_1x-1_2"
        " batch_groups=4",
        "conv bfloat16[3,9,8] bfloat16[3,6,10] f0b_i0o->0bf lhs_dilate=2 rhs_dilate=3 pad=1_0 batch_groups=2",
        "conv float32[2,7,9,8,16] float32[2,5,8,8,16] f012b_i012o->012bf pad=0_0x1_0x1_1 batch_groups=4",
        "conv int8[2,9,16] int8[2,8,32] f0b_i0o->0bf batch_groups=4 out=int32",
    ],
)
def test_sums_of_narrow_groups_in_turn(text):
    problem = parse(text)
    algorithm = Positions("dot")
    assert narrow_groups.are_narrow(problem, algorithm._axes(problem))
    assert narrow_groups._are_sums(problem)
    check_algorithm(algorithm, [problem], eager=False)
    lowered = jax.jit(lambda x, w: algorithm(problem, x, w)).lower(*random_operands(problem, 0)).as_text()
    assert "stablehlo.dot_general" not in lowered


@pytest.mark.parametrize(
    "text",
    [
        "conv float32[2,9,11,18] float32[3,3,9,20] b01f_01io->b01f pad=1_1x-1_2 feature_groups=2",
        "conv float32[3,7,10,6] float32[24,2,2,2] b01f_o01i->b01f pad=0_3x2_2 lhs_dilate=1x2 feature_groups=3",
        "conv float32[2,6,8,9,4] float32[1,3,2,2,16] b012f_012io->b012f pad=1_0x1_1x0_1 feature_groups=2",
        "conv bfloat16[4,23,3] bfloat16[3,3,16] b0f_0io->b0f pad=1_0 batch_groups=2",
    ],
)
@pytest.mark.parametrize("tile", [2, 4])
def test_winograd_of_narrow_groups(text, tile):
    problem, algorithm = parse(text), Winograd(tile)
    assert algorithm._are_fused(problem)
    check_algorithm(algorithm, [problem], eager=False)
