"""The same arguments give PyTorch's numbers: values, indices and gradients, PyTorch computing in float64.

Collected only where torch is installed; elsewhere pytest's header says that parity is left out.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transforms import assert_close

import convjax

torch.set_num_threads(1)
LAYOUTS = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
# Default precision admits algorithms within 2e-5 of the largest output.
BOUND = 4e-5


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution as PyTorch states it: x (N, C, *size), w (K, C / groups, *kernel)."""

    batch: int
    channels: int
    outputs: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    mode: str
    bias: bool

    @classmethod
    def sample(cls, seed: int) -> "Conv":
        rng = np.random.default_rng(seed)
        ndim = 1 + seed % 3
        mode = ("zeros", "zeros", "reflect", "replicate", "circular")[seed % 5]
        groups = int(rng.choice([1, 1, 2, 4]))
        kernel = _ints(rng, ndim, 1, 4 if ndim < 3 else 3)
        dilation = _ints(rng, ndim, 1, 2)
        extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        size = tuple(e + int(rng.integers(0, 7)) for e in extent)
        longest = [n - 1 if mode == "reflect" else n for n in size]  # PyTorch refuses more
        return cls(
            batch=int(rng.integers(1, 4)),
            channels=groups * int(rng.integers(1, 4)),
            outputs=groups * int(rng.integers(1, 4)),
            size=size,
            kernel=kernel,
            stride=_ints(rng, ndim, 1, 3),
            padding=tuple(int(rng.integers(0, min(e, limit) + 1)) for e, limit in zip(extent, longest, strict=True)),
            dilation=dilation,
            groups=groups,
            mode=mode,
            bias=bool(rng.random() < 0.5),
        )

    def by_torch(self, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        padding: Any = self.padding
        if self.mode != "zeros":
            x = F.pad(x, [p for p in reversed(self.padding) for _ in range(2)], mode=self.mode)
            padding = 0
        conv = (F.conv1d, F.conv2d, F.conv3d)[len(self.size) - 1]
        return conv(x, w, b if self.bias else None, self.stride, padding, self.dilation, self.groups)

    def by_convjax(self, x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
        conv = (convjax.conv1d, convjax.conv2d, convjax.conv3d)[len(self.size) - 1]
        return conv(
            x,
            jnp.moveaxis(w, (0, 1), (-1, -2)),
            bias=b if self.bias else None,
            strides=self.stride,
            padding=self.padding,
            padding_mode=self.mode,
            dilation=self.dilation,
            groups=self.groups,
            layout=LAYOUTS[len(self.size)],
        )


@dataclasses.dataclass(frozen=True)
class Pool:
    """A pooling of x (N, C, *size); for averages, dilation is 1."""

    operation: str
    size: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool
    count_include_pad: bool
    divisor_override: int | None

    @classmethod
    def sample(cls, operation: str, seed: int) -> "Pool":
        rng = np.random.default_rng(seed)
        ndim = 1 + seed % 3
        window, stride = _ints(rng, ndim, 1, 4), _ints(rng, ndim, 1, 4)
        dilation = _ints(rng, ndim, 1, 2) if operation == "max" else (1,) * ndim
        extent = (d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True))
        return cls(
            operation=operation,
            size=tuple(e + int(rng.integers(0, 7)) for e in extent),
            window=window,
            stride=stride,
            padding=tuple(int(rng.integers(0, k // 2 + 1)) for k in window),
            dilation=dilation,
            ceil_mode=bool(rng.random() < 0.5),
            count_include_pad=bool(rng.random() < 0.5),
            divisor_override=int(rng.integers(1, 9)) if ndim > 1 and rng.random() < 0.3 else None,
        )

    def by_torch(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ndim = len(self.size)
        if self.operation == "max":
            max_pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[ndim - 1]
            y, indices = max_pool(
                x, self.window, self.stride, self.padding, self.dilation, self.ceil_mode, return_indices=True
            )
            return y, indices
        avg_pool: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[ndim - 1]
        divisor = () if ndim == 1 else (self.divisor_override,)
        return (avg_pool(x, self.window, self.stride, self.padding, self.ceil_mode, self.count_include_pad, *divisor),)

    def by_convjax(self, x: jax.Array) -> tuple[jax.Array, ...]:
        options: dict[str, Any] = {
            "strides": self.stride,
            "padding": self.padding,
            "ceil_mode": self.ceil_mode,
            "layout": LAYOUTS[len(self.size)],
        }
        if self.operation == "max":
            y, indices = convjax.max_pool(x, self.window, dilation=self.dilation, return_indices=True, **options)
            return y, indices
        counting: dict[str, Any] = {
            "count_include_pad": self.count_include_pad,
            "divisor_override": self.divisor_override,
        }
        return (convjax.avg_pool(x, self.window, **counting, **options),)


def _ints(rng: np.random.Generator, count: int, low: int, high: int) -> tuple[int, ...]:
    return tuple(int(n) for n in rng.integers(low, high, count, endpoint=True))


def _torch_value_and_grads(f: Callable[..., Any], cotangent: np.ndarray | None, *operands: np.ndarray) -> Any:
    """Value (and indices), the cotangent used, and the gradient of every operand, None for one that is unused."""
    tensors = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in operands]
    result = f(*tensors)
    value, *indices = result if isinstance(result, tuple) else (result,)
    if cotangent is None:
        cotangent = np.random.default_rng(1).standard_normal(value.shape).astype(np.float32)
    value.backward(torch.tensor(cotangent, dtype=torch.float64))
    grads = [np.zeros(t.shape) if t.grad is None else t.grad.numpy() for t in tensors]
    return value.detach().numpy(), [i.numpy() for i in indices], cotangent, grads


@pytest.mark.parametrize("conv", [Conv.sample(seed) for seed in range(45)], ids=str)
def test_convolutions(conv: Conv) -> None:
    rng = np.random.default_rng(0)
    shapes = (
        (conv.batch, conv.channels, *conv.size),
        (conv.outputs, conv.channels // conv.groups, *conv.kernel),
        (conv.outputs,),
    )
    operands = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    want, _, cotangent, want_grads = _torch_value_and_grads(conv.by_torch, None, *operands)

    @jax.jit
    def ours(c: jax.Array, *operands: jax.Array) -> Any:
        value, pullback = jax.vjp(conv.by_convjax, *operands)
        return value, pullback(c)

    value, grads = ours(cotangent, *operands)
    assert_close({"value": value, "grad": grads}, {"value": want, "grad": want_grads}, BOUND)


@pytest.mark.parametrize("operation", ["max", "avg"])
@pytest.mark.parametrize("seed", range(24))
def test_poolings(operation: str, seed: int) -> None:
    pool = Pool.sample(operation, seed)
    x = np.random.default_rng(0).permutation(6 * int(np.prod(pool.size))).reshape(2, 3, *pool.size).astype(np.float32)
    want, want_indices, cotangent, want_grads = _torch_value_and_grads(pool.by_torch, None, x)

    @jax.jit
    def ours(c: jax.Array, x: jax.Array) -> Any:
        (value, *indices), pullback = jax.vjp(pool.by_convjax, x)
        return value, indices, pullback((c, *(np.zeros(i.shape, jax.dtypes.float0) for i in indices)))

    value, indices, grads = ours(cotangent, x)
    assert_close({"value": value, "grad": grads}, {"value": want, "grad": tuple(want_grads)}, 2e-6)
    assert len(indices) == len(want_indices)
    for got, wanted in zip(indices, want_indices, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2, "stride": 2, "padding": 1, "ceil_mode": True},
        {"kernel_size": 3, "stride": 1, "dilation": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
    ],
)
def test_tied_maxima_have_the_same_index_and_gradient(options: dict[str, Any]) -> None:
    x = np.random.default_rng(0).integers(0, 2, (2, 3, 9, 8)).astype(np.float32)
    want, want_indices, _, want_grads = _torch_value_and_grads(
        lambda x: F.max_pool2d(x, return_indices=True, **options), None, x
    )
    renamed = {"strides" if k == "stride" else k: v for k, v in options.items() if k != "kernel_size"}
    y, indices = convjax.max_pool(jnp.asarray(x), options["kernel_size"], return_indices=True, layout="NCHW", **renamed)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(indices, want_indices[0])
    cotangent = np.random.default_rng(1).standard_normal(want.shape).astype(np.float32)
    (gradient,) = jax.vjp(lambda x: convjax.max_pool(x, options["kernel_size"], layout="NCHW", **renamed), x)[1](
        jnp.asarray(cotangent)
    )
    assert_close({"grad": gradient}, {"grad": want_grads[0]}, 1e-6)


@pytest.mark.parametrize(
    "options", [{"padding": "same"}, {"padding": "same", "dilation": 3}, {"padding": "valid", "stride": 2}]
)
def test_named_paddings_mean_the_same(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 9, 8)).astype(np.float32), rng.standard_normal((4, 3, 3, 5)).astype(np.float32)
    want = F.conv2d(torch.tensor(x, dtype=torch.float64), torch.tensor(w, dtype=torch.float64), **options).numpy()
    renamed = {"strides" if k == "stride" else k: v.upper() if isinstance(v, str) else v for k, v in options.items()}
    got = convjax.conv(jnp.asarray(x), jnp.moveaxis(jnp.asarray(w), (0, 1), (-1, -2)), layout="NCHW", **renamed)
    assert_close({"value": got}, {"value": want}, BOUND)
