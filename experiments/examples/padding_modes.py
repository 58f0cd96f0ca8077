"""What padding does: how much of it there is, and what it holds.

Run by `python -m experiments.examples.padding_modes`.
"""

import jax.numpy as jnp

import convjax
from convjax.ops.pad import PaddingMode


def line(values: list[float]) -> jnp.ndarray:
    return jnp.array(values)[:, None]  # W C


def main() -> None:
    print("1 2 3 with 2 cells at each end:")
    cells: dict[PaddingMode, list[int]] = {
        "zeros": [0, 0, 1, 2, 3, 0, 0],
        "reflect": [3, 2, 1, 2, 3, 2, 1],  # the border is not repeated
        "replicate": [1, 1, 1, 2, 3, 3, 3],
        "circular": [2, 3, 1, 2, 3, 1, 2],
    }
    for mode, filled in cells.items():
        padded = convjax.pad(line([1.0, 2.0, 3.0]), 2, mode=mode).ravel()
        print(f"  {mode:10}", *padded.astype(int))
        assert padded.tolist() == filled

    # The sum of each element and its neighbours. How much is padded decides what comes out at the ends.
    x, w = line([1.0, 1.0, 1.0, 1.0, 1.0]), jnp.ones((3, 1, 1))
    print("sums of 3 neighbours in 1 1 1 1 1:")
    for padding, sums in [
        ("VALID", [3, 3, 3]),  # none: only where all three are
        ("SAME", [2, 3, 3, 3, 2]),  # as many as there are inputs
        ("CAUSAL", [1, 2, 3, 3, 3]),  # all at the start: none sees what comes later
        ("FULL", [1, 2, 3, 3, 3, 2, 1]),  # wherever one is
    ]:
        y = convjax.conv(x, w, padding=padding).ravel()
        print(f"  {padding:10}", *y.astype(int))
        assert y.tolist() == sums

    # Zeros darken the border of an image; other modes do not.
    y = convjax.conv(x, w, padding="SAME", padding_mode="reflect").ravel()
    print(f"  {'reflected':10}", *y.astype(int))
    assert y.tolist() == [3, 3, 3, 3, 3]

    # Where a stride leaves an odd number of cells to pad, SAME puts the odd one at the end, SAME_LOWER at the start.
    x = line([1.0, 2.0, 3.0, 4.0])
    for padding, sums in [("SAME", [6, 7]), ("SAME_LOWER", [3, 9])]:
        y = convjax.conv(x, w, strides=2, padding=padding).ravel()
        print(f"1 2 3 4, stride 2, {padding}:", *y.astype(int))
        assert y.tolist() == sums


if __name__ == "__main__":
    main()
