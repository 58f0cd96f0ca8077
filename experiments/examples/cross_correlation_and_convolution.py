"""What networks call a convolution, and what mathematics does.

Run by `python -m experiments.examples.cross_correlation_and_convolution`.

Both slide a kernel over the input and add up products. A network takes the kernel as it is, which is cross-correlation;
a convolution turns it around first. Learned kernels may come either way round, so networks leave the turn out.
"""

import jax.numpy as jnp

import convjax


def main() -> None:
    x = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])[..., None]  # H W C
    w = jnp.array([[1.0, 2.0], [3.0, 4.0]])[..., None, None]  # R S C K

    correlated = convjax.conv(x, w)[..., 0]
    print("cross-correlation, top left 1*1 + 2*2 + 4*3 + 5*4 = 37:", correlated, sep="\n")
    assert correlated.tolist() == [[37, 47], [67, 77]]

    convolved = convjax.convolve(x, w)[..., 0]
    print("convolution, top left 1*4 + 2*3 + 4*2 + 5*1 = 23:", convolved, sep="\n")
    assert convolved.tolist() == [[23, 33], [53, 63]]

    turned = convjax.conv(x, w[::-1, ::-1])[..., 0]
    print("cross-correlation with the turned kernel is the same:", turned, sep="\n")
    assert turned.tolist() == convolved.tolist()

    # The convolution alone is a product of polynomials, whose order does not matter: of 1 + 2z + 3z^2 and 4 + 5z.
    a, b = jnp.array([1.0, 2.0, 3.0])[:, None], jnp.array([4.0, 5.0])[:, None]
    a_b = convjax.convolve(a, b[..., None], padding="FULL").ravel()
    b_a = convjax.convolve(b, a[..., None], padding="FULL").ravel()
    print("(1 + 2z + 3z^2) (4 + 5z) has the coefficients", a_b)
    assert a_b.tolist() == b_a.tolist() == [4, 13, 22, 15]
    a_b = convjax.conv(a, b[..., None], padding="FULL").ravel()
    b_a = convjax.conv(b, a[..., None], padding="FULL").ravel()
    print("cross-correlated, the order matters:", a_b, b_a)
    assert a_b.tolist() == [5, 14, 23, 12]
    assert b_a.tolist() == [12, 23, 14, 5]


if __name__ == "__main__":
    main()
