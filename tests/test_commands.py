"""`python -m convjax`: what it prints, and one sentence and exit code 2 for bad input."""

import dataclasses
import os
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import convjax
from convjax.commands import main
from convjax.inspect.shape import layer_shape

PROBLEM = "conv float32[4,56,56,64] float32[3,3,64,64] b01f_01io->b01f pad=1_1x1_1"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(arguments)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "layout", "output", "parameters", "macs", "flops_with_bias"),
    [
        ("conv2d 3x10x10 -> 5 k3", None, (5, 8, 8), 140, 8_640, 17_600),
        ("conv2d 10x10x3 -> 5 k3", "NHWC", (8, 8, 5), 140, 8_640, 17_600),
        ("conv3d 5x4x10x10 -> 4 k2", None, (4, 3, 9, 9), 164, 38_880, 78_732),
        ("conv3d 4x10x10x5 -> 4 k2", "NDHWC", (3, 9, 9, 4), 164, 38_880, 78_732),
        ("conv2d 1x56x56x64 -> 64 k3 p1", None, (1, 56, 56, 64), 36_928, 115_605_504, 231_411_712),
        ("conv2d 1x64x56x56 -> 64 k3 p1", "NCHW", (1, 64, 56, 56), 36_928, 115_605_504, 231_411_712),
        ("conv2d 1x1x128x128 -> 128 k3", "NCHW", (1, 128, 126, 126), 1_280, 18_289_152, 2 * 18_289_152 + 2_032_128),
        ("conv2d 96x27x27 -> 256 k5 p2 g2", None, (256, 27, 27), 307_456, 223_948_800, 448_084_224),
        ("depthwise2d 32x112x112 k3 p1 s2", None, (32, 56, 56), 320, 903_168, 1_906_688),
        ("conv1d 32x8000 -> 16 k2 d512 pCAUSAL", None, (16, 8000), 1_040, 8_192_000, 16_512_000),
        ("transpose2d 2x4x8x8 -> 6 k4 s2 p1", "NCHW", (2, 6, 16, 16), 390, 49_152, 101_376),
        ("transpose2d 2x4x8x8 -> 4 k3 s2 p1 op1 g4", "NCHW", (2, 4, 16, 16), 40, 4_608, 11_264),
        ("transpose2d 2x6x8x8 -> 6 k2 s2 g3", "NCHW", (2, 6, 16, 16), 54, 6_144, 15_360),
        ("transpose1d 3x7 -> 2 k2 s4 pSAME", None, (2, 28), 14, 84, 224),
        ("max2d 64x112x112 k3 s2 p1", None, (64, 56, 56), 0, 0, 0),
    ],
)
def test_layers(
    text: str, layout: str | None, output: tuple[int, ...], parameters: int, macs: int, flops_with_bias: int
) -> None:
    shape = layer_shape(text, layout)
    assert (shape.output_shape, shape.parameters, shape.macs) == (output, parameters, macs)
    if parameters:
        assert f"{flops_with_bias:,} with bias" in str(shape)


def test_shape(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "shape", "conv2d 3x10x10 -> 5 k3") == (
        "conv2d: 3x10x10 (C x H x W) -> 5x8x8\n"
        "    size = floor((n + lo + hi - d (k - 1) - 1) / s) + 1\n"
        "    H    = floor((10 + 0 + 0 - 1 (3 - 1) - 1) / 1) + 1 = 8\n"
        "    W    = floor((10 + 0 + 0 - 1 (3 - 1) - 1) / 1) + 1 = 8\n"
        "140 parameters: 5 x 3 x 3x3 weights and 5 biases; 135 without bias\n"
        "8,640 MACs: 8x8 positions x 135 weights; 17,280 FLOPs, 17,600 with bias\n"
    )
    assert printed(capsys, "shape", "transpose2d 2x4x8x8 -> 6 k4x3 s2 p1x0_1 op0x1", "--layout", "NCHW") == (
        "transpose2d: 2x4x8x8 (N x C x H x W) -> 2x6x16x17\n"
        "    size = (n - 1) s - lo - hi + d (k - 1) + 1 + op\n"
        "    H    = (8 - 1) 2 - 1 - 1 + 1 (4 - 1) + 1 + 0 = 16\n"
        "    W    = (8 - 1) 2 - 0 - 1 + 1 (3 - 1) + 1 + 1 = 17\n"
        "294 parameters: 6 x 4 x 4x3 weights and 6 biases; 288 without bias\n"
        "36,864 MACs: 2 x 8x8 positions x 288 weights; 73,728 FLOPs, 76,992 with bias\n"
    )
    assert printed(capsys, "shape", "max1d 8x10 k3 s4") == (
        "max1d: 8x10 (C x W) -> 8x2\n"
        "    size = floor((n + lo + hi - d (k - 1) - 1) / s) + 1\n"
        "    W    = floor((10 + 0 + 0 - 1 (3 - 1) - 1) / 4) + 1 = 2, 3 left over at the end\n"
        "0 parameters; 8x2 outputs x 3 comparisons\n"
    )


