"""Patches and their sum: values, adjointness, gradients and transformations against float64, and refusals."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transforms import assert_close, differentiated, loss_of, rematerialized, sharded

from convjax.ops.conv import conv
from convjax.ops.patches import fold, unfold
from convjax.testing.patches import reference_fold, reference_unfold

LAYOUTS = {1: "NCW", 2: "NCHW", 3: "NCDHW"}


@dataclasses.dataclass(frozen=True)
class Patches:
    """An input's sizes and the windows over it; padding as pairs."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    first: bool = False
    batch: int = 2
    channels: int = 3

    @property
    def options(self) -> dict[str, Any]:
        return {
            "strides": self.strides,
            "padding": self.padding,
            "dilation": self.dilation,
            "layout": LAYOUTS[len(self.size)] if self.first else None,
        }

    @property
    def shape(self) -> tuple[int, ...]:
        return self.ordered(self.size, self.channels)

    def ordered(self, spatial: tuple[int, ...], features: int) -> tuple[int, ...]:
        return (self.batch, features, *spatial) if self.first else (self.batch, *spatial, features)

    def unfold(self, x: jax.Array) -> jax.Array:
        return unfold(x, self.kernel, **self.options)

    def fold(self, columns: jax.Array) -> jax.Array:
        return fold(columns, self.size, self.kernel, **self.options)

    def reference_unfold(self, x: Any) -> np.ndarray:
        return reference_unfold(x, self.kernel, self.strides, self.padding, self.dilation, self.first)

    def reference_fold(self, columns: Any) -> np.ndarray:
        return reference_fold(columns, self.size, self.kernel, self.strides, self.padding, self.dilation, self.first)


LINE = Patches((11,), (3,), (2,), ((1, 2),), (2,))
PLANE = Patches((7, 6), (3, 2), (1, 2), ((1, 1), (0, 2)), (1, 2), first=True)
CROPPED = Patches((9, 8), (2, 3), (2, 1), ((-1, 2), (3, -2)), (3, 1))
CASES = [
    LINE,
    PLANE,
    CROPPED,
    dataclasses.replace(CROPPED, first=True),
    Patches((8, 8), (2, 2), (3, 3), ((0, 0), (0, 0)), (1, 1)),  # elements that no patch covers
    Patches((5, 5), (1, 1), (1, 1), ((2, 0), (0, 0)), (1, 1), channels=1),
    Patches((2, 3), (5, 4), (1, 1), ((4, 4), (3, 5)), (1, 1)),  # a kernel larger than the input
    Patches((4, 5, 3), (2, 3, 1), (2, 1, 1), ((0, 1), (1, 1), (0, 0)), (1, 1, 2)),
    Patches((3, 4, 5), (2, 2, 3), (1, 2, 2), ((1, 0), (0, 0), (2, 1)), (1, 1, 1), first=True),
    dataclasses.replace(PLANE, batch=0),
    Patches((0, 4), (3, 2), (2, 1), ((0, 0), (0, 0)), (1, 1)),
    Patches((0, 4), (3, 2), (2, 1), ((2, 2), (0, 0)), (1, 1), first=True),
]


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def of_linear(forward: Callable[[Any], np.ndarray], adjoint: Callable[[Any], np.ndarray], c: Any, x: Any) -> Any:
    """What `differentiated` should return for a linear map, by the map and its adjoint alone."""
    c = c.astype(np.float64)
    return {
        "value": forward(x[0]),
        "grad": (adjoint(c[0]),),
        "jvp": forward(x[1]),
        "hvp": (adjoint(c[0] * forward(x[1])),),
        "vmap": np.stack([forward(x[0]), forward(x[1])]),
        "vmap of grad": (np.stack([adjoint(c[i] * forward(x[i])) for i in range(2)]),),
    }


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_derivatives(case: Patches) -> None:
    x = normal(0, 2, *case.shape)
    c = normal(1, 2, *case.reference_unfold(x[0]).shape)

    @jax.jit
    def ours(x: jax.Array, c: jax.Array) -> Any:
        return differentiated(case.unfold, c, x), differentiated(case.fold, x, c)

    unfolded, folded = ours(x, c)
    assert_close(unfolded, of_linear(case.reference_unfold, case.reference_fold, c, x), 2e-6)
    assert_close(folded, of_linear(case.reference_fold, case.reference_unfold, x, c), 2e-6)
    np.testing.assert_array_equal(unfolded["value"], case.reference_unfold(x[0]))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fold_is_the_adjoint_of_unfold(case: Patches) -> None:
    x = np.random.default_rng(0).integers(-9, 10, case.shape)
    c = np.random.default_rng(1).integers(-9, 10, case.reference_unfold(x).shape)
    unfolded, folded = case.unfold(jnp.asarray(x)), case.fold(jnp.asarray(c))
    assert np.vdot(unfolded, c) == np.vdot(x, folded)
    assert np.vdot(unfolded, c) == np.vdot(case.reference_unfold(x), c)


