"""The one-line text of layers."""

import dataclasses

import jax
import numpy as np
import pytest

from convjax.layer import Layer
from experiments.config import PASSES
from experiments.programs import Task


@pytest.mark.parametrize(
    ("text", "x_shape", "w_shape"),
    [
        ("conv2d 4x56x56x64 -> 128 k3 s2 p1", (4, 56, 56, 64), (3, 3, 64, 128)),
        ("conv2d 1x27x27x96 -> 256 k5 p2 g2", (1, 27, 27, 96), (5, 5, 48, 256)),
        ("depthwise2d 2x14x14x8 k3x5 p1x2", (2, 14, 14, 8), (3, 5, 1, 8)),
        ("conv1d 1x80x32 -> 16 k2 d8 pCAUSAL", (1, 80, 32), (2, 32, 16)),
        ("conv3d 1x4x5x6x2 -> 3 k3 pSAME float64", (1, 4, 5, 6, 2), (3, 3, 3, 2, 3)),
        ("max2d 8x112x112x64 k3 s2 p1", (8, 112, 112, 64), None),
    ],
)
def test_text_gives_shapes(text: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...] | None) -> None:
    layer = Layer.parse("a", text)
    assert (layer.x_shape, layer.w_shape, layer.text) == (x_shape, w_shape, text)


def test_knobs() -> None:
    assert Layer.parse("a", "conv2d 1x8x8x2 -> 4 k3 p1_0x2_1").padding == ((1, 0), (2, 1))
    assert Layer.parse("a", "conv1d 1x8x2 -> 4 k4 s2 pSAME").padding == ((1, 1),)
    assert Layer.parse("a", "conv1d 1x8x2 -> 4 k4 pSAME_LOWER").padding == ((2, 1),)
    assert Layer.parse("a", "max2d 1x8x8x2 k2").strides == (2, 2)
    transposed = Layer.parse("a", "transpose2d 1x8x8x2 -> 4 k3 s2 p1 op1")
    assert (transposed.strides, transposed.lhs_dilation, transposed.padding) == ((1, 1), (2, 2), ((1, 2), (1, 2)))
    kept = Layer.parse("a", "transpose1d 1x7x2 -> 4 k2 s3 pSAME")  # 7 elements make 21, of which the last is 0
    assert (kept.lhs_dilation, kept.padding) == ((3,), ((1, 2),))


@pytest.mark.parametrize(
    "text",
    [
        "conv2d 2x5x4x2 -> 3 k3 p1 members3",
        "conv2d 2x5x4x2 -> 3 k3 p1 stacked3",
        "conv2d 1x5x4x2 -> 3 k3 s2 examples4",
    ],
)
def test_vmapped_layers_are_computed_member_by_member(text: str) -> None:
    layer = Layer.parse("a", text)
    tasks = [Task(layer, pass_) for pass_ in PASSES]

    @jax.jit
    def everything(operands: list[tuple[jax.Array, ...]]) -> list[tuple[jax.Array, ...]]:
        return [(t.stock()(*o), t.ours(None)(*o), t.ours("lax")(*o)) for t, o in zip(tasks, operands, strict=True)]

    for task, results in zip(tasks, everything([task.operands(0) for task in tasks]), strict=True):
        reference = task.reference(0)
        assert len(reference) == layer.members
        # Of one member apart from the others.
        alone = Task(dataclasses.replace(layer, members=0, as_one=False), task.pass_)
        member = [
            operand[1] if axis == 0 else operand
            for operand, axis in zip(task.operands(0), task._taken(layer.mapped), strict=True)
        ]
        np.testing.assert_allclose(reference[1], alone.stock()(*member), atol=1e-5)
        for result in results:
            np.testing.assert_allclose(result, reference, atol=1e-5)
        assert task.problem.macs > 0


def test_stacked_members_are_differentiated_as_one() -> None:
    """Stock jax makes groups of an ensemble's batch then, and of its channels where each member is by itself."""
    each, as_one = (
        Task(Layer.parse("a", f"conv2d 2x5x4x2 -> 3 k3 p1 {knob}3"), "wgrad") for knob in ("members", "stacked")
    )
    for task, groups in ((each, "batch_group_count=1"), (as_one, "batch_group_count=3")):
        assert groups in str(jax.make_jaxpr(task.stock())(*task.operands(0)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a layer reads like"),
        ("conv4d 1x8x8x3 -> 4 k3", "a layer reads like"),
        ("conv2d 8x8x3 -> 4 k3", "has 3 axes, conv2d takes 4"),
        ("conv2d 1x8x8x3 k3", "needs its output channels"),
        ("conv2d 1x8x8x3 -> 4", "kernel size is missing"),
        ("conv2d 1x8x8x3 -> 4 k9", "reaching over 9 does not fit the 8 padded cells"),
        ("conv2d 1x8x8x3 -> 4 k3 g2", "2 groups do not divide 3 -> 4 channels"),
        ("conv2d 1x8x8x3 -> 4 k3 s0", "s0 must be at least 1"),
        ("conv2d 1x8x8x4 -> 4 k3 g2x2", "g2x2 must be one number"),
        ("depthwise2d 1x8x8x4 k3 g4", "only conv and transpose have it"),
        ("conv2d 1x8x8x3 -> 4 k3 op1", "only transpose has op"),
        ("transpose2d 1x8x8x3 -> 4 k3 op1", "output_padding 1 must be at least 0 and below"),
        ("conv2d 1x8x8x3 -> 4 k3x3x3", "3 numbers for 2 spatial axes"),
        ("conv2d 1x8x8x3 -> 4 k3 pEQUAL", "SAME, SAME_LOWER, VALID, FULL, CAUSAL"),
        ("conv2d 1x8x8x3 -> 4 k3 x7", "cannot read 'x7'"),
        ("conv2d Nx8x8x3 -> 4 k3", "Nx8x8x3 leaves its batch open"),
        ("conv2d 1x8x8x3 -> 4 k3 members0", "cannot read 'members0'"),
        ("conv2d 1x8x8x3 -> 4 k3 members2 examples2", "members, stacked or examples, but one of them"),
        ("conv2d 1x8x8x3 -> 4 k3 members2 stacked2", "members, stacked or examples, but one of them"),
        ("max2d 1x8x8x3 k3 members2", "and a pooling none"),
    ],
)
def test_bad_text_is_refused_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="layer 'a'") as caught:
        Layer.parse("a", text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
