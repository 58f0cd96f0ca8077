"""Convolutions give PyTorch's numbers for the same arguments: values and gradients, PyTorch computing in float64.

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


def _ints(rng: np.random.Generator, count: int, low: int, high: int) -> tuple[int, ...]:
    return tuple(int(n) for n in rng.integers(low, high, count, endpoint=True))


def _torch_value_and_grads(f: Callable[..., Any], *operands: np.ndarray) -> Any:
    """Value, the cotangent used, and the gradient of every operand, 0 for one that is unused."""
    tensors = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in operands]
    value = f(*tensors)
    cotangent = np.random.default_rng(1).standard_normal(value.shape).astype(np.float32)
    value.backward(torch.tensor(cotangent, dtype=torch.float64))
    grads = [np.zeros(t.shape) if t.grad is None else t.grad.numpy() for t in tensors]
    return value.detach().numpy(), cotangent, grads


@pytest.mark.parametrize("conv", [Conv.sample(seed) for seed in range(20)], ids=str)
def test_convolutions(conv: Conv) -> None:
    rng = np.random.default_rng(0)
    shapes = (
        (conv.batch, conv.channels, *conv.size),
        (conv.outputs, conv.channels // conv.groups, *conv.kernel),
        (conv.outputs,),
    )
    operands = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    want, cotangent, want_grads = _torch_value_and_grads(conv.by_torch, *operands)

    @jax.jit
    def ours(c: jax.Array, *operands: jax.Array) -> Any:
        value, pullback = jax.vjp(conv.by_convjax, *operands)
        return value, pullback(c)

    value, grads = ours(cotangent, *operands)
    assert_close({"value": value, "grad": grads}, {"value": want, "grad": want_grads}, BOUND)


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


# Tasks that neither `lax.conv_transpose` nor the layers of Flax state: transposes with groups, with output_padding or
# to a size, and padding of a mode and at each end apart, under strides, dilation and groups. Names and arguments of
# PyTorch, shapes of x and w; `pads` are (lo, hi) an axis.
TASKS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "groups and output padding": (
        "conv_transpose1d",
        (2, 6, 7),
        (6, 2, 4),
        {"stride": 3, "padding": 1, "output_padding": 2, "groups": 3},
    ),
    "stride beyond the kernel": ("conv_transpose1d", (2, 4, 5), (4, 1, 2), {"stride": 4, "groups": 2}),
    "groups, dilation, output padding": (
        "conv_transpose2d",
        (2, 4, 5, 6),
        (4, 3, 3, 2),
        {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 3), "output_padding": (1, 2), "groups": 2},
    ),
    "output padding below the dilation alone": (
        "conv_transpose2d",
        (1, 2, 4, 5),
        (2, 2, 3, 3),
        {"dilation": 3, "output_padding": 2},
    ),
    "more padding than kernel": ("conv_transpose2d", (1, 4, 9, 8), (4, 1, 2, 3), {"padding": (3, 4), "groups": 4}),
    "depthwise and dilated": (
        "conv_transpose3d",
        (1, 3, 3, 4, 3),
        (3, 1, 2, 3, 2),
        {"stride": (2, 1, 2), "padding": (0, 1, 1), "dilation": (1, 2, 1), "output_padding": (1, 1, 0), "groups": 3},
    ),
    "reflect": (
        "conv1d",
        (2, 4, 9),
        (6, 2, 3),
        {"pads": ((4, 1),), "mode": "reflect", "stride": 2, "dilation": 2, "groups": 2},
    ),
    "replicate": (
        "conv2d",
        (2, 4, 7, 6),
        (6, 2, 3, 2),
        {"pads": ((2, 1), (0, 9)), "mode": "replicate", "stride": (2, 1), "dilation": (1, 3), "groups": 2},
    ),
    "circular": (
        "conv3d",
        (1, 3, 4, 3, 4),
        (3, 1, 2, 3, 2),
        {"pads": ((1, 0), (3, 1), (0, 2)), "mode": "circular", "stride": (1, 2, 1), "groups": 3},
    ),
}


def task_by_torch(task: str) -> Callable[..., torch.Tensor]:
    function, _, _, options = TASKS[task]
    rest = {name: value for name, value in options.items() if name not in ("pads", "mode")}
    widths = [width for pair in reversed(options.get("pads", ())) for width in pair]

    def run(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return getattr(F, function)(F.pad(x, widths, options["mode"]) if widths else x, w, b, **rest)

    return run


def task_by_convjax(task: str) -> Callable[..., jax.Array]:
    function, x_shape, _, options = TASKS[task]
    names = {"stride": "strides", "pads": "padding", "mode": "padding_mode"}
    renamed = {names.get(name, name): value for name, value in options.items()} | {"layout": LAYOUTS[len(x_shape) - 2]}
    axes = (-2, -1) if "transpose" in function else (-1, -2)
    return lambda x, w, b: getattr(convjax, function)(x, jnp.moveaxis(w, (0, 1), axes), bias=b, **renamed)


@pytest.mark.parametrize("task", TASKS)
def test_what_flax_and_lax_cannot_state(task: str) -> None:
    function, x_shape, w_shape, options = TASKS[task]
    outputs = w_shape[1] * options.get("groups", 1) if "transpose" in function else w_shape[0]
    rng = np.random.default_rng(0)
    operands = [rng.standard_normal(shape).astype(np.float32) for shape in (x_shape, w_shape, (outputs,))]
    want, cotangent, want_grads = _torch_value_and_grads(task_by_torch(task), *operands)

    @jax.jit
    def ours(c: jax.Array, *operands: jax.Array) -> Any:
        value, pullback = jax.vjp(task_by_convjax(task), *operands)
        return value, pullback(c)

    value, grads = ours(cotangent, *operands)
    assert_close({"value": value, "grad": grads}, {"value": want, "grad": want_grads}, BOUND)


def test_output_size_is_that_of_pytorchs_modules() -> None:
    module = torch.nn.ConvTranspose2d(4, 6, (3, 2), stride=(3, 2), padding=(1, 0), groups=2, bias=False)
    x = np.random.default_rng(0).standard_normal((1, 4, 3, 4)).astype(np.float32)
    sizes = [(7 + i, 8 + j) for i in range(3) for j in range(2)]
    w = jnp.moveaxis(jnp.asarray(module.weight.detach().numpy()), (0, 1), (-2, -1))
    options: dict[str, Any] = {"strides": (3, 2), "padding": (1, 0), "groups": 2, "layout": "NCHW"}

    @jax.jit
    def ours(x: jax.Array) -> list[jax.Array]:
        return [convjax.conv_transpose(x, w, output_size=size, **options) for size in sizes]

    want = [module(torch.tensor(x), output_size=size).detach().numpy() for size in sizes]
    assert_close({"sizes": ours(x)}, {"sizes": want}, BOUND)
    for size in ((6, 8), (7, 10)):
        with pytest.raises(ValueError, match="valid sizes range"):
            module(torch.tensor(x), output_size=size)
        with pytest.raises(ValueError, match="output_size"):
            convjax.conv_transpose(jnp.asarray(x), w, output_size=size, **options)
