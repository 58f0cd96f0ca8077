"""Dilation and erosion: values and gradients by the definition and by SciPy, further derivatives, refusals."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax.sharding import PartitionSpec
from transforms import assert_close, differentiated, sharded, two_devices

from convjax.layout import pad
from convjax.ops.morphology import dilation2d, erosion2d
from convjax.testing.morphology import Operation, reference_morphology, reference_morphology_vjp

Function = Callable[..., jax.Array]
FUNCTIONS: dict[Operation, Function] = {"dilation": dilation2d, "erosion": erosion2d}

# Size of x, element, and the options.
CASES: dict[str, tuple[tuple[int, int, int, int], tuple[int, int], dict[str, Any]]] = {
    "plain": ((2, 5, 6, 3), (3, 3), {}),
    "uneven": ((1, 7, 6, 2), (2, 3), {"strides": (2, 1), "padding": ((1, 0), (0, 2)), "dilation": (1, 2)}),
    "padded": ((2, 5, 4, 2), (3, 2), {"strides": (1, 3), "padding": ((1, 1), (1, 1))}),
    "one tap": ((1, 3, 4, 2), (1, 1), {"strides": (2, 2)}),
    "many taps": ((1, 9, 8, 1), (7, 6), {"padding": ((3, 3), (2, 3))}),
}


def operands_of(shape: tuple[int, ...], element: tuple[int, int], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Normal; or few values, so that sums tie, with NaN and infinities of both signs in x and in w."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(shape), rng.standard_normal((*element, shape[-1]))
    if kind == "special":
        x, w = np.round(x), np.round(w)
        x[rng.random(shape) < 0.4] = -np.inf
        x[rng.random(shape) < 0.1] = np.inf
        x[rng.random(shape) < 0.03] = np.nan
        w[rng.random(w.shape) < 0.02] = np.nan
        w[0, 0] = -np.inf
    return x.astype(np.float32), w.astype(np.float32)


@pytest.mark.parametrize("operation", FUNCTIONS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@np.errstate(invalid="ignore")  # inf - inf is NaN, and wins
def test_values_and_gradients_equal_the_definition(case: Any, operation: Operation) -> None:
    shape, element, options = case
    f = functools.partial(FUNCTIONS[operation], **options)

    @jax.jit
    def ours(x: jax.Array, w: jax.Array, g: jax.Array) -> Any:
        y, pullback = jax.vjp(f, x, w)
        first = f(jnp.moveaxis(x, -1, 1), w, layout="NCHW")
        return y, pullback(g), jnp.moveaxis(first, 1, -1), f(x[0], w)

    for kind in ("normal", "special"):
        x, w = operands_of(shape, element, kind)
        want = reference_morphology(operation, x, w, **options)
        g = np.random.default_rng(1).integers(-3, 4, want.shape).astype(np.float32)
        y, gradients, first, unbatched = ours(x, w, g)
        np.testing.assert_array_equal(y, want.astype(np.float32))
        np.testing.assert_array_equal(first, y)
        np.testing.assert_array_equal(unbatched, y[0])
        for got, wanted in zip(gradients, reference_morphology_vjp(operation, x, w, g, **options), strict=True):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("element", [(3, 3), (5, 1), (3, 5)])
def test_interior_equals_scipy(element: tuple[int, int]) -> None:
    """SciPy's dilation reads the element backwards and its erosion forwards; ours the other way round."""
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((9, 8)), rng.standard_normal(element)
    inside = tuple(slice(k // 2, n - k // 2) for n, k in zip(x.shape, element, strict=True))
    theirs = {"dilation": scipy.ndimage.grey_dilation, "erosion": scipy.ndimage.grey_erosion}
    for operation in FUNCTIONS:
        want = theirs[operation](x, structure=w[::-1, ::-1])[inside]
        got = reference_morphology(operation, x[None, ..., None], w[..., None])[0, ..., 0]
        np.testing.assert_allclose(got, want, atol=1e-12)


def stacked(operation: Operation, x: jax.Array, w: jax.Array, padding: Any, dilation: tuple[int, int]) -> jax.Array:
    """Stride 1: every tap's sums in one array, reduced at once; without ties its derivatives are the same."""
    if operation == "erosion":
        return -stacked("dilation", -x, w[::-1, ::-1], padding, dilation)
    x = pad(x, ((0, 0), *padding, (0, 0)), (0,) * 4, -1e9)
    height, width = (n - d * (k - 1) for n, k, d in zip(x.shape[1:3], w.shape, dilation, strict=False))
    sums = [
        x[:, r * dilation[0] :, s * dilation[1] :][:, :height, :width] + w[r, s][None, None, None]
        for r, s in np.ndindex(*w.shape[:2])
    ]
    return jnp.max(jnp.stack(sums), 0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("transform", [differentiated, sharded])
@pytest.mark.parametrize("operation", FUNCTIONS)
def test_derivatives_equal_those_of_a_stack(operation: Operation, transform: Callable[..., dict[str, Any]]) -> None:
    rng = np.random.default_rng(3)
    options: dict[str, Any] = {"padding": ((1, 1), (1, 0)), "dilation": (1, 2)}
    pairs = [jnp.asarray(rng.standard_normal((2, *shape))) for shape in ((2, 4, 5, 2), (3, 2, 2))]
    ours = functools.partial(FUNCTIONS[operation], **options)
    shape = jax.eval_shape(ours, *(pair[0] for pair in pairs)).shape
    c = jnp.asarray(rng.standard_normal((2, *shape)))
    got, want = (
        jax.jit(functools.partial(transform, f))(c, *pairs)
        for f in (ours, functools.partial(stacked, operation, **options))
    )
    assert_close(got, want, 1e-12)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
def test_integers_wrap_and_padding_is_below_their_least(dtype: str) -> None:
    info = jnp.iinfo(dtype)
    x, w = jnp.full((1, 2, 3, 1), info.min, dtype), jnp.zeros((3, 3, 1), dtype).at[0, 0].set(1)
    y = dilation2d(x, w, padding=1)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y[0, ..., 0], np.array([[0, 0, 0], [0, 1, 1]]) + info.min)
    x = jnp.full((1, 1, 1, 1), info.max, dtype)
    np.testing.assert_array_equal(erosion2d(x, w, padding=1), info.max)
    np.testing.assert_array_equal(dilation2d(x, jnp.ones((1, 1, 1), dtype)), info.min)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precisions_compare_and_accumulate_in_float32(dtype: str) -> None:
    """x + w is 1 + eps / 4 at the second tap, a tie once rounded; and 4000 ones do not add up in it."""
    eps = float(jnp.finfo(dtype).eps)
    x, w = jnp.ones((1, 1, 4001, 1), dtype), jnp.array([0, eps / 4], dtype).reshape(1, 2, 1)
    for function in FUNCTIONS.values():
        y, pullback = jax.vjp(jax.jit(function), x, w if function is dilation2d else w[:, ::-1])
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, 1)
        dx, dw = pullback(jnp.ones_like(y))
        assert dx[0, 0, 0] == 0
        np.testing.assert_array_equal(np.abs(np.ravel(dw)), [0, 4000] if function is dilation2d else [4000, 0])


@pytest.mark.parametrize("operation", FUNCTIONS)
def test_named_paddings_and_empty_batches(operation: Operation) -> None:
    x, w = operands_of((1, 6, 5, 2), (3, 2), "normal")
    f = FUNCTIONS[operation]
    same = reference_morphology(operation, x, w, strides=(2, 2), padding=((0, 1), (0, 1)))
    np.testing.assert_array_equal(f(jnp.asarray(x), jnp.asarray(w), padding="SAME", strides=2), same.astype(np.float32))
    y, pullback = jax.vjp(f, jnp.asarray(x[:0]), jnp.asarray(w))
    assert y.shape == (0, 4, 4, 2)
    np.testing.assert_array_equal(pullback(y)[1], np.zeros_like(w))


def test_memory_does_not_grow_with_the_taps() -> None:
    """Neither forwards nor backwards is there an array for each of 121 taps."""

    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(dilation2d(x, w, padding="SAME")))

    x, w = jnp.ones((2, 64, 64, 8)), jnp.ones((11, 11, 8))
    memory = jax.jit(jax.grad(loss, (0, 1))).lower(x, w).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 20 * x.nbytes


