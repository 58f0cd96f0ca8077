"""Matrix products of few rows or few terms, of which either thread takes half of the large operand."""

import jax
import pytest

from convjax.algorithms.conv.im2col import Im2col
from convjax.problem import parse
from convjax.target import Target, compiling_for
from convjax.testing import check_algorithm

PRODUCTS = [
    "conv float32[2,3,5,512] float32[1,1,256,512] b01f_01oi->b01f",  # an input gradient of few rows
    "conv bfloat16[1,2,2,512] bfloat16[1,1,256,512] b01f_01oi->b01f",
    "conv float32[2,1,4,512] float32[2,1,4,256] f01b_i01o->01bf",  # a weight gradient of few terms
    "conv float32[3,512] float32[3,256] fb_io->bf",
]


@pytest.mark.parametrize("text", PRODUCTS)
def test_halves_are_the_whole(text):
    problem = parse(text)
    operands = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in ((problem.lhs_shape, problem.lhs_dtype), (problem.rhs_shape, problem.rhs_dtype))
    ]
    with compiling_for(Target("cpu", portable=True)):
        program = jax.jit(Im2col().__call__, static_argnums=0).lower(problem, *operands).as_text()
    assert "batching_dims = [0] x [0]" in program
    assert check_algorithm(Im2col(), [problem], eager=False) == 1
