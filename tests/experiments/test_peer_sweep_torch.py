"""A sweep beside PyTorch: its cases are checked, timed, resumed, reported and compared like all others.

Collected only where torch is installed; elsewhere pytest's header says that parity is left out.
"""

from pathlib import Path

import pytest

from experiments import compare, listing, peers, report, sweep
from experiments import config as configs
from experiments.cases import Selection
from experiments.folder import RunFolder
from experiments.peers import torch_layers

TORCH = peers.CASES["torch"]


def test_sweep_beside_torch(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch_layers, "cores", lambda: 1)
    layers = "{ dense = 'conv2d 1x6x6x4 -> 4 k3 p1', line = 'conv1d 1x9x4 -> 4 k3' }"
    settings = ["sweep.peers=['torch']", "sweep.algorithms=['im2col']", "sweep.passes=['wgrad']"]
    config = configs.load(config_path, [*settings, f"sweep.layers={layers}"])
    folder = RunFolder(tmp_path / "run")
    listing.print_cases(config, Selection(), None)
    assert f"jax.lax, auto, im2col, {', '.join(TORCH)}" in capsys.readouterr().out
    sweep.run(config, folder, Selection())
    assert "x torch" in capsys.readouterr().out
    found = {r.case: r for r in folder.records().sweep if r.algorithm in TORCH}
    assert {case: r.status for case, r in found.items()} == {
        f"{layer}/wgrad/{name}": "unsupported" if (layer, name) == ("line", TORCH[1]) else "ok"
        for layer in ("dense", "line")
        for name in TORCH
    }
    for record in found.values():
        if record.status == "ok":
            assert len(record.samples) >= 3
            assert record.speedup is not None
            assert record.error is not None
            assert record.error_bound is not None
            assert 0 < record.error <= record.error_bound
    sweep.run(config, folder, Selection())
    assert "sweep: 0 cases" in capsys.readouterr().out
    page = report.write(folder).read_text(encoding="utf-8")
    for text in ("choice over torch", "as fast as torch", "dense/wgrad/torch (channels last)", "upright stroke"):
        assert text in page
    compare.print_comparison(folder, folder, Selection())
    assert "dense/wgrad/torch (channels last)" in capsys.readouterr().out
