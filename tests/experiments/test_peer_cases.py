"""Peers in a sweep where their library is not installed: recorded as such, and measured once it is there."""

import importlib.util
import re
from pathlib import Path

import pytest

from experiments import config as configs
from experiments import peers, results, sweep
from experiments.cases import AUTO, STOCK, Selection
from experiments.errors import ExperimentError
from experiments.folder import RunFolder
from experiments.records import SweepRecord

TORCH = peers.CASES["torch"]


def test_unknown_peer_is_refused(config_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"sweep.peers.*should be 'torch', got 'tortch'"):
        configs.load(config_path, ["sweep.peers=['tortch']"])


def test_missing_library_is_a_reason(config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configs.load(config_path, ["sweep.peers=['torch']", "sweep.algorithms=['lax']"])
    folder, selection = RunFolder(tmp_path / "run"), Selection(only=re.compile("^dense/fprop/torch"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    sweep.run(config, folder, selection)
    records = folder.records().sweep
    assert [(r.algorithm, r.status, r.reasons) for r in records] == [
        (case, "unsupported", ("torch is not installed",)) for case in TORCH
    ]
    every = sweep.groups(config.section("sweep"), selection)
    assert not sweep.remaining(every, selection, folder.records())
    monkeypatch.setattr(peers, "unsupported", lambda case, layer: ())
    ((_, names),) = sweep.remaining(every, selection, folder.records())
    assert names == list(TORCH)


def record(algorithm: str, seconds: float, baseline: float, status: str = "ok") -> SweepRecord:
    return SweepRecord.model_validate(
        {
            "case": f"a/fprop/{algorithm}",
            "status": status,
            "samples": (seconds,) * 3 if status == "ok" else (),
            "environment": "abc",
            "layer": "a",
            "layer_text": "conv2d 1x8x8x3 -> 4 k3",
            "pass": "fprop",
            "algorithm": algorithm,
            "version": None,
            "problem": "conv float32[1,8,8,3] float32[3,3,3,4] b01f_01io->b01f",
            "fields": {},
            "flops": 1,
            "bytes": 1,
            "baseline_seconds": baseline,
        }
    )


def test_better_memory_format_counts_and_no_peer_is_an_algorithm() -> None:
    plain, last = TORCH
    found = [
        record(STOCK, 8.0, 8.0),
        record(AUTO, 2.0, 8.0),
        record("shift", 2.0, 8.0),
        # Measured later, when all took twice as long.
        record(plain, 4.0, 16.0),
        record(last, 2.0, 16.0),
    ]
    (cell,) = results.cells(found, ["a"])
    assert list(cell.algorithms) == ["shift"]
    assert cell.peer is not None
    assert cell.peer.algorithm == last
    assert cell.over_peer(cell.auto) == 0.5
    summary = results.summarise([cell])
    assert (summary.mean_over_peer, summary.with_peer) == (pytest.approx(0.5), 1)
    (cell,) = results.cells([*found[:3], record(plain, 0.0, 8.0, "wrong")], ["a"])
    assert cell.peer is None
    assert cell.over_peer(cell.auto) is None
