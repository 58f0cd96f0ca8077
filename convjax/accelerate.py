"""`accelerate`: a function with every convolution and pooling of lax in it run by the chosen algorithms."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
from jax import lax
from jax.extend import core
from jax.extend.core.primitives import conv_general_dilated_p, ge_p, reduce_sum_p, reduce_window_p

from convjax import in_place, joined_sums, window_primitive
from convjax.algorithms.window.geometry import COMBINED
from convjax.primitive import bind, conv_p, unreversed
from convjax.problem import ConvSpec, WindowSpec
from convjax.request import Request, request
from convjax.rewrite import Replacement, Rewriter
from convjax.stock import pass_of, stated
from convjax.sums import sums_p

P = ParamSpec("P")
R = TypeVar("R")


def accelerate(fn: Callable[P, R]) -> Callable[P, R]:
    """`fn` with every convolution and pooling in it, gradients included, run by the chosen algorithms.

    `fn` is traced, lax's primitives are replaced in what was traced, wherever they stand (`jit`, scan, cond, while,
    remat, shard_map, the rules of custom derivatives), and the rest is evaluated as it was. Beside them, sums over the
    rows of float32 maps (the statistics of layers that normalise, means over maps, their gradients) whose terms are
    computed for them get a form that CPUs vectorise, those that read one array together. Composes with jit, grad, vmap
    and shard_map on either side; jitted functions in `fn` keep names, donations and shardings. What cannot be entered
    (Pallas kernels, foreign calls) stays as it is, and `explain` says so.
    What knows lax's primitives by name, such as `checkify.float_checks`, belongs inside: `accelerate(checkify(fn))`.

    Args:
        fn: any function that `jax.jit` could trace. The arrays in its arguments are traced; all else, Python's and
            NumPy's scalars included, reaches it as given. Modules of Flax NNX among them may change in place.

    Returns:
        A function of the same arguments and results; without a `jax.jit` around it, every call traces fn anew.
        Convolutions of finite values agree with lax's within their algorithm's stated error, such sums up to rounding,
        since they are added in another order. Poolings agree exactly but for three corners of the derivatives of maxima
        and minima: gradients go to the first NaN of a window, where lax passes on to what follows the last one, and to
        a real element of a window of infinities, where lax may lose it to padding; and tangents go through the first
        of equal elements under `lax.reduce_window` with a first value of its own too, where lax takes their mean.

    Raises:
        TypeError: fn is not callable.
        ValueError: called, fn changes in place an argument, of a type that is registered as a pytree and no module of
            NNX, and does not return the new one. What jax knows nothing of, as the object of a bound method, is left
            with tracers in it, as by `jax.jit`.

    Example:
        >>> import jax, jax.numpy as jnp, convjax
        >>> from jax import lax
        >>> x, w = jnp.ones((1, 2, 8, 8)), jnp.ones((2, 2, 3, 3))
        >>> loss = lambda w: lax.conv(x, w, (1, 1), "SAME").sum()
        >>> gradient = accelerate(jax.grad(loss))
        >>> bool(jnp.allclose(gradient(w), jax.grad(loss)(w)))
        True
        >>> [row.role for row in convjax.explain(jax.grad(accelerate(loss)), w).rows]
        ['fprop', 'wgrad']
    """
    if not callable(fn):
        raise TypeError(f"fn must be a function, got {type(fn).__name__}: pass the function itself, not its result")

    @functools.wraps(fn, updated=())
    def accelerated(*args: P.args, **kwargs: P.kwargs) -> R:
        return in_place.call(_rewriter(request(None, "conv")).call, fn, args, kwargs)

    return accelerated


@functools.lru_cache(maxsize=64)
def _rewriter(asked: Request) -> Rewriter:
    names = {conv_p: conv_general_dilated_p, sums_p: reduce_sum_p}
    return Rewriter(functools.partial(_replacement, asked), _joined, _joined_but_sums, names)


def _joined(jaxpr: core.Jaxpr) -> core.Jaxpr:
    """The jaxpr where sums are joined, and our primitives do what they can of what stands in front of them."""
    return joined_sums.joined(_joined_but_sums(jaxpr))


def _joined_but_sums(jaxpr: core.Jaxpr) -> core.Jaxpr:
    return window_primitive.unpadded(unreversed(jaxpr))


def _replacement(asked: Request, eqn: core.JaxprEqn) -> Replacement | None:
    """Our function of the operands of one of lax's equations, None where there is none."""
    problem = stated(eqn)
    if problem is None:
        return None
    if isinstance(problem, ConvSpec):
        return _Convolution(dataclasses.replace(asked, role=pass_of(problem)), tuple(sorted(eqn.params.items())))
    if problem.operation in ("max", "min") and any(d > 1 for d in problem.base_dilation):
        return None  # their derivatives are not expressed
    if problem.is_given_taps:
        pooled = dataclasses.replace(problem, operation="max" if eqn.params["select_prim"] is ge_p else "min")
        return _Derivative(asked, pooled, problem.operation)
    if eqn.primitive is reduce_window_p:
        return _Reduction(asked, problem)
    return _Pooling(asked, problem)


@dataclasses.dataclass(frozen=True)
class _Convolution:
    request: Request
    params: tuple[tuple[str, Any], ...]

    def __call__(self, lhs: jax.Array, rhs: jax.Array) -> list[jax.Array]:
        return [bind(lhs, rhs, self.request, **dict(self.params))]


@dataclasses.dataclass(frozen=True)
class _Pooling:
    request: Request
    problem: WindowSpec

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        return [window_primitive.reduce(x, self.problem, self.request)]


@dataclasses.dataclass(frozen=True)
class _Reduction:
    """A pooling with a first value beside the windows, and never of a weak type."""

    request: Request
    problem: WindowSpec

    def __call__(self, x: jax.Array, first: jax.Array) -> list[jax.Array]:
        pooled = window_primitive.reduce(x, self.problem, self.request)
        combine, shape = COMBINED[self.problem.operation], self.problem.output_shape
        combined = combine(pooled, lax.full_like(x, first, shape=shape))
        return [lax.convert_element_type(combined, x.dtype)]


@dataclasses.dataclass(frozen=True)
class _Derivative:
    request: Request
    pooled: WindowSpec
    operation: str

    def __call__(self, value: jax.Array, x: jax.Array) -> list[jax.Array]:
        derivative = window_primitive.tangent if self.operation == "take" else window_primitive.gradient
        return [derivative(value, x, problem=self.pooled, request=self.request)]
