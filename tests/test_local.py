"""Unshared kernels: values and derivatives against float64, `conv` where the kernels are equal, lax's, and refusals."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from transforms import assert_close, differentiated, rematerialized, sharded

from convjax.ops.conv import conv
from convjax.ops.local import conv_local
from convjax.testing.patches import reference_conv_local, reference_fold, reference_unfold

LAYOUTS = {1: "NCW", 2: "NCHW", 3: "NCDHW"}


@dataclasses.dataclass(frozen=True)
class Local:
    """A local convolution of (2, *size, 3) to 4 channels."""

    size: tuple[int, ...]
    output: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    first: bool = False

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (2, *self.size, 3)

    @property
    def w_shape(self) -> tuple[int, ...]:
        return (*self.output, int(np.prod(self.kernel)) * 3, 4)

    @property
    def windows(self) -> tuple[Any, ...]:
        return self.kernel, self.strides, self.padding, self.dilation

    def __call__(self, x: jax.Array, w: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        """Channels last outside; inside as `first` says."""
        y = conv_local(
            jnp.moveaxis(x, -1, 1) if self.first else x,
            w,
            kernel_size=self.kernel,
            bias=bias,
            strides=self.strides,
            padding=self.padding,
            dilation=self.dilation,
            layout=LAYOUTS[len(self.size)] if self.first else None,
        )
        return jnp.moveaxis(y, 1, -1) if self.first else y

    def pullback(self, x: Any, w: Any, g: Any) -> tuple[np.ndarray, np.ndarray]:
        """The gradients of x and of w, for the cotangent g."""
        columns = reference_unfold(x, *self.windows)
        dw = np.einsum("n...f,n...k->...fk", columns, g)
        return reference_fold(np.einsum("n...k,...fk->n...f", g, w), self.size, *self.windows), dw


PLANE = Local((6, 5), (3, 4), (3, 2), (2, 1), ((1, 0), (0, 0)), (1, 1))
CASES = [
    PLANE,
    dataclasses.replace(PLANE, first=True),
    Local((9,), (4,), (3,), (2,), ((2, 1),), (2,)),
    Local((3, 4, 5), (2, 3, 3), (2, 2, 1), (1, 1, 2), ((0, 0),) * 3, (1, 1, 1), first=True),
    Local((7, 8), (3, 5), (2, 2), (2, 1), ((-1, 0), (0, -1)), (1, 2)),
]


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_derivatives(case: Local) -> None:
    x, w, c = normal(0, 2, *case.x_shape), normal(1, 2, *case.w_shape), normal(2, 2, 2, *case.output, 4)

    def forward(x: Any, w: Any) -> np.ndarray:
        return reference_conv_local(x, w, *case.windows)

    y = [forward(x[i], w[i]) for i in range(2)]
    pull = case.pullback
    tangent = forward(x[1], w[0]) + forward(x[0], w[1])
    # the gradient of sum(c y) is the pullback of c, and that is bilinear in c and (x, w)
    hvp = (pull(x[0], w[1], c[0])[0], pull(x[1], w[0], c[0])[1])
    want = {
        "value": y[0],
        "grad": pull(x[0], w[0], c[0]),
        "jvp": tangent,
        "hvp": hvp,
        "vmap": np.stack(y),
        "vmap of grad": tuple(map(np.stack, zip(*(pull(x[i], w[i], c[i]) for i in range(2)), strict=True))),
        "vmap over operand 0": np.stack([y[0], forward(x[1], w[0])]),
        "vmap over operand 1": np.stack([y[0], forward(x[0], w[1])]),
    }
    assert_close(jax.jit(lambda c, x, w: differentiated(case, c, x, w))(c, x, w), want, 4e-6)


def test_in_scans_and_over_devices() -> None:
    x, w, c = normal(0, 2, *PLANE.x_shape), normal(1, 2, *PLANE.w_shape), normal(2, 2, 2, *PLANE.output, 4)
    got = jax.jit(lambda c, x, w: rematerialized(PLANE, c, x, w) | sharded(PLANE, c, x, w))(c, x, w)

    def gradients(i: int, j: int, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return PLANE.pullback(x[i], w[j], weights)

    steps, shards = ([gradients(0, i, c[0]) for i in range(2)], [gradients(i, 0, c[i]) for i in range(2)])
    want = {
        "remat in scan": (steps[0][0] + steps[1][0], np.stack([steps[0][1], steps[1][1]])),
        "shard_map": np.stack([reference_conv_local(x[i], w[0], *PLANE.windows) for i in range(2)]),
        "grad of shard_map": (np.stack([shards[0][0], shards[1][0]]), shards[0][1] + shards[1][1]),
    }
    assert_close(got, want, 4e-6)


@pytest.mark.parametrize("bias_shape", [(4,), (3, 4, 4)], ids=["shared", "at every position"])
@pytest.mark.parametrize("first", [False, True], ids=["NHWC", "NCHW"])
def test_bias(bias_shape: tuple[int, ...], first: bool) -> None:
    case = dataclasses.replace(PLANE, first=first)
    x, w, bias = normal(0, *case.x_shape), normal(1, *case.w_shape), normal(2, *bias_shape)
    y, pullback = jax.vjp(lambda b: case(x, w, b), jnp.asarray(bias))
    g = normal(3, *y.shape)
    want = reference_conv_local(x, w, *case.windows) + bias.reshape((1,) * (4 - bias.ndim) + bias.shape)
    summed = g.astype(np.float64).sum(tuple(range(4 - len(bias_shape))))
    assert_close({"value": y, "grad": pullback(jnp.asarray(g))[0]}, {"value": want, "grad": summed}, 4e-6)


@pytest.mark.parametrize("padding", ["SAME", "FULL", "CAUSAL", 1])
def test_equal_kernels_are_a_convolution(padding: Any) -> None:
    x, w = normal(0, 2, 6, 7, 3), normal(1, 3, 2, 3, 4)
    options: Any = {"padding": padding, "strides": (2, 1)}
    y = conv(jnp.asarray(x), jnp.asarray(w), **options)
    unshared = jnp.broadcast_to(w.reshape(18, 4), (*y.shape[1:3], 18, 4))
    assert_close({"y": conv_local(jnp.asarray(x), unshared, kernel_size=(3, 2), **options)}, {"y": y}, 4e-5)


def test_kernels_of_lax_and_flax_are_read_as_the_docstring_says() -> None:
    x, theirs = normal(0, *PLANE.x_shape), normal(1, *PLANE.w_shape)  # features (channel, tap)
    want = lax.conv_general_dilated_local(
        jnp.asarray(x),
        jnp.asarray(theirs),
        PLANE.strides,
        PLANE.padding,
        PLANE.kernel,
        rhs_dilation=PLANE.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    ours = theirs.reshape(*PLANE.output, 3, 6, 4).swapaxes(-3, -2).reshape(PLANE.w_shape)
    assert_close({"value": PLANE(jnp.asarray(x), jnp.asarray(ours))}, {"value": want}, 4e-6)


@pytest.mark.parametrize("first", [False, True], ids=["NHWC", "NCHW"])
def test_without_a_batch_and_with_an_empty_one(first: bool) -> None:
    x, w = jnp.asarray(normal(0, *PLANE.x_shape)), jnp.asarray(normal(1, *PLANE.w_shape))
    x, layout = (jnp.moveaxis(x, -1, 1), "NCHW") if first else (x, None)
    options: Any = {"kernel_size": (3, 2), "strides": (2, 1), "padding": [(1, 0), (0, 0)], "layout": layout}
    y = conv_local(x, w, **options)
    np.testing.assert_allclose(conv_local(x[0], w, **options), y[0], rtol=1e-5, atol=1e-5)
    empty, pullback = jax.vjp(lambda x, w: conv_local(x, w, **options), x[:0], w)
    assert empty.shape == (0, *y.shape[1:])
    np.testing.assert_array_equal(pullback(empty)[1], jnp.zeros_like(w))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precisions_are_summed_in_float32(dtype: str) -> None:
    case = Local((66,), (2,), (65,), (1,), ((0, 0),), (1,))
    x, w = (np.abs(normal(i, *shape)).astype(jnp.dtype(dtype)) for i, shape in enumerate((case.x_shape, case.w_shape)))
    bias = jnp.full(4, 0.3, dtype)
    want = reference_conv_local(x.astype(np.float64), w.astype(np.float64), *case.windows) + float(bias[0])
    got = case(jnp.asarray(x), jnp.asarray(w), bias)
    assert got.dtype == dtype
    assert np.max(np.abs(np.asarray(got, np.float64) - want) / want) <= 1.01 * float(jnp.finfo(dtype).eps) / 2
    gradient = jax.grad(lambda w: jnp.sum(case(jnp.asarray(x), w, bias)))(jnp.asarray(w))
    assert gradient.dtype == dtype
    wide = conv_local(jnp.asarray(x), jnp.asarray(w), kernel_size=65, preferred_element_type=jnp.float32)
    assert wide.dtype == np.float32
    assert_close({"value": wide}, {"value": want - float(bias[0])}, 1e-6)


def test_integers_and_double_precision(x64: None) -> None:
    x, w = np.arange(-9, 9).reshape(1, 6, 3), np.arange(48).reshape(4, 12, 1)[:, :9] - 20
    want = reference_conv_local(x, w, (3,), (1,), ((0, 0),), (1,))
    small = conv_local(
        jnp.asarray(x, jnp.int8), jnp.asarray(w, jnp.int8), kernel_size=3, preferred_element_type=jnp.int32
    )
    assert small.dtype == np.int32
    np.testing.assert_array_equal(small, want)
    exact = conv_local(jnp.asarray(x, jnp.float64), jnp.asarray(w, jnp.float64), kernel_size=3)
    assert exact.dtype == np.float64
    np.testing.assert_array_equal(exact, want)


X, W = jnp.ones((2, 8, 8, 4)), jnp.ones((6, 6, 36, 5))
REFUSALS: dict[str, tuple[tuple[jax.Array, jax.Array], dict[str, Any], type[Exception], str]] = {
    "output": ((X, W[:5]), {}, ValueError, r"w of shape \(5, .* must be \(6, 6, 36, K\): .* 9 taps times 4 channels"),
    "features": ((X, W[:, :, :9]), {}, ValueError, r"w of shape \(6, 6, 9, 5\) must be \(6, 6, 36, K\)"),
    "strides": ((X, W), {"strides": 2}, ValueError, r"w of shape \(6, 6, 36, 5\) must be \(3, 3, 36, K\)"),
    "rank of w": ((X, W[0, 0]), {}, ValueError, r"w of shape \(36, 5\) must have 3, 4 or 5 axes: 1 to 3 output sizes"),
    "rank of x": ((X[0, 0], W), {}, ValueError, r"x of shape \(8, 4\) must have 4 axes .*or 3 without"),
    "kernel_size": ((X, W), {"kernel_size": (3, 3, 3)}, ValueError, "kernel_size has 3 entries for 2 spatial axes"),
    "zero kernel": ((X, W), {"kernel_size": 0}, ValueError, r"kernel_size must be at least 1 .*got \(0, 0\)"),
    "no output": ((X, W), {"kernel_size": 9}, ValueError, "axis 0 has 8 elements, 8 .*kernel's 9.*pad by 1 or more"),
    "bias": ((X, W), {"bias": jnp.ones(6)}, ValueError, r"bias of shape \(6,\) must be \(5,\), or \(6, 6, 5\) for one"),
    "bias shape": ((X, W), {"bias": jnp.ones((6, 5))}, ValueError, r"bias of shape \(6, 5\) must be \(5,\), or"),
    "dtypes": ((X, W.astype(jnp.bfloat16)), {}, TypeError, "x is float32 and w is bfloat16: cast"),
    "int8": ((X.astype("int8"), W.astype("int8")), {}, TypeError, "preferred_element_type=jnp.int32"),
    "layout": ((X, W), {"layout": "NCW"}, ValueError, "layout must be .*NHWC, NCHW .*got 'NCW'"),
    "channels": ((X, W), {"layout": "NCHW"}, ValueError, r"w of .* must be \(6, 2, 72, K\): .*8 channels"),
}


@pytest.mark.parametrize("way", ["eager", "jit"])
@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
def test_refused_in_one_sentence_that_names_the_argument(case: Any, way: str) -> None:
    (x, w), options, error, message = case

    def call(x: jax.Array) -> jax.Array:
        return conv_local(x, w, **{"kernel_size": 3} | options)

    with pytest.raises(error, match=message) as caught:
        (call if way == "eager" else jax.jit(call))(x)
    text = str(caught.value).split("\n--------------------\n")[0].strip()
    assert "\n" not in text
    assert len(text) < 400
