"""A large kernel as the sum of smaller ones, each small enough for an algorithm of few taps.

y[o] = sum over parts f of sum over t < r_f of x[o + (f + t) d - lo] w[f + t]

Seven taps are four and three, so that Winograd's F(3, 4) and F(4, 3) compute them from 3.5 products an output and axis.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import layout, sizes
from convjax.algorithms.conv.rewritten import Holding
from convjax.algorithms.numerics import accumulator, rounding_error
from convjax.algorithms.protocol import Cost, Reasons, total_cost
from convjax.dtypes import dtype_of
from convjax.problem import ConvSpec, Ints

# Taps that need no split, and the most taps of a part: Winograd's products an output and tap are fewest at 3 and 4.
_WHOLE, _MOST_TAPS = 5, 4
# Parts done; with more the Fourier transform wins.
_MOST_PARTS = 9


@dataclasses.dataclass(frozen=True)
class Split(Holding):
    """One convolution a part of the kernel, added up.

    Attributes:
        by: the algorithm of the parts.
    """

    name: ClassVar[str] = "split"
    revision: ClassVar[int] = 2

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        if problem.empty:
            return ("an operand or the output is empty: there is nothing to split",)
        parts = math.prod(map(_count, problem.kernel))
        if parts == 1:
            return (f"no axis has more than {_WHOLE} taps (kernel {problem.kernel})",)
        if parts > _MOST_PARTS:
            return (f"{parts} parts, more than {_MOST_PARTS}: the Fourier transform wins",)
        reasons = (self.by.unsupported(part, platform) for _, part in _parts(problem))
        return tuple(dict.fromkeys(itertools.chain.from_iterable(reasons)))

    def cost(self, problem: ConvSpec) -> Cost:
        costs = [self.by.cost(part) for _, part in _parts(problem)]
        out = accumulator(problem).itemsize * math.prod(problem.output_shape)
        total, held = total_cost(costs), max((cost.workspace for cost in costs), default=0.0)
        return dataclasses.replace(total, bytes=total.bytes + 2 * out * (len(costs) - 1), workspace=out + held)

    def error(self, problem: ConvSpec) -> float:
        """The parts' errors grow together as their sum does; each addition rounds once more.

        The zeros of a dilated input, which parts no longer know of, make outputs smaller, but not the errors.
        """
        errors = [self.by.error(part) for _, part in _parts(problem)]
        spread = math.prod(problem.lhs_dilation) ** 0.5
        return spread * max(errors, default=0.0) + rounding_error(problem, fixed=len(errors), growing=0.0)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        """Parts that are alike take turns in a loop, so that they are compiled once."""
        x, first_taps = layout.pad_lhs(problem, lhs), collections.defaultdict(list)
        for first, part in _parts(problem):
            first_taps[part].append(first)
        spatial_x, spatial_w = (dimensions[2:] for dimensions in problem.dimension_numbers[:2])
        dilation = np.array(problem.rhs_dilation, np.int32)

        def term(part: ConvSpec, first: jax.Array) -> jax.Array:
            seen = _from(x, spatial_x, first * dilation, part.input)
            return self.by(part, seen, _from(rhs, spatial_w, first, part.kernel))

        total = jnp.zeros(problem.output_shape, accumulator(problem))
        for part, firsts in first_taps.items():
            at = jnp.array(firsts, np.int32)
            if len(firsts) == 1:
                total += term(part, at[0])
            else:
                total = lax.fori_loop(0, len(firsts), lambda i, y, part=part, at=at: y + term(part, at[i]), total)
        return total.astype(dtype_of(problem.output_dtype))


def _count(taps: int) -> int:
    return 1 if taps <= _WHOLE else -(-taps // _MOST_TAPS)


def _parts(problem: ConvSpec) -> Iterator[tuple[Ints, ConvSpec]]:
    """Every part's first tap and its problem on the elements it meets, summed in the accumulator's dtype."""
    bounds = [[k * i // _count(k) for i in range(_count(k) + 1)] for k in problem.kernel]
    for spans in itertools.product(*map(itertools.pairwise, bounds)):
        lhs_shape, rhs_shape = list(problem.lhs_shape), list(problem.rhs_shape)
        for a, (begin, end) in enumerate(spans):
            read = (problem.output[a] - 1) * problem.strides[a] + sizes.dilated(end - begin, problem.rhs_dilation[a])
            lhs_shape[problem.dimension_numbers[0][2 + a]] = read
            rhs_shape[problem.dimension_numbers[1][2 + a]] = end - begin
        yield (
            tuple(begin for begin, _ in spans),
            dataclasses.replace(
                problem,
                lhs_shape=tuple(lhs_shape),
                rhs_shape=tuple(rhs_shape),
                padding=((0, 0),) * problem.ndim,
                lhs_dilation=(1,) * problem.ndim,
                preferred_element_type=accumulator(problem).name,
            ),
        )


def _from(array: jax.Array, axes: Sequence[int], offsets: jax.Array, size: Sequence[int]) -> jax.Array:
    """`size` elements from `offsets` on along `axes`."""
    start, shape = [jnp.int32(0)] * array.ndim, list(array.shape)
    for axis, offset, n in zip(axes, offsets, size, strict=True):
        start[axis], shape[axis] = offset, n
    return lax.dynamic_slice(array, start, shape)
