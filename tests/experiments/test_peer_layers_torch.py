"""Layers by PyTorch: the same values as the float64 reference, in the sweep's layout, for every pass and memory format.

Collected only where torch is installed; elsewhere pytest's header says that parity is left out.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from convjax.layer import Layer
from experiments import peers
from experiments.config import PASSES
from experiments.peers import torch_layers
from experiments.programs import Task

PLAIN, LAST = peers.CASES["torch"]
TEXTS = [
    "conv1d 2x17x4 -> 6 k3 s2 p1 g2",
    "conv1d 2x20x3 -> 5 k2 d4 pCAUSAL",
    "conv2d 2x9x8x4 -> 6 k3x2 s2x1 p1x0",
    "conv2d 2x10x9x4 -> 6 k3 s2 pSAME g2",
    "conv2d 1x9x9x3 -> 4 k3 p2_0x0_1 d2x1",
    "conv3d 2x5x6x7x2 -> 4 k2x3x3 p0x1x1 d1x1x2",
    "depthwise2d 2x9x8x6 k5 p2",
    "depthwise3d 1x5x6x7x4 k3 s1x2x2 p1",
    "transpose1d 2x7x4 -> 3 k4 s2 p1",
    "transpose2d 2x5x6x4 -> 6 k3x2 s2x3 p1x0 op1x2 g2",
    "transpose2d 2x5x6x4 -> 6 k4 p1 d2 g2",
    "transpose3d 1x3x4x4x2 -> 3 k3 s2 p1 op1",
    "max1d 2x30x3 k8 s1 p4 d3",
    "max2d 2x9x8x4 k3 s2 p1",
    "max2d 2x9x8x4 k2x3 s1 p0_1x2_0",
    "max3d 1x6x5x4x3 k2",
    "avg2d 2x9x8x4 k3 s1 p1",
    "avg2d 2x9x8x4 k3 s2 pSAME",
    "avg3d 1x6x5x4x3 k3x2x2 s2",
]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the other tests have it: these are too small for two, which would wait for each other on a busy machine."""
    monkeypatch.setattr(torch_layers, "cores", lambda: 1)


@pytest.mark.parametrize("text", TEXTS)
def test_values_and_layouts(text: str) -> None:
    layer = Layer.parse("a", text)
    tasks = [Task(layer, p) for p in PASSES if not (layer.is_pool and p == "wgrad")]
    for case in (PLAIN, LAST):
        if peers.unsupported(case, layer):
            assert (case, layer.ndim) == (LAST, 1)
            continue
        for task in tasks:
            program = peers.layer_program(case, layer, task.pass_, task.operands(0))
            want = task.reference(0)
            for _ in range(2):  # the graph is kept
                got = program.array(program())
                assert got.shape == want.shape
                assert np.max(np.abs(got - want)) <= 2e-6 * np.max(np.abs(want)), (case, task.pass_)


@pytest.mark.parametrize("kind", ["conv2d 2x9x8x4 -> 6 k3 p1", "max2d 2x9x8x4 k3 s2 p1", "avg2d 2x9x8x4 k3 s2"])
def test_narrow_operands_are_computed_as_such(kind: str) -> None:
    task = Task(Layer.parse("a", f"{kind} bfloat16"), "fprop")
    program = peers.layer_program(LAST, task.layer, "fprop", task.operands(0))
    result, want = program(), task.reference(0)
    assert result.dtype == torch.bfloat16
    assert np.max(np.abs(program.array(result) - want)) <= 2**-8 * np.max(np.abs(want))


def test_memory_formats_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer.parse("a", "conv2d 2x9x8x4 -> 6 k3 p1")
    for case, expected in [(PLAIN, torch.contiguous_format), (LAST, torch.channels_last)]:
        for pass_ in ("fprop", "dgrad"):
            result = peers.layer_program(case, layer, pass_, Task(layer, pass_).operands(0))()  # type: ignore[arg-type]
            assert result.is_contiguous(memory_format=expected)
    monkeypatch.setattr(torch_layers, "cores", lambda: 2)
    peers.layer_program(PLAIN, layer, "fprop", Task(layer, "fprop").operands(0))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("case", "text", "said"),
    [
        (LAST, "max1d 2x9x4 k3", "no channels-last memory format for 1 spatial axis"),
        (PLAIN, "avg2d 2x9x9x4 k3 d2", "average pooling has no dilation"),
        (PLAIN, "transpose2d 2x9x9x4 -> 4 k3 p0_1", "no padding 0 with -1 cells"),
        (PLAIN, "transpose2d 2x9x9x4 -> 4 k3 p1_0", "no padding 1 with 1 cells"),
        (PLAIN, "conv2d 2x9x9x4 -> 4 k3 members2", "a layer under jax.vmap has no counterpart"),
    ],
)
def test_what_pytorch_lacks_is_said(case: str, text: str, said: str) -> None:
    (reason,) = peers.unsupported(case, Layer.parse("a", text))
    assert said in reason


def test_spinning_is_limited_before_torch_is_loaded() -> None:
    """And a sweep without peers never loads it."""
    program = (
        "import os, sys, experiments.cli, experiments.sweep\n"
        "assert 'torch' not in sys.modules\n"
        "assert os.environ['GOMP_SPINCOUNT'] == '20000'\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=Path(__file__).parents[2])
