"""`max_unpool1d` to `max_unpool3d` of PyTorch, read onto `convjax.max_unpool`."""

from collections.abc import Sequence

import jax

from convjax.functional.arguments import LAYOUTS, check_pooled, non_negative, per_axis, positive, require_one_way
from convjax.ops.unpool import check_indices, unpool, unpooled_size
from convjax.ops.windows import read_planes


def max_unpool1d(
    input: jax.Array,
    indices: jax.Array,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    output_size: Sequence[int] | None = None,
    *,
    algorithm: None = None,
) -> jax.Array:
    """PyTorch's `max_unpool1d`; all as `max_unpool2d`, over one spatial axis.

    Args:
        input: (N, C, W), or (C, W) without a batch.
        indices, kernel_size, stride, padding, output_size, algorithm: as `max_unpool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> max_unpool1d(jnp.array([[5.0, 2.0]]), jnp.array([[1, 2]]), 2, output_size=(5,))
        Array([[0., 5., 2., 0., 0.]], dtype=float32)
    """
    return _max_unpool(1, input, indices, kernel_size, stride, padding, output_size, algorithm)


def max_unpool2d(
    input: jax.Array,
    indices: jax.Array,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    output_size: Sequence[int] | None = None,
    *,
    algorithm: None = None,
) -> jax.Array:
    """PyTorch's `max_unpool2d`: the partial inverse of `max_pool2d`, zeros but for the maxima.

    Where windows share an index, the last of them is written; the gradient goes to it alone, and not, as in PyTorch,
    to all of them.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch; floating point.
        indices: flat positions in the plane, of input's shape; int32, or int64 as PyTorch's.
        kernel_size: of the pooling, at least 1; an int or one an axis.
        stride: of the pooling, at least 1, in the same forms; None is kernel_size.
        padding: of the pooling, at least 0, in the same forms.
        output_size: H and W of the result, or its whole shape; less than a stride from the default.
        algorithm: None; there is one alone.

    Returns:
        (N, C, *output) of input's dtype, where output = (n - 1) stride - 2 padding + kernel_size by default.

    Raises:
        ValueError: sizes that do not fit together, an index out of the plane (where it can be seen, see
            `convjax.max_unpool`), or an empty axis other than N.
        TypeError: an input that is not floating point, or indices of another dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> max_unpool2d(jnp.array([[[5.0, 2.0]]]), jnp.array([[[1, 6]]]), 2)
        Array([[[0., 5., 0., 0.],
                [0., 0., 2., 0.]]], dtype=float32)

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.max_unpool2d.html
    """
    return _max_unpool(2, input, indices, kernel_size, stride, padding, output_size, algorithm)


def max_unpool3d(
    input: jax.Array,
    indices: jax.Array,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    output_size: Sequence[int] | None = None,
    *,
    algorithm: None = None,
) -> jax.Array:
    """PyTorch's `max_unpool3d`; all as `max_unpool2d`, over three spatial axes.

    Args:
        input: (N, C, D, H, W), or (C, D, H, W) without a batch.
        indices, kernel_size, stride, padding, output_size, algorithm: as `max_unpool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> max_unpool3d(jnp.ones((1, 2, 2, 2, 2)), jnp.zeros((1, 2, 2, 2, 2), int), (2, 3, 2)).shape
        (1, 2, 4, 6, 4)
    """
    return _max_unpool(3, input, indices, kernel_size, stride, padding, output_size, algorithm)


def _max_unpool(
    ndim: int,
    input: jax.Array,
    indices: jax.Array,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
    output_size: Sequence[int] | None,
    algorithm: None,
) -> jax.Array:
    name = f"max_unpool{ndim}d"
    require_one_way(name, algorithm)
    check_pooled(name, input, ndim)
    check_indices(indices, input, "input")
    kernel = positive("kernel_size", per_axis("kernel_size", kernel_size, ndim))
    strides = kernel if stride is None else positive("stride", per_axis("stride", stride, ndim))
    pads = non_negative("padding", per_axis("padding", padding, ndim))
    if output_size is not None:
        if not isinstance(output_size, Sequence):
            raise TypeError(f"output_size must be a sequence of {ndim} or {ndim + 2} integers, got {output_size!r}")
        output_size = per_axis("output_size", output_size[2:] if len(output_size) == ndim + 2 else output_size, ndim)
    size = unpooled_size(input.shape[-ndim:], kernel, strides, tuple((p, p) for p in pads), output_size)
    return unpool(read_planes(input, None, LAYOUTS[ndim], "input"), indices, size)
