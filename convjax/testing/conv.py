"""Convolution and its gradients in float64, as strided sums over taps or over output positions.

Letters: G groups, N batch, C input and K output channels of one group, `*D` `*R` `*E` the spatial axes of
lhs, rhs (taps) and output. Everything is brought to `G N *D C`, `G *R C K` and `G N *E K` first.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from convjax.problem import ConvSpec
from convjax.testing.positions import meetings, require_shape, wide_dtype, window_count

Index = tuple[Any, ...]


def reference_conv(problem: ConvSpec, lhs: Any, rhs: Any) -> np.ndarray:
    """The convolution of `lhs` and `rhs` in float64 (complex128, int64).

    Args:
        problem: the convolution.
        lhs: array of `problem.lhs_shape`.
        rhs: array of `problem.rhs_shape`.

    Returns:
        Array of the output's shape, in the wide dtype.

    Example:
        >>> problem = ConvSpec.parse("conv float32[1,4,1] float32[2,1,1] b0f_0io->b0f")
        >>> reference_conv(problem, np.arange(4).reshape(1, 4, 1), np.ones((2, 1, 1))).ravel()
        array([1., 3., 5.])
    """
    lhs, rhs = _operands(problem, lhs, rhs)
    x, w = _split_lhs(problem, lhs), _split_rhs(problem, rhs)
    output = _output(problem)
    groups, batch, outputs = x.shape[0], x.shape[1], w.shape[-1]
    y = np.zeros((groups, batch, *output, outputs), lhs.dtype)  # G N *E K
    by_tap = _by_tap(problem)
    for outer, inner, met in _terms(problem):
        patch = x[:, :, *met]  # G N *P C, P what one tap meets, or what one output meets
        if by_tap:
            y[:, :, *inner] += _channels(patch, w[:, *outer])
        else:
            # G N PC, G PC K -> G N K
            y[:, :, *outer] = _flat(patch, 2, 0) @ _flat(w[:, *inner], 1, 1)
    return _join_output(problem, y)


def reference_conv_vjp(problem: ConvSpec, lhs: Any, rhs: Any, cotangent: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both gradients of the convolution, in float64 (complex128, int64), nothing conjugated.

    Args:
        problem: the convolution that is differentiated.
        lhs: array of `problem.lhs_shape`.
        rhs: array of `problem.rhs_shape`.
        cotangent: array of the output's shape.

    Returns:
        The gradients of lhs and of rhs, in their shapes.

    Example:
        >>> problem = ConvSpec.parse("conv float32[1,4,1] float32[2,1,1] b0f_0io->b0f")
        >>> x, w, cotangent = np.arange(4).reshape(1, 4, 1), np.ones((2, 1, 1)), np.ones((1, 3, 1))
        >>> [gradient.ravel() for gradient in reference_conv_vjp(problem, x, w, cotangent)]
        [array([1., 2., 2., 1.]), array([3., 6.])]
    """
    lhs, rhs = _operands(problem, lhs, rhs)
    x, w = _split_lhs(problem, lhs), _split_rhs(problem, rhs)
    g = _split_output(problem, np.asarray(cotangent).astype(lhs.dtype))  # G N *E K
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    by_tap = _by_tap(problem)
    for outer, inner, met in _terms(problem):
        patch = x[:, :, *met]  # G N *P C
        if by_tap:
            seen = g[:, :, *inner]  # G N *P K
            dx[:, :, *met] += _channels(seen, w[:, *outer].swapaxes(-1, -2))
            # G C NP, G NP K -> G C K
            dw[:, *outer] = _flat(patch, 1, 1).swapaxes(1, 2) @ _flat(seen, 1, 1)
        else:
            seen = g[:, :, *outer]  # G N K
            taps = w[:, *inner]  # G *P C K
            dx[:, :, *met] += (seen @ _flat(taps, 1, 1).swapaxes(1, 2)).reshape(patch.shape)
            # G PC N, G N K -> G PC K
            dw[:, *inner] += (_flat(patch, 2, 0).swapaxes(1, 2) @ seen).reshape(taps.shape)
    return _join_lhs(problem, dx), _join_rhs(problem, dw)


def _channels(patch: np.ndarray, tap: np.ndarray) -> np.ndarray:
    """One tap's products: `G N *P C` and `G C K` give `G N *P K`."""
    if tap.shape[1] == 1:  # depthwise: a batched GEMM of 1x1 blocks would take many times as long
        products: np.ndarray = patch * tap.reshape(tap.shape[0], *(1,) * (patch.ndim - 2), tap.shape[2])
    else:
        products = _flat(patch, 1, 1) @ tap
    return products.reshape(*patch.shape[:-1], tap.shape[2])


def _flat(array: np.ndarray, before: int, after: int) -> np.ndarray:
    """`array` with all but its first `before` and last `after` axes in one."""
    end = array.ndim - after
    return array.reshape(*array.shape[:before], math.prod(array.shape[before:end]), *array.shape[end:])


