"""oneDNN, which jaxlib brings for CPUs: its convolution and product of float32, called by the names XLA has for them.

XLA's own passes make such calls only under an experimental flag. A call is opaque to XLA, which would gather what is
divided among devices for it, and jax can neither export nor serialize a program that has one. How it is written is no
public interface (`OneDnnConvolutionConfig` and `OneDnnMatMulConfig` in XLA's onednn_config.proto), so it is used with
versions of jaxlib that were tried.
"""

import concurrent.futures
import functools
import importlib.metadata
import json
import platform
import re
import sys
from typing import Any

import jax
import numpy as np

from convjax import processor, sizes
from convjax.problem import Ints, Pads
from convjax.target import target

# The versions of jaxlib whose encoding of a call this is: others may read it otherwise, which can end the process.
_FIRST, _LAST = (0, 10, 1), (0, 12)


def is_at_hand() -> bool:
    """Whether the program that is being traced may call it."""
    return target().runs_here_alone and missing() is None


@functools.cache
def missing() -> str | None:
    """Why this process cannot call it; None where a first small call was right."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "jaxlib has oneDNN for Linux on x86-64 alone"
    if "avx2" not in processor.vectors():  # its code for older ones ended a process that tried it
        return "the processor has no AVX2"
    version = importlib.metadata.version("jaxlib")
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
    if not (_FIRST <= numbers and numbers[: len(_LAST)] <= _LAST):
        first, last = (".".join(map(str, v)) for v in (_FIRST, _LAST))
        return f"how jaxlib {version} is asked for oneDNN is not known, but of {first} to {last}"
    # In a thread of its own, where no program is being traced.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(_fault_of_a_first_call, version).result()


def _fault_of_a_first_call(version: str) -> str | None:
    x, w = np.arange(8, dtype=np.float32), np.arange(4, dtype=np.float32)
    try:
        with jax.default_device(jax.devices("cpu")[0]), jax.transfer_guard("allow"):
            call = jax.jit(functools.partial(convolution, numbers=((0, 2, 1), (2, 1, 0), (0, 2, 1)), padding=((0, 1),)))
            y = call(x.reshape(1, 4, 2), w.reshape(2, 2, 1))
    except (jax.errors.JaxRuntimeError, RuntimeError) as error:
        return f"jaxlib {version} has no oneDNN here: {str(error).splitlines()[0]}"
    return None if y.ravel().tolist() == [14, 26, 38, 7] else f"the oneDNN of jaxlib {version} computes wrongly here"


def convolution(
    x: jax.Array,
    w: jax.Array,
    *,
    numbers: tuple[Ints, Ints, Ints],
    padding: Pads,
    strides: Ints | None = None,
    dilation: Ints | None = None,
    groups: int = 1,
) -> jax.Array:
    """The convolution of operands that lie as `numbers` says, in the order of lax's; no padding is negative."""
    n = x.ndim - 2
    (_, _, *of_x), (features, channels, *of_w), (batch, feature, *of_y) = numbers
    strides, dilation = strides or (1,) * n, dilation or (1,) * n
    shape = [0] * x.ndim
    shape[batch], shape[feature] = x.shape[numbers[0][0]], w.shape[features]
    for y, a, b, pair, s, d in zip(of_y, of_x, of_w, padding, strides, dilation, strict=True):
        shape[y] = (x.shape[a] + sum(pair) - sizes.dilated(w.shape[b], d)) // s + 1
    window = {"size": [w.shape[b] for b in of_w], "strides": strides, "window_dilations": dilation}
    window |= {"pad_left": [lo for lo, _ in padding], "pad_right": [hi for _, hi in padding]}
    kernel = {"input_feature_dim": channels, "output_feature_dim": features, "spatial_dims": of_w}
    config = {
        "dims": x.ndim,
        "input": {"dims": x.ndim, "data": _order(numbers[0])},
        "kernel": {"dims": x.ndim, "filter": kernel},
        "output": {"dims": x.ndim, "data": _order(numbers[2])},
        "window": window,
        "feature_groups": groups,
    }
    return _call("convolution", "conv", config, shape, x, w)


def product(x: jax.Array, w: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """The matrices x and w, or each of a batch, contracted over one axis of each: `axes` of their last two.

    Raises:
        TypeError: the axes are not alike, which oneDNN would end the process for.
    """
    if (x.shape[axes[0] - 2], *x.shape[:-2]) != (w.shape[axes[1] - 2], *w.shape[:-2]):
        raise TypeError(
            f"x of shape {x.shape} and w of shape {w.shape} do not fit along the axes {axes} of their last 2"
        )
    config = {"transpose_a": axes[0] == 0, "transpose_b": axes[1] == 1}
    shape = (*x.shape[:-2], x.shape[-1 - axes[0]], w.shape[-1 - axes[1]])
    return _call("matmul", "matmul", config, shape, x, w)


def _order(numbers: Ints) -> dict[str, Any]:
    batch, feature, *spatial = numbers
    return {"batch_dim": batch, "feature_dim": feature, "spatial_dims": spatial}


def _call(name: str, field: str, config: dict[str, Any], shape: Any, *operands: jax.Array) -> jax.Array:
    call = jax.ffi.ffi_call(
        f"__onednn${name}",
        jax.ShapeDtypeStruct(tuple(shape), np.float32),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps({f"onednn_{field}_config": config}),
    )
    result: jax.Array = call(*operands)
    return result
