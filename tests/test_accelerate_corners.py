"""`accelerate` where programs are unusual: symbolic sizes, small floats, strict promotion, odd reductions and trees."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.experimental import checkify

import convjax
from convjax import accelerate
from convjax.accelerate import _rewriter
from convjax.request import request

X, W = jnp.arange(512.0).reshape(2, 8, 8, 4) % 7, jnp.arange(144.0).reshape(3, 3, 4, 4) % 5


def conv(x: jax.Array, w: jax.Array, **given: Any) -> jax.Array:
    return lax.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **given)


def pool(x: jax.Array) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")


def one(f: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """f of an example."""
    return lambda x: accelerate(f)(x[None])[0]


SYMBOLIC: dict[str, Callable[[jax.Array], Any]] = {
    "conv": lambda x: convjax.conv(x, W, padding=1),
    "its gradient": jax.grad(lambda x: jnp.sum(convjax.conv(x, W) ** 2)),
    "drop-in": lambda x: convjax.conv_general_dilated(x, W, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")),
    "vmap of conv": jax.vmap(one(lambda x: conv(x, W))),
    "vmap of its gradient": jax.vmap(jax.grad(lambda x: jnp.sum(one(lambda x: conv(x, W))(x) ** 2))),
    "max": lambda x: convjax.max_pool(x, 2),
    "gradient of max": jax.grad(lambda x: jnp.sum(convjax.max_pool(x, 3, strides=2) ** 2)),
    "average": lambda x: convjax.avg_pool(x, 3, strides=2, padding=1, count_include_pad=False),
    "indices": lambda x: convjax.max_pool(x, 3, strides=2, return_indices=True)[1],
    "median": lambda x: convjax.median_pool(x, 3),
    "gradient of median": jax.grad(lambda x: jnp.sum(convjax.median_pool(x, 3) ** 2)),
    "bins": lambda x: convjax.adaptive_max_pool(x, 3, return_indices=True)[1],
    "back": lambda x: convjax.max_unpool(*convjax.max_pool(x, 2, return_indices=True), 2),
    "gradient of dilation": jax.grad(lambda x: jnp.sum(convjax.dilation2d(x, W[..., 0], padding=1) ** 2)),
    "erosion": lambda x: convjax.erosion2d(x, W[..., 0], strides=2),
    "vmap of max": jax.vmap(one(pool)),
    "vmap of its gradient by taps": jax.vmap(jax.grad(lambda x: jnp.sum(one(pool)(x) ** 2))),
}


@pytest.mark.parametrize("name", SYMBOLIC)
def test_sizes_that_are_not_known(name: str) -> None:
    f = SYMBOLIC[name]
    unknown = jax.ShapeDtypeStruct(export.symbolic_shape("b, 8, 8, 4"), jnp.float32)
    got = export.export(jax.jit(f))(unknown).call(X)
    np.testing.assert_allclose(got, f(X), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("mode", ["standard", "strict"])
@pytest.mark.parametrize(
    ("dtype", "preferred"),
    [
        (jnp.bfloat16, jnp.float32),
        (jnp.float16, None),
        (jnp.int8, jnp.int32),
        (jnp.float8_e4m3fn, jnp.float32),
        (jnp.float8_e5m2, jnp.bfloat16),
    ],
    ids=str,
)
def test_narrow_operands_whatever_is_promoted(dtype: Any, preferred: Any, mode: Any) -> None:
    x, w = X.astype(dtype), W.astype(dtype)
    f = functools.partial(conv, preferred_element_type=preferred)
    with jax.numpy_dtype_promotion(mode):
        got = accelerate(f)(x, w)
    want = conv(X, W)
    assert got.dtype == (preferred or dtype)
    np.testing.assert_allclose(np.asarray(got, np.float32), want, rtol=1e-2)
    if preferred is None:
        with jax.numpy_dtype_promotion(mode):
            jax.jit(jax.grad(lambda w: accelerate(f)(x, w).sum()))(w)


@pytest.mark.parametrize("combine", [lambda a, b: a + 1.0, lambda a, b: lax.max(a, 3.0), lambda a, b: lax.add(a, a)])
def test_reductions_of_one_value_and_a_constant_stay_lax_s(combine: Any) -> None:
    def reduced(x: jax.Array) -> jax.Array:
        return lax.reduce_window(x, 0.0, combine, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    np.testing.assert_array_equal(accelerate(reduced)(X), reduced(X))
    assert convjax.explain(accelerate(reduced), X).rows == ()


@pytest.mark.parametrize(
    "f",
    [
        lambda s: lax.reduce_window(
            jnp.full((4, 4), 1.0) * s, 0.25, lambda a, b: lax.max(a, b), (2, 2), (1, 1), "SAME"
        ),
        lambda s: lax.reduce_window(lax.broadcast(s, (4, 4)), 0.25, lambda a, b: lax.max(a, b), (2, 2), (1, 1), "SAME"),
        lambda s: lax.reduce_window(lax.broadcast(s, (4, 4)), -jnp.inf, lax.max, (2, 2), (1, 1), "SAME"),
        jax.grad(
            lambda s: lax.reduce_window(lax.broadcast(s, (4, 4)), -jnp.inf, lax.max, (2, 2), (1, 1), "VALID").sum()
        ),
        jax.grad(lambda s: lax.reduce_window(lax.broadcast(s, (4, 4)), 0.0, lax.add, (2, 2), (1, 1), "SAME").sum()),
    ],
)
def test_types_are_as_weak_as_they_were(f: Any) -> None:
    want, got = jax.eval_shape(f, 2.0), jax.eval_shape(accelerate(f), 2.0)
    assert (got.dtype, got.weak_type) == (want.dtype, want.weak_type)
    inside = jax.eval_shape(jax.jit(accelerate(jax.jit(f))), 2.0)
    assert inside.weak_type == want.weak_type


@pytest.mark.parametrize("weak", [True, False])
@pytest.mark.parametrize("derivative", ["gradient", "tangent"])
def test_derivatives_of_maxima_are_weak_where_both_operands_are(derivative: str, weak: bool) -> None:
    def pool(x: jax.Array) -> jax.Array:
        return lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (2, 2), "VALID")

    def of_weak(s: Any, x: jax.Array) -> jax.Array:
        x = lax.broadcast(s, (4, 4)) if weak else x
        if derivative == "gradient":
            return jax.vjp(pool, x)[1](lax.broadcast(s, (2, 2)))[0]
        return jax.jvp(pool, (x,), (lax.broadcast(s, (4, 4)) if weak else x,))[1]

    x = jnp.ones((4, 4))
    want = jax.eval_shape(of_weak, 2.0, x)
    assert jax.eval_shape(accelerate(of_weak), 2.0, x).weak_type == want.weak_type == weak

    def inside(s: Any, x: jax.Array) -> jax.Array:
        fast, x = accelerate(pool), lax.broadcast(s, (4, 4)) if weak else x
        return jax.vjp(fast, x)[1](lax.broadcast(s, (2, 2)))[0]

    assert jax.eval_shape(inside, 2.0, x).weak_type == weak


@pytest.mark.parametrize("way", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_nans_are_found_where_jax_finds_them(way: Any) -> None:
    x, w = jnp.ones((1, 1, 8, 8)).at[0, 0, 0, 0].set(jnp.nan), jnp.ones((1, 1, 3, 3))
    with jax.debug_nans(True):
        for fn, operands in (
            (lambda x, w: lax.conv(x, w, (1, 1), "SAME"), (x, w)),
            (lambda x, w: jax.nn.log_softmax(jnp.log(-w)) + lax.conv(x[..., 1:], w, (1, 1), "VALID").sum(), (x, w)),
        ):
            with pytest.raises(FloatingPointError, match="invalid value"):
                way(accelerate(fn))(*operands)


@pytest.mark.parametrize(
    "children",
    [
        lambda a: (a, float(a.shape[0])),
        lambda a: (a[:1], a[1:]),
        lambda a: (a, 1000 + a.shape[0]),
    ],
    ids=["number", "parts", "integer"],
)
def test_trees_that_compute_their_leaves(children: Any) -> None:
    class Points:
        def __init__(self, array: Any) -> None:
            self.array = array

    jax.tree_util.register_pytree_node(
        Points, lambda points: (children(points.array), None), lambda _, leaves: Points(leaves[0])
    )
    want = conv(children(X)[0], W)
    np.testing.assert_allclose(jax.jit(accelerate(lambda p: conv(p.array, W)))(Points(X)), want, rtol=1e-5)


def test_calls_leave_nothing_behind() -> None:
    """Outside of jit every call traces its reduction's computation anew, and what was made of it is found."""
    accelerated = accelerate(
        lambda x: lax.reduce_window(x, jnp.float32(0.25), lambda a, b: lax.max(a, b), (1, 2, 2, 1), (1,) * 4, "VALID")
    )
    accelerated(X)
    made = len(_rewriter(request(None, "conv"))._traced)
    for _ in range(3):
        accelerated(X)
    assert len(_rewriter(request(None, "conv"))._traced) == made


