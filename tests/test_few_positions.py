"""Forms that algorithms take for few positions, few channels and many taps: they compute what the others do."""

import jax
import pytest
from transforms import products

from convjax.algorithms.bands import admitted_workspace
from convjax.algorithms.conv import (
    group_loops,
    group_windows,
    kn2row,
    narrow_groups,
    planes,
    positions,
    shift,
    winograd_taps,
)
from convjax.problem import parse
from convjax.testing import check_algorithm, random_operands


@pytest.mark.parametrize(
    "text",
    [
        "conv float32[2,9,8,6] float32[5,7,6,2] b01f_01io->b01f pad=-1_6x3_-2 rhs_dilate=2x1",
        "conv float32[1,6,7,4] float32[6,3,2,2] b01f_01oi->b01f pad=9_8x4_4 feature_groups=2",
        "conv bfloat16[1,30,4] bfloat16[17,4,1] b0f_0io->b0f pad=3_20",
    ],
)
def test_taps_of_large_kernels_are_added_by_rows(text):
    problem = parse(text)
    assert kn2row._turns(problem) == problem.kernel[0]
    check_algorithm(kn2row.Kn2row(), [problem], eager=False)


@pytest.mark.parametrize(
    "text",
    [
        "conv float32[2,1,1,6] float32[3,4,6,5] b01f_01io->b01f stride=2x1 pad=5_6x3_7 rhs_dilate=1x3",
        "conv float32[2,1,1,6] float32[4,4,5,6] b01f_01oi->b01f pad=2_4x3_3",
        "conv float32[3,1,6] float32[4,3,8] b0f_0io->b0f pad=9_3 feature_groups=2",
        "conv float32[1,11,40] float32[4,64,40] b0f_0oi->b0f stride=3 pad=1_1",
        "conv float32[2,3,3,30] float32[2,2,30,30] b01f_01oi->b01f pad=-1_0x-1_1",
    ],
)
def test_products_of_all_taps_are_one(text):
    problem = parse(text)
    assert shift._is_batched(problem)
    check_algorithm(shift.Shift("dot"), [problem], eager=False)
    x, w = random_operands(problem, 0)
    lowered = jax.jit(lambda x, w: shift.Shift("dot")(problem, x, w)).lower(x, w).as_text()
    assert products(lowered) == 1


@pytest.mark.parametrize(
    "text",
    [
        "conv float32[2,5,6] float32[2,20,16] f0b_i0o->0bf pad=5_5 lhs_dilate=4",
        # Strides and dilations leave elements of x over, which lie in no window.
        "conv float32[1,3,3,1] float32[3,2,1,8] b01f_01io->b01f stride=1x2 lhs_dilate=2x1",
        "conv float32[32,2,8,1] float32[1,4,1,64] b01f_01io->b01f stride=2x2 pad=0_0x1_1 lhs_dilate=1x2",
        "conv float32[2,3,4,2] float32[3,2,2,24] b01f_01io->b01f rhs_dilate=1x3 lhs_dilate=2x1",
    ],
)
def test_short_contractions_lie_as_they_are_asked_for(text):
    problem = parse(text)
    algorithm = positions.Positions("dot")
    assert positions._is_short(problem, algorithm._axes(problem))
    check_algorithm(algorithm, [problem], eager=False)


@pytest.mark.parametrize(
    "text",
    [
        "conv float32[2,21,16] float32[2,17,18] f0b_i0o->0bf stride=4",
        "conv float32[2,19,20] float32[2,20,16] f0b_i0o->0bf stride=2 pad=6_-1",
        "conv bfloat16[1,16,17] bfloat16[1,13,16] f0b_i0o->0bf stride=3",
    ],
)
def test_windows_of_a_line_are_multiplied_one_by_one(text):
    problem, algorithm = parse(text), positions.Positions("dot")
    assert positions._is_by_windows(problem, algorithm._axes(problem))
    check_algorithm(algorithm, [problem], eager=False)
    lowered = jax.jit(lambda x, w: algorithm(problem, x, w)).lower(*random_operands(problem, 0)).as_text()
    assert products(lowered) == problem.output[0]


