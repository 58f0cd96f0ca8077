"""What operations make of their operands: NumPy's arrays, integers beside fractions, two precisions, no arrays."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_second_derivatives import CASES

import convjax
from convjax import functional

FUNCTIONAL: dict[str, tuple[Callable[..., jax.Array], tuple[tuple[int, ...], ...]]] = {
    "functional.conv2d": (functional.conv2d, ((2, 4, 6, 5), (6, 4, 3, 3), (6,))),
    "functional.conv_transpose2d": (functional.conv_transpose2d, ((2, 4, 6, 5), (4, 6, 3, 3), (6,))),
    "functional.unfold": (lambda x: functional.unfold(x, 3), ((2, 4, 6, 5),)),
    "functional.fold": (lambda x: functional.fold(x, (4, 5), 3), ((2, 36, 6),)),
    "functional.pad": (lambda x: functional.pad(x, (1, 2), value=2.5), ((2, 4, 6),)),
    "functional.pad reflect": (lambda x: functional.pad(x, (1, 2), "reflect"), ((2, 4, 6),)),
}


@pytest.mark.parametrize("case", [*CASES.values(), *FUNCTIONAL.values()], ids=[*CASES, *FUNCTIONAL])
def test_float64_of_numpy_is_float32_as_everywhere_in_jax(case: Any) -> None:
    f, shapes = case
    first, *rest = (np.random.default_rng(i).standard_normal(shape) for i, shape in enumerate(shapes))
    for operands in ([first, *rest], [jnp.asarray(first), *rest]):
        assert jax.eval_shape(lambda operands=operands: f(*operands)).dtype == jnp.float32


@pytest.mark.parametrize("name", CASES)
def test_nested_lists_are_arrays(name: str) -> None:
    f, shapes = CASES[name]
    operands = [np.random.default_rng(i).standard_normal(shape).round(1) for i, shape in enumerate(shapes)]
    got, want = f(*(operand.tolist() for operand in operands)), f(*map(jnp.asarray, operands))
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("x_dtype", "w_dtype", "y_dtype"),
    [
        ("int32", "float32", "float32"),
        ("float32", "int8", "float32"),
        ("uint8", "bfloat16", "bfloat16"),
        ("bool", "float32", "float32"),
        ("float32", "complex64", "complex64"),
        ("int8", "complex64", "complex64"),
    ],
)
def test_the_wider_kind_of_numbers_is_that_of_the_result(x_dtype: str, w_dtype: str, y_dtype: str) -> None:
    x = np.array([1, 0, 1, 1, 0, 1]).reshape(2, 3, 1)
    w = np.array([1.5, -2, 3]) if jnp.issubdtype(w_dtype, jnp.inexact) else np.array([1, -2, 3])
    x, w = jnp.asarray(x, x_dtype), jnp.asarray(w.reshape(3, 1, 1), w_dtype)

    @jax.jit
    def ours(x: jax.Array, w: jax.Array) -> dict[str, jax.Array]:
        return {
            "conv": convjax.conv(x, w, padding=1),
            "conv_transpose": convjax.conv_transpose(x, w, padding=1),
            "conv_local": convjax.conv_local(x, jnp.stack([w.ravel()] * 3)[..., None], kernel_size=3, padding=1),
            "separable_conv": convjax.separable_conv(x, w, jnp.ones((1, 1), w.dtype), padding=1),
        }

    got, want = ours(x, w), ours(x.astype(y_dtype), w.astype(y_dtype))
    for name, y in got.items():
        assert y.dtype == y_dtype
        np.testing.assert_array_equal(y, want[name], err_msg=name)


def test_weak_types_yield_as_in_jax_numpy() -> None:
    x, w = jnp.ones((1, 3, 1), "bfloat16"), jnp.full((2, 1, 1), 1.5)
    assert w.weak_type
    assert convjax.conv(x, w).dtype == convjax.conv_transpose(x, w).dtype == (x * w[:1]).dtype == jnp.bfloat16
    assert convjax.conv(jnp.arange(3)[None, :, None], w).dtype == jnp.float32


def test_float64_within_a_function_that_is_compiled_without_it() -> None:
    x = jnp.arange(18.0).reshape(2, 3, 3, 1)
    operations: list[Callable[[jax.Array], jax.Array]] = [
        lambda x: convjax.conv(x, np.ones((2, 2, 1, 1))),
        lambda x: convjax.avg_pool(x, 2),
        lambda x: convjax.max_pool(x, 2),
        jax.grad(lambda x: convjax.max_pool(x, 2, strides=1).sum()),
    ]

    @jax.jit
    def slopes(x: jax.Array) -> list[jax.Array]:
        with jax.enable_x64(True):
            wide, step = x.astype(jnp.float64), 2.0**-40  # which float32 does not see beside 1
            return [((f(wide + step) - f(wide)) / step).astype(jnp.float32) for f in operations]

    for slope, want in zip(slopes(x), (4, 1, 1, 0), strict=True):
        np.testing.assert_array_equal(slope, np.full(slope.shape, want))


def test_gradients_of_the_wider_kind() -> None:
    x, w = jnp.array([[[3], [4]]]), jnp.ones((1, 1, 1))
    gradient = jax.grad(lambda w: convjax.conv(x, w).sum())(w)
    assert gradient.dtype == jnp.float32
    assert gradient.item() == 7


@pytest.mark.parametrize("dtypes", [("float32", "bfloat16"), ("float16", "bfloat16"), ("int32", "int8")], ids=str)
def test_two_precisions_are_refused(dtypes: tuple[str, str]) -> None:
    x, w = jnp.ones((2, 3, 3, 1), dtypes[0]), jnp.ones((3, 3, 1, 1), dtypes[1])
    calls: list[Callable[[], jax.Array]] = [
        lambda: convjax.conv(x, w),
        lambda: convjax.conv_transpose(x, w),
        lambda: convjax.conv_local(x, w.reshape(1, 1, 9, 1), kernel_size=3),
        lambda: convjax.dilation2d(x, w[..., 0]),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="x is {} and w is {}: cast them to one dtype".format(*dtypes)):
            call()


def test_a_bias_keeps_its_fractions_or_is_refused() -> None:
    x, w, bias = jnp.ones((1, 3, 2), int), jnp.ones((3, 2, 2), int), jnp.array([0.5, 1.5])
    calls: list[Callable[..., jax.Array]] = [
        convjax.conv,
        convjax.conv_transpose,
        lambda x, w, **o: convjax.conv_local(x, w.reshape(1, 6, 2), kernel_size=3, **o),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="bias is float32, which a result of int32 cannot hold"):
            call(x, w, bias=bias)
        y = call(x, w, bias=bias, preferred_element_type=jnp.float32)
        np.testing.assert_array_equal(y, call(x, w) + bias.reshape(1, 1, 2))


def test_the_drop_in_takes_arrays_of_numbers() -> None:
    x, w = jnp.ones((1, 3, 8, 8)), jnp.ones((5, 3, 3, 3))
    assert convjax.conv_general_dilated(x, w, np.array([2, 1]), "VALID", None, np.array([1, 2])).shape == (1, 5, 3, 4)


def test_problems_hold_plain_numbers() -> None:
    """Whatever a program's parameters are: choices and loops are made of them."""
    x, w = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
    dims = ("NHWC", "HWIO", "NHWC")

    def convolved(x: jax.Array, w: jax.Array) -> jax.Array:
        strides, dilation = np.array([2, 1]), np.array([1, 2])
        return jax.lax.conv_general_dilated(x, w, strides, "VALID", None, dilation, dims)

    def pooled(x: jax.Array) -> jax.Array:
        window, strides = tuple(np.array([1, 2, 2, 1])), tuple(np.array([1, 2, 1, 1]))
        return jax.lax.reduce_window(x, -np.inf, jax.lax.max, window, strides, "VALID")

    for fn, operands in ((convolved, (x, w)), (pooled, (x,))):
        (row,) = convjax.explain(convjax.accelerate(fn), *operands).rows
        numbers = jax.tree.leaves([v for v in dataclasses.asdict(row.problem).values() if isinstance(v, tuple)])
        assert {type(n) for n in numbers} == {int}


