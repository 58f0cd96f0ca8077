"""What every convolution asks of its operands and sizes, and the bias that it adds."""

import difflib
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convjax import sizes
from convjax.dtypes import accumulator
from convjax.ops.arguments import Padding, as_array, integer, padding_pairs
from convjax.problem import Ints, Pads

Function = TypeVar("Function", bound=Callable[..., Any])

SPATIAL_LETTERS = {1: "W", 2: "HW", 3: "DHW"}
# Each kind of numbers holds those before it.
_KINDS = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)


def kernel_axes(w: jax.Array, channels: str, name: str = "w") -> int:
    """How many spatial axes a kernel has, whose two axes of channels, the last, are said by `channels`."""
    w = as_array(name, w)
    ndim = w.ndim - 2
    if ndim not in SPATIAL_LETTERS:
        raise ValueError(f"{name} of shape {w.shape} must have 3, 4 or 5 axes: 1 to 3 spatial axes, {channels}")
    if 0 in w.shape[:ndim]:
        raise ValueError(f"{name} of shape {w.shape} has no taps: each spatial axis must have at least 1")
    return ndim


def of_rank(name: str, ndim: int, channels: str, w: jax.Array) -> jax.Array:
    """The kernel of a function of that name, which has `ndim` spatial axes and then `channels`."""
    w = as_array("w", w)
    if w.ndim != ndim + 2:
        raise ValueError(f"w of shape {w.shape} must have {ndim + 2} axes for {name}: {ndim} spatial, {channels}")
    return w


def passing_options_to(function: Callable[..., Any], *, but: Sequence[str] = ()) -> Callable[[Function], Function]:
    """Gives a function of operands and `**options`, which it passes on, the signature that it has by that.

    Help and editors then show the options, except those that it refuses itself (`but`), and unknown ones are refused by
    its own name, with what would be right.
    """
    passed = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def passing(own: Function) -> Function:
        signature = inspect.signature(own)
        named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        given = {p.name for p in named}.union(but)
        parameters = [*named, *(p for p in passed if p.name not in given)]
        names = [p.name for p in parameters]

        @functools.wraps(own)
        def checked(*operands: Any, **options: Any) -> Any:
            for name in options:
                if name not in names and name not in but:
                    near = difflib.get_close_matches(name, names, n=1)
                    right = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(names)}"
                    raise TypeError(f"{own.__name__}() has no argument {name!r}: {right}")
            return own(*operands, **options)

        checked.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return cast(Function, checked)

    return passing


def dimension_numbers(ndim: int, first: bool) -> tuple[str, str, str]:
    """The axes of x, of w (*kernel, inputs, outputs) and of the result by letter; channels first or last."""
    letters = SPATIAL_LETTERS[ndim]
    order = f"NC{letters}" if first else f"N{letters}C"
    return order, f"{letters}IO", order


def of_one_dtype(**operands: jax.Array) -> list[jax.Array]:
    """The operands in one dtype: integers beside fractions become fractions, as in `jax.numpy`.

    Two dtypes of one kind are refused, unless one is weak: which precision is meant is for the caller to say.
    """
    arrays = [as_array(name, operand) for name, operand in operands.items()]
    dtypes = {array.dtype for array in arrays if not array.weak_type}
    if len(dtypes) > len(set(map(_kind, dtypes))):
        *said, last = [f"{name} is {array.dtype}" for name, array in zip(operands, arrays, strict=True)]
        raise TypeError(f"{', '.join(said)} and {last}: cast them to one dtype")
    dtype = jnp.result_type(*arrays)
    return [array.astype(dtype) for array in arrays]


def result_dtype(operand: np.dtype, preferred: Any) -> np.dtype:
    """The dtype of sums of products of `operand`; refuses one that cannot hold them."""
    if operand == jnp.bool_:
        raise TypeError("x and w are bool, which have no sum: cast them to an integer or floating dtype first")
    if jnp.issubdtype(operand, jnp.integer) and jnp.iinfo(operand).bits < 8:  # which XLA packs, and cannot convert
        raise TypeError(f"x and w are {operand}, of less than a byte: cast them to int8 or uint8 first")
    try:
        dtype = operand if preferred is None else jax.dtypes.canonicalize_dtype(preferred)
    except TypeError:
        raise TypeError(f"preferred_element_type must be a dtype or None, got {preferred!r}") from None
    if jnp.issubdtype(dtype, jnp.integer) and dtype.itemsize < 4:
        raise TypeError(f"sums of {operand} products overflow {dtype}: pass preferred_element_type=jnp.int32")
    if not _holds(dtype, operand):
        raise TypeError(f"preferred_element_type {dtype} cannot hold products of {operand}: pass a wider dtype or None")
    return dtype


def _holds(dtype: np.dtype, operand: np.dtype) -> bool:
    """Whether jax promotes `operand` to `dtype`; wider ones hold float8, which it does not promote."""
    try:
        return dtype == operand or bool(jnp.promote_types(operand, dtype) == dtype)
    except jax.dtypes.TypePromotionError:
        return _kind(operand) <= _kind(dtype) and operand.itemsize < dtype.itemsize


def check_groups(groups: int, channels: int, outputs: int) -> None:
    if integer("groups", groups) < 1:
        raise ValueError(f"groups must be at least 1, got {groups}")
    if channels % groups or outputs % groups:
        raise ValueError(f"groups={groups} must divide the {channels} channels of x and the {outputs} outputs of w")


def check_bias(bias: jax.Array | None, outputs: int, dtype: np.dtype) -> jax.Array | None:
    """The bias as an array of one number for each output, which a result of `dtype` can hold."""
    if bias is None:
        return None
    bias = as_array("bias", bias)
    if bias.shape != (outputs,):
        raise ValueError(f"bias of shape {bias.shape} must be ({outputs},), one for each output channel of w")
    check_bias_dtype(bias, dtype)
    return bias


def check_bias_dtype(bias: jax.Array, dtype: np.dtype) -> None:
    if _kind(bias.dtype) > _kind(dtype):
        raise TypeError(f"bias is {bias.dtype}, which a result of {dtype} cannot hold: cast bias, or x and w")


def add_bias(y: jax.Array, bias: jax.Array, axis: int) -> jax.Array:
    """Broadcast in float32, so that the bias gradient of a half-precision model is summed in float32."""
    broadcast = lax.broadcast_in_dim(bias.astype(accumulator(y.dtype)), y.shape, (axis,))
    return y + broadcast.astype(y.dtype)


def kernel_padding(size: Ints, kernel: Ints, strides: Ints, dilation: Ints, padding: Padding) -> Pads:
    """(lo, hi) an axis for a convolution over `size`; refuses what leaves no room for the dilated kernel."""
    extent = tuple(map(sizes.dilated, kernel, dilation))
    widths = padding_pairs(padding, size, extent, strides)
    for axis, (n, (lo, hi), e) in enumerate(zip(size, widths, extent, strict=True)):
        if n + min(lo, 0) + min(hi, 0) < 0:
            raise ValueError(f"padding ({lo}, {hi}) crops more than the {n} elements of spatial axis {axis}")
        if n > 0 and n + lo + hi < e:
            due = f"pad by {e - n} or more" if e >= n else f"crop {n - e} or fewer"
            raise ValueError(
                f"spatial axis {axis} has {n} elements, {n + lo + hi} with padding ({lo}, {hi}), fewer than the "
                f"dilated kernel's {e}: the output would be empty; {due} in all"
            )
    return widths


def _kind(dtype: np.dtype) -> int:
    return next(i for i, kind in enumerate(_KINDS) if jnp.issubdtype(dtype, kind))