@pytest.mark.parametrize(
    "text",
    [
        "conv float32[3,27,25,2] float32[3,11,12,16] f01b_i01o->01bf stride=1x2 pad=3_2x-1_4 rhs_dilate=2x1",
        "conv float32[5,21,36,1] float32[5,7,9,20] f01b_i01o->01bf pad=1_0x0_2 rhs_dilate=3x4",
        "conv float32[2,9,8,11,2] float32[2,7,3,5,17] f012b_i012o->012bf rhs_dilate=1x2x2",
        "conv bfloat16[3,41,8] bfloat16[3,13,16] f0b_i0o->0bf stride=5 pad=2_2 rhs_dilate=3",
    ],
)
@pytest.mark.parametrize("band_bytes", [2**8, 2**22])
def test_windows_of_planes_are_copied_axis_by_axis(text, band_bytes, monkeypatch):
    monkeypatch.setattr(planes, "_BAND_BYTES", band_bytes)
    problem = parse(text)
    assert planes.are_planes(problem)
    assert (planes._bands(problem).count > 1) == (band_bytes < 2**22)
    check_algorithm(positions.Positions("dot"), [problem], eager=False)
    lowered = jax.jit(lambda x, w: positions.Positions("dot")(problem, x, w)).lower(*random_operands(problem, 0))
    assert products(lowered.as_text()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "conv float32[12,7,8,5] float32[2,5,6,204] f01b_i01o->01bf pad=1_1x0_2 feature_groups=6",
        "conv float32[10,9,11,20] float32[10,4,5,66] f01b_i01o->01bf pad=1_-1x0_1 rhs_dilate=2x2 batch_groups=2",
        "conv float32[33,9,6] float32[8,2,102] b0f_0io->b0f stride=2 pad=3_2 feature_groups=3",
        "conv bfloat16[4,40,3,5,6] bfloat16[64,20,2,3,4] bf012_oi012->bf012 stride=1x2x2 feature_groups=2",
        "conv float32[1,5,6,64] float32[3,4,66,32] b01f_01oi->b01f feature_groups=2",
        "conv float32[4,2,2,66] float32[4,2,2,102] f01b_i01o->01bf pad=1_1x1_1 batch_groups=3",
        "conv float32[4,4,4,34] float32[4,4,4,42] f01b_i01o->01bf pad=1_1x1_1",
        "conv bfloat16[18,2,5,4] bfloat16[17,2,2,3] bf01_oi01->bf01 pad=1_0x2_0 rhs_dilate=2x1",
    ],
)
@pytest.mark.parametrize("turn_bytes", [2**8, 2**30])
def test_windows_of_groups_are_rows_of_one_product_a_turn(text, turn_bytes, monkeypatch):
    monkeypatch.setattr(group_windows, "_TURN_BYTES", turn_bytes)
    problem, algorithm = parse(text), positions.Positions("dot")
    assert group_windows.are_group_windows(problem)
    assert not narrow_groups.are_narrow(problem, algorithm._axes(problem))
    assert (group_windows._turns(problem) > 1) == (turn_bytes < 2**30 and problem.G > 1)
    check_algorithm(algorithm, [problem], eager=False)
    lowered = jax.jit(lambda x, w: algorithm(problem, x, w)).lower(*random_operands(problem, 0)).as_text()
    assert products(lowered) == 1


def test_bands_leave_room_for_the_sums_at_the_points():
    problem, algorithm = (
        parse("conv float32[1,30,30,64] float32[1,22,22,64] f01b_i01o->01bf"),
        winograd_taps.WinogradTaps(4),
    )
    assert algorithm._bands(problem).count > 1
    assert algorithm.cost(problem).workspace <= admitted_workspace(problem)
    check_algorithm(algorithm, [problem], eager=False)


@pytest.mark.parametrize(
    "text",
    [
        "conv float32[2,17,15,12] float32[2,17,15,20] f01b_i01o->01bf pad=1_1x1_1 batch_groups=2",
        "conv float32[3,11,13,24] float32[3,9,13,12] f01b_i01o->01bf pad=2_-1x2_3 batch_groups=3",
        "conv bfloat16[1,29,8] bfloat16[1,25,16] f0b_i0o->0bf batch_groups=2",
        "conv float32[2,7,9,8,8] float32[2,5,8,8,16] f012b_i012o->012bf pad=0_0x1_0x1_1 batch_groups=2",
    ],
)
@pytest.mark.parametrize("tile", [2, 4])
def test_products_of_narrow_groups_are_loops(text, tile):
    problem, algorithm = parse(text), winograd_taps.WinogradTaps(tile)
    assert algorithm._are_fused(problem)
    check_algorithm(algorithm, [problem], eager=False)
    lowered = jax.jit(lambda x, w: algorithm(problem, x, w)).lower(*random_operands(problem, 0)).as_text()
    assert products(lowered) == algorithm._products(problem)  # of the transform back alone


def test_places_that_do_not_divide_are_not_looped_over():
    problem = parse("conv float32[1,169,8] float32[1,167,8] f0b_i0o->0bf batch_groups=2")
    assert not group_loops.can_sum_places(61)
    assert group_loops.can_sum_places(5)
    check_algorithm(winograd_taps.WinogradTaps(4), [problem], eager=False)
