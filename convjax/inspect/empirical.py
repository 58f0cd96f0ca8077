"""Empirical receptive fields: which elements of the input an output's gradient reaches, and how strongly."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convjax.inspect.receptive_field import ReceptiveField, called, receptive_field
from convjax.problem import Ints


@dataclasses.dataclass(frozen=True, eq=False)
class EmpiricalField:
    """The gradient of one output element, over the input's spatial axes.

    Attributes:
        heat: the absolute gradient, summed over batch and channels: one number an element of the spatial axes.
        position: of the output element, one number a spatial axis.
        exact: the receptive field that the program says.

    Example:
        >>> import jax.numpy as jnp, convjax
        >>> found = convjax.empirical_field(lambda x: convjax.avg_pool(x, 3, strides=1), jnp.ones((1, 9, 9, 1)))
        >>> found.position, found.box, found.within
        ((3, 3), (slice(3, 6, None), slice(3, 6, None)), True)
    """

    heat: np.ndarray
    position: Ints
    exact: ReceptiveField

    @property
    def box(self) -> tuple[slice, ...]:
        """The smallest box that holds all that the gradient reaches."""
        places = np.nonzero(self.heat)
        return tuple(slice(int(p.min()), int(p.max()) + 1) if len(p) else slice(0, 0) for p in places)

    @property
    def within(self) -> bool:
        """Whether the gradient reaches no element outside of the exact field."""
        outside = self.heat.copy()
        outside[self.exact.box(*self.position)] = 0
        return not outside.any()


def empirical_field(
    fn: Callable[..., Any], *args: Any, argnum: int = 0, position: int | Sequence[int] | None = None
) -> EmpiricalField:
    """How strongly each input element moves one output element: the absolute gradient, as Luo et al. measure it.

    heat[i] = sum over batch and channels of |d y[o] / d x[i]|, y summed over its batch and channels

    Args:
        fn: a function or model with one output array, as `receptive_field`; it is run.
        *args: its arguments; the input at `argnum` is an array of a floating dtype.
        argnum: which of them is the input.
        position: of the output element, one number for each spatial axis; None is the middle.

    Returns:
        An `EmpiricalField`, whose `heat` has the input's spatial axes.

    Raises:
        ValueError: as `receptive_field`, the output is not one array, or a position that it does not have.

    Example:
        >>> import jax.numpy as jnp, convjax
        >>> w = jnp.array([1.0, 2.0, 1.0]).reshape(3, 1, 1)
        >>> blurs = lambda x: convjax.conv1d(convjax.conv1d(x, w), w)
        >>> empirical_field(blurs, jnp.ones((1, 9, 1))).heat
        array([0., 0., 1., 4., 6., 4., 1., 0., 0.], dtype=float32)

    Source:
        W. Luo, Y. Li, R. Urtasun and R. Zemel, Understanding the Effective Receptive Field in Deep Convolutional
        Neural Networks, arXiv:1701.04128.
    """
    exact = receptive_field(fn, *args, argnum=argnum)
    if not isinstance(exact, ReceptiveField):
        raise ValueError(f"fn must return one array, but it returns {jax.tree.structure(exact)}")
    argnum %= len(args)
    call = called(fn)
    shape = jax.eval_shape(call, *args).shape
    sizes = [1 if axis.output_axis is None else shape[axis.output_axis] for axis in exact.axes]
    given = (position,) if isinstance(position, int) else position
    chosen = tuple(n // 2 for n in sizes) if given is None else tuple(given)
    if len(chosen) != len(sizes) or not all(0 <= p < n for p, n in zip(chosen, sizes, strict=True)):
        raise ValueError(f"position {chosen} must be below {tuple(sizes)}, one number for each spatial axis")

    index: list[Any] = [slice(None)] * len(shape)
    for axis, place in zip(exact.axes, chosen, strict=True):
        if axis.output_axis is not None:
            if index[axis.output_axis] not in (slice(None), place):
                raise ValueError(f"position {chosen} has two numbers for axis {axis.output_axis} of the output")
            index[axis.output_axis] = place

    def element(x: jax.Array) -> jax.Array:
        return jnp.sum(call(*args[:argnum], x, *args[argnum + 1 :])[tuple(index)])

    gradient = np.abs(np.asarray(jax.jit(jax.grad(element))(args[argnum])))
    shown = [axis.input_axis for axis in exact.axes]
    return EmpiricalField(gradient.sum(tuple(a for a in range(gradient.ndim) if a not in shown)), chosen, exact)
