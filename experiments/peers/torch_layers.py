"""Layers by PyTorch: what a sweep times beside jax, on the same operands and as many threads.

Operands are laid out as PyTorch has them before the timing, and results laid back after it. A gradient is autograd's,
of one operand alone, on a graph that is kept: the forward pass behind it is not timed, but for a max-pool, whose
gradient takes its forward pass with it in jax's programs too.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from convjax.layer import Layer
from convjax.problem import Ints
from convjax.processor import cores

_FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


@dataclasses.dataclass(frozen=True)
class TorchProgram:
    """One pass of a layer. Nothing is compiled, and PyTorch on a CPU has computed when a call returns."""

    layer: Layer
    pass_: str
    call: Callable[[], torch.Tensor]
    compile_seconds: float = 0.0

    def __call__(self) -> torch.Tensor:
        return self.call()

    def array(self, result: torch.Tensor) -> np.ndarray:
        """A result in the layer's layout and float64."""
        y = result.detach().to(torch.float64).numpy()
        return _weights_back(self.layer, y) if self.pass_ == "wgrad" else np.moveaxis(y, 1, -1)


def unsupported(layer: Layer, *, channels_last: bool) -> tuple[str, ...]:
    """Why PyTorch cannot compute a layer, or not in this memory format."""
    reasons = []
    if layer.members:
        reasons.append("a layer under jax.vmap has no counterpart in PyTorch's own convolutions")
    if channels_last and layer.ndim not in _FORMATS:
        reasons.append("PyTorch has no channels-last memory format for 1 spatial axis")
    if layer.kind == "avg" and any(d > 1 for d in layer.rhs_dilation):
        reasons.append("PyTorch's average pooling has no dilation")
    if layer.kind == "transpose":
        for lo, extra, limit in zip(*_cropping(layer), map(max, layer.lhs_dilation, layer.rhs_dilation), strict=True):
            if lo < 0 or not 0 <= extra < limit:
                reasons.append(
                    f"PyTorch's transposed convolution has no padding {lo} with {extra} cells of output more"
                )
    return tuple(dict.fromkeys(reasons))


def program(layer: Layer, pass_: str, operands: Sequence[Any], *, channels_last: bool) -> TorchProgram:
    """A pass of `layer` on the operands that its task draws: x and w, g in the place of what is differentiated."""
    torch.set_num_threads(cores())
    memory_format = _FORMATS[layer.ndim] if channels_last else torch.contiguous_format

    def placed(array: Any, axes: Callable[[np.ndarray], np.ndarray]) -> torch.Tensor:
        moved = torch.from_numpy(np.array(axes(np.asarray(array)), np.float64))
        return moved.to(getattr(torch, str(array.dtype))).contiguous(memory_format=memory_format)

    def image(array: Any) -> torch.Tensor:
        return placed(array, lambda a: np.moveaxis(a, -1, 1))

    def weights(array: Any) -> torch.Tensor:
        return placed(array, lambda a: _weights(layer, a))

    run = forward(layer)
    if pass_ == "fprop":
        x, *w = operands
        # No operand asks for a gradient, so none is prepared for.
        return TorchProgram(layer, pass_, functools.partial(run, image(x), *map(weights, w)))
    if pass_ == "wgrad":
        x, g = operands
        return TorchProgram(layer, pass_, _gradient(run, 1, image(g), image(x), weights(_zeros(layer.w_shape, x))))
    if layer.kind == "max":
        x, g = map(image, operands)
        x.requires_grad_()
        return TorchProgram(layer, pass_, lambda: torch.autograd.grad(run(x), x, g)[0])
    g, *w = operands
    return TorchProgram(layer, pass_, _gradient(run, 0, image(g), image(_zeros(layer.x_shape, g)), *map(weights, w)))


