"""How XLA's CPU compiler takes a convolution, and what it costs: for a product, for its library's, or for plain loops.

The library packs windows into rows of a matrix product, a run of channels after another, and brings the operands into
an order of its own before.
"""

import math
from typing import NamedTuple

from convjax import layout, sizes
from convjax.algorithms.bands import admitted_workspace
from convjax.algorithms.products import product_work, turning_work
from convjax.algorithms.protocol import Cost
from convjax.dtypes import itemsize
from convjax.problem import ConvSpec


class _Work(NamedTuple):
    """What the parts of a convolution cost, fitted to 700 times of lax, two thirds of them of random layers and passes.

    Attributes:
        product, element, run: of a multiply-add in the library, and in scalar code of an element of a patch and of a
            run of channels that is packed into one.
        x, w, y: times that they are moved.
        calls: in kernels; the library's threads are woken by every call.
    """

    product: float
    element: float
    run: float
    x: float
    w: float
    y: float
    calls: float


_DENSE = _Work(0.66, 0.027, 0.6, 1.41, 6.35, 2.68, 15.3)
_LINES = _Work(0.61, 0.021, 0.46, 0.45, 0.97, 1.85, 9.0)
_DENSE_GRADIENT = _Work(1.1, 0.11, 0.21, 8.2, 9.0, 8.8, 0.6)
_GROUPED = _Work(0.8, 0.127, 0.5, 3.2, 26.5, 4.95, 4.7)
_GROUPED_GRADIENT = _Work(0.35, 0.437, 0.422, 17.4, 51.6, 1.46, 3.0)
_VOLUMES = _Work(0.58, 1.06, 3.9, 7.3, 18.7, 1.2, 19.4)
_DILATED_VOLUMES = _Work(0.0, 1.9, 25.0, 1.0, 1.0, 1.0, 90.0)
_GROUPED_VOLUMES = _Work(0.0, 2.2, 1.1, 1.0, 1.0, 1.0, 16.0)
# Channels of a first layer: of fewer than these, packed runs go from tap to tap.
_FEW_CHANNELS = 4


def _work(problem: ConvSpec) -> _Work:
    if problem.ndim > 2:
        dilated = max(problem.lhs_dilation + problem.rhs_dilation) > 1
        return _GROUPED_VOLUMES if problem.G > 1 else _DILATED_VOLUMES if dilated else _VOLUMES
    if problem.has_few_outputs:
        return _GROUPED_GRADIENT if problem.G > 1 else _DENSE_GRADIENT
    return _GROUPED if problem.G > 1 else _LINES if problem.ndim == 1 else _DENSE


def library_cost(problem: ConvSpec) -> Cost:
    """Of one `convolution` instruction, with its padding written out where `is_written_out` says so."""
    grouped = problem.G > 1
    if grouped and is_product(problem):
        return _product_of_groups_cost(problem)
    if not grouped and problem.ndim < 3 and (problem.taps == 1 or _is_of_patches(problem)):
        return _product_cost(problem)
    if not grouped and problem.ndim < 3 and max(problem.lhs_dilation) > 1 and not is_written_out(problem):
        return _dilated_cost(problem)
    work = _work(problem)
    packed = problem.N * problem.G * math.prod(problem.output) * problem.taps / _taps_in_a_run(problem)
    x, w, y = (
        math.prod(shape) * itemsize(dtype)
        for shape, dtype in (
            (problem.lhs_shape, problem.lhs_dtype),
            (problem.rhs_shape, problem.rhs_dtype),
            (problem.output_shape, problem.output_dtype),
        )
    )
    padded = padded_bytes(problem) if is_written_out(problem) else 0
    return Cost(
        library=work.product * problem.products,
        scalar=work.element * _slower_elements(problem) * problem.products / problem.K
        + work.run * _slower_runs(problem) * packed,
        bytes=work.x * max(x, padded) + work.w * w + work.y * y + turning_work(problem) + 2 * padded,
        calls=work.calls,
    )


def _needed(problem: ConvSpec) -> float:
    """Multiply-adds of lines and planes, without those by the zeros of a dilated input."""
    return problem.products / (1 if is_written_out(problem) else math.prod(problem.lhs_dilation))


def _is_of_patches(problem: ConvSpec) -> bool:
    """Whether windows tile the input: they are rows of a product as they lie."""
    return problem.strides == problem.kernel and not any(map(any, problem.padding))


def _product_cost(problem: ConvSpec) -> Cost:
    """Of patches, and of pointwise layers, which the library takes for a convolution; along lines XLA makes a product.

    A product waits for nothing: it reads the operands as they lie, but for a kernel that it packs.
    """
    slower = 1.4 if problem.taps > 1 else 1.35 if problem.ndim > 1 else 1.15
    return Cost(gemm=slower * _narrow(problem) * _needed(problem), bytes=problem.bytes + _packed(problem))


def _slower_elements(problem: ConvSpec) -> float:
    """How much longer packing an element takes where channels leave it to fewer threads and to no vectors."""
    if problem.ndim > 2:
        return 1.0
    if problem.G > 1:
        return _slower_elements_of_groups(problem.C, problem.K)
    if problem.has_few_outputs and problem.C < 4 and problem.K <= 16:
        return 8.0
    return 2.0 if 4 <= problem.K < 16 else 1.0


