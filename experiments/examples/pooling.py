"""What poolings keep: ceil mode, divisors, the places of maxima, and ties.

Run by `python -m experiments.examples.pooling`.
"""

from typing import Any

import jax
import jax.numpy as jnp

import convjax

max_pool: Any = convjax.max_pool  # returns one array, or two with return_indices


def main() -> None:
    x = jnp.array([1.0, 5.0, 2.0, 2.0, 7.0])[:, None]  # W C

    # Five elements hold two windows of 2. Ceil mode lets a third overhang the end.
    for ceil_mode, maxima, means in [(False, [5, 2], [3, 2]), (True, [5, 2, 7], [3, 2, 7])]:
        largest = max_pool(x, 2, ceil_mode=ceil_mode).ravel()
        mean = convjax.avg_pool(x, 2, ceil_mode=ceil_mode).ravel()
        print(f"1 5 2 2 7 by twos, {'ceil mode' if ceil_mode else 'floor'}: max", largest, "mean", mean)
        assert largest.tolist() == maxima
        assert mean.tolist() == means  # 7 / 1, not 7 / 2: the overhang holds nothing that could count

    # Padding can: the first window is a cell of padding and the 1.
    for counted, divided in [(True, [0.5, 3.5, 4.5]), (False, [1.0, 3.5, 4.5])]:
        mean = convjax.avg_pool(x, 2, padding=1, count_include_pad=counted).ravel()
        print(f"padded by one, which {'counts' if counted else 'does not count'}: mean", mean)
        assert mean.tolist() == divided
    assert convjax.avg_pool(x, 2, divisor_override=1).tolist() == convjax.sum_pool(x, 2).tolist()

    # Where the maxima stood, counted in x without its padding; `max_unpool` puts them back.
    largest, places = max_pool(x, 2, padding=1, return_indices=True)
    print("padded by one: max", largest.ravel(), "at", places.ravel())
    assert (largest.ravel().tolist(), places.ravel().tolist()) == ([1, 5, 7], [0, 1, 4])
    back = convjax.max_unpool(largest, places, 2, padding=1, output_size=5).ravel()
    print("put back:", back)
    assert back.tolist() == [1, 5, 0, 0, 7]

    # The gradient of a maximum goes where the maximum stands; of the two 2s it is the first.
    gradient = jax.grad(lambda x: max_pool(x, 2).sum())(x).ravel()
    print("gradient of the maxima's sum:", gradient)
    assert gradient.tolist() == [0, 1, 1, 0, 0]
    gradient = jax.grad(lambda x: convjax.avg_pool(x, 2).sum())(x).ravel()
    print("of the means':", gradient)
    assert gradient.tolist() == [0.5, 0.5, 0.5, 0.5, 0]


if __name__ == "__main__":
    main()