def test_algorithms(capsys: pytest.CaptureFixture[str]) -> None:
    everything = printed(capsys, "algorithms")
    for operation in ("conv", "max"):
        for algorithm in convjax.algorithms(operation):
            assert f"\n  {algorithm} " in everything
    windows = printed(capsys, "algorithms", "max")
    assert windows.startswith("max\n  lax ")
    assert windows.count("\n") == 1 + len(convjax.algorithms("max"))
    assert all(len(line.split("  ")[-1]) > 30 for line in windows.splitlines()[1:]), "each with its description"


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    on_cpu = printed(capsys, "explain", PROBLEM, "--platform", "cpu")
    row = convjax.explain(
        lambda x, w: convjax.conv(x, w, padding=1),
        *(jax.ShapeDtypeStruct(shape, "float32") for shape in ((4, 56, 56, 64), (3, 3, 64, 64))),
        platform="cpu",
    )
    assert on_cpu == f"{row}\n"
    assert "no times are predicted for tpu" in printed(capsys, "explain", PROBLEM, "--platform", "tpu")
    assert "put" in printed(capsys, "explain", "put float32[8,8] window=2x2 stride=2x2")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["shapes"], "invalid choice: 'shapes'"),
        (["shape"], "the following arguments are required: LAYER"),
        (["shape", ""], "cannot read ''; a layer reads like 'conv2d 3x10x10 -> 5 k3'"),
        (["shape", "conv2d"], "cannot read 'conv2d'"),
        (["shape", "conv2d 3x10x10 -> 5"], "layer 'conv2d 3x10x10 -> 5': the kernel size is missing, as in k3"),
        (["shape", "conv2d 3x10x10 k3"], "conv2d needs its output channels, as in '-> 64'"),
        (["shape", "conv2d 10 -> 5 k3"], "10 has 1 axes, conv2d takes 4, or 3 without a batch"),
        (["shape", "conv2d 3x10x10 -> 5 k3 members2"], "is vmapped: leave out members, stacked and examples"),
        (["shape", "mean2d 3x10x10 k3"], "cannot read 'mean2d"),
        (["shape", "conv2d 3x10x10 -> 5 k11"], "a kernel reaching over 11 does not fit the 10 padded cells of axis 0"),
        (["shape", "conv2d 3x10x10 -> 5 k3 s0"], "s0 must be at least 1"),
        (["shape", "conv2d 3x10x10 -> 5 k3 op1"], "only transpose has op"),
        (["shape", "conv2d 3x10x10 -> 5 k3 q2"], "layer 'conv2d 3x10x10 -> 5 k3 q2': cannot read 'q2'; a layer"),
        (["shape", "conv2d 3x10x10 -> 5 k3 k5"], "k5 comes after k3: write one"),
        (["shape", "max2d 3x10x10 k3 p2"], "padding (2, 2) on spatial axis 0 must be between 0 and half"),
        (["shape", "transpose2d 3x10x10 -> 5 k3 op1"], "output_padding 1 must be at least 0 and below the larger of"),
        (
            ["shape", "conv2d 3x10x10 -> 5 k3", "--layout", "CHW"],
            "layout must be one of None, NHWC, NCHW for 2 spatial axes, got 'CHW'",
        ),
        (["algorithms", "mean"], "invalid choice: 'mean'"),
        (["explain"], "the following arguments are required: PROBLEM"),
        (["explain", "conv2d 3x10x10 -> 5 k3"], "must begin with one of max, min, sum"),
        (["explain", PROBLEM.replace("64,64]", "32,64]")], "x has 64 channels but w takes 32"),
        (["explain", f"{PROBLEM} stride=axb"], "stride=axb must read like stride=2x2"),
        (["explain", PROBLEM.replace("1_1x1_1", "1x1")], "pad=1x1 must read like pad=1_1x0_1"),
        (["explain", f"{PROBLEM} feature_groups=two"], "feature_groups=two must be a number"),
        (["explain", f"{PROBLEM} stride=2"], "strides has 1 entries for 2 spatial axes"),
        (["explain", PROBLEM, "--platform", "abacus"], "invalid choice: 'abacus'"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("convjax: ")
    assert said in output.err
    assert output.err.count("\n") == 1


def test_it_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "convjax.__main__", raising=False)  # imported where examples are searched for
    monkeypatch.setattr(sys, "argv", ["convjax", "shape", "conv2d 3x10x10 -> 5 k3"])
    runpy.run_module("convjax", run_name="__main__")
    assert "140 parameters" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["convjax", "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("convjax", run_name="__main__")
    assert caught.value.code == 0
    assert "algorithms" in capsys.readouterr().out


def test_tune_resumes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file, problem = tmp_path / "plans.json", "conv float32[1,9,4] float32[3,4,4] b0f_0io->b0f"
    first = printed(capsys, "tune", problem, "--seconds", "0.001", "--save", str(file))
    assert first.startswith(f"1 of 1: {problem}\n       -> ")
    (plan,) = convjax.Plans.load(file)
    assert plan.problem == problem
    again = printed(capsys, "tune", problem, "--save", str(file))
    assert again == first.replace("1 of 1:", "1 of 1, measured before:")
    assert convjax.Plans.load(file).entries == (plan,)
    # The times of other versions are not used, so these are taken anew.
    stale = [dataclasses.replace(time, version=-1) for time in plan.times]
    convjax.Plans((dataclasses.replace(plan, times=tuple(stale)),)).save(file)
    assert printed(capsys, "tune", problem, "--seconds", "0.001", "--save", str(file)).startswith("1 of 1: ")
    assert printed(capsys, "tune", problem.replace("float32", "float64"), "--seconds", "0.001").startswith("1 of 1: ")


def test_tune_reads_everything_before_it_measures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    problem = "conv float32[1,9,4] float32[3,4,4] b0f_0io->b0f"
    for arguments, said in (
        ([problem, "conv"], "problem 'conv' must begin"),
        ([problem, "--save", str(tmp_path / "absent" / "plans.json")], "plans.json must be a file in a folder that"),
        ([problem, "--save", str(tmp_path)], "must be a file in a folder that exists"),
    ):
        with pytest.raises(SystemExit):
            main(["tune", *arguments])
        output = capsys.readouterr()
        assert output.out == ""
        assert said in output.err


def test_doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convjax.commands.examine", lambda: iter([(True, "all is well")]))
    assert printed(capsys, "doctor") == "all is well\n"
    monkeypatch.setattr("convjax.commands.examine", lambda: iter([(False, "fft: FAILS")]))
    with pytest.raises(SystemExit) as caught:
        main(["doctor"])
    assert caught.value.code == 1
    assert "convjax: 1 of these do not hold" in capsys.readouterr().err


@pytest.mark.parametrize("saves", [True, False])
def test_interrupted_it_says_how_to_go_on(
    saves: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("convjax.commands.measure_problem", interrupted)
    with pytest.raises(SystemExit) as caught:
        main(["tune", PROBLEM, *(["--save", str(tmp_path / "plans.json")] if saves else [])])
    assert caught.value.code == 130
    resumes = "; the same command does what is left" if saves else ""
    assert capsys.readouterr().err == f"convjax: interrupted{resumes}\n"


def test_faults_of_ours_are_not_called_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*args: object, **kwargs: object) -> None:
        raise NotImplementedError("a fault of ours")

    monkeypatch.setattr("convjax.commands.explain_problem", faulty)
    with pytest.raises(NotImplementedError):
        main(["explain", PROBLEM])


def test_no_backend_is_one_sentence_and_a_closed_pipe_is_silent() -> None:
    command = [sys.executable, "-m", "convjax"]
    environment = os.environ | {"JAX_PLATFORMS": "abacus"}
    ended = subprocess.run([*command, "doctor"], env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith("convjax: Unable to initialize backend 'abacus'")
    with subprocess.Popen([*command, "algorithms"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reader:
        assert reader.stdout
        assert reader.stderr
        reader.stdout.close()
        assert reader.stderr.read() == b""
