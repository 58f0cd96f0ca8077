"""`unfold` and `fold` give PyTorch's numbers and gradients, PyTorch computing in float64.

Collected only where torch is installed; elsewhere pytest's header says that parity is left out.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transforms import assert_close

from convjax.ops.patches import fold, unfold

torch.set_num_threads(1)
PATCHES: list[tuple[tuple[int, int], Any, dict[str, Any]]] = [
    ((8, 7), 3, {}),
    ((8, 7), (2, 3), {"stride": (2, 1), "padding": (1, 0)}),
    ((9, 10), (3, 2), {"stride": (1, 3), "padding": (2, 3), "dilation": (2, 4)}),
    ((6, 6), 2, {"stride": 3}),
    ((5, 4), (5, 4), {"padding": 1}),
    ((1, 12), (1, 4), {"stride": (1, 2), "dilation": (1, 3), "padding": (0, 2)}),
]


@pytest.mark.parametrize("batch", [(2,), ()], ids=["batch", "unbatched"])
@pytest.mark.parametrize(("size", "kernel", "options"), PATCHES)
def test_patches(
    size: tuple[int, int], kernel: int | tuple[int, int], options: dict[str, Any], batch: tuple[int, ...]
) -> None:
    ndim = len(batch) + 3
    both = (kernel, kernel) if isinstance(kernel, int) else kernel
    renamed = {"strides" if k == "stride" else k: v for k, v in options.items()} | {"layout": "NCHW"}
    x = np.random.default_rng(0).standard_normal((*batch, 3, *size)).astype(np.float32)

    tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    columns = F.unfold(tensor, kernel, **options)
    c = np.random.default_rng(1).standard_normal(columns.shape).astype(np.float32)
    columns.backward(torch.tensor(c, dtype=torch.float64))
    assert tensor.grad is not None
    given = torch.tensor(c, dtype=torch.float64, requires_grad=True)
    image = F.fold(given, size, kernel, **options)
    image.backward(torch.tensor(x, dtype=torch.float64))
    assert given.grad is not None
    want = {
        "unfold": columns.detach().numpy(),
        "its gradient": tensor.grad.numpy(),
        "fold": image.detach().numpy(),
        "its gradient, too": given.grad.numpy(),
    }

    @jax.jit
    def ours(x: jax.Array, c: jax.Array) -> dict[str, jax.Array]:
        columns, pull_unfold = jax.vjp(lambda x: unfold(x, both, **renamed), x)
        c = c.reshape(columns.shape)
        image, pull_fold = jax.vjp(lambda c: fold(c, size, both, **renamed), c)
        flat = (*columns.shape[: ndim - 2], -1)  # PyTorch flattens the positions
        return {
            "unfold": columns.reshape(flat),
            "its gradient": pull_unfold(c)[0],
            "fold": image,
            "its gradient, too": pull_fold(x)[0].reshape(flat),
        }

    assert_close(ours(jnp.asarray(x), jnp.asarray(c)), want, 1e-6)