def _taps_in_a_run(problem: ConvSpec) -> int:
    """Taps that lie beside each other and are packed as one run, where a first layer has few channels to each."""
    if problem.ndim != 2 or problem.G > 1 or problem.C >= _FEW_CHANNELS:
        return 1
    slides = all(n > k for n, k in zip(problem.input, problem.kernel, strict=True))
    return problem.kernel[-1] if slides and max(problem.lhs_dilation) == problem.rhs_dilation[-1] == 1 else 1


def _slower_runs(problem: ConvSpec) -> float:
    """How much longer a run takes to begin where few outputs leave it to fewer threads: seen in planes of one group."""
    planes = problem.ndim == 2 and problem.G == 1 and not problem.has_few_outputs
    return 2.0 if planes and problem.K < 20 else 1.0


def _slower_elements_of_groups(channels: int, outputs: int) -> float:
    """The same of a group's: those of no half vector are packed one by one, and where outputs are few by one thread.

    Seen in 264 groups of 2 to 24 channels and 4 to 64 outputs on a server with AVX-512.
    """
    if channels % 4 == 0:
        return 2.0 if outputs < 12 else 1.0
    few = 32 if channels % 2 else 16
    alone = 20.0 if channels % 2 else 12.0
    return alone if channels > 2 and outputs <= few else 5.0


def _dilated_cost(problem: ConvSpec) -> Cost:
    """Of a dilated input, which the library multiplies by all taps before it adds up what meets an output.

    So it is slow for few input channels, which make little of each element that is added, and for fewer output channels
    than a vector has, which are added one by one.
    """
    made = problem.N * math.prod(problem.input) * problem.taps * problem.K
    added = (4 if problem.K < 4 else 1) * made
    return Cost(
        library=0.6 * made * problem.C,
        scalar=0.27 * added,
        bytes=problem.bytes + 4.0 * itemsize(problem.output_dtype) * added + turning_work(problem),
        calls=4,
    )


def _product_of_groups_cost(problem: ConvSpec) -> Cost:
    """Of groups that are brought to the front, a run of channels after another."""
    runs = max(1.0, 16 / min(problem.C, problem.K))
    return Cost(
        gemm=2 * product_work(problem.products, problem.C, problem.K),
        bytes=(1 + 2 * runs) * problem.bytes,
    )


def _packed(problem: ConvSpec) -> float:
    """Bytes moved to pack the kernel of a product: element by element if its output channels are in front."""
    if problem.ndim == 1:
        return 0.0
    moved = 2.0 if layout.channel_order(problem) == "GCK" else 5.0
    return moved * itemsize(problem.rhs_dtype) * math.prod(problem.rhs_shape)


def _narrow(problem: ConvSpec) -> float:
    """How much slower a multiply-add is where few output channels, or few inputs in a row, fill a vector."""
    row = problem.C * (problem.kernel[-1] if problem.ndim else 1)
    few_outputs = 1.0 if problem.K > 1 and problem.taps <= 9 else max(1.0, 8 / max(1, problem.K))
    return few_outputs * max(1.0, 8 / max(1, row)) ** 2


def is_product(problem: ConvSpec) -> bool:
    """Whether along every axis windows are single elements, or there is one window, the whole axis."""
    return all(
        (k == 1 and s == 1) or (k == n and pair == (0, 0) and ld == rd == 1)
        for n, k, s, pair, ld, rd in zip(
            problem.input,
            problem.kernel,
            problem.strides,
            problem.padding,
            problem.lhs_dilation,
            problem.rhs_dilation,
            strict=True,
        )
    )


def is_misread(problem: ConvSpec) -> bool:
    """Whether XLA's CPU compiler is known to get this padding wrong, so that it has to be written out.

    jaxlib 0.10.1 reads outside the input where one end of an axis is cropped and the other padded
    (openxla/xla#48713); 0.10 and 0.12 abort in the algebraic simplifier on some dilated inputs with an axis shorter
    than its kernel.
    """
    crossing = any(min(pair) < 0 < max(pair) for pair in problem.padding)
    short = any(
        sizes.dilated(k, d) > n for k, d, n in zip(problem.kernel, problem.rhs_dilation, problem.input, strict=True)
    )
    return crossing or (short and set(problem.lhs_dilation) != {1})


def is_swapped(problem: ConvSpec) -> bool:
    """Whether XLA's CPU compiler makes the smaller input the kernel, turned around, which its library does not have.

    So are weight gradients of transposed layers, and layers that pad more than they read: in plain loops they take up
    to thirty times as long. What is padded is as large as its kernel, or there would be no output.
    """
    if problem.G > 1:
        return False
    spread = (
        n == s == d == 1 and pair == (k - 1, k - 1)
        for n, k, s, d, pair in zip(
            problem.input, problem.kernel, problem.strides, problem.rhs_dilation, problem.padding, strict=True
        )
    )
    seen = (k if one else n for n, k, one in zip(problem.input, problem.kernel, spread, strict=True))
    return problem.taps > math.prod(seen)


def is_written_out(problem: ConvSpec) -> bool:
    """Whether the padding is, on CPUs: where it must be, or where it is worth its workspace."""
    return is_misread(problem) or (is_swapped(problem) and padded_bytes(problem) <= admitted_workspace(problem))


def padded_bytes(problem: ConvSpec) -> int:
    channels = problem.N * problem.G * problem.C
    return itemsize(problem.lhs_dtype) * channels * math.prod(layout.padded_size(problem))
