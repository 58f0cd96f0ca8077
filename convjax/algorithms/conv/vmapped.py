"""The definition, written for reading: one output position is one inner product, and `vmap` does the rest."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from convjax import layout
from convjax.algorithms.numerics import accumulator, direct_error
from convjax.algorithms.products import product_work, turning_work
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.dtypes import dtype_of, itemsize
from convjax.problem import ConvSpec

_MOST_ELEMENTS = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Vmap:
    """A patch at one position times the kernel, mapped over every position."""

    name: ClassVar[str] = "vmap"
    version: ClassVar[int] = 1
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = ()
    __str__ = describe

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        if _gathered(problem) > _MOST_ELEMENTS:
            return (f"the patches have {_gathered(problem)} elements, more than {_MOST_ELEMENTS} can be indexed",)
        return ()

    def cost(self, problem: ConvSpec) -> Cost:
        gathered = _gathered(problem) * itemsize(problem.lhs_dtype)
        is_one_row = problem.has_few_outputs and problem.ndim == problem.N == problem.C == 1
        terms = problem.C * (problem.taps if is_one_row else 1)
        return Cost(
            gemm=1.3 * product_work(problem.products, terms, problem.K),
            scalar=_gathered(problem) * (0.25 if is_one_row else 1.0),
            bytes=problem.bytes + 4 * gathered + turning_work(problem),
            workspace=2 * gathered,
            calls=4,
        )

    def gathers(self, problem: ConvSpec) -> bool:
        return problem.has_few_outputs

    def error(self, problem: ConvSpec) -> float:
        return direct_error(problem)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        x = layout.pad_spatial(problem, layout.arrange_lhs(problem, lhs, "GNSC"), first=2)
        w = layout.arrange_rhs(problem, rhs, "GSCK").reshape(problem.G, problem.taps * problem.C, problem.K)
        extent = [d * (k - 1) + 1 for k, d in zip(problem.kernel, problem.rhs_dilation, strict=True)]

        def at(position: jax.Array) -> jax.Array:
            """The output at one spatial position: G N K."""
            start = position * jnp.asarray(problem.strides, position.dtype)
            patch = lax.dynamic_slice(x, [0, 0, *start, 0], [*x.shape[:2], *extent, problem.C])
            patch = layout.window_slice(patch, 2, [0] * problem.ndim, problem.kernel, problem.rhs_dilation)
            patch = patch.reshape(problem.G, problem.N, problem.taps * problem.C)
            return jnp.einsum(
                "gnt,gtk->gnk", patch, w, precision=problem.precision, preferred_element_type=accumulator(problem)
            )

        positions = jnp.indices(problem.output).reshape(problem.ndim, math.prod(problem.output)).T
        y = jax.vmap(at)(positions)  # S G N K
        y = y.reshape(*problem.output, problem.G, problem.N, problem.K)
        return layout.restore_out(problem, y, "SGNK").astype(dtype_of(problem.output_dtype))


def _gathered(problem: ConvSpec) -> int:
    extent = math.prod(d * (k - 1) + 1 for k, d in zip(problem.kernel, problem.rhs_dilation, strict=True))
    return problem.N * math.prod(problem.output) * problem.G * problem.C * extent