@pytest.mark.parametrize("case", [LINE, PLANE], ids=str)
def test_in_scans_and_over_devices(case: Patches) -> None:
    x = normal(0, 2, *case.shape)
    c = normal(1, 2, *case.reference_unfold(x[0]).shape)

    @jax.jit
    def ours(x: jax.Array, c: jax.Array) -> Any:
        return [
            rematerialized(case.unfold, c, x) | sharded(case.unfold, c, x),
            rematerialized(case.fold, x, c) | sharded(case.fold, x, c),
        ]

    maps = [(case.reference_unfold, case.reference_fold, c, x), (case.reference_fold, case.reference_unfold, x, c)]
    for got, (forward, adjoint, weights, operand) in zip(ours(x, c), maps, strict=True):
        value = np.stack([forward(operand[0]), forward(operand[1])])
        want = {
            "remat in scan": (np.stack([adjoint(weights[0] * value[i]) for i in range(2)]),),
            "shard_map": value,
            "grad of shard_map": (np.stack([adjoint(weights[i] * value[i]) for i in range(2)]),),
        }
        assert_close(got, want, 2e-6)


@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER", "VALID", "FULL", "CAUSAL", 1, (2, 0)])
def test_columns_by_a_flat_kernel_are_the_convolution(padding: Any) -> None:
    x, w = normal(0, 2, 7, 8, 3), normal(1, 3, 2, 3, 5)
    options: Any = {"padding": padding, "strides": (1, 2), "dilation": (2, 1)}
    want = conv(x, w, **options)
    columns = unfold(jnp.asarray(x), (3, 2), **options)
    assert_close({"value": columns @ w.reshape(-1, 5)}, {"value": want}, 4e-5)
    image = fold(columns, (7, 8), (3, 2), **options)
    (gradient,) = jax.vjp(lambda x: unfold(x, (3, 2), **options), x)[1](columns)
    np.testing.assert_allclose(image, gradient, atol=1e-5)


def test_one_number_for_all_axes_counts_the_axes_of_x() -> None:
    x = jnp.asarray(normal(0, 2, 6, 5, 3))
    np.testing.assert_array_equal(unfold(x, 2), unfold(x, (2, 2)))
    np.testing.assert_array_equal(unfold(x[0], 2), unfold(x[0], (2,)))  # three axes: a batch of lines
    np.testing.assert_array_equal(unfold(x[0], 2, layout="NHWC"), unfold(x, 2)[0])
    columns = unfold(x, 2)
    np.testing.assert_array_equal(fold(columns, (6, 5), 2), fold(columns, (6, 5), (2, 2)))
    np.testing.assert_array_equal(fold(unfold(x[0], 2), 5, 2), fold(unfold(x[0], 2), (5,), (2,)))
    line = columns[:, 0]  # (2, 4, 12): a batch of lines again
    np.testing.assert_array_equal(fold(line, 5, 2), fold(line, (5,), (2,)))


@pytest.mark.parametrize("case", [LINE, PLANE, CROPPED], ids=str)
def test_without_a_batch(case: Patches) -> None:
    x = jnp.asarray(normal(0, *case.shape))
    columns = case.unfold(x)
    np.testing.assert_array_equal(case.unfold(x[0]), columns[0])
    np.testing.assert_array_equal(case.fold(columns[0]), case.fold(columns)[0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precisions_are_summed_in_float32(dtype: str) -> None:
    """Every sum is rounded once: to the half precision nearest to the exact sum, or to its neighbour by float32."""
    case = Patches((16, 16), (8, 8), (1, 1), ((0, 0), (0, 0)), (1, 1), channels=1)
    c = np.abs(normal(0, *case.reference_unfold(np.ones(case.shape)).shape)).astype(jnp.dtype(dtype))
    want = case.reference_fold(c.astype(np.float64))
    x = jnp.zeros(case.shape, dtype)
    (gradient,) = jax.vjp(case.unfold, x)[1](jnp.asarray(c))
    for got in (case.fold(jnp.asarray(c)), gradient):
        assert got.dtype == dtype
        error = np.abs(np.asarray(got, np.float64) - want) / want
        assert np.max(error) <= 1.001 * float(jnp.finfo(dtype).eps) / 2


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "bool", "complex64", "float16", "bfloat16"])
def test_dtypes_are_kept(dtype: str) -> None:
    x = jnp.arange(12).reshape(1, 12, 1).astype(dtype)
    columns = unfold(x, (3,), padding=1)
    assert columns.dtype == dtype
    np.testing.assert_array_equal(np.asarray(columns)[0, 1:-1, 1], np.asarray(x)[0, 1:-1, 0])
    if dtype != "bool":
        folded = fold(columns, 12, (3,), padding=1)
        assert folded.dtype == dtype
        np.testing.assert_array_equal(folded[0, 1:-1], x[0, 1:-1] * 3)


def test_double_precision(x64: None) -> None:
    x = np.random.default_rng(0).standard_normal(PLANE.shape)
    columns = PLANE.unfold(jnp.asarray(x))
    assert columns.dtype == np.float64
    assert_close({"value": PLANE.fold(columns)}, {"value": PLANE.reference_fold(PLANE.reference_unfold(x))}, 1e-15)