def _terms(problem: ConvSpec) -> Iterator[tuple[Index, Index, Index]]:
    """Outer index, inner slices and lhs slices; the outer is the tap or the output position, whichever are fewer."""
    by_tap = _by_tap(problem)
    tables = []
    for n, k, e, stride, (lo, _), ld, rd in zip(
        _lhs_sizes(problem),
        _taps(problem),
        _output(problem),
        problem.strides,
        problem.padding,
        problem.lhs_dilation,
        problem.rhs_dilation,
        strict=True,
    ):
        taps, outputs = (k, rd), (e, stride)
        tables.append(meetings(*(taps + outputs if by_tap else outputs + taps), lo, n, ld))
    for axes in itertools.product(*tables):
        yield (tuple(a[0] for a in axes), tuple(a[1] for a in axes), tuple(a[2] for a in axes))


def _by_tap(problem: ConvSpec) -> bool:
    return math.prod(_taps(problem)) <= math.prod(_output(problem))


def _lhs_sizes(problem: ConvSpec) -> tuple[int, ...]:
    return tuple(problem.lhs_shape[axis] for axis in problem.dimension_numbers[0][2:])


def _taps(problem: ConvSpec) -> tuple[int, ...]:
    return tuple(problem.rhs_shape[axis] for axis in problem.dimension_numbers[1][2:])


def _output(problem: ConvSpec) -> tuple[int, ...]:
    return tuple(
        map(
            window_count,
            _lhs_sizes(problem),
            _taps(problem),
            problem.strides,
            problem.padding,
            problem.lhs_dilation,
            problem.rhs_dilation,
        )
    )


def _operands(problem: ConvSpec, lhs: Any, rhs: Any) -> tuple[np.ndarray, np.ndarray]:
    dtype = np.result_type(wide_dtype(problem.lhs_dtype), wide_dtype(problem.rhs_dtype))
    arrays = np.asarray(lhs), np.asarray(rhs)
    require_shape("lhs", arrays[0], problem.lhs_shape)
    require_shape("rhs", arrays[1], problem.rhs_shape)
    return arrays[0].astype(dtype), arrays[1].astype(dtype)


# Feature groups split lhs's channels, batch groups its batch, both the output channels, the group always slowest.


def _split_lhs(problem: ConvSpec, lhs: np.ndarray) -> np.ndarray:
    lhs = lhs.transpose(problem.dimension_numbers[0])
    batches, features = problem.batch_groups, problem.feature_groups
    split = (batches, lhs.shape[0] // batches, features, lhs.shape[1] // features, *lhs.shape[2:])
    lhs = np.moveaxis(lhs.reshape(split), (0, 2, 1, 3), (0, 1, 2, -1))  # batch groups, feature groups, N, *D, C
    return np.ascontiguousarray(lhs.reshape(batches * features, *lhs.shape[2:]))


def _join_lhs(problem: ConvSpec, x: np.ndarray) -> np.ndarray:
    batches, features = problem.batch_groups, problem.feature_groups
    x = np.moveaxis(x.reshape(batches, features, *x.shape[1:]), (0, 1, 2, -1), (0, 2, 1, 3))
    x = x.reshape(batches * x.shape[1], features * x.shape[3], *x.shape[4:])  # batch, feature, *D
    return x.transpose(np.argsort(problem.dimension_numbers[0]))


def _split_rhs(problem: ConvSpec, rhs: np.ndarray) -> np.ndarray:
    rhs = rhs.transpose(problem.dimension_numbers[1])
    groups = problem.batch_groups * problem.feature_groups
    rhs = rhs.reshape(groups, rhs.shape[0] // groups, *rhs.shape[1:])  # G K C *R
    return np.ascontiguousarray(np.moveaxis(rhs, (1, 2), (-1, -2)))


def _join_rhs(problem: ConvSpec, w: np.ndarray) -> np.ndarray:
    w = np.moveaxis(w, (-1, -2), (1, 2))
    w = w.reshape(w.shape[0] * w.shape[1], *w.shape[2:])
    return w.transpose(np.argsort(problem.dimension_numbers[1]))


def _split_output(problem: ConvSpec, y: np.ndarray) -> np.ndarray:
    y = y.transpose(problem.dimension_numbers[2])
    groups = problem.batch_groups * problem.feature_groups
    y = y.reshape(y.shape[0], groups, y.shape[1] // groups, *y.shape[2:])  # N G K *E
    return np.ascontiguousarray(np.moveaxis(y, (1, 0, 2), (0, 1, -1)))


def _join_output(problem: ConvSpec, y: np.ndarray) -> np.ndarray:
    y = np.moveaxis(y, (0, 1, -1), (1, 0, 2))
    y = y.reshape(y.shape[0], y.shape[1] * y.shape[2], *y.shape[3:])
    return y.transpose(np.argsort(problem.dimension_numbers[2]))
