"""`adaptive_avg_pool1d` to `adaptive_max_pool3d` of PyTorch, read onto those of `convjax`."""

from collections.abc import Sequence

import jax

from convjax.functional.arguments import LAYOUTS, Pooled, check_pooled, per_axis, require_no_bools
from convjax.ops.adaptive import OutputSize, adaptive_avg_pool, adaptive_max_pool
from convjax.problem import require_positive
from convjax.request import AlgorithmLike


def adaptive_avg_pool1d(
    input: jax.Array, output_size: int | Sequence[int], *, algorithm: AlgorithmLike = None
) -> jax.Array:
    """PyTorch's `adaptive_avg_pool1d`; all as `adaptive_avg_pool2d`, over one spatial axis.

    Args:
        input: (N, C, W), or (C, W) without a batch.
        output_size: an int, or a list of it.
        algorithm: as `adaptive_avg_pool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> adaptive_avg_pool1d(jnp.arange(7.0)[None], 5)
        Array([[0.5, 1.5, 3. , 4.5, 5.5]], dtype=float32)
    """
    return _avg(1, input, output_size, algorithm)


def adaptive_avg_pool2d(input: jax.Array, output_size: OutputSize, *, algorithm: AlgorithmLike = None) -> jax.Array:
    """PyTorch's `adaptive_avg_pool2d`: the mean of every bin; bin i is floor(i n / o) .. ceil((i + 1) n / o).

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch; floating point.
        output_size: bins an axis, at least 1: an int, or one an axis, None for the axis' own size.
        algorithm: see `convjax.adaptive_avg_pool`.

    Returns:
        (N, C, *output_size) of input's dtype; half precisions are summed and divided in float32.

    Raises:
        ValueError: axes or sizes that do not fit; an empty axis other than N; an output size of 0, which PyTorch takes.
        TypeError: an input that is not floating point.

    Example:
        >>> import jax.numpy as jnp
        >>> adaptive_avg_pool2d(jnp.ones((2, 3, 10, 9)), (7, None)).shape
        (2, 3, 7, 9)

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.adaptive_avg_pool2d.html
    """
    return _avg(2, input, output_size, algorithm)


def adaptive_avg_pool3d(input: jax.Array, output_size: OutputSize, *, algorithm: AlgorithmLike = None) -> jax.Array:
    """PyTorch's `adaptive_avg_pool3d`; all as `adaptive_avg_pool2d`, over three spatial axes.

    Args:
        input: (N, C, D, H, W), or (C, D, H, W) without a batch.
        output_size, algorithm: as `adaptive_avg_pool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> adaptive_avg_pool3d(jnp.ones((3, 4, 6, 5)), 2).shape
        (3, 2, 2, 2)
    """
    return _avg(3, input, output_size, algorithm)


def adaptive_max_pool1d(
    input: jax.Array,
    output_size: int | Sequence[int],
    return_indices: bool = False,
    *,
    algorithm: AlgorithmLike = None,
) -> Pooled:
    """PyTorch's `adaptive_max_pool1d`; all as `adaptive_max_pool2d`, over one spatial axis.

    Args:
        input: (N, C, W), or (C, W) without a batch.
        output_size: an int, or a list of it.
        return_indices, algorithm: as `adaptive_max_pool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> adaptive_max_pool1d(jnp.array([[1.0, 5.0, 2.0, 2.0]]), 3)
        Array([[5., 5., 2.]], dtype=float32)
    """
    return _max(1, input, output_size, return_indices, algorithm)


def adaptive_max_pool2d(
    input: jax.Array, output_size: OutputSize, return_indices: bool = False, *, algorithm: AlgorithmLike = None
) -> Pooled:
    """PyTorch's `adaptive_max_pool2d`: the largest element of every bin of `adaptive_avg_pool2d`.

    Args:
        input, output_size: as `adaptive_avg_pool2d`.
        return_indices: whether to return as well where the maxima stand.
        algorithm: see `convjax.adaptive_max_pool`.

    Returns:
        (N, C, *output_size) of input's dtype; with `return_indices` also flat positions in the plane, int32.

    Raises:
        ValueError, TypeError: as `adaptive_avg_pool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> adaptive_max_pool2d(jnp.arange(6.0).reshape(1, 2, 3), (1, 2), True)[1]
        Array([[[4, 5]]], dtype=int32)

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.adaptive_max_pool2d.html
    """
    return _max(2, input, output_size, return_indices, algorithm)


def adaptive_max_pool3d(
    input: jax.Array, output_size: OutputSize, return_indices: bool = False, *, algorithm: AlgorithmLike = None
) -> Pooled:
    """PyTorch's `adaptive_max_pool3d`; all as `adaptive_max_pool2d`, over three spatial axes.

    Args:
        input: (N, C, D, H, W), or (C, D, H, W) without a batch.
        output_size, return_indices, algorithm: as `adaptive_max_pool2d`.

    Example:
        >>> import jax.numpy as jnp
        >>> adaptive_max_pool3d(jnp.ones((3, 4, 6, 5)), (None, 2, 3)).shape
        (3, 4, 2, 3)
    """
    return _max(3, input, output_size, return_indices, algorithm)


def _avg(ndim: int, input: jax.Array, output_size: OutputSize, algorithm: AlgorithmLike) -> jax.Array:
    check_pooled(f"adaptive_avg_pool{ndim}d", input, ndim)
    _check_output_size(output_size, ndim)
    return adaptive_avg_pool(input, output_size, layout=LAYOUTS[ndim], algorithm=algorithm)


def _max(
    ndim: int, input: jax.Array, output_size: OutputSize, return_indices: bool, algorithm: AlgorithmLike
) -> Pooled:
    check_pooled(f"adaptive_max_pool{ndim}d", input, ndim)
    _check_output_size(output_size, ndim)
    return adaptive_max_pool(
        input, output_size, return_indices=return_indices, layout=LAYOUTS[ndim], algorithm=algorithm
    )


def _check_output_size(output_size: OutputSize, ndim: int) -> None:
    """Integers, of which PyTorch lets two or three axes' be None, but one axis' not."""
    require_no_bools("output_size", output_size)
    given = output_size
    if ndim > 1 and isinstance(output_size, Sequence):
        given = [1 if count is None else count for count in output_size]
    require_positive("output_size", per_axis("output_size", given, ndim))  # type: ignore[arg-type]
