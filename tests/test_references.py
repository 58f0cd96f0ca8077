"""The references against definitions written out term by term, SciPy, and stock XLA in float64."""

import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from jax import lax
from transforms import lax_arguments

from convjax.problem import ConvSpec, WindowSpec
from convjax.testing import (
    Kind,
    random_operands,
    reference,
    reference_conv_vjp,
    reference_max_vjp,
    sample_conv_problems,
    sample_window_problems,
)

Term = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
TINY = [p for p in sample_conv_problems(seed=11, count=480) if p.products < 2500]
WINDOWS = [p for p in sample_window_problems(seed=11, count=273) if p.macs < 6000]


def terms(problem: ConvSpec) -> Iterator[Term]:
    """Every product of the convolution by its indices in output, lhs and rhs, from the definition."""
    lhs_spec, rhs_spec, out_spec = problem.dimension_numbers
    counts = []
    for i, (s, (lo, hi), ld, rd) in enumerate(
        zip(problem.strides, problem.padding, problem.lhs_dilation, problem.rhs_dilation, strict=True)
    ):
        padded = lo + 1 + ld * (problem.lhs_shape[lhs_spec[2 + i]] - 1) + hi
        counts.append((padded - 1 - rd * (problem.rhs_shape[rhs_spec[2 + i]] - 1)) // s + 1)
    batch = problem.lhs_shape[lhs_spec[0]] // problem.batch_groups
    outputs = problem.rhs_shape[rhs_spec[0]]
    per_group = outputs // (problem.feature_groups * problem.batch_groups)
    channels = problem.rhs_shape[rhs_spec[1]]
    taps = [range(problem.rhs_shape[axis]) for axis in rhs_spec[2:]]
    for n, k, *where in itertools.product(range(batch), range(outputs), *map(range, counts)):
        group = k // per_group
        for c, *tap in itertools.product(range(channels), *taps):
            positions = [
                o * s + t * rd - lo
                for o, s, t, rd, (lo, _) in zip(
                    where, problem.strides, tap, problem.rhs_dilation, problem.padding, strict=True
                )
            ]
            elements = [divmod(p, d) for p, d in zip(positions, problem.lhs_dilation, strict=True)]
            sizes = [problem.lhs_shape[axis] for axis in lhs_spec[2:]]
            if any(hole or not 0 <= e < size for (e, hole), size in zip(elements, sizes, strict=True)):
                continue
            image = n + batch * group if problem.batch_groups > 1 else n
            feature = c + channels * group if problem.feature_groups > 1 else c
            yield (
                placed(out_spec, n, k, *where),
                placed(lhs_spec, image, feature, *(e for e, _ in elements)),
                placed(rhs_spec, k, c, *tap),
            )


def placed(spec: tuple[int, ...], *index: int) -> tuple[int, ...]:
    return tuple(i for _, i in sorted(zip(spec, index, strict=True)))


def lax_conv(problem: ConvSpec, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        lhs,
        rhs,
        *lax_arguments(problem),
    )


@pytest.mark.parametrize("problem", TINY[::4], ids=str)
def test_conv_and_gradients_equal_the_definition(problem: ConvSpec) -> None:
    lhs, rhs = (array.astype(np.float64) for array in random_operands(problem, 0))
    g = np.random.default_rng(1).standard_normal(problem.output_shape)
    y, dlhs, drhs = (np.zeros(problem.output_shape), np.zeros_like(lhs), np.zeros_like(rhs))
    for o, i, w in terms(problem):
        y[o] += lhs[i] * rhs[w]
        dlhs[i] += g[o] * rhs[w]
        drhs[w] += g[o] * lhs[i]
    np.testing.assert_allclose(reference(problem, lhs, rhs), y, atol=1e-12)
    got = reference_conv_vjp(problem, lhs, rhs, g)
    np.testing.assert_allclose(got[0], dlhs, atol=1e-12)
    np.testing.assert_allclose(got[1], drhs, atol=1e-12)


@pytest.mark.parametrize("problem", sample_conv_problems(seed=12, count=32), ids=str)
def test_conv_and_gradients_equal_xla_in_float64(problem: ConvSpec) -> None:
    lhs, rhs = (array.astype(np.float64) for array in random_operands(problem, 0))
    g = np.random.default_rng(1).standard_normal(problem.output_shape)

    @jax.jit
    def value_and_gradients(lhs: jax.Array, rhs: jax.Array, g: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        y, vjp = jax.vjp(lambda lhs, rhs: lax_conv(problem, lhs, rhs), lhs, rhs)
        return y, vjp(g)

    with jax.enable_x64(True):
        y, gradients = value_and_gradients(lhs, rhs, g)
    np.testing.assert_allclose(reference(problem, lhs, rhs), y, atol=1e-12)
    for got, want in zip(reference_conv_vjp(problem, lhs, rhs, g), gradients, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "kernel"), [((17,), (4,)), ((9, 12), (3, 2)), ((6, 5, 7), (2, 3, 3)), ((4, 3), (4, 3))]
)
@pytest.mark.parametrize("mode", ["valid", "same", "full"])
def test_conv_equals_scipy_correlate(size: tuple[int, ...], kernel: tuple[int, ...], mode: str) -> None:
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal(size), rng.standard_normal(kernel)
    pads = {"valid": lambda k: (0, 0), "same": lambda k: (k // 2, (k - 1) // 2), "full": lambda k: (k - 1, k - 1)}
    axes = "012"[: len(size)]
    problem = ConvSpec.parse(
        f"conv float64[1,{','.join(map(str, size))},1] float64[{','.join(map(str, kernel))},1,1] "
        f"b{axes}f_{axes}io->b{axes}f pad={'x'.join('{}_{}'.format(*pads[mode](k)) for k in kernel)}"
    )
    y = reference(problem, x[None, ..., None], w[..., None, None])
    np.testing.assert_allclose(y[0, ..., 0], scipy.signal.correlate(x, w, mode), atol=1e-12)


def test_conv_of_complex_numbers_conjugates_nothing() -> None:
    problem = ConvSpec.parse("conv complex64[2,6,3] complex64[2,3,2] b0f_0io->b0f stride=2")
    lhs, rhs = random_operands(problem, 0)
    y = reference(problem, lhs, rhs)
    assert y.dtype == np.complex128
    windows = np.stack([lhs[:, 0:5:2], lhs[:, 1:6:2]], 1)  # N R D C
    np.testing.assert_allclose(y, np.einsum("nrdc,rck->ndk", windows, rhs.astype(np.complex128)), atol=1e-6)


def test_conv_of_integers_is_exact_beyond_float32() -> None:
    problem = ConvSpec.parse("conv int32[1,3,1] int32[3,1,1] b0f_0io->b0f out=int32")
    y = reference(problem, np.full((1, 3, 1), 2**20 + 1, np.int32), np.full((3, 1, 1), 3, np.int32))
    assert y.dtype == np.int64
    assert y.item() == 9 * (2**20 + 1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precisions_are_widened_before_anything_is_added(dtype: str) -> None:
    problem = ConvSpec.parse(f"conv {dtype}[1,600,1] {dtype}[600,1,1] b0f_0io->b0f")
    ones = jnp.ones((1, 600, 1), dtype), jnp.ones((600, 1, 1), dtype)
    y = reference(problem, *ones)
    assert y.dtype == np.float64
    assert y.item() == 600


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("conv float32[0,5,2] float32[3,2,4] b0f_0io->b0f", (0, 3, 4)),
        ("conv float32[2,5,0] float32[3,0,4] b0f_0io->b0f", (2, 3, 4)),
        ("conv float32[2,2,3] float32[5,3,4] b0f_0io->b0f", (2, 0, 4)),
        ("conv float32[2,0,3] float32[2,3,4] b0f_0io->b0f pad=2_1", (2, 2, 4)),
        ("conv float32[2,3] float32[3,4] bf_io->bf", (2, 4)),
    ],
)
def test_empty_operands_and_no_spatial_axes(text: str, shape: tuple[int, ...]) -> None:
    problem = ConvSpec.parse(text)
    lhs, rhs = np.ones(problem.lhs_shape), np.ones(problem.rhs_shape)
    y = reference(problem, lhs, rhs)
    assert y.shape == shape == problem.output_shape
    assert np.all(y == (0 if problem.empty else 3))
    dlhs, drhs = reference_conv_vjp(problem, lhs, rhs, np.ones(shape))
    assert dlhs.shape == lhs.shape
    assert drhs.shape == rhs.shape
    assert np.all(drhs == (0 if problem.empty else 2))


def test_operands_of_another_shape_are_refused() -> None:
    problem = ConvSpec.parse("conv float32[2,5,2] float32[3,2,4] b0f_0io->b0f")
    with pytest.raises(ValueError, match=r"rhs has shape \(3, 2, 5\) but the problem says \(3, 2, 4\)"):
        reference(problem, np.ones((2, 5, 2)), np.ones((3, 2, 5)))


def windows(problem: WindowSpec) -> Iterator[tuple[tuple[int, ...], list[tuple[int, tuple[int, ...]]]]]:
    """Every window by its index, with the taps that meet an element and that element's index."""
    for where in np.ndindex(*problem.windows_shape):
        met = []
        for number, tap in enumerate(np.ndindex(*problem.window)):
            positions = [
                o * s + t * d - lo
                for o, s, t, d, (lo, _) in zip(
                    where, problem.strides, tap, problem.window_dilation, problem.padding, strict=True
                )
            ]
            elements = [divmod(p, d) for p, d in zip(positions, problem.base_dilation, strict=True)]
            if all(not hole and 0 <= e < n for (e, hole), n in zip(elements, problem.shape, strict=True)):
                met.append((number, tuple(e for e, _ in elements)))
        yield where, met


@pytest.mark.parametrize("kind", ["normal", "integers", "special"])
@pytest.mark.parametrize("problem", WINDOWS[::3], ids=str)
@np.errstate(invalid="ignore")
def test_windows_equal_the_definition(problem: WindowSpec, kind: Kind) -> None:
    operands = random_operands(problem, 0, kind)
    first, taps = operands[0].astype(np.float64), operands[-1]
    if problem.compares:
        taps = first_equal(problem, operands[1], operands[2])
    largest = problem.operation in ("max", "argmax")
    want = np.zeros(problem.output_shape)
    winners = np.zeros(problem.windows_shape, np.int32)
    for where, met in windows(problem):
        match problem.operation:
            case "sum":
                want[where] = sum(first[e] for _, e in met)
            case "take" | "take_equal":
                want[where] = sum(first[e] for tap, e in met if tap == taps[where])
            case "put" | "put_equal":
                for tap, element in met:
                    want[element] += first[where] if tap == taps[where] else 0
            case _:
                want[where] = -np.inf if largest else np.inf
                if met:  # min takes the first of equals
                    tap, element = min(met, key=lambda m: rank(first[m[1]], largest))
                    want[where], winners[where] = first[element], tap
    result = reference(problem, *operands)
    if problem.operation.startswith("arg"):
        assert result.dtype == np.int32
        np.testing.assert_array_equal(result, winners)
    else:
        np.testing.assert_allclose(result, want, atol=1e-12)


def first_equal(problem: WindowSpec, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The first tap of every window on an element equal to its value, NaN to NaN; -1 where there is none."""
    taps = np.full(problem.windows_shape, -1)
    for where, met in windows(problem):
        taps[where] = next((tap for tap, e in met if np.array_equal(x[e], y[where], equal_nan=True)), -1)
    return taps


def rank(value: float, largest: bool) -> tuple[bool, float]:
    """NaN before all else, then the largest (or smallest)."""
    return not math.isnan(value), 0 if math.isnan(value) else -value if largest else value


@pytest.mark.parametrize("kind", ["normal", "integers", "special"])
def test_max_gradient_is_put_at_the_first_winner(kind: Kind) -> None:
    problem = WindowSpec.parse("max float32[2,9,8,3] window=1x3x2x1 stride=1x2x1x1 pad=0_0x1_1x0_1x0_0")
    (x,) = random_operands(problem, 3, kind)
    g = np.random.default_rng(4).standard_normal(problem.output_shape)
    want = np.zeros(problem.shape)
    for where, met in windows(problem):
        want[min(met, key=lambda m: rank(float(x[m[1]]), True))[1]] += g[where]
    np.testing.assert_allclose(reference_max_vjp(problem, x, g), want, atol=1e-12)


@pytest.mark.parametrize("operation", ["max", "min"])
def test_max_gradient_equals_xla_in_float64(operation: str) -> None:
    problem = WindowSpec.parse(f"{operation} float64[2,9,8,3] window=1x3x2x1 stride=1x2x1x1 pad=0_0x1_1x0_1x0_0")
    (x,) = random_operands(problem, 3)
    g = np.random.default_rng(4).standard_normal(problem.output_shape)
    combine, identity = (lax.max, -np.inf) if operation == "max" else (lax.min, np.inf)
    with jax.enable_x64(True):
        y, vjp = jax.vjp(
            lambda x: lax.reduce_window(x, identity, combine, problem.window, problem.strides, problem.padding), x
        )
        (want,) = vjp(jnp.asarray(g))
    np.testing.assert_array_equal(reference(problem, x), y)
    np.testing.assert_allclose(reference_max_vjp(problem, x, g), want, atol=1e-12)


def test_padding_never_wins() -> None:
    x = np.array([-np.inf, -np.inf, 5], np.float32)
    values, taps = (reference(WindowSpec.parse(f"{op} float32[3] window=2 pad=1_2"), x) for op in ("max", "argmax"))
    np.testing.assert_array_equal(values, [-np.inf, -np.inf, 5, 5, -np.inf])
    np.testing.assert_array_equal(taps, [1, 0, 1, 0, 0])  # the last window has no real element


def test_integer_windows_hold_the_dtype_s_own_identity() -> None:
    x = np.array([255, 3], np.uint8)
    values, taps = (reference(WindowSpec.parse(f"{op} uint8[2] window=2 pad=2_0"), x) for op in ("min", "argmin"))
    np.testing.assert_array_equal(values, [255, 255, 3])
    np.testing.assert_array_equal(taps, [0, 1, 1])


def test_gradient_of_a_sum_is_not_a_max_gradient() -> None:
    with pytest.raises(ValueError, match="the operation must be max or min"):
        reference_max_vjp(WindowSpec.parse("sum float32[4] window=2"), np.ones(4), np.ones(3))
