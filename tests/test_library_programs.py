"""What XLA's CPU compiler makes of `lax`: its library's convolution, where it would make plain loops by itself."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import convjax
from convjax.algorithms.bands import admitted_workspace
from convjax.algorithms.conv import library
from convjax.algorithms.conv.lax_conv import Lax
from convjax.problem import parse
from convjax.testing import check_algorithm, random_operands

SWAPPED = [
    "conv float32[2,9,7,6] float32[2,11,9,4] f01b_i01o->01bf pad=2_2x2_2",  # weights of a transposed layer
    "conv float32[2,5,6] float32[8,6,3] b0f_0io->b0f pad=4_5",
    "conv float32[2,4,5,3] float32[6,7,3,2] b01f_01io->b01f pad=5_6x6_5 stride=2x1",
    "conv float32[1,5,5,3] float32[4,8,3,2] b01f_01io->b01f pad=3_3x12_9 rhs_dilate=1x2",
    "conv float32[1,3,4,3] float32[5,5,3,2] b01f_01io->b01f pad=4_4x4_4 lhs_dilate=2x2",
]
AS_THEY_STAND = [
    "conv float32[2,9,7,6] float32[2,9,7,4] f01b_i01o->01bf pad=1_1x1_1",
    "conv float32[2,1,1,6] float32[4,3,6,4] b01f_01io->b01f pad=3_3x2_2",
    "conv float32[2,2,2,6] float32[3,3,1,6] b01f_01io->b01f pad=2_2x2_2 feature_groups=6",
]


@pytest.mark.parametrize("text", SWAPPED)
def test_small_inputs_are_not_made_kernels(text):
    """A kernel that is turned around, as XLA makes one of the smaller operand, is none that the library has."""
    problem = parse(text)
    assert library.is_swapped(problem)
    check_algorithm(Lax(), [problem], eager=False)
    lhs, rhs = random_operands(problem, 0)
    compiled = jax.jit(lambda lhs, rhs: Lax()(problem, lhs, rhs)).lower(lhs, rhs).compile().as_text()
    assert compiled.count(" convolution(") == 1
    assert "rhs_reversal" not in compiled


@pytest.mark.parametrize("text", AS_THEY_STAND)
def test_others_are_computed_as_they_stand(text):
    problem = parse(text)
    assert not library.is_swapped(problem)
    lhs, rhs = random_operands(problem, 0)
    lowered = jax.jit(lambda lhs, rhs: Lax()(problem, lhs, rhs)).lower(lhs, rhs).as_text()
    assert "stablehlo.pad" not in lowered


def test_padding_that_takes_too_much_is_not_written_out():
    problem = parse("conv float32[4096,1,1,64] float32[9,8,64,1] b01f_01io->b01f pad=9_9x9_9")
    assert library.is_swapped(problem)
    assert library.padded_bytes(problem) > admitted_workspace(problem)
    assert not library.is_written_out(problem)


def test_the_weight_gradient_of_a_transposed_layer_is_no_loop():
    x, w = jnp.ones((4, 12, 10, 6)), jnp.ones((3, 3, 6, 16))

    def loss(w):
        return (convjax.conv_transpose(x, w, padding="VALID", algorithm={"wgrad": "lax"}) ** 2).sum()

    stock = jax.grad(lambda w: (lax.conv_transpose(x, w, (1, 1), "VALID", transpose_kernel=False) ** 2).sum())
    assert "rhs_reversal" in jax.jit(stock).lower(w).compile().as_text()
    assert "rhs_reversal" not in jax.jit(jax.grad(loss)).lower(w).compile().as_text()
