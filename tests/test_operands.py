"""What convolutions make of their operands' dtypes: float64 of NumPy, integers beside fractions, two precisions."""

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
