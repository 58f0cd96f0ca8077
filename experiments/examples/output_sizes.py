"""What size comes out: floor((n + lo + hi - d (k - 1) - 1) / s) + 1, and what is done with the rest.

Run by `python -m experiments.examples.output_sizes`.
"""

import jax
import jax.numpy as jnp

from convjax import conv, conv_arguments_for, conv_output_size, conv_transpose_output_size, pool_output_size


def main() -> None:
    print("layer                                      in    out")
    for name, size, made, known in [
        ("a 3x3 convolution", 10, conv_output_size(10, 3), 8),
        ("with a cell of padding: K = 2P + 1", 10, conv_output_size(10, 3, padding=1), 10),
        ("AlexNet's first, 11 taps, stride 4", 227, conv_output_size(227, 11, stride=4), 55),
        ("ResNet's stem, 7 taps, stride 2", 224, conv_output_size(224, 7, stride=2, padding=3), 112),
        ("its max-pool, 3 taps, stride 2", 112, pool_output_size(112, 3, stride=2, padding=1), 56),
        ("3 taps, dilation 4, as wide as 9 taps", 100, conv_output_size(100, 3, dilation=4), 92),
        ("WaveNet's, 2 taps, dilation 512", 8000, conv_output_size(8000, 2, dilation=512, padding="CAUSAL"), 8000),
        ("a pooling of 2 that drops the last", 7, pool_output_size(7, 2), 3),
        ("in ceil mode it does not", 7, pool_output_size(7, 2, ceil_mode=True), 4),
        ("DCGAN's, transposed: 4 taps, stride 2", 32, conv_transpose_output_size(32, 4, stride=2, padding=1), 64),
    ]:
        print(f"{name:40} {size:5} {made:6}")
        assert made == known

    # A stride that does not fit once more leaves rows that no output has seen.
    full = conv_output_size(10, 3, stride=4, full_output=True)
    print("10 rows, 3 taps, stride 4:", full)
    assert (full.size, full.padding, full.remainder) == (2, (0, 0), 3)
    x, w = jnp.ones((10, 1)), jnp.ones((3, 1, 1))
    gradient = jax.grad(lambda x: conv(x, w, strides=4).sum())(x)
    print("what each row adds to the sum of the outputs:", gradient.ravel())
    assert gradient.ravel().tolist() == [1, 1, 1, 0, 1, 1, 1, 0, 0, 0]  # the first 0 stands between two windows

    # The other way round: what makes 16 rows of 32?
    print("from 32 to 16 rows:")
    found = conv_arguments_for(32, 16, limit=4)
    for arguments in found:
        print("  ", arguments)
    assert [(a.kernel, a.stride, a.padding) for a in found[:3]] == [(2, 2, (0, 0)), (3, 2, (1, 1)), (4, 2, (1, 1))]


if __name__ == "__main__":
    main()
