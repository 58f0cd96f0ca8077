"""Products in the frequency domain: y = F^-1[F(x) conj F(w)], whose cost does not grow with the kernel.

M. Mathieu, M. Henaff, Y. LeCun, Fast Training of Convolutional Networks through FFTs, arXiv:1312.5851.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from convjax import layout, sizes
from convjax.algorithms.bands import Bands, admitted_workspace
from convjax.algorithms.fusion import to_be_written
from convjax.algorithms.numerics import accumulator, rounding_error
from convjax.algorithms.protocol import Cost, Reasons, describe
from convjax.dtypes import dtype_of
from convjax.problem import ConvSpec
from convjax.target import target

# Inner products shorter than this are summed in a fused loop; a batched matrix product of them is far slower.
_FEW_CHANNELS = 8
# The transforms of a band of groups are to stay in a CPU's cache.
_BAND_BYTES = 2**21
# Times that a GPU reads and writes what it transforms along one axis, and along several.
_LINE_PASSES, _PASSES = 6, 11


@dataclasses.dataclass(frozen=True)
class FFT:
    """Real transforms of a fast length that holds the padded input; strides keep every s-th result."""

    name: ClassVar[str] = "fft"
    version: ClassVar[int] = 4
    exact: ClassVar[bool] = False
    varies_on: ClassVar[tuple[str, ...]] = ()
    amplification: ClassVar[float] = 0.0  # products of transforms are of full precision
    __str__ = describe

    def unsupported(self, problem: ConvSpec, platform: str) -> Reasons:
        reasons = []
        if not 1 <= problem.ndim <= 3:
            reasons.append(f"XLA transforms 1 to 3 axes, the problem has {problem.ndim}")
        if accumulator(problem).name not in ("float32", "float64"):
            reasons.append(f"the transforms are of real floating point, not {problem.lhs_dtype}")
        return tuple(reasons)

    def cost(self, problem: ConvSpec) -> Cost:
        points, transformed = math.prod(_lengths(problem)), _transformed_bytes(problem)
        bands = _cached_bands(problem).count
        butterflies = transformed / accumulator(problem).itemsize * 2.5 * math.log2(max(2, points))
        gemm, vector = (_multiplied(problem), 0.0) if _is_by_dot(problem) else (0.0, _multiplied(problem))
        return Cost(
            gemm=gemm,
            vector=vector + butterflies,
            bytes=problem.bytes + 3 * transformed,
            workspace=transformed / bands,
            calls=2 + 8 * bands,
        )

    def gpu_cost(self, problem: ConvSpec) -> Cost:
        """Bound by memory, and, as on CPUs, by its products where many channels are added."""
        transformed, bands = _transformed_bytes(problem), _few_bands(problem).count
        passes = _LINE_PASSES if problem.ndim == 1 else _PASSES
        return Cost(
            library=_multiplied(problem) if _is_by_dot(problem) else 0.0,
            bytes=problem.bytes + passes / 2 * transformed,
            workspace=transformed / bands,
            calls=4 * bands,
        )

    def gathers(self, problem: ConvSpec) -> bool:
        return True

    def error(self, problem: ConvSpec) -> float:
        """Grows with log2 of the length (Gentleman and Sande, 1966) and with the channels summed, not with the taps."""
        fixed = 6.0 + 2.0 * math.log2(max(2, math.prod(_lengths(problem))))
        return rounding_error(problem, fixed, 0.5 / problem.taps**0.5)

    def __call__(self, problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        dtype, lengths = accumulator(problem), _lengths(problem)
        x = layout.pad_spatial(problem, layout.arrange_lhs(problem, lhs, "GNCS").astype(dtype), first=3)
        w = layout.arrange_rhs(problem, rhs, "GKCS").astype(dtype)
        w = layout.pad(w, [(0, 0)] * w.ndim, [0, 0, 0, *(d - 1 for d in problem.rhs_dilation)])

        bands = (_cached_bands if target().is_cpu else _few_bands)(problem)
        (groups,) = bands.lengths

        def band(y: jax.Array, offsets: list[jax.Array]) -> jax.Array:
            (group,) = offsets
            x_band, w_band = (lax.dynamic_slice_in_dim(a, group, groups) for a in (x, w))
            # Correlation wraps around only in outputs past the last valid one, so the padded input's length is enough.
            xf = _over_spatial(jnp.fft.rfftn, x_band, lengths)  # G N C F
            wf = _over_spatial(jnp.fft.rfftn, w_band, lengths).conj()  # G K C F
            y_band = _over_spatial(jnp.fft.irfftn, _products(problem, xf, wf), lengths)  # G N K S
            y_band = layout.window_slice(y_band, 3, [0] * problem.ndim, problem.output, problem.strides)
            return lax.dynamic_update_slice_in_dim(y, y_band, group, axis=0)

        y = bands.fold(band, to_be_written((problem.G, problem.N, problem.K, *problem.output), 1, x, 1))
        return layout.restore_out(problem, y, "GNKS").astype(dtype_of(problem.output_dtype))


def _over_spatial(transform: Callable[..., jax.Array], x: jax.Array, lengths: list[int]) -> jax.Array:
    """`transform` of x, * * * S, along S.

    What is divided among devices is gathered before, and jaxlib 0.10 refuses the order in memory that several axes of
    it may then have.
    """
    batch, spatial = x.shape[: -len(lengths)], range(-len(lengths), 0)
    y = transform(x.reshape(math.prod(batch), *x.shape[len(batch) :]), lengths, axes=spatial)
    return y.reshape(*batch, *y.shape[-len(lengths) :])


def _cached_bands(problem: ConvSpec) -> Bands:
    """Groups to transform at a time: as many as a CPU's cache holds."""
    return Bands.of((problem.G,), problem.G * _BAND_BYTES / max(1, _transformed_bytes(problem)))


