"""How many parameters a layer has, and why a convolution has so few: its kernel is shared by all positions.

Run by `python -m experiments.examples.parameters`.
"""

from convjax.inspect.shape import layer_shape


def main() -> None:
    # One kernel of 3x3 taps for each of 3 channels and 5 maps, and a bias a map. The image may be of any size.
    image, larger = layer_shape("conv2d 3x10x10 -> 5 k3"), layer_shape("conv2d 3x1000x1000 -> 5 k3")
    print(image)
    assert image.parameters == 5 * 3 * 3 * 3 + 5 == 140
    assert image.output_shape == (5, 8, 8)
    assert larger.parameters == 140
    volume = layer_shape("conv3d 5x4x10x10 -> 4 k2")
    assert volume.parameters == 4 * 5 * 2 * 2 * 2 + 4 == 164
    assert volume.output_shape == (4, 3, 9, 9)

    # The same 8x8 outputs without sharing, each position with weights of its own; then with weights for every pixel.
    positions, inputs, outputs = 8 * 8, 3 * 10 * 10, 5 * 8 * 8
    unshared = positions * 3 * 3 * 3 * 5 + outputs
    dense = inputs * outputs + outputs
    print(f"shared {image.parameters:,}, unshared {unshared:,}, dense {dense:,} parameters")
    assert (unshared, dense) == (8_960, 96_320)

    # 64 channels to 64: groups see only their own share of the channels, and depthwise kernels a single one.
    counts = {
        name: layer_shape(text).weights
        for name, text in [
            ("every channel to every map", "conv2d 64x56x56 -> 64 k3 p1"),
            ("in 4 groups", "conv2d 64x56x56 -> 64 k3 p1 g4"),
            ("depthwise", "depthwise2d 64x56x56 k3 p1"),
            ("pointwise", "conv2d 64x56x56 -> 64 k1"),
        ]
    }
    for name, weights in counts.items():
        print(f"{name:28} {weights:6,} weights")
    assert list(counts.values()) == [36_864, 36_864 // 4, 576, 4_096]
    separable = counts["depthwise"] + counts["pointwise"]
    print(f"{'depthwise, then pointwise':28} {separable:6,} weights, {36_864 / separable:.1f} times fewer")
    assert separable == 4_672


if __name__ == "__main__":
    main()
