"""Lp, log-sum-exp, median and blur pooling give PyTorch's numbers and gradients, PyTorch computing in float64.

Collected only where torch is installed; elsewhere pytest's header says that parity is left out. PyTorch's ceil mode is
not compared: it takes an overhanging window's sum of powers for a mean over fewer elements times all taps.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transforms import assert_close

from convjax.ops.blur import blur_pool
from convjax.ops.logsumexp import logsumexp_pool
from convjax.ops.lp import lp_pool
from convjax.ops.median import median_pool

torch.set_num_threads(1)
LAYOUTS = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
LP: list[tuple[tuple[int, ...], Any, Any]] = [
    ((11,), 3, 2),
    ((7, 8), (2, 3), None),
    ((7, 8), 3, 1),
    ((4, 5, 6), (2, 2, 3), (1, 2, 2)),
]


def both(ours: Any, theirs: Any, x: np.ndarray, bound: float) -> None:
    """Values and the gradients of their sum weighted."""
    tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    want = theirs(tensor)
    c = np.random.default_rng(1).standard_normal(want.shape).astype(np.float32)
    want.backward(torch.tensor(c, dtype=torch.float64))

    @jax.jit
    def program(x: jax.Array, c: jax.Array) -> Any:
        y, pullback = jax.vjp(ours, x)
        return y, pullback(c)[0]

    y, gradient = program(jnp.asarray(x), jnp.asarray(c))
    assert tensor.grad is not None
    assert_close({"value": y, "grad": gradient}, {"value": want.detach().numpy(), "grad": tensor.grad.numpy()}, bound)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.5])
@pytest.mark.parametrize(("size", "window", "strides"), LP)
def test_lp(size: tuple[int, ...], window: Any, strides: Any, p: float) -> None:
    theirs = (F.lp_pool1d, F.lp_pool2d, F.lp_pool3d)[len(size) - 1]
    x = 0.1 + np.abs(np.random.default_rng(0).standard_normal((2, 3, *size))).astype(np.float32)
    layout = LAYOUTS[len(size)]
    both(
        lambda x: lp_pool(x, window, strides=strides, p=p, layout=layout),
        lambda x: theirs(x, p, window, strides),
        x,
        4e-6,
    )


@pytest.mark.parametrize("pool", [logsumexp_pool, median_pool])
def test_reductions_of_unfolded_windows(pool: Any) -> None:
    options: dict[str, Any] = {"dilation": (1, 2)}
    x = np.random.default_rng(0).standard_normal((2, 3, 7, 8)).astype(np.float32)

    def theirs(x: torch.Tensor) -> torch.Tensor:
        columns = F.unfold(x, (2, 3), stride=(2, 1), **options).reshape(2, 3, 6, 3, 4)
        return torch.logsumexp(columns, 2) if pool is logsumexp_pool else torch.median(columns, 2).values

    both(lambda x: pool(x, (2, 3), strides=(2, 1), layout="NCHW", **options), theirs, x, 2e-6)


@pytest.mark.parametrize(
    ("mode", "theirs"), [("reflect", "reflect"), ("replicate", "replicate"), ("zeros", "constant")]
)
@pytest.mark.parametrize("size", [3, 4])
def test_blur(size: int, mode: Any, theirs: str) -> None:
    """As the paper's own code computes it: padded, then convolved by every channel's filter."""
    line = torch.tensor({3: [1.0, 2.0, 1.0], 4: [1.0, 3.0, 3.0, 1.0]}[size], dtype=torch.float64)
    filters = (torch.outer(line, line) / line.sum() ** 2).expand(3, 1, size, size)
    lo, hi = (size - 1) // 2, size // 2
    both(
        lambda x: blur_pool(x, filter_size=size, padding_mode=mode, layout="NCHW"),
        lambda x: F.conv2d(F.pad(x, (lo, hi, lo, hi), theirs), filters, stride=2, groups=3),
        np.random.default_rng(0).standard_normal((2, 3, 7, 8)).astype(np.float32),
        2e-6,
    )
