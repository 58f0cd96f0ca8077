"""Seeded samples of small, valid, awkward problems, in families that take turns so that each occurs often.

Problem i of a seed does not depend on how many are asked for.
"""

from collections.abc import Sequence

import numpy as np

from convjax.problem import ConvSpec, Ints, Pads, WindowSpec
from convjax.testing.conv import reference_conv

CONV_FAMILIES = (
    "dense3", "pointwise", "depthwise", "grouped", "strided", "dilated", "transposed", "large_kernel",
    "weight_gradient", "depthwise_weight_gradient", "batch_groups", "cropped", "line", "volume", "single", "any",
)  # fmt: skip
WINDOW_FAMILIES = (
    "plane", "tiles", "line", "volume", "dilated", "base_dilated", "cropped", "overpadded", "large", "global",
    "channels_first", "every_axis", "single",
)  # fmt: skip


def sample_conv_problems(
    seed: int, count: int, dtypes: Sequence[str] = ("float32",), families: Sequence[str] = CONV_FAMILIES
) -> tuple[ConvSpec, ...]:
    """`count` convolutions: 0 to 3 spatial axes, each family in turn, every order of the axes.

    Args:
        seed: the same seed gives the same problems.
        count: how many; 16 gives one of every family.
        dtypes: drawn from for both operands alike.
        families: which kinds, of `CONV_FAMILIES`.

    Example:
        >>> problems = sample_conv_problems(seed=0, count=16)
        >>> sample_conv_problems(seed=0, count=3) == problems[:3]
        True
    """
    _require_known(families, CONV_FAMILIES)
    return tuple(
        _conv(np.random.default_rng([seed, i]), families[i % len(families)], dtypes[i // len(families) % len(dtypes)])
        for i in range(count)
    )


def sample_window_problems(
    seed: int,
    count: int,
    dtypes: Sequence[str] = ("float32",),
    families: Sequence[str] = WINDOW_FAMILIES,
    operations: Sequence[str] = WindowSpec.OPERATIONS,
) -> tuple[WindowSpec, ...]:
    """`count` window problems, each family in turn and for each the operations in turn.

    Args:
        seed: the same seed gives the same problems.
        count: how many; 117 gives one of every family and operation.
        dtypes: of x.
        families: which kinds, of `WINDOW_FAMILIES`.
        operations: of `WindowSpec.OPERATIONS`.

    Example:
        >>> {problem.operation for problem in sample_window_problems(seed=0, count=13, operations=("max",))}
        {'max'}
    """
    _require_known(families, WINDOW_FAMILIES)
    problems = []
    for i in range(count):
        turn, place = divmod(i, len(families))
        rng = np.random.default_rng([seed, i])
        operation = operations[(turn + place) % len(operations)]
        problems.append(_window(rng, families[place], operation, dtypes[turn // len(operations) % len(dtypes)]))
    return tuple(problems)


def _require_known(families: Sequence[str], known: tuple[str, ...]) -> None:
    unknown = [family for family in families if family not in known]
    if unknown or not families:
        raise ValueError(f"families must be some of {', '.join(known)}, got {', '.join(map(repr, unknown)) or 'none'}")


def _conv(rng: np.random.Generator, family: str, dtype: str) -> ConvSpec:
    """Draws until the output has elements and they are not all zero, as they are where taps only meet holes."""
    while True:
        problem = _try_conv(rng, family, dtype)
        if 0 in problem.output or _aborts_xla(problem):
            continue
        if problem.empty or np.any(reference_conv(problem, np.ones(problem.lhs_shape), np.ones(problem.rhs_shape))):
            return problem


def _aborts_xla(problem: ConvSpec) -> bool:
    """Whether XLA ends the process when it compiles `problem`, so that no test can compare with it.

    Seen in 0.10.1 and 0.12.0.1 ("Window dimensions do not match RHS shape", algebraic_simplifier.cc): an axis with
    2 taps, lhs dilation 2, stride 1 and no padding beside an axis with more taps than elements.
    """
    axes = zip(problem.kernel, problem.lhs_dilation, problem.strides, problem.padding, strict=True)
    bare = [axis == (2, 2, 1, (0, 0)) for axis in axes]
    return any(bare) and any(k > n for k, n in zip(problem.kernel, problem.input, strict=True))


def _try_conv(rng: np.random.Generator, family: str, dtype: str) -> ConvSpec:
    ranks = {"line": [1], "volume": [3], "large_kernel": [1, 2], "any": [0, 1, 2, 3], "single": [0, 1, 2, 3]}
    ndim = int(rng.choice(ranks.get(family, [1, 2, 2, 2, 3])))
    low, high = {0: (1, 1), 1: (4, 24), 2: (3, 12), 3: (2, 7)}[ndim]
    size, kernel = (_ints(rng, ndim, low, high), _ints(rng, ndim, 1, 5 if ndim < 3 else 3))
    stride = lhs_dilation = rhs_dilation = (1,) * ndim
    batch, channels, outputs = (int(n) for n in rng.integers(1, (4, 6, 6)))
    feature_groups = batch_groups = 1
    match family:
        case "dense3":
            kernel = (3,) * ndim
        case "pointwise":
            kernel = (1,) * ndim
        case "depthwise":
            feature_groups, channels, outputs = (int(rng.integers(2, 8)), 1, int(rng.integers(1, 3)))
            stride = _ints(rng, ndim, 1, 2)
        case "grouped":
            feature_groups, channels, outputs = (int(n) for n in rng.integers(2, (4, 5, 4)))
        case "strided":
            stride = _ints(rng, ndim, 2, 3)
        case "dilated":
            rhs_dilation = _ints(rng, ndim, 2, 3)
        case "transposed":
            lhs_dilation = _ints(rng, ndim, 2, 3)
            feature_groups = int(rng.choice([1, 1, 2]))
        case "large_kernel":
            kernel = _ints(rng, ndim, 5, 9)
            feature_groups, channels = (int(rng.integers(2, 6)), 1) if rng.random() < 0.5 else (1, channels)
        case "weight_gradient" | "depthwise_weight_gradient":  # the kernel is an output map, the output a few taps
            rhs_dilation = _ints(rng, ndim, 1, 2)
            size = tuple(d * (k + 2) + int(rng.integers(0, 3)) for k, d in zip(kernel, rhs_dilation, strict=True))
            kernel = tuple((n - int(rng.integers(1, 4))) // d + 1 for n, d in zip(size, rhs_dilation, strict=True))
            if family.startswith("depthwise"):
                batch_groups, batch, channels, outputs = (int(rng.integers(2, 7)), 1, batch, 1)
        case "batch_groups":
            batch_groups, outputs = int(rng.integers(2, 4)), int(rng.integers(1, 4))
        case "single":
            size = tuple(int(n) for n in rng.choice([1, 1, 3], ndim))
            kernel = tuple(int(n) for n in rng.choice([1, 1, 3], ndim))
            batch = int(rng.integers(0, 2))
        case "any":
            stride, lhs_dilation, rhs_dilation = (_ints(rng, ndim, 1, 3) for _ in range(3))
            feature_groups, batch_groups = ((1, 1), (2, 1), (1, 2))[rng.integers(3)]
    if family in ("line", "volume", "batch_groups"):
        stride, lhs_dilation, rhs_dilation = (tuple(int(n) for n in rng.choice([1, 1, 1, 2], ndim)) for _ in range(3))
    lhs, rhs, out = (_axis_order(rng, ndim + 2, first) for first in ((0, -1), (-1, -2), (0, -1)))
    return ConvSpec(
        lhs_shape=_placed((batch * batch_groups, channels * feature_groups, *size), lhs),
        rhs_shape=_placed((outputs * feature_groups * batch_groups, channels, *kernel), rhs),
        lhs_dtype=dtype,
        rhs_dtype=dtype,
        strides=stride,
        padding=_pads(rng, [d * (k - 1) + 1 for k, d in zip(kernel, rhs_dilation, strict=True)], family),
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=(lhs, rhs, out),
        feature_groups=feature_groups,
        batch_groups=batch_groups,
    )


def _window(rng: np.random.Generator, family: str, operation: str, dtype: str) -> WindowSpec:
    while True:
        problem = _try_window(rng, family, operation, dtype)
        if 0 not in (n for n, size in zip(problem.windows_shape, problem.shape, strict=True) if size):
            return problem


def _try_window(rng: np.random.Generator, family: str, operation: str, dtype: str) -> WindowSpec:
    ndim = {"line": 1, "volume": 3, "every_axis": int(rng.integers(1, 5))}.get(family, 2)
    high = {1: 30, 2: 14, 3: 8, 4: 6}[ndim]
    size, window, stride = (_ints(rng, ndim, 3, high), _ints(rng, ndim, 1, 4), _ints(rng, ndim, 1, 3))
    ones = (1,) * ndim
    base, dilation = ones, ones
    batch = int(rng.integers(1, 4))
    match family:
        case "tiles":
            window = stride = _ints(rng, ndim, 2, 3)
        case "dilated":
            dilation = _ints(rng, ndim, 2, 3)
        case "base_dilated" if operation in ("max", "min", "sum"):  # the others are undefined there
            base = _ints(rng, ndim, 1, 3)
        case "large":
            window = _ints(rng, ndim, 5, 12)
        case "global":
            window, stride = size, ones
        case "every_axis":
            dilation = _ints(rng, ndim, 1, 2)
        case "single":
            size, batch = (tuple(int(n) for n in rng.choice([1, 1, 4], ndim)), int(rng.integers(0, 2)))
    pads = _pads(rng, [d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True)], family)
    before, after = (1, 1) if family != "every_axis" else (0, 0)
    if family == "channels_first":
        before, after = 2, 0
    channels = int(rng.integers(1, 6))
    return WindowSpec(
        operation=operation,
        shape=(batch, channels)[:before] + size + (channels,)[:after],
        dtype=dtype,
        window=(1,) * before + window + (1,) * after,
        strides=(1,) * before + stride + (1,) * after,
        padding=((0, 0),) * before + pads + ((0, 0),) * after,
        base_dilation=(1,) * before + base + (1,) * after,
        window_dilation=(1,) * before + dilation + (1,) * after,
    )


def _pads(rng: np.random.Generator, reach: Sequence[int], family: str) -> Pads:
    """Per axis: none, about SAME, or anything up to the kernel's extent; negative or longer if the family says so."""
    if family == "cropped":
        return tuple((int(lo), int(hi)) for lo, hi in rng.integers(-3, 3, (len(reach), 2)))
    if family in ("tiles", "global"):
        return ((0, 0),) * len(reach)
    pads = []
    for extent in reach:
        longest = extent + 3 if family == "overpadded" else extent - 1
        choices = ((0, 0), ((extent - 1) // 2, extent // 2), rng.integers(0, longest, 2, endpoint=True))
        lo, hi = choices[2 if family == "overpadded" else rng.integers(3)]
        pads.append((int(lo), int(hi)))
    return tuple(pads)


def _axis_order(rng: np.random.Generator, ndim: int, named: tuple[int, int]) -> Ints:
    """Half the time the two named axes where Flax has them, else first as PyTorch has them, else anywhere."""
    style = rng.choice(["last", "last", "first", "anywhere"])
    if style == "anywhere":
        return tuple(int(n) for n in rng.permutation(ndim))
    if style == "first":
        return tuple(range(ndim))
    places = tuple(axis % ndim for axis in named)
    return places + tuple(axis for axis in range(ndim) if axis not in places)


def _placed(sizes: Sequence[int], order: Ints) -> Ints:
    """The shape in which `sizes`, (named, named, *spatial), stand at the positions `order`."""
    shape = dict(zip(order, sizes, strict=True))
    return tuple(shape[axis] for axis in range(len(shape)))


def _ints(rng: np.random.Generator, count: int, low: int, high: int) -> Ints:
    return tuple(int(n) for n in rng.integers(low, high, count, endpoint=True))
