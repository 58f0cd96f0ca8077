"""XLA's own convolution, as `jax.lax.conv_general_dilated` lowers it: always applies, and the baseline."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from convjax import layout
from convjax.algorithms.conv.cudnn import cudnn_cost, is_long
from convjax.algorithms.conv.library import is_misread, is_product, is_written_out, library_cost
from convjax.algorithms.conv.polyphase import Polyphase
from convjax.algorithms.conv.positions import Positions
from convjax.algorithms.conv.shift import Shift
from convjax.algorithms.numerics import LIBRARY, accumulator, direct_error
from convjax.algorithms.products import rows_by_columns
from convjax.algorithms.protocol import Algorithm, Cost, Reasons, describe
from convjax.dtypes import dtype_of, itemsize
from convjax.platforms import GPUS
from convjax.problem import ConvSpec
from convjax.target import target


@dataclasses.dataclass(frozen=True)
class Lax:
    """One `convolution` instruction, or a product for groups whose windows do not slide; XLA decides how to run it."""

    name: ClassVar[str] = "lax"
    version: ClassVar[int] = 14
    exact: ClassVar[bool] = True
    varies_on: ClassVar[tuple[str, ...]] = GPUS  # gradients may be added up by atomics
    amplification: ClassVar[float] = LIBRARY
    __str__ = describe

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        if platform in GPUS and jnp.issubdtype(dtype_of(problem.lhs_dtype), jnp.integer):
            return (f"cuDNN has no convolution of {problem.lhs_dtype}",)
        return ()

    def cost(self, problem: ConvSpec) -> Cost:
        return library_cost(problem)

    def gpu_cost(self, problem: ConvSpec) -> Cost:
        return cudnn_cost(problem)

    def error(self, problem: ConvSpec) -> float:
        return direct_error(problem)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        """As each platform's compiler wants it.

        cuDNN has the weight gradients of groups, which are groups of the batch, as calls of their own, up to 1,000
        times faster than the same as groups of features.
        """
        if target().is_cpu and _groups_are_turned(problem):
            return _of_groups(problem, lhs, rhs)
        if target().is_gpu and max(problem.lhs_dilation, default=1) > 1 and not is_long(problem):
            return _as_input_gradient(problem, lhs, rhs)
        return _convolution(problem, lhs, rhs)

    def of_divided(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        """By what jaxlib 0.10 and 0.12 divide rightly: on CPUs products, if some algorithm's are few enough.

        XLA's division of convolutions is right where one axis of a mesh divides their batch or features, as in data
        parallel programs, and wrong for some divisions of rows among several, of groups, and of dilated inputs. On GPUs
        cuDNN is worth keeping, so only the last two are computed otherwise.
        """
        if target().is_cpu:
            by = next((a for a in _of_products(problem) if not a.unsupported(problem, "cpu")), None)
            if by is not None:
                return by(problem, lhs, rhs)
        return _convolution_of_divided(problem, lhs, rhs)


def _of_products(problem: ConvSpec) -> tuple[Algorithm, ...]:
    """Algorithms that are sums of products, which XLA divides rightly; those first that need fewer products."""
    by_taps, by_outputs = (Polyphase(Shift("dot")), Shift("dot")), (Positions("dot"),)
    return by_outputs + by_taps if problem.has_few_outputs else by_taps + by_outputs


def _convolution_of_divided(problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """One convolution, without dilated inputs and groups that are turned."""
    if max(problem.lhs_dilation, default=1) > 1:
        gaps = dict(zip(problem.dimension_numbers[0][2:], problem.lhs_dilation, strict=True))
        lhs = layout.dilated(lhs, [gaps.get(axis, 1) - 1 for axis in range(lhs.ndim)])
        problem = dataclasses.replace(problem, lhs_shape=lhs.shape, lhs_dilation=(1,) * problem.ndim)
    return (_of_groups if _groups_are_turned(problem) else _convolution)(problem, lhs, rhs)


def _groups_are_turned(problem: ConvSpec) -> bool:
    """Whether XLA's CPU compiler is slow for these groups, those of the batch, or divides them wrongly.

    It divides a convolution whose windows do not slide as the product that it is, of one group, and leaves half of the
    result zeros where features are divided that stand at another axis in the result.
    """
    moved = problem.dimension_numbers[0][1] != problem.dimension_numbers[2][1]
    return problem.batch_groups > 1 or (problem.G > 1 and (moved or is_product(problem)))


def _of_groups(problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """As a product of each group, or as groups of features, which come last in lhs and in the result."""
    if is_product(problem):
        return _product_of_groups(problem, lhs, rhs)
    x, w = layout.arrange_lhs(problem, lhs, "NSGC"), layout.arrange_rhs(problem, rhs, "SCGK")
    x, w = (lax.collapse(a, a.ndim - 2) for a in (x, w))
    same = ("strides", "padding", "lhs_dilation", "rhs_dilation")
    given = {name: getattr(problem, name) for name in same}
    last = layout.channels_last(problem, problem.N, problem.input, problem.kernel, problem.C, **given)
    y = _convolution(last, x, w)
    return layout.restore_out(problem, y.reshape(*y.shape[:-1], problem.G, problem.K), "NSGK")


def _convolution(problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """One `convolution`, its padding written out where XLA misreads it or would not take its library for it.

    Integers that are added up in wider ones are kept apart from what made them: jaxlib 0.10 and 0.12 fuse a pad of int8
    into their convolution, and read what is no number or cannot compile it.
    """
    padding, lhs_dilation = problem.padding, problem.lhs_dilation
    if is_written_out(problem) if target().is_cpu else is_misread(problem):
        lhs = lax.optimization_barrier(layout.pad_lhs(problem, lhs))  # or XLA would take the padding back
        padding, lhs_dilation = ((0, 0),) * problem.ndim, (1,) * problem.ndim
    dtype = dtype_of(problem.lhs_dtype)
    if jnp.issubdtype(dtype, jnp.integer) and dtype.itemsize < itemsize(problem.output_dtype):
        lhs, rhs = lax.optimization_barrier((lhs, rhs))
    if jnp.issubdtype(dtype, jnp.complexfloating):  # whose sums XLA rounds to their own precision
        lhs, rhs = (operand.astype(dtype_of(problem.output_dtype)) for operand in (lhs, rhs))
    return lax.conv_general_dilated(
        lhs,
        rhs,
        problem.strides,
        padding,
        lhs_dilation,
        problem.rhs_dilation,
        lax.ConvDimensionNumbers(*problem.dimension_numbers),
        problem.feature_groups,
        problem.batch_groups,
        problem.precision,
        None if problem.preferred_element_type is None else dtype_of(problem.preferred_element_type),
    )


def _as_input_gradient(problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """Of a dilated input, as the gradient of a strided convolution, which XLA knows by its reversed kernel.

    cuDNN has a call for that; for any other kernel XLA writes the input's zeros out. So the kernel is reversed once
    where XLA does not look, and once where it does. Not the long kernels of weight gradients, whose call takes up to
    twelve times as long as the zeros do.
    """
    spatial = problem.dimension_numbers[1][2:]
    return _convolution(problem, lhs, lax.rev(lax.optimization_barrier(lax.rev(rhs, spatial)), spatial))


def _product_of_groups(problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """A grouped convolution whose windows do not slide, as one batched product."""
    x = layout.pad_spatial(problem, layout.arrange_lhs(problem, lhs, "GNSC"), first=2)
    whole = [2 + axis for axis, k in enumerate(problem.kernel) if k > 1]
    x = jnp.moveaxis(x, whole, range(-1 - len(whole), -1))
    w = layout.arrange_rhs(problem, rhs, "GSCK").reshape(problem.G, -1, problem.K)
    rows = x.reshape(problem.G, -1, problem.taps * problem.C)
    y = rows_by_columns(problem, rows, w, accumulator(problem)).reshape(
        problem.G, problem.N, *problem.output, problem.K
    )
    return layout.restore_out(problem, y, "GNSK").astype(dtype_of(problem.output_dtype))
