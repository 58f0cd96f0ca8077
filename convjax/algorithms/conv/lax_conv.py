"""XLA's own convolution, as `jax.lax.conv_general_dilated` lowers it: always applies, and the baseline."""

import dataclasses
from typing import ClassVar

import jax
from jax import lax

from convjax.algorithms.numerics import direct_error
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.dtypes import dtype_of
from convjax.problem import ConvSpec


@dataclasses.dataclass(frozen=True)
class Lax:
    """One `convolution` instruction; XLA decides how to run it."""

    name: ClassVar[str] = "lax"
    version: ClassVar[int] = 1
    exact: ClassVar[bool] = True
    __str__ = describe

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        return ()

    def cost(self, problem: ConvSpec) -> Cost:
        """On CPU, XLA has a library call for dense 1-D and 2-D problems and plain loops for the rest."""
        library = problem.groups == 1 and problem.ndim in (1, 2) and problem.lhs_dtype in ("float32", "float16")
        return Cost(
            library=problem.macs if library else 0,
            scalar=0 if library else problem.macs,
            bytes=problem.bytes,
        )

    def error(self, problem: ConvSpec) -> float:
        return direct_error(problem)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            lhs,
            rhs,
            problem.strides,
            problem.padding,
            problem.lhs_dilation,
            problem.rhs_dilation,
            lax.ConvDimensionNumbers(*problem.dimension_numbers),
            problem.feature_groups,
            problem.batch_groups,
            problem.precision,
            None if problem.preferred_element_type is None else dtype_of(problem.preferred_element_type),
        )
