"""Programs: what is timed for a layer and a pass, how stock lax does the same, and what must come out.

Every pass is asked for as a user would: the function itself, or its transpose with respect to one operand.
The gradient of a max-pool includes its forward pass, which it cannot do without.
"""

import contextlib
import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import convjax
from convjax import testing
from convjax.algorithms.numerics import epsilon
from convjax.dtypes import dtype_of
from convjax.layer import Layer
from convjax.problem import ConvSpec, Problem, WindowSpec
from experiments.config import Pass

Function = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """One pass of one layer: the same question for convjax, for stock lax and for the reference."""

    layer: Layer
    pass_: Pass

    @property
    def id(self) -> str:
        return f"{self.layer.name}/{self.pass_}"

    def width(self) -> contextlib.AbstractContextManager[None]:
        """A block in which jax has the layer's dtype: without, it makes float32 of float64."""
        return jax.enable_x64(self.layer.dtype == "float64")

    def operands(self, seed: int) -> tuple[jax.Array, ...]:
        """x and w, with the cotangent g in the place of the one that is differentiated (beside x, for a max-pool)."""
        return self._taken([jnp.asarray(array, self.layer.dtype) for array in _draw(self.layer, seed)])

    def _taken(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """Those of x, w and g that this pass takes."""
        x, *w, g = arrays
        if self.pass_ == "fprop":
            return (x, *w)
        return (x, g) if self.pass_ == "wgrad" or self.layer.kind == "max" else (g, *w)

    def program(self, forward: Function) -> Function:
        """The function of `operands` that does this pass of `forward`."""
        mapped = self.layer.mapped
        if self.layer.as_one:
            return self._of(jax.vmap(forward, mapped[:2]), _operand_shapes(self.layer))
        program = self._of(forward, _shapes(self.layer))
        return jax.vmap(program, self._taken(mapped)) if self.layer.members else program

    def _of(self, forward: Function, shapes: Sequence[jax.ShapeDtypeStruct]) -> Function:
        """This pass of a function of x and w, whose `shapes` are given, and that of the cotangent."""
        x_shape, *w_shape, _ = shapes
        if self.pass_ == "fprop":
            return forward
        if self.pass_ == "wgrad":
            return lambda x, g: jax.linear_transpose(lambda w: forward(x, w), *w_shape)(g)[0]
        if self.layer.kind == "max":
            return lambda x, g: jax.vjp(forward, x)[1](g)[0]
        return lambda g, *w: jax.linear_transpose(lambda x: forward(x, *w), x_shape)(g)[0]

    def ours(self, algorithm: str | None) -> Function:
        """This pass by convjax, with `algorithm` or its own choice."""
        return self.program(convjax_forward(self.layer, None if algorithm is None else {self.pass_: algorithm}))

    def stock(self) -> Function:
        """This pass by jax.lax alone."""
        return self.program(stock(self.layer))

    @functools.cached_property
    def _row(self) -> Any:
        """What `convjax.explain` says of this pass: its last row, as a max-pool's gradient has its forward first."""
        with self.width():
            return convjax.explain(self.ours(None), *self._taken(_operand_shapes(self.layer))).rows[-1]

    @property
    def problem(self) -> Problem:
        return self._row.problem

    @property
    def rounding(self) -> float:
        """What the result may be off by beyond the problem's: an average is rounded once more, to the layer's dtype."""
        return epsilon(dtype_of(self.layer.dtype)) if self.layer.kind == "avg" else 0.0

    @functools.cached_property
    def chosen(self) -> Any:
        """The algorithm that convjax takes."""
        return self.algorithms[self._row.algorithm]

    @property
    def algorithms(self) -> dict[str, Any]:
        """The registered algorithms of this problem, by name."""
        return {str(a): a for a in convjax.algorithms(self.problem.operation)}

    def reference(self, seed: int) -> np.ndarray:
        """The result for `operands(seed)` in float64 NumPy, from the layer and not from convjax's problem."""
        if self.pass_ != "fprop":
            return _reference_gradients(self.layer, seed)[0 if self.pass_ == "dgrad" else 1]
        return _of_members(self.layer, _reference_forward, seed)


def _shapes(layer: Layer) -> list[jax.ShapeDtypeStruct]:
    """x, w where there is one, and the cotangent, of one member of a layer that is vmapped."""
    shapes = [layer.x_shape, *([layer.w_shape] if layer.w_shape else []), layer_problem(layer).output_shape]
    return [jax.ShapeDtypeStruct(shape, layer.dtype) for shape in shapes]


def _operand_shapes(layer: Layer) -> list[jax.ShapeDtypeStruct]:
    """The same with the axis of the members."""
    if not layer.members:
        return _shapes(layer)
    return [
        shape if axis is None else jax.ShapeDtypeStruct((layer.members, *shape.shape), shape.dtype)
        for shape, axis in zip(_shapes(layer), layer.mapped, strict=True)
    ]


def _draw(layer: Layer, seed: int) -> list[np.ndarray]:
    """Standard normal arrays of `_operand_shapes`, already rounded to the layer's dtype."""
    generator = np.random.default_rng([seed, zlib.crc32(layer.name.encode())])
    return [generator.standard_normal(s.shape, np.float32).astype(s.dtype) for s in _operand_shapes(layer)]


@functools.lru_cache(maxsize=1)  # both gradients come out of one computation, and are asked for one after the other
def _reference_gradients(layer: Layer, seed: int) -> tuple[np.ndarray, ...]:
    """The gradients of x and of w."""
    return _of_members(layer, _reference_vjp, seed)


def _of_members(layer: Layer, compute: Callable[..., Any], seed: int) -> Any:
    """`compute(layer, *operands)` with the operands of each member, stacked; once where the layer is not vmapped."""
    arrays = _draw(layer, seed)
    if not layer.members:
        return compute(layer, *arrays)
    each = [
        compute(layer, *(a if axis is None else a[m] for a, axis in zip(arrays, layer.mapped, strict=True)))
        for m in range(layer.members)
    ]
    return jax.tree.map(lambda *members: np.stack(members), *each)


def _reference_forward(layer: Layer, x: np.ndarray, *rest: np.ndarray) -> np.ndarray:
    forward, w = layer_problem(layer), rest[:-1]
    return np.asarray(testing.reference(forward, x, *w)) / (forward.taps if layer.kind == "avg" else 1)


def _reference_vjp(layer: Layer, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    forward = layer_problem(layer)
    if isinstance(forward, ConvSpec):
        return testing.reference_conv_vjp(forward, *arrays)
    if layer.kind == "max":
        return (testing.reference_max_vjp(forward, *arrays),)
    return (np.asarray(testing.reference(_adjoint_of_sum(forward), arrays[-1])) / forward.taps,)


def layer_problem(layer: Layer) -> Problem:
    """The forward pass of a layer; that of an average is its sum."""
    if layer.w_shape is None:
        arguments = layer.window_arguments
        return WindowSpec(
            operation="max" if layer.kind == "max" else "sum",
            shape=layer.x_shape,
            dtype=layer.dtype,
            window=arguments["window_dimensions"],
            strides=arguments["window_strides"],
            padding=arguments["padding"],
            base_dilation=(1,) * len(layer.x_shape),
            window_dilation=arguments["window_dilation"],
        )
    lhs, rhs, out = lax.conv_dimension_numbers(layer.x_shape, layer.w_shape, layer.dimension_numbers)
    return ConvSpec(
        lhs_shape=layer.x_shape,
        rhs_shape=layer.w_shape,
        lhs_dtype=layer.dtype,
        rhs_dtype=layer.dtype,
        strides=layer.strides,
        padding=layer.padding,
        lhs_dilation=layer.lhs_dilation,
        rhs_dilation=layer.rhs_dilation,
        dimension_numbers=(tuple(lhs), tuple(rhs), tuple(out)),
        feature_groups=layer.groups,
    )


def _adjoint_of_sum(spec: WindowSpec) -> WindowSpec:
    """The window sum that is the transpose of `spec`: strides become base dilation, padding what completes it."""
    padding = []
    for n, o, k, s, d, (lo, _) in zip(
        spec.shape, spec.output_shape, spec.window, spec.strides, spec.window_dilation, spec.padding, strict=True
    ):
        reach = d * (k - 1)
        padding.append((reach - lo, n - ((o - 1) * s + 1) + lo))
    return dataclasses.replace(
        spec, shape=spec.output_shape, strides=(1,) * spec.ndim, padding=tuple(padding), base_dilation=spec.strides
    )


def convjax_forward(layer: Layer, algorithm: Any) -> Function:
    """The layer by convjax."""
    if layer.is_pool:
        pool = convjax.max_pool if layer.kind == "max" else convjax.avg_pool
        return functools.partial(
            pool,
            window=layer.kernel,
            strides=layer.strides,
            padding=layer.padding,
            dilation=layer.rhs_dilation,
            algorithm=algorithm,
        )
    return functools.partial(convjax.conv_general_dilated, **layer.conv_arguments, algorithm=algorithm)


def stock(layer: Layer) -> Function:
    """The layer by jax.lax."""
    if layer.kind == "max":
        return lambda x: lax.reduce_window(x, -jnp.inf, lax.max, **layer.window_arguments)
    if layer.kind == "avg":
        taps = int(np.prod(layer.kernel))
        return lambda x: lax.reduce_window(x, 0.0, lax.add, **layer.window_arguments) / taps
    return functools.partial(lax.conv_general_dilated, **layer.conv_arguments)