def test_checks_of_what_lax_computes_go_inside() -> None:
    x = X.at[0, 0, 0, 0].set(jnp.inf).at[0, 0, 1, 0].set(-jnp.inf)
    checked = checkify.checkify(lambda x: conv(x, jnp.ones_like(W)), errors=checkify.float_checks)
    error, _ = accelerate(checked)(x)
    assert "nan generated by primitive: conv_general_dilated" in str(error.get())


def test_constants_come_back_as_arrays_without_jit() -> None:
    """In a jaxpr they are literals, of classes of jax's own that lack most of what an array has."""

    def fn(x: jax.Array) -> Any:
        return (
            2 * x,
            jnp.asarray(3),
            jnp.array([1.0, 2.0]),
            jnp.zeros((), "int32"),
            jnp.asarray(True),
            jnp.asarray(2.5),
            7,
        )

    got, want = accelerate(fn)(jnp.ones(4)), fn(jnp.ones(4))
    assert got[-1] == 7
    for a, b in zip(got[:-1], want[:-1], strict=True):
        assert isinstance(a, jax.Array)
        assert (a.dtype, a.shape, a.weak_type) == (b.dtype, b.shape, b.weak_type)
        np.testing.assert_array_equal(a, b)


def test_what_a_function_inside_writes_over_is_read_before() -> None:
    """Reversals, paddings and sums are not moved past a call that an array is donated to."""
    donate = jax.jit(lambda x: x + 1, donate_argnums=0)

    def reversal(x: jax.Array, w: jax.Array) -> Any:
        w = 2 * w
        flipped, donated = lax.rev(w, (0, 1)), donate(w)
        return conv(x, flipped), donated

    def padding(x: jax.Array, w: jax.Array) -> Any:
        x = conv(x, w)
        padded, donated = lax.pad(x, 0.0, ((0, 0, 0), (1, 1, 1), (1, 1, 1), (0, 0, 0))), donate(x)
        return lax.reduce_window(padded, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "VALID"), donated

    def sums(x: jax.Array, w: jax.Array) -> Any:
        x = conv(x, w)
        y = jnp.tanh(x)
        total, donated = x.sum((0, 1, 2)), donate(x)
        return total, y.sum((0, 1, 2)), donated

    for fn in (reversal, padding, sums):
        for got, want in zip(accelerate(fn)(X, W), fn(X, W), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-3)