def test_nothing_is_multiplied_so_nan_and_infinity_stay_where_they_are() -> None:
    x = normal(0, *PLANE.shape)
    x[0, 1, 3, 3], x[1, 0, 2, 2] = np.nan, np.inf
    columns = PLANE.unfold(jnp.asarray(x))
    np.testing.assert_array_equal(columns, PLANE.reference_unfold(x))
    covered = PLANE.reference_fold(np.ones(columns.shape))
    np.testing.assert_allclose(PLANE.fold(columns)[covered > 0], (x * covered)[covered > 0], rtol=1e-6)


def test_a_large_kernel_takes_a_slice_for_each_row_and_column() -> None:
    x = jnp.zeros((1, 40, 40, 2))
    for f in (lambda x: unfold(x, 31), jax.grad(lambda x: loss_of(lambda x: unfold(x, 31))(1.0, x))):
        jaxpr = str(jax.make_jaxpr(f)(x))
        assert jaxpr.count(" slice[") <= 2 * 31
        assert jaxpr.count(" pad[") <= 2 * 31
        assert jax.eval_shape(lambda x: unfold(x, 31), x).shape == (1, 10, 10, 31 * 31 * 2)


X, COLUMNS = jnp.ones((2, 8, 8, 4)), jnp.ones((2, 6, 6, 36))
REFUSALS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "zero kernel": (unfold, (X, 0), {}, ValueError, r"kernel_size must be at least 1 .*got \(0, 0\)"),
    "fractional kernel": (unfold, (X, 1.5), {}, TypeError, "kernel_size must hold integers, got .*1.5"),
    "zero stride": (unfold, (X, 3), {"strides": (1, 0)}, ValueError, r"strides must be .*got \(1, 0\)"),
    "zero dilation": (unfold, (X, 3), {"dilation": 0}, ValueError, r"dilation must be .*got \(0, 0\)"),
    "strides for two axes": (unfold, (X, 3), {"strides": (1, 1, 1)}, ValueError, "strides has 3 entries for 2"),
    "no patch": (unfold, (X, 9), {}, ValueError, "axis 0 has 8 elements, 8 with padding .*9.*pad by 1 or more"),
    "cropped away": (unfold, (X, 1), {"padding": -5}, ValueError, r"padding \(-5, -5\) crops more than the 8"),
    "padding name": (unfold, (X, 3), {"padding": "same"}, ValueError, "padding must be one of SAME.*got 'same'"),
    "layout": (unfold, (X, 3), {"layout": "CHWN"}, ValueError, "layout must be .*NHWC, NCHW .*got 'CHWN'"),
    "rank": (unfold, (X[0, 0], (3, 3)), {}, ValueError, r"x of shape \(8, 4\) must have 4 axes .*or 3 without"),
    "no spatial axis": (
        unfold,
        (X, ()),
        {},
        ValueError,
        r"kernel_size=\(\) for .* is for 0 spatial axes, not for 1 to 3",
    ),
    "four spatial axes": (
        unfold,
        (jnp.ones((1, 5, 5, 5, 5, 1)), 3),
        {},
        ValueError,
        "kernel_size=3 for .* is for 4 spatial axes, not for",
    ),
    "patches": (
        fold,
        (COLUMNS, 9, (3, 3)),
        {},
        ValueError,
        r"columns of shape .* have \(6, 6\) patches, but .*output_size \(9, 9\) .*kernel_size \(3, 3\).* has \(7, 7\)",
    ),
    "patches by stride": (fold, (COLUMNS, (8, 8), 3), {"strides": 2}, ValueError, r"strides \(2, 2\).* has \(3, 3\)"),
    "taps": (
        fold,
        (COLUMNS[..., :35], (8, 8), 3),
        {},
        ValueError,
        r"columns of shape \(2, 6, 6, 35\) have 35 features, which must be a multiple of the 9 taps of .*\(3, 3\)",
    ),
    "layout of columns": (fold, (COLUMNS, (8, 8), 3), {"layout": "NCHW"}, ValueError, r"have \(6, 36\) patches"),
    "rank of columns": (fold, (COLUMNS[0, 0], (8, 8), 3), {}, ValueError, r"columns of shape \(6, 36\) must have 4"),
    "output_size": (fold, (COLUMNS, (8, 8, 8), (3, 3)), {}, ValueError, "output_size has 3 entries for 2 spatial"),
    "negative output_size": (
        fold,
        (COLUMNS, -8, (3, 3)),
        {},
        ValueError,
        r"output_size must be at least 0 .*got \(-8, -8\)",
    ),
    "sum of bool": (fold, (COLUMNS.astype(bool), (8, 8), 3), {}, TypeError, "columns are bool, .*cast them"),
}


@pytest.mark.parametrize("way", ["eager", "jit"])
@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
def test_refused_in_one_sentence_that_names_the_argument(case: Any, way: str) -> None:
    function, (x, *rest), options, error, message = case

    def call(x: jax.Array) -> jax.Array:
        return function(x, *rest, **options)

    with pytest.raises(error, match=message) as caught:
        (call if way == "eager" else jax.jit(call))(x)
    text = str(caught.value).split("\n--------------------\n")[0].strip()
    assert "\n" not in text
    assert len(text) < 400
