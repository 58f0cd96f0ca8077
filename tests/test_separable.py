"""Depthwise, separable and flipped convolutions against float64 and SciPy, and refusals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from transforms import assert_close, differentiated, rematerialized, sharded

import convjax
from convjax.ops.conv import conv, convolve
from convjax.ops.separable import depthwise_conv, separable_conv
from convjax.testing.patches import reference_unfold

# Default precision admits algorithms within 2e-5 of the largest output, and two follow one another.
BOUND = 6e-5


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def reference_depthwise(x: Any, w: Any, strides: Any, padding: Any, dilation: Any) -> np.ndarray:
    """(N, *output, C M) by patches, tap by tap."""
    *kernel, channels, multiplier = w.shape
    columns = reference_unfold(x, kernel, strides, padding, dilation)
    columns = columns.reshape(*columns.shape[:-1], -1, channels)  # N *output T C
    y = np.einsum("...tc,tcm->...cm", columns, w.reshape(-1, channels, multiplier).astype(np.float64))
    return y.reshape(*y.shape[:-2], channels * multiplier)


# x, w_depthwise, w_pointwise, strides, padding, dilation
CASES: list[tuple[Any, ...]] = [
    ((2, 9, 3), (3, 3, 2), (6, 5), (2,), ((1, 1),), (2,)),
    ((2, 7, 6, 4), (3, 2, 4, 1), (1, 1, 4, 3), (1, 2), ((1, 0), (-1, 2)), (2, 1)),
    ((1, 4, 5, 5, 2), (2, 3, 3, 2, 2), (4, 3), (1, 1, 2), ((0, 0), (1, 1), (2, 0)), (1, 1, 1)),
]


@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
@pytest.mark.parametrize("case", CASES)
def test_values_in_either_layout(case: tuple[Any, ...], first: bool) -> None:
    x_shape, w_shape, p_shape, *windows = case
    x, w, p, bias = normal(0, *x_shape), normal(1, *w_shape), normal(2, *p_shape), normal(3, p_shape[-1])
    depthwise = reference_depthwise(x, w, *windows)
    want = {"depthwise": depthwise, "separable": depthwise @ p.reshape(p.shape[-2:]).astype(np.float64) + bias}
    names = dict(zip(("strides", "padding", "dilation"), windows, strict=True))
    layout = {3: "NCW", 4: "NCHW", 5: "NCDHW"}[x.ndim] if first else None

    @jax.jit
    def ours(x: jax.Array, *kernels: jax.Array) -> dict[str, jax.Array]:
        w, p, bias = kernels
        x = jnp.moveaxis(x, -1, 1) if first else x
        got = {
            "depthwise": depthwise_conv(x, w, layout=layout, **names),
            "separable": separable_conv(x, w, p, bias=bias, layout=layout, **names),
        }
        unbatched = separable_conv(x[0], w, p, bias=bias, layout=layout, **names)
        if first:
            got, unbatched = {k: jnp.moveaxis(y, 1, -1) for k, y in got.items()}, jnp.moveaxis(unbatched, 0, -1)
        return got | {"unbatched": unbatched}

    assert_close(ours(x, w, p, bias), want | {"unbatched": want["separable"][0]}, BOUND)


def test_derivatives_are_those_of_the_product_of_both_kernels() -> None:
    """The same map as one dense `conv` by w[t, c, m] p[c M + m, k] summed over m."""
    options: Any = {"strides": (2, 1), "padding": "SAME", "dilation": (1, 2)}

    def separable(x: jax.Array, w: jax.Array, p: jax.Array) -> jax.Array:
        return separable_conv(x, w, p, **options)

    def dense(x: jax.Array, w: jax.Array, p: jax.Array) -> jax.Array:
        kernel = jnp.einsum("rscm,cmk->rsck", w, p.reshape(3, 2, 4), precision="highest")
        return conv(x, kernel, algorithm={"fprop": "lax", "dgrad": "lax", "wgrad": "lax"}, **options)

    operands = normal(0, 2, 2, 7, 6, 3), normal(1, 2, 3, 2, 3, 2), normal(2, 2, 6, 4)
    c = normal(3, 2, *jax.eval_shape(dense, *(a[0] for a in operands)).shape)

    def together(f: Any) -> Any:
        return jax.jit(lambda *a: differentiated(f, *a) | rematerialized(f, *a))(c, *operands)

    def over_devices(f: Any) -> Any:
        """In a program of its own: a vmapped 1x1 convolution comes out wrong where XLA splits it over devices."""
        return jax.jit(lambda *a: sharded(f, *a))(c, *operands)

    for results in (together, over_devices):
        assert_close(results(separable), results(dense), BOUND)


def test_padding_mode_is_of_the_depthwise_part() -> None:
    x, w, p = normal(0, 1, 6, 5, 3), normal(1, 3, 3, 3, 1), normal(2, 3, 4)
    widths = ((2, 2), (1, 1))
    padded = np.pad(x, [(0, 0), *widths, (0, 0)], mode="wrap")
    want = reference_depthwise(padded, w, (1, 1), ((0, 0), (0, 0)), (1, 1)) @ p.astype(np.float64)
    y = separable_conv(jnp.asarray(x), jnp.asarray(w), jnp.asarray(p), padding=widths, padding_mode="circular")
    assert_close({"y": y}, {"y": want}, BOUND)


@pytest.mark.parametrize("algorithm", ["shift(by=multiply)", {"fprop": "shift(by=multiply)", "dgrad": "lax"}])
def test_algorithm_names_the_depthwise_part_alone(algorithm: Any) -> None:
    x, w, p = jnp.ones((1, 6, 6, 8)), jnp.ones((3, 3, 8, 1)), jnp.ones((8, 8))
    depthwise, pointwise = convjax.explain(
        lambda x: separable_conv(x, w, p, algorithm=algorithm), x, platform="cpu"
    ).rows
    assert depthwise.problem.feature_groups == 8
    assert str(depthwise.algorithm) == "shift(by=multiply)"
    assert pointwise.problem.taps == 1
    chosen = convjax.explain(lambda x: conv(x, p[None, None]), depthwise_conv(x, w), platform="cpu").rows[0]
    assert pointwise.algorithm == chosen.algorithm


def test_dtypes() -> None:
    x, w, p = jnp.ones((1, 5, 3)), jnp.full((3, 3, 1), 1 / 3), jnp.ones((3, 2))
    half = [a.astype(jnp.bfloat16) for a in (x, w, p)]
    assert separable_conv(*half).dtype == jnp.bfloat16
    wide = separable_conv(*half, preferred_element_type=jnp.float32)
    assert wide.dtype == jnp.float32
    unrounded = 9 * np.asarray(half[1], np.float64)[0, 0, 0]  # bfloat16 between the two would show
    np.testing.assert_allclose(wide, np.full((1, 3, 2), unrounded), rtol=1e-6)
    small = [jnp.full(a.shape, 11, jnp.int8) for a in (x, w, p)]
    exact = separable_conv(*small, preferred_element_type=jnp.int32)
    np.testing.assert_array_equal(exact, np.full((1, 3, 2), 9 * 11**3))
    assert separable_conv(x[:0], w, p).shape == (0, 3, 2)


@pytest.mark.parametrize("kernel", [(3, 2), (4, 4), (1, 5)])
@pytest.mark.parametrize(("padding", "mode"), [("FULL", "full"), ("VALID", "valid"), ("SAME_LOWER", "same")])
def test_true_convolution_is_scipys(kernel: tuple[int, int], padding: str, mode: str) -> None:
    x, w = normal(0, 7, 8), normal(1, *kernel)
    want = scipy.signal.convolve(x.astype(np.float64), w.astype(np.float64), mode=mode, method="direct")
    y = convolve(jnp.asarray(x[..., None]), jnp.asarray(w[..., None, None]), padding=padding)
    assert_close({"y": y[..., 0]}, {"y": want}, 4e-5)


def test_true_convolution_flips_space_and_nothing_else() -> None:
    x, w, bias = (jnp.asarray(normal(i, *shape)) for i, shape in enumerate(((2, 4, 9, 8), (3, 2, 2, 6), (6,))))
    options: Any = {"strides": (2, 1), "dilation": (1, 2), "groups": 2, "padding": 2, "bias": bias, "layout": "NCHW"}
    y, pullback = jax.vjp(lambda x, w: convolve(x, w, **options), x, w)
    want, flipped = jax.vjp(lambda x, w: conv(x, w, **options), x, w[::-1, ::-1])
    dx, dw = flipped(y)
    assert_close({"y": y, "grad": pullback(y)}, {"y": want, "grad": (dx, dw[::-1, ::-1])}, BOUND)
    line = convolve(jnp.arange(1.0, 5.0)[:, None], jnp.array([1.0, 10.0, 100.0])[:, None, None])
    np.testing.assert_allclose(line[:, 0], [123.0, 234.0])


X, W, P = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 2)), jnp.ones((8, 6))
REFUSALS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "pointwise channels": (
        separable_conv,
        (X, W, P[:4]),
        {},
        ValueError,
        r"w_pointwise of shape \(4, 6\) must be \(8, K\) or \(1, 1, 8, K\): w_depthwise of shape .* makes 8 channels",
    ),
    "pointwise taps": (separable_conv, (X, W, jnp.ones((3, 1, 8, 6))), {}, ValueError, r"w_pointwise .*\(1, 1, 8, K\)"),
    "pointwise rank": (separable_conv, (X, W, P[0]), {}, ValueError, r"w_pointwise of shape \(6,\) must be \(8, K\)"),
    "depthwise channels": (
        separable_conv,
        (X, W[:, :, :3], P),
        {},
        ValueError,
        r"w_depthwise of shape \(3, 3, 3, 2\) has filters for 3 channels, but x has 4: w_depthwise needs 4",
    ),
    "depthwise rank": (
        separable_conv,
        (X, W[0, 0], P),
        {},
        ValueError,
        r"w_depthwise of shape \(4, 2\) must have 3, 4",
    ),
    "rank of x": (separable_conv, (X[0, 0], W, P), {}, ValueError, r"x of shape \(8, 4\) must have 4 axes"),
    "groups": (separable_conv, (X, W, P), {"groups": 2}, ValueError, "separable_conv .*leave groups out"),
    "dtypes": (
        separable_conv,
        (X, W, P.astype(jnp.bfloat16)),
        {},
        TypeError,
        "x is float32, w_depthwise is float32 and w_pointwise is bfloat16: cast them",
    ),
    "int8": (
        separable_conv,
        (X.astype("int8"), W.astype("int8"), P.astype("int8")),
        {},
        TypeError,
        "preferred_element_type=jnp.int32",
    ),
    "bias": (separable_conv, (X, W, P), {"bias": jnp.ones(8)}, ValueError, r"bias of shape \(8,\) must be \(6,\)"),
    "empty output": (separable_conv, (X[:, :2], W, P), {}, ValueError, "spatial axis 0 has 2 elements"),
    "option": (separable_conv, (X, W, P), {"stride": 2}, TypeError, "no argument 'stride': did you mean 'strides'"),
    "layout": (separable_conv, (X, W, P), {"layout": "NCHW"}, ValueError, "w_depthwise .*4 channels, but x has 8"),
    "filters": (depthwise_conv, (X, W[:, :, :2]), {}, ValueError, r"w of shape .* 2 channels, but x has 4: w needs 4"),
    "rank of filters": (depthwise_conv, (X, W[0, 0, 0]), {}, ValueError, r"w of shape \(2,\) must have 3, 4 or 5 axes"),
    "rank of a kernel": (convolve, (X, W[0, 0]), {}, ValueError, r"w of shape \(4, 2\) must have 3, 4 or 5 axes"),
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
