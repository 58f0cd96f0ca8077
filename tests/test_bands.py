"""Loops over bands: what is done band by band is what is done at once, overlaps counted once."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from transforms import products

from convjax.algorithms.bands import Bands
from convjax.algorithms.conv import fft, positions, winograd, winograd_taps
from convjax.algorithms.conv.split import Split
from convjax.problem import parse
from convjax.testing import check_algorithm, random_operands, reference


@pytest.mark.parametrize("sizes", [(1,), (7,), (2, 56), (3, 55, 55), (5, 13), (8, 1, 7)])
def test_blocks_cover_their_axes_once(sizes):
    """With at least as many elements as wanted, and no more than about twice as many an axis."""
    for wanted in (0.3, 2, 40, 10**6):
        bands = Bands.of(sizes, wanted)
        seen = np.zeros(sizes, int)

        def mark(seen, offsets, bands=bands):
            new = bands.first_seen(offsets)
            block = lax.dynamic_slice(seen, offsets, bands.lengths)
            return lax.dynamic_update_slice(seen, block + (1 if new is None else new), offsets)

        np.testing.assert_array_equal(bands.fold(mark, jnp.asarray(seen)), 1)
        block = np.prod(bands.lengths)
        assert min(wanted, np.prod(sizes)) <= block <= max(1, wanted) * 2 ** len(sizes)


def test_blocks_divide_their_axis_where_they_can():
    assert Bands.of((1, 224, 224), 455).lengths == (1, 4, 224)
    assert Bands.of((8, 13), 4).lengths == (1, 5)


def test_no_block_of_an_empty_axis():
    assert Bands.of((0, 4), 2).count == 0
    assert Bands.of((0, 4), 2).fold(lambda *_: pytest.fail("nothing to do"), jnp.zeros(3)).shape == (3,)


WINOGRAD = [
    "conv float32[2,11,9,3] float32[3,3,3,4] b01f_01io->b01f pad=1_1x1_1",
    "conv float32[3,7,10,2] float32[2,5,2,3] b01f_01io->b01f pad=0_3x2_2 lhs_dilate=1x2",
    "conv float32[2,5,9,8,2] float32[3,3,3,2,3] b012f_012io->b012f pad=1_1x1_1x0_1 rhs_dilate=2x1x1",
    "conv float32[2,23,4] float32[3,2,6] b0f_0io->b0f pad=1_0 feature_groups=2",
    "conv bfloat16[2,3,9,13] bfloat16[4,3,3,3] bf01_oi01->bf01 pad=1_1x1_1",
]


@pytest.mark.parametrize("text", WINOGRAD)
@pytest.mark.parametrize("tile", [2, 4])
def test_winograd_by_bands(text, tile, monkeypatch):
    monkeypatch.setattr(winograd, "_BAND_TILES", 1)
    monkeypatch.setattr(winograd, "_BAND_BYTES", 1)
    monkeypatch.setattr(winograd, "_CACHE", 0)
    problem, algorithm = parse(text), winograd.Winograd(tile)
    assert algorithm._bands(problem).count > 1
    check_algorithm(algorithm, [problem], eager=False)


WINOGRAD_TAPS = [
    "conv float32[3,13,13,5] float32[13,11,5,4] b01f_01io->b01f pad=1_1x0_0",
    "conv float32[2,23,4] float32[22,2,6] b0f_0io->b0f pad=1_0 feature_groups=2",
    "conv float32[2,5,11,14,2] float32[3,9,13,2,3] b012f_012io->b012f pad=1_1x0_0x1_-1 stride=2x1x1",
    "conv bfloat16[3,4,8,7] bfloat16[4,3,13,12] bf01_io01->fb01 pad=0_0x1_0 lhs_dilate=2x2",
]


@pytest.mark.parametrize("text", WINOGRAD_TAPS)
@pytest.mark.parametrize("tile", [2, 4])
def test_winograd_taps_by_bands(text, tile, monkeypatch):
    monkeypatch.setattr(winograd_taps, "_BAND_ROWS", 1)
    monkeypatch.setattr(winograd_taps, "_BAND_BYTES", 1)
    problem, algorithm = parse(text), winograd_taps.WinogradTaps(tile)
    assert algorithm._bands(problem).count > 1
    check_algorithm(algorithm, [problem], eager=False)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (winograd.Winograd, "conv float32[1,138,138,64] float32[3,3,64,64] b01f_01io->b01f"),
        (winograd_taps.WinogradTaps, "conv float32[1,138,138,64] float32[1,136,136,64] f01b_i01o->01bf"),
    ],
)
def test_bands_of_few_terms_are_in_memory_before_they_are_transformed(kind, text):
    """Else XLA fuses the slice of a band into its transforms, whose loops are not vectorised then."""
    problem = parse(text)
    operands = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (problem.lhs_shape, problem.rhs_shape)]
    for tile, conditionals in ((2, 1), (4, 0)):
        algorithm = kind(tile)
        assert algorithm._bands(problem).count > 1
        lowered = jax.jit(lambda *operands, compute=algorithm: compute(problem, *operands)).lower(*operands)
        assert lowered.as_text().count("stablehlo.case") == conditionals


def test_winograd_taps_leave_out_what_is_cropped():
    problem = parse("conv float32[1,9,9,2] float32[5,6,2,3] b01f_01io->b01f pad=0_-2x-1_0")
    x, w = random_operands(problem, 0)
    want = reference(problem, x, w)
    x[:, -2:] = x[:, :, 0] = np.inf
    run = jax.jit(lambda x, w: winograd_taps.WinogradTaps(4)(problem, x, w))
    np.testing.assert_allclose(run(x, w), want, rtol=1e-3, atol=1e-4)


POSITIONS = [
    "conv float32[3,13,9,5] float32[11,7,5,4] b01f_01io->b01f pad=0_0x1_1",
    "conv float32[4,15,6] float32[13,6,3] b0f_0io->b0f pad=1_0 stride=2",
    "conv float32[3,9,11,4] float32[4,5,2,6] b01f_01io->b01f pad=1_1x0_0 rhs_dilate=2x2 feature_groups=2",
    "conv float32[2,9,11,24] float32[4,5,4,12] b01f_01io->b01f pad=1_1x0_0 feature_groups=6",
    "conv float32[3,7,6,5] float32[11,10,5,4] b01f_01io->b01f lhs_dilate=2x2 pad=0_1x1_1",
    "conv float32[64,9,6,3] float32[9,7,3,65] b01f_01io->b01f pad=1_1x1_2",
]


@pytest.mark.parametrize("text", POSITIONS)
@pytest.mark.parametrize("rows", [3, 8])
def test_positions_by_bands(text, rows, monkeypatch):
    monkeypatch.setattr(positions, "_BAND_ROWS", rows)
    monkeypatch.setattr(positions, "_BAND_BYTES", 1)
    problem, algorithm = parse(text), positions.Positions("dot")
    assert positions._bands(problem, algorithm._axes(problem)).count > 1
    check_algorithm(algorithm, [problem], eager=False)


def test_overlapping_bands_add_no_infinity_twice(monkeypatch):
    """An element seen again is left out of both operands: infinity times zero would be NaN."""
    monkeypatch.setattr(positions, "_BAND_ROWS", 32)
    monkeypatch.setattr(positions, "_BAND_BYTES", 1)
    problem = parse("conv float32[1,13,9,2] float32[11,7,2,4] b01f_01io->b01f")
    algorithm = positions.Positions("dot")
    bands = positions._bands(problem, algorithm._axes(problem))
    assert any(size % length for size, length in zip(bands.sizes, bands.lengths, strict=True))
    x, w = random_operands(problem, 0)
    run = jax.jit(lambda x, w: algorithm(problem, x, w))
    for row, column in itertools.product(range(0, 13, 3), range(0, 9, 3)):
        spoiled = x.copy()
        spoiled[0, row, column, 0] = np.inf
        np.testing.assert_allclose(run(spoiled, w), reference(problem, spoiled, w), rtol=1e-3, atol=1e-4)


def test_one_position_is_contracted_in_parts():
    problem = parse("conv float32[5,9,9,6] float32[9,9,6,3] b01f_01io->b01f")
    check_algorithm(positions.Positions("dot"), [problem], eager=False)


def test_alike_parts_of_a_kernel_are_written_once():
    problem = parse("conv float32[1,12,12,2] float32[9,9,2,3] b01f_01io->b01f pad=4_4x4_4")
    x, w = random_operands(problem, 0)
    text = jax.jit(lambda x, w: Split(winograd.Winograd(4))(problem, x, w)).lower(x, w).as_text()
    assert products(text) == 2  # the filters' transform and the products


def test_fft_by_bands_of_groups(monkeypatch):
    monkeypatch.setattr(fft, "_BAND_BYTES", 3 * 2**10)
    problem = parse("conv float32[2,9,8,10] float32[7,6,2,15] b01f_01io->b01f pad=3_3x2_3 feature_groups=5")
    assert fft._cached_bands(problem).count > 1
    check_algorithm(fft.FFT(), [problem], eager=False)