def forward(layer: Layer) -> Callable[..., torch.Tensor]:
    """The layer on x (N, C, *spatial) and w as PyTorch states it."""
    n = layer.ndim
    if layer.kind == "transpose":
        padding, extra = _cropping(layer)
        return functools.partial(
            getattr(F, f"conv_transpose{n}d"),
            stride=layer.lhs_dilation,
            padding=padding,
            output_padding=extra,
            groups=layer.groups,
            dilation=layer.rhs_dilation,
        )
    # PyTorch's own padding is the same at both ends, and at most half a pool's window; what is beyond is padded first.
    limits = [k // 2 for k in layer.kernel] if layer.is_pool else [max(pair) for pair in layer.padding]
    even = tuple(min(lo, hi, limit) for (lo, hi), limit in zip(layer.padding, limits, strict=True))
    beyond = [side - p for (lo, hi), p in reversed(list(zip(layer.padding, even, strict=True))) for side in (lo, hi)]
    if layer.kind == "avg":
        run = functools.partial(getattr(F, f"avg_pool{n}d"), kernel_size=layer.kernel)
    elif layer.kind == "max":
        run = functools.partial(getattr(F, f"max_pool{n}d"), kernel_size=layer.kernel, dilation=layer.rhs_dilation)
    else:
        run = functools.partial(getattr(F, f"conv{n}d"), dilation=layer.rhs_dilation, groups=layer.groups)
    run = functools.partial(run, stride=layer.strides, padding=even)
    if not any(beyond):
        return run
    value = -np.inf if layer.kind == "max" else 0.0
    return lambda x, *w: run(F.pad(x, beyond, value=value), *w)


def _gradient(
    run: Callable[..., torch.Tensor], operand: int, g: torch.Tensor, *tensors: torch.Tensor
) -> Callable[[], torch.Tensor]:
    """The gradient of one operand; what the graph needs of the forward pass is computed here, once."""
    wanted = tensors[operand].requires_grad_()
    y = run(*tensors)
    return lambda: torch.autograd.grad(y, wanted, g, retain_graph=True)[0]


def _zeros(shape: Ints | None, like: Any) -> np.ndarray:
    """In the place of the operand that is differentiated, whose value no gradient depends on."""
    assert shape is not None
    return np.zeros(shape, like.dtype)


def _cropping(layer: Layer) -> tuple[Ints, Ints]:
    """Of a transposed layer PyTorch's padding, which crops, and its output padding."""
    reach = [d * (k - 1) for d, k in zip(layer.rhs_dilation, layer.kernel, strict=True)]
    lo = tuple(r - low for r, (low, _) in zip(reach, layer.padding, strict=True))
    hi = tuple(r - high for r, (_, high) in zip(reach, layer.padding, strict=True))
    return lo, tuple(a - b for a, b in zip(lo, hi, strict=True))


def _weights(layer: Layer, w: np.ndarray) -> np.ndarray:
    """(*kernel, C / groups, K) as PyTorch has it: (K, C / groups, *kernel).

    Those of a transposed convolution are (C, K / groups, *kernel), and flipped, as PyTorch's is the transpose of a
    convolution and the layer a convolution of the dilated x.
    """
    if layer.kind != "transpose":
        return np.moveaxis(w, (-1, -2), (0, 1))
    *kernel, inputs, outputs = w.shape
    w = np.flip(w, tuple(range(layer.ndim))).reshape(*kernel, inputs, layer.groups, outputs // layer.groups)
    return np.moveaxis(w, (-2, -3, -1), (0, 1, 2)).reshape(layer.groups * inputs, outputs // layer.groups, *kernel)


def _weights_back(layer: Layer, w: np.ndarray) -> np.ndarray:
    """The inverse of `_weights`."""
    if layer.kind != "transpose":
        return np.moveaxis(w, (0, 1), (-1, -2))
    inputs, outputs, *kernel = w.shape
    w = np.moveaxis(w.reshape(layer.groups, inputs // layer.groups, outputs, *kernel), (0, 1, 2), (-2, -3, -1))
    return np.flip(w.reshape(*kernel, inputs // layer.groups, layer.groups * outputs), tuple(range(layer.ndim)))
