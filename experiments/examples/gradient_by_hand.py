"""A network's gradient by the chain rule, in NumPy, beside `jax.grad`; then gradient descent with it.

Run by `python -m experiments.examples.gradient_by_hand`.

The network: images 6x6, a 3x3 convolution to 2 maps, ReLU or sigmoid, max-pooling by 2, a dense layer to 3 classes,
softmax and cross-entropy. Every function below returns its value and its pullback, which takes the gradient of the loss
with respect to the value to those with respect to the arguments. The gradient of the whole is the pullbacks in reverse.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import convjax

Array = np.ndarray
Parameters = dict[str, Array]


def conv(x: Array, w: Array, b: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    """y = b + sum over taps of the shifted x times the tap's weights; x is N H W C and w is R S C K."""
    rows, columns = x.shape[1] - w.shape[0] + 1, x.shape[2] - w.shape[1] + 1
    seen = {(r, s): np.s_[:, r : r + rows, s : s + columns] for r, s in np.ndindex(w.shape[:2])}
    y = b + sum(x[at] @ w[tap] for tap, at in seen.items())

    def pullback(dy: Array) -> tuple[Array, Array, Array]:
        dx, dw = np.zeros_like(x), np.zeros_like(w)
        for tap, at in seen.items():
            dx[at] += dy @ w[tap].T  # what an element gave to an output comes back by the same weight
            dw[tap] = np.einsum("nhwc,nhwk->ck", x[at], dy)  # a shared weight sums over all its places
        return dx, dw, dy.sum((0, 1, 2))

    return y, pullback


def relu(x: Array) -> tuple[Array, Callable[[Array], Array]]:
    return np.maximum(x, 0), lambda dy: dy * (x > 0)


def sigmoid(x: Array) -> tuple[Array, Callable[[Array], Array]]:
    y = 1 / (1 + np.exp(-x))
    return y, lambda dy: dy * y * (1 - y)


def max_pool(x: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Each 2x2 window's largest; its gradient goes to where that stood, the first of equals."""
    n, h, w, c = x.shape
    windows = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(n, h // 2, w // 2, c, 4)
    winner = windows.argmax(-1)[..., None]

    def pullback(dy: Array) -> Array:
        spread = (np.arange(4) == winner) * dy[..., None]
        return spread.reshape(n, h // 2, w // 2, c, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(x.shape)

    return np.take_along_axis(windows, winner, -1)[..., 0], pullback


def dense(x: Array, w: Array, b: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    return x @ w + b, lambda dy: (dy @ w.T, x.T @ dy, dy.sum(0))


def cross_entropy(z: Array, labels: Array) -> tuple[float, Callable[[], Array]]:
    """The mean of -log softmax(z)[label], whose gradient is softmax less the one that should be 1."""
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    n = np.arange(len(labels))
    return -np.log(p[n, labels]).mean(), lambda: (p - np.eye(p.shape[1])[labels]) / len(labels)


def loss_and_gradient(parameters: Parameters, x: Array, labels: Array, activation: Any) -> tuple[float, Parameters]:
    maps, from_maps = conv(x, parameters["kernel"], parameters["bias"])
    active, from_active = activation(maps)
    pooled, from_pooled = max_pool(active)
    z, from_z = dense(pooled.reshape(len(x), -1), parameters["weights"], parameters["offset"])
    loss, from_loss = cross_entropy(z, labels)

    d_flat, d_weights, d_offset = from_z(from_loss())
    _, d_kernel, d_bias = from_maps(from_active(from_pooled(d_flat.reshape(pooled.shape))))
    return loss, {"kernel": d_kernel, "bias": d_bias, "weights": d_weights, "offset": d_offset}


def loss_in_jax(parameters: dict[str, jax.Array], x: jax.Array, labels: jax.Array, activation: Any) -> jax.Array:
    maps = convjax.conv(x, parameters["kernel"], bias=parameters["bias"])
    pooled: Any = convjax.max_pool(activation(maps), (2, 2))
    z = pooled.reshape(len(x), -1) @ parameters["weights"] + parameters["offset"][None]
    return -jnp.take_along_axis(jax.nn.log_softmax(z), labels[:, None], 1).mean()


def images() -> tuple[Array, Array]:
    """Horizontal, vertical and slanting lines in every place, and which of them each is."""
    x = np.zeros((18, 6, 6, 1), np.float32)
    for i in range(6):
        x[i, i, :] = 1
        x[6 + i, :, i] = 1
        x[12 + i, np.arange(6), (np.arange(6) + i) % 6] = 1
    return x, np.repeat(np.arange(3), 6)


def main() -> None:
    # One layer first, to be checked by hand: a weight's part in the sum of all outputs is the sum of what it met.
    x, w = np.arange(1.0, 10.0).reshape(1, 3, 3, 1), np.arange(1.0, 5.0).reshape(2, 2, 1, 1)
    y, pullback = conv(x, w, np.zeros(1))
    dx, dw, db = pullback(np.ones_like(y))
    print("y", *y.ravel(), "  dw", *dw.ravel(), "  db", *db, "  dx", *dx.ravel())
    assert y.ravel().tolist() == [37, 47, 67, 77]
    assert dw.ravel().tolist() == [12, 16, 24, 28]  # 1 + 2 + 4 + 5, 2 + 3 + 5 + 6, ...
    assert dx.ravel().tolist() == [1, 3, 2, 4, 10, 6, 3, 7, 4]  # the middle met every weight: 1 + 2 + 3 + 4

    x, labels = images()
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 3, 1, 2), "bias": (2,), "weights": (8, 3), "offset": (3,)}
    start = {name: 0.5 * rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    for name, by_hand, by_jax in [("ReLU", relu, jax.nn.relu), ("sigmoid", sigmoid, jax.nn.sigmoid)]:
        loss, gradient = loss_and_gradient(start, x, labels, by_hand)
        want, want_gradient = jax.jit(jax.value_and_grad(loss_in_jax), static_argnums=3)(start, x, labels, by_jax)
        worst = max(np.abs(gradient[p] - want_gradient[p]).max() for p in shapes)
        print(f"{name}: loss {loss:.6f}, by jax {want:.6f}; gradients differ by at most {worst:.0e}")
        np.testing.assert_allclose(loss, want, rtol=1e-5)
        assert worst < 1e-5

        parameters = dict(start)
        for step in range(301):
            loss, gradient = loss_and_gradient(parameters, x, labels, by_hand)
            parameters = {p: parameters[p] - 0.5 * gradient[p] for p in parameters}
            if step % 100 == 0:
                print(f"  step {step:3}: loss {loss:.3f}")
        assert loss < 0.5 * want


if __name__ == "__main__":
    main()