def _few_bands(problem: ConvSpec) -> Bands:
    """The same where arrays are computed element beside element, on GPUs up to 15 times as fast: as many as may be."""
    most = problem.G * admitted_workspace(problem) // max(1, _transformed_bytes(problem))
    count = -(-problem.G // max(1, min(problem.G, most)))
    return Bands((problem.G,), (-(-problem.G // count),))


def _transformed_bytes(problem: ConvSpec) -> int:
    """Of the transforms of x, w and y."""
    arrays = problem.N * problem.C + problem.C * problem.K + problem.N * problem.K
    return 2 * accumulator(problem).itemsize * math.prod(_lengths(problem)) * problem.G * arrays


def _multiplied(problem: ConvSpec) -> int:
    """Real products of the transforms: 4 at half of the frequencies."""
    return 2 * math.prod(_lengths(problem)) * problem.G * problem.N * problem.C * problem.K


def _is_by_dot(problem: ConvSpec) -> bool:
    return min(problem.C, problem.N * problem.K) > _FEW_CHANNELS


def _products(problem: ConvSpec, x: jax.Array, w: jax.Array) -> jax.Array:
    """Sum over C of x (G N C F) times w (G K C F), at every frequency: G N K F."""
    if problem.C <= _FEW_CHANNELS:
        return functools.reduce(jnp.add, [x[:, :, None, c] * w[:, None, :, c] for c in range(problem.C)])
    if problem.N * problem.K <= _FEW_CHANNELS:
        return jnp.sum(x[:, :, None] * w[:, None], axis=3)
    frequencies = x.shape[3:]
    x, w = lax.collapse(x, 3), lax.collapse(w, 3)
    y = jnp.einsum("gncf,gkcf->fgnk", x, w, precision="highest")
    return jnp.moveaxis(y, 0, -1).reshape(*y.shape[1:], *frequencies)


def _lengths(problem: ConvSpec) -> list[int]:
    return [
        fast_length(max(1, sizes.dilated(n, ld) + lo + hi, sizes.dilated(k, rd)))
        for n, ld, (lo, hi), k, rd in zip(
            problem.input, problem.lhs_dilation, problem.padding, problem.kernel, problem.rhs_dilation, strict=True
        )
    ]


def fast_length(size: int) -> int:
    """The smallest even product of 2, 3 and 5 that is at least `size`.

    Example:
        >>> [fast_length(n) for n in (1, 7, 58, 101)]
        [2, 8, 60, 108]
    """
    best = 1 << max(1, (size - 1).bit_length())
    five = 1
    while five < best:
        three = five
        while three < best:
            two = three * 2
            while two < size:
                two *= 2
            best = min(best, two)
            three *= 3
        five *= 5
    return best
