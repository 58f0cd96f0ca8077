"""A small convolutional network for 8x8 handwritten digits, and the digits (scikit-learn's 1,797 real images)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from sklearn.datasets import load_digits

Pool = Callable[[jax.Array], Any]


class DigitsNet(nnx.Module):
    """Dense 3x3, dense 3x3, max-pool, depthwise 3x3, pointwise, linear: every kind of layer that small networks use.

    Args:
        width: channels of the first two convolutions; the pointwise one doubles them.
        conv: what computes the convolutions, with the signature of `jax.lax.conv_general_dilated`.
        max_pool: a 2x2 max-pool of `(N, H, W, C)`.
        rngs: where the parameters are drawn from.
    """

    def __init__(self, width: int, conv: Callable[..., jax.Array], max_pool: Pool, rngs: nnx.Rngs) -> None:
        hook: dict[str, Any] = {"conv_general_dilated": conv, "rngs": rngs}
        self.max_pool = max_pool
        self.stem = nnx.Conv(1, width, (3, 3), **hook)
        self.dense = nnx.Conv(width, width, (3, 3), **hook)
        self.depthwise = nnx.Conv(width, width, (3, 3), feature_group_count=width, **hook)
        self.pointwise = nnx.Conv(width, 2 * width, (1, 1), **hook)
        self.head = nnx.Linear(4 * 4 * 2 * width, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits `(N, 10)` of images `(N, 8, 8, 1)`."""
        x = nnx.relu(self.stem(x))  # N 8 8 width
        x = nnx.relu(self.dense(x))  # N 8 8 width
        x = self.max_pool(x)  # N 4 4 width
        x = nnx.relu(self.pointwise(self.depthwise(x)))  # N 4 4 2 width
        return self.head(x.reshape(x.shape[0], -1))


@dataclasses.dataclass(frozen=True)
class Digits:
    """Images `(N, 8, 8, 1)` float32 in 0..1 and labels `(N,)` int32, split once by a seed."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """Those of the training and then of the test images."""
        return np.concatenate([self.train_labels, self.test_labels])

    @classmethod
    def load(cls, test_fraction: float, seed: int) -> "Digits":
        images, labels = load_digits(return_X_y=True)
        images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
        labels = labels.astype(np.int32)
        order = np.random.default_rng(seed).permutation(len(images))
        test, train = np.split(order, [round(test_fraction * len(images))])
        return cls(images[train], labels[train], images[test], labels[test])

    def batches(self, size: int, seed: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
        """One epoch in an order of `seed`, in whole batches."""
        order = np.random.default_rng(seed).permutation(len(self.train_images))
        starts = range(0, len(order) - size + 1, size)
        return [(self.train_images[part], self.train_labels[part]) for part in (order[s : s + size] for s in starts)]
