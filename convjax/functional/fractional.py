"""`fractional_max_pool2d` and `fractional_max_pool3d` of PyTorch, read onto `convjax.fractional_max_pool`."""

from collections.abc import Sequence

import jax

from convjax.functional.arguments import LAYOUTS, Pooled, check_pooled, per_axis, positive
from convjax.ops.arguments import as_array
from convjax.ops.fractional import fractional_max_pool, per_axis_ratios
from convjax.problem import Ints
from convjax.request import AlgorithmLike


def fractional_max_pool2d(
    input: jax.Array,
    kernel_size: int | Sequence[int],
    output_size: int | Sequence[int] | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    _random_samples: jax.Array | None = None,
    *,
    key: jax.Array | None = None,
    algorithm: AlgorithmLike = None,
) -> Pooled:
    """PyTorch's `fractional_max_pool2d`: the largest element of windows that stand at random distances.

    Where PyTorch draws the samples itself, `key` does.

    Args:
        input: (N, C, H, W), or (C, H, W) without a batch; floating point.
        kernel_size: taps, at least 1; an int or one an axis.
        output_size: windows, at least 0; an int or one an axis.
        output_ratio: output_size as a fraction of H and W, rounded down; a number or one an axis. Not looked at if
            there is an output_size.
        return_indices: whether to return as well where the maxima stand.
        _random_samples: (N, C, 2) of input's dtype, or (1, C, 2) without a batch, uniform in [0, 1): of W, then H.
        key: draws them, by `jax.random.uniform`.
        algorithm: see `convjax.fractional_max_pool`.

    Returns:
        (N, C, *output_size) of input's dtype; with `return_indices` also flat positions in the plane, int32.

    Raises:
        ValueError: sizes that do not fit together; neither output_size nor output_ratio; not one of _random_samples
            and key; an empty axis other than N.
        TypeError: an input that is not floating point, or samples of another dtype.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x, key = jnp.ones((2, 3, 10, 9)), jax.random.key(0)
        >>> fractional_max_pool2d(x, 2, output_ratio=0.7, key=key).shape
        (2, 3, 7, 6)

    Source:
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.fractional_max_pool2d.html
    """
    return _fractional(
        2, input, kernel_size, output_size, output_ratio, return_indices, _random_samples, key, algorithm
    )


def fractional_max_pool3d(
    input: jax.Array,
    kernel_size: int | Sequence[int],
    output_size: int | Sequence[int] | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    _random_samples: jax.Array | None = None,
    *,
    key: jax.Array | None = None,
    algorithm: AlgorithmLike = None,
) -> Pooled:
    """PyTorch's `fractional_max_pool3d`; all as `fractional_max_pool2d`, over three spatial axes.

    Args:
        input: (N, C, D, H, W), or (C, D, H, W) without a batch.
        _random_samples: (N, C, 3), of D, H and W.
        kernel_size, output_size, output_ratio, return_indices, key, algorithm: as `fractional_max_pool2d`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> fractional_max_pool3d(jnp.ones((3, 6, 8, 7)), (2, 3, 2), (4, 5, 3), key=jax.random.key(0)).shape
        (3, 4, 5, 3)
    """
    return _fractional(
        3, input, kernel_size, output_size, output_ratio, return_indices, _random_samples, key, algorithm
    )


def _fractional(
    ndim: int,
    input: jax.Array,
    kernel_size: int | Sequence[int],
    output_size: int | Sequence[int] | None,
    output_ratio: float | Sequence[float] | None,
    return_indices: bool,
    samples: jax.Array | None,
    key: jax.Array | None,
    algorithm: AlgorithmLike,
) -> Pooled:
    name = f"fractional_max_pool{ndim}d"
    check_pooled(name, input, ndim)
    input = as_array("input", input)
    kernel = positive("kernel_size", per_axis("kernel_size", kernel_size, ndim))
    if output_size is None:
        size = _by_ratio(name, input.shape[-ndim:], output_ratio)
    else:
        size = per_axis("output_size", output_size, ndim)
    if ndim == 3:
        _check_room(input.shape[-3:], kernel, size)
    if samples is not None and key is not None:
        raise ValueError("_random_samples and key are alternatives: give one of them")
    if samples is None and key is None:
        raise ValueError(f"{name} draws at random: pass key, such as jax.random.key(0), or _random_samples")
    if samples is not None:
        samples = _samples(ndim, input, as_array("_random_samples", samples))
    return fractional_max_pool(
        input,
        kernel,
        output_size=size,
        key=key,
        samples=samples,
        return_indices=return_indices,
        layout=LAYOUTS[ndim],
        algorithm=algorithm,
    )


def _check_room(shape: Ints, kernel: Ints, size: Ints) -> None:
    """PyTorch has one output fewer of three axes than of two."""
    for axis, (n, k, o) in enumerate(zip(shape, kernel, size, strict=True)):
        if o + k - 1 >= n:
            raise ValueError(
                f"output_size {o} on spatial axis {axis} must be at most {n - k}, for a kernel of {k} over {n} "
                "elements: one more is taken by convjax.fractional_max_pool alone"
            )


def _by_ratio(name: str, size: Ints, output_ratio: float | Sequence[float] | None) -> Ints:
    if output_ratio is None:
        raise ValueError(f"output_size or output_ratio must be given to {name}: both are None")
    ratios = per_axis_ratios(output_ratio, len(size))
    if min(ratios) < 0:
        raise ValueError(f"output_ratio must not be negative, got {output_ratio}")
    return tuple(int(n * ratio) for n, ratio in zip(size, ratios, strict=True))


def _samples(ndim: int, input: jax.Array, samples: jax.Array) -> jax.Array:
    """Those of input's planes, for an input without a batch without one."""
    batch = input.shape[0] if input.ndim == ndim + 2 else 1
    channels = input.shape[-ndim - 1]
    if samples.ndim != 3 or samples.shape[0] < batch or samples.shape[1:] != (channels, ndim):
        raise ValueError(
            f"_random_samples of shape {samples.shape} must be ({batch}, {channels}, {ndim}): a number for every plane "
            "and spatial axis of input"
        )
    if samples.dtype != input.dtype:
        raise TypeError(f"input is {input.dtype} and _random_samples are {samples.dtype}: cast to input's dtype")
    return samples[:batch] if input.ndim == ndim + 2 else samples[0]