X, W = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 6))
NO_ARRAY: dict[str, tuple[Callable[[Any], Any], str]] = {
    "conv, x": (lambda n: convjax.conv(n, W), "x"),
    "conv, w": (lambda n: convjax.conv(X, n), "w"),
    "conv, bias": (lambda n: convjax.conv(X, W, bias=n), "bias"),
    "conv2d, w": (lambda n: convjax.conv2d(X, n), "w"),
    "conv_transpose, w": (lambda n: convjax.conv_transpose(X, n), "w"),
    "depthwise_conv, w": (lambda n: convjax.depthwise_conv(X, n), "w"),
    "separable_conv, w_pointwise": (lambda n: convjax.separable_conv(X, W[..., :1], n), "w_pointwise"),
    "conv_local, w": (lambda n: convjax.conv_local(X, n, kernel_size=3), "w"),
    "deform_conv2d, offset": (lambda n: convjax.deform_conv2d(X, n, W), "offset"),
    "dilation2d, w": (lambda n: convjax.dilation2d(X, n), "w"),
    "unfold, x": (lambda n: convjax.unfold(n, 3), "x"),
    "fold, columns": (lambda n: convjax.fold(n, 8, 3), "columns"),
    "pad, x": (lambda n: convjax.pad(n, 1), "x"),
    "max_pool, x": (lambda n: convjax.max_pool(n, 2), "x"),
    "avg_pool, x": (lambda n: convjax.avg_pool(n, 2), "x"),
    "sum_pool, x": (lambda n: convjax.sum_pool(n, 2), "x"),
    "lp_pool, x": (lambda n: convjax.lp_pool(n, 2), "x"),
    "adaptive_avg_pool, x": (lambda n: convjax.adaptive_avg_pool(n, 2), "x"),
    "global_max_pool, x": (lambda n: convjax.global_max_pool(n), "x"),
    "max_unpool, y": (lambda n: convjax.max_unpool(n, jnp.zeros(X.shape, int), 2), "y"),
    "max_unpool, indices": (lambda n: convjax.max_unpool(X, n, 2), "indices"),
    "functional.conv2d, weight": (lambda n: functional.conv2d(X, n), "weight"),
    "functional.max_pool2d, input": (lambda n: functional.max_pool2d(n, 2), "input"),
    "functional.pad, input": (lambda n: functional.pad(n, (1, 1)), "input"),
}


