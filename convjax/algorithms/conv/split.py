"""A large kernel as the sum of smaller ones, each small enough for an algorithm of few taps.

y[o] = sum over parts f of sum over t < r_f of x[o + (f + t) d - lo] w[f + t]

Seven taps are four and three, so that Winograd's F(3, 4) and F(4, 3) compute them from 3.5 products an output and axis.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from convjax import sizes
from convjax.algorithms.conv.rewritten import Holding
from convjax.algorithms.numerics import accumulator, rounding_error
from convjax.algorithms.protocol import Cost, Reasons
from convjax.dtypes import dtype_of
from convjax.problem import ConvSpec, Ints

# Taps that need no split, and the most taps of a part: Winograd's products an output and tap are fewest at 3 and 4.
_WHOLE, _MOST_TAPS = 5, 4
# Parts written out; more compile too slowly, and the Fourier transform wins there.
_MOST_PARTS = 9


@dataclasses.dataclass(frozen=True)
class Split(Holding):
    """One convolution a part of the kernel, added up.

    Attributes:
        by: the algorithm of the parts.
    """

    name: ClassVar[str] = "split"

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        if problem.empty:
            return ("an operand or the output is empty: there is nothing to split",)
        parts = math.prod(map(_count, problem.kernel))
        if parts == 1:
            return (f"no axis has more than {_WHOLE} taps (kernel {problem.kernel})",)
        if parts > _MOST_PARTS:
            return (f"{parts} parts, more than {_MOST_PARTS}: it writes out one convolution each",)
        reasons = (self.by.unsupported(part, platform) for _, part in _parts(problem))
        return tuple(dict.fromkeys(itertools.chain.from_iterable(reasons)))

    def cost(self, problem: ConvSpec) -> Cost:
        costs = [self.by.cost(part) for _, part in _parts(problem)]
        out = accumulator(problem).itemsize * math.prod(problem.output_shape)
        total = {f.name: sum(getattr(cost, f.name) for cost in costs) for f in dataclasses.fields(Cost)}
        workspace = out + max((cost.workspace for cost in costs), default=0.0)
        return Cost(**total | {"bytes": total["bytes"] + 2 * out * (len(costs) - 1), "workspace": workspace})

    def error(self, problem: ConvSpec) -> float:
        """The parts' errors grow together as their sum does; each addition rounds once more."""
        errors = [self.by.error(part) for _, part in _parts(problem)]
        return max(errors, default=0.0) + rounding_error(problem, fixed=len(errors), growing=0.0)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        spatial = problem.dimension_numbers[1][2:]
        terms = []
        for first, part in _parts(problem):
            start, limit = [0] * rhs.ndim, list(rhs.shape)
            for axis, f, r in zip(spatial, first, part.kernel, strict=True):
                start[axis], limit[axis] = f, f + r
            terms.append(self.by(part, lhs, lax.slice(rhs, start, limit)))
        return functools.reduce(jnp.add, terms).astype(dtype_of(problem.output_dtype))


def _count(taps: int) -> int:
    return 1 if taps <= _WHOLE else -(-taps // _MOST_TAPS)


def _parts(problem: ConvSpec) -> Iterator[tuple[Ints, ConvSpec]]:
    """Every part's first tap and its problem, summed in the accumulator's dtype."""
    bounds = [[k * i // _count(k) for i in range(_count(k) + 1)] for k in problem.kernel]
    for spans in itertools.product(*map(itertools.pairwise, bounds)):
        shape, padding = list(problem.rhs_shape), []
        for a, (begin, end) in enumerate(spans):
            shape[problem.dimension_numbers[1][2 + a]] = end - begin
            lo, d = problem.padding[a][0] - begin * problem.rhs_dilation[a], problem.rhs_dilation[a]
            read = (problem.output[a] - 1) * problem.strides[a] + sizes.dilated(end - begin, d)
            padding.append((lo, read - lo - sizes.dilated(problem.input[a], problem.lhs_dilation[a])))
        yield (
            tuple(begin for begin, _ in spans),
            dataclasses.replace(
                problem,
                rhs_shape=tuple(shape),
                padding=tuple(padding),
                preferred_element_type=accumulator(problem).name,
            ),
        )
