"""The calculators of sizes give PyTorch's sizes and refusals, for ten thousand random configurations.

Collected only where torch is installed; elsewhere pytest's header says that parity is left out. Nothing is computed.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convjax.inspect.sizes import conv_output_size, conv_transpose_output_size, pool_output_size

Ints = list[int]
Sizes = tuple[int, ...] | None


def empty(*size: int) -> torch.Tensor:
    return torch.empty((1, 1, *size), device="meta")


def size_or_refusal(call: Callable[..., Any], *arguments: Any) -> Sizes:
    try:
        size = tuple(call(*arguments))
        return size if min(size) > 0 else None  # the meta device lets an empty output of a transposed convolution pass
    except (RuntimeError, ValueError):
        return None


def conv(n: Ints, k: Ints, s: Ints, d: Ints, p: Ints, _: Ints) -> tuple[Sizes, Sizes]:
    theirs = size_or_refusal(lambda: F.conv3d(empty(*n), empty(*k), None, s, p, d).shape[2:])
    ours = size_or_refusal(
        lambda *axes: [conv_output_size(n, k, stride=s, dilation=d, padding=p) for n, k, s, d, p in axes],
        *zip(n, k, s, d, p, strict=True),
    )
    return theirs, ours


def conv_transpose(n: Ints, k: Ints, s: Ints, d: Ints, p: Ints, extra: Ints) -> tuple[Sizes, Sizes]:
    extra = [min(e, max(s, d) - 1) for e, s, d in zip(extra, s, d, strict=True)]  # not checked on the meta device
    theirs = size_or_refusal(lambda: F.conv_transpose3d(empty(*n), empty(*k), None, s, p, extra, 1, d).shape[2:])
    ours = size_or_refusal(
        lambda *axes: [
            conv_transpose_output_size(n, k, stride=s, dilation=d, padding=p, output_padding=e)
            for n, k, s, d, p, e in axes
        ],
        *zip(n, k, s, d, p, extra, strict=True),
    )
    return theirs, ours


def pool(n: Ints, k: Ints, s: Ints, d: Ints, p: Ints, ceil_mode: bool) -> tuple[Sizes, Sizes]:
    # PyTorch's bound does not see the dilation; and of a window whose taps all stand on padding it takes the maximum.
    p = [min(a, b // 2) if c == 1 else 0 for a, b, c in zip(p, k, d, strict=True)]
    theirs = size_or_refusal(lambda: F.max_pool3d(empty(*n), k, s, p, d, ceil_mode=ceil_mode).shape[2:])
    ours = size_or_refusal(
        lambda *axes: [
            pool_output_size(n, k, stride=s, dilation=d, padding=p, ceil_mode=ceil_mode) for n, k, s, d, p in axes
        ],
        *zip(n, k, s, d, p, strict=True),
    )
    return theirs, ours


def floor_pool(*numbers: Any) -> tuple[Sizes, Sizes]:
    return pool(*numbers[:5], ceil_mode=False)


def ceil_pool(*numbers: Any) -> tuple[Sizes, Sizes]:
    return pool(*numbers[:5], ceil_mode=True)


@pytest.mark.parametrize("both", [conv, conv_transpose, floor_pool, ceil_pool])
def test_sizes_and_refusals_are_the_same(both: Callable[..., tuple[Sizes, Sizes]]) -> None:
    least, most = [1, 1, 1, 1, 0, 0], [30, 6, 5, 4, 4, 3]  # n, k, s, d, p and output_padding, for three axes at a time
    cases = np.random.default_rng(0).integers(least, most, (834, 3, 6)).swapaxes(1, 2).tolist()
    found = [(case, *both(*case)) for case in cases]
    assert [(case, ours) for case, _, ours in found] == [(case, theirs) for case, theirs, _ in found]
    refused = sum(theirs is None for _, theirs, _ in found)
    assert 0 < refused < len(found) // 2