@pytest.mark.parametrize("case", NO_ARRAY.values(), ids=NO_ARRAY)
def test_what_is_no_array_is_refused_by_name(case: Any) -> None:
    call, name = case
    for value, kind in ((None, "NoneType"), ("x", "str")):
        if (name, value) != ("bias", None):
            with pytest.raises(TypeError, match=f"^{name} must be an array, got {kind}"):
                call(value)


def test_numbers_an_axis_may_stand_in_arrays_of_numpy() -> None:
    two, pairs, window = np.array([2, 1]), np.array([[1, 0], [2, 1]]), np.array([3, 2])
    assert convjax.conv_transpose(X, W, padding=two).shape == convjax.conv_transpose(X, W, padding=(2, 1)).shape
    bins: Any = np.array([3, 5])
    shapes = [
        convjax.conv(X, W, strides=two, padding=pairs, dilation=two).shape,
        convjax.conv(X, W, padding=two).shape,
        convjax.max_pool(X, window, strides=two, padding=np.array([1, 1])).shape,
        convjax.unfold(X, window, padding=pairs).shape,
        convjax.pad(X, pairs).shape,
        convjax.adaptive_avg_pool(X, bins).shape,
        convjax.blur_pool(X, filter_size=window, strides=two).shape,
    ]
    assert shapes == [
        convjax.conv(X, W, strides=(2, 1), padding=((1, 0), (2, 1)), dilation=(2, 1)).shape,
        convjax.conv(X, W, padding=(2, 1)).shape,
        convjax.max_pool(X, (3, 2), strides=(2, 1), padding=1).shape,
        convjax.unfold(X, (3, 2), padding=((1, 0), (2, 1))).shape,
        (2, 9, 11, 4),
        (2, 3, 5, 4),
        (2, 4, 8, 4),
    ]


def _int8(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(-9, 9, shape).astype(np.int8)


THREE_AXES: dict[str, Any] = {
    "window_strides": (2, 3, 1),
    "padding": ((0, 3), (1, 3), (2, 1)),
    "lhs_dilation": (3, 2, 2),
    "rhs_dilation": (1, 2, 1),
    "dimension_numbers": ("NDHWC", "DHWIO", "NDHWC"),
}


def _padded_before(conv: Callable[..., jax.Array], x: jax.Array, w: jax.Array) -> jax.Array:
    x = jnp.pad(x, [(0, 0), (1, 2), (2, 3), (0, 0)])
    numbers = ("NHWC", "HWIO", "NHWC")
    return conv(x, w, (1, 1), "VALID", dimension_numbers=numbers, preferred_element_type=jnp.int32)


@pytest.mark.parametrize(
    ("conv", "x", "w"),
    [
        (functools.partial(convjax.conv_transpose, strides=2), (1, 2, 2, 64), (4, 4, 64, 64)),
        (functools.partial(convjax.conv_general_dilated, **THREE_AXES), (1, 12, 3, 6, 33), (5, 5, 2, 33, 64)),
        (
            functools.partial(convjax.conv, strides=2, padding=((3, -1), (2, 3)), algorithm="lax"),
            (3, 9, 6, 40),
            (4, 7, 40, 4),
        ),
    ],
    ids=["transposed", "three axes", "crossing"],
)
def test_int8_is_added_up_in_int32(conv: Any, x: tuple[int, ...], w: tuple[int, ...]) -> None:
    """XLA fuses a pad of int8 wrongly into the convolution after it, so `lax` must not be given one."""
    lhs, rhs = _int8(*x), _int8(*w)
    wide = conv(lhs.astype(np.int32), rhs.astype(np.int32), preferred_element_type=jnp.int32)
    np.testing.assert_array_equal(conv(lhs, rhs, preferred_element_type=jnp.int32), wide)


def test_int8_that_the_program_has_padded_before() -> None:
    x, w = _int8(1, 4, 4, 40), _int8(5, 5, 40, 4)
    wide = _padded_before(jax.lax.conv_general_dilated, x.astype(np.int32), w.astype(np.int32))
    ours = jax.jit(functools.partial(_padded_before, convjax.conv_general_dilated))
    accelerated = jax.jit(convjax.accelerate(functools.partial(_padded_before, jax.lax.conv_general_dilated)))
    np.testing.assert_array_equal(ours(x, w), wide)
    np.testing.assert_array_equal(accelerated(x, w), wide)