def test_elements_that_differ_between_devices() -> None:
    """What shard_map knows of x alone would leave its gradient without the sum over devices."""
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in ((1, 6, 6, 2), (2, 3, 3, 2)))

    @jax.shard_map(mesh=two_devices(), in_specs=(PartitionSpec(), PartitionSpec("batch")), out_specs=PartitionSpec())
    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.psum(jnp.sum(jnp.square(dilation2d(x, w[0]))), "batch")

    def on_one(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(jax.vmap(dilation2d, (None, 0))(x, w)))

    got, want = (jax.jit(jax.grad(f, (0, 1)))(x, w) for f in (loss, on_one))
    assert_close({"grad": got}, {"grad": want}, 2e-6)


X, W = jnp.ones((2, 6, 6, 4)), jnp.ones((3, 3, 4))
REFUSED: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "channels": ((X, W[..., :3]), {}, ValueError, r"w of shape \(3, 3, 3\) is for 3 channels, but x has 4"),
    "channels first": ((X, W), {"layout": "NCHW"}, ValueError, r"w of shape \(3, 3, 4\) is for 4 .*x has 6"),
    "rank of w": ((X, W[..., None]), {}, ValueError, r"w of shape \(3, 3, 4, 1\) must have 3 axes"),
    "rank of x": ((X[0, 0], W), {}, ValueError, r"x of shape \(6, 4\) must have 4 axes"),
    "no taps": ((X, W[:0]), {}, ValueError, r"must be at least 1 .*got \(0, 3\)"),
    "stride": ((X, W), {"strides": 0}, ValueError, r"strides must be at least 1 .*got \(0, 0\)"),
    "dilation": ((X, W), {"dilation": (1, 0)}, ValueError, r"dilation must be .*got \(1, 0\)"),
    "too large": ((X, jnp.ones((7, 3, 4))), {}, ValueError, "axis 0 has 6 elements, 6 with padding, fewer .*7"),
    "padding": ((X, W), {"padding": 2}, ValueError, r"padding \(2, 2\) .*half the dilated window, 1"),
    "padding alone": ((X, W), {"padding": "FULL", "dilation": 7}, ValueError, "no element of x"),
    "no elements": ((X[:, :0], W), {}, ValueError, r"x of shape \(2, 0, 6, 4\) has no elements"),
    "dtypes": ((X, W.astype("bfloat16")), {}, TypeError, "x is float32 and w is bfloat16: cast"),
    "bool": ((X > 0, W > 0), {}, TypeError, "x is bool, which .*cast it to a real dtype"),
    "complex": ((X + 0j, W + 0j), {}, TypeError, "x is complex64, which .*cast"),
    "layout": ((X, W), {"layout": "NCW"}, ValueError, "layout must be .*NCHW .*got 'NCW'"),
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_refused_in_one_sentence_that_names_the_argument(case: Any, jit: bool) -> None:
    operands, options, error, message = case
    for function in FUNCTIONS.values():
        call = functools.partial(function, **options)
        with pytest.raises(error, match=message) as caught:
            (jax.jit(call) if jit else call)(*operands)
        assert "\n" not in str(caught.value).split("\n--------------------\n")[0].strip()


def test_operands_are_positional_and_the_rest_is_not() -> None:
    kinds = [p.kind.name for f in FUNCTIONS.values() for p in inspect.signature(f).parameters.values()]
    assert kinds == (["POSITIONAL_OR_KEYWORD"] * 2 + ["KEYWORD_ONLY"] * 4) * 2
