"""The sweep: resumed where it was interrupted, shared out without loss, and reported from its records."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import compare, report, sweep
from experiments import config as configs
from experiments.cases import AUTO, STOCK, Selection, groups
from experiments.config import Config
from experiments.errors import ExperimentError
from experiments.folder import RunFolder

ROOT = Path(__file__).parents[2]


def case_ids(config: Config, selection: Selection) -> list[str]:
    found = sweep.remaining(
        groups(config.section("sweep"), selection), selection, records=RunFolder(Path("absent")).records()
    )
    return [group.case(name) for group, names in found for name in names]


def test_every_case_is_recorded_once_and_right(config: Config, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    sweep.run(config, folder, Selection())
    records = folder.records()
    assert list(records.by_case) == case_ids(config, Selection())
    assert {r.status for r in records.sweep} == {"ok", "unsupported"}
    for record in records.sweep:
        if record.status == "ok":
            assert len(record.samples) >= 3
            assert record.speedup is not None
            assert record.error is not None
            assert record.error_bound is not None
            assert record.error <= record.error_bound
            assert record.compile_seconds is not None
        else:
            assert record.reasons
            assert not record.samples
        assert (record.chosen is not None) == (record.algorithm == AUTO)
        assert (record.version is None) == (record.algorithm == STOCK)


def test_groups_are_sampled_in_rounds(config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three groups at a time, one after another, so that no slow second holds all of a program's samples."""
    order, sample = [], sweep.Measurement.sample

    def noted(measurement: sweep.Measurement) -> None:
        order.append(measurement.task.id)
        sample(measurement)

    monkeypatch.setattr(sweep.Measurement, "sample", noted)
    config = configs.load(config_path, ["sweep.rounds=2", "sweep.round_groups=3"])
    folder = RunFolder(tmp_path / "run")
    sweep.run(config, folder, Selection())
    records = folder.records()
    assert list(records.by_case) == case_ids(config, Selection())
    sampled = [r for r in records.sweep if r.status == "ok"]
    assert {len(r.samples) for r in sampled if r.algorithm not in (AUTO, STOCK)} == {2 * 3}
    assert all(r.baseline_seconds == records.by_case[_stock(r.case)].median for r in sampled)
    names = list(dict.fromkeys(order))
    assert order == [name for i in range(0, len(names), 3) for name in 2 * names[i : i + 3]]


@pytest.mark.parametrize("slow_seconds", [1e-9, 100.0])
def test_a_favour_below_one_leaves_samples(config_path: Path, tmp_path: Path, slow_seconds: float) -> None:
    layers = "sweep.layers={ dense = 'conv2d 1x6x6x4 -> 4 k3 p1' }"
    settings = [layers, "sweep.passes=['fprop']", "sweep.favour=0.001", f"sweep.slow_seconds={slow_seconds}"]
    config, folder = configs.load(config_path, settings), RunFolder(tmp_path / "run")
    sweep.run(config, folder, Selection(only=re.compile("(jax.lax|auto)$")))
    assert {(r.status, len(r.samples)) for r in folder.records().sweep} == {("ok", 1 if slow_seconds < 1 else 3)}


def _stock(case: str) -> str:
    *cell, _ = case.split("/")
    return "/".join([*cell, STOCK])


def test_an_average_of_half_precision_may_be_rounded(config_path: Path, tmp_path: Path) -> None:
    layers = "sweep.layers={ mean = 'avg2d 2x6x6x3 k3 s1 bfloat16' }"
    config, folder = configs.load(config_path, [layers, "sweep.passes=['fprop']"]), RunFolder(tmp_path / "run")
    sweep.run(config, folder, Selection())
    assert {r.status for r in folder.records().sweep} == {"ok"}


def test_double_precision_is_measured_as_such(config_path: Path, tmp_path: Path) -> None:
    layers = "sweep.layers={ wide = 'conv2d 1x5x5x2 -> 3 k3 float64' }"
    settings = [layers, "sweep.passes=['fprop']", "sweep.algorithms=['lax']"]
    config, folder = configs.load(config_path, settings), RunFolder(tmp_path / "run")
    sweep.run(config, folder, Selection())
    for record in folder.records().sweep:
        assert (record.status, record.problem.split("[")[0]) == ("ok", "conv float64")
        assert (record.error or 0) < 1e-14


def test_what_is_predicted_so_many_times_as_slow_as_the_choice_is_not_run(config_path: Path, tmp_path: Path) -> None:
    settings = ["sweep.passes=['fprop']", "sweep.algorithms=['lax', 'vmap']", "sweep.predicted_limit_times=2.5"]
    layers = "sweep.layers={ depthwise = 'depthwise2d 1x16x16x64 k3 p1' }"
    config, folder = configs.load(config_path, [layers, *settings]), RunFolder(tmp_path / "run")
    sweep.run(config, folder, Selection())
    told = {r.algorithm: (r.status, *r.reasons) for r in folder.records().sweep}
    assert told[AUTO] == told[STOCK] == ("ok",)
    status, reason = told["vmap"]
    assert status == "timeout"
    assert re.fullmatch(r"not run: predicted \S+ times the choice's, above 2.5", reason)


def test_a_layer_that_does_not_fit_into_memory_ends_no_sweep(config_path: Path, tmp_path: Path) -> None:
    layers = "sweep.layers={ huge = 'conv2d 1x4000000x4000000x8 -> 8 k3', small = 'conv2d 1x5x5x2 -> 3 k3' }"
    settings = [layers, "sweep.passes=['fprop', 'wgrad']", "sweep.algorithms=['lax']"]
    config, folder = configs.load(config_path, settings), RunFolder(tmp_path / "run")
    sweep.run(config, folder, Selection())
    records = folder.records()
    assert list(records.by_case) == case_ids(config, Selection())
    for record in records.sweep:
        if record.layer == "small":
            assert record.status == "ok"
        else:
            assert (record.status, record.samples) == ("error", ())
            assert record.reasons[0].startswith("its operands and reference do not fit into memory: Unable to allocate")
    assert "do not fit into memory" in report.write(folder).read_text(encoding="utf-8")


def test_killed_sweep_resumes_without_redoing_a_case(config_path: Path, config: Config, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    command = [
        sys.executable,
        "-m",
        "experiments",
        "sweep",
        "--config",
        str(config_path),
        "--workdir",
        str(folder.path),
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"}
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith("[2/"):
                run.send_signal(signal.SIGKILL)
                break
    path = folder.records_path / "sweep.jsonl"
    before = path.read_bytes()
    finished = folder.records().by_case
    assert 0 < len(finished) < len(case_ids(config, Selection()))
    path.write_bytes(before + b'{"kind": "sweep", "case": "pool/fpr')  # as a kill within a write leaves it

    sweep.run(config, folder, Selection())
    assert path.read_bytes().startswith(before)
    records = folder.records()
    assert sorted(records.by_case) == sorted(case_ids(config, Selection()))
    assert records.broken == 1
    assert len(path.read_bytes().splitlines()) == len(records.by_case) + 1
    assert {case: records.by_case[case] for case in finished} == finished


def test_run_folder_of_another_config_is_refused(config_path: Path, config: Config, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    first = Selection(only=re.compile("^dense/fprop/(jax.lax|auto)$"))
    sweep.run(config, folder, first)
    other = configs.load(config_path, ["sweep.max_samples=4"])
    with pytest.raises(ExperimentError, match=r"sweep.max_samples: 3, now 4.*--overwrite"):
        sweep.run(other, folder, first)
    sweep.run(other, folder, first, overwrite=True)
    assert folder.config() == other
    assert len(folder.records().by_case) == 2


def test_overwrite_deletes_nothing_in_a_folder_that_is_no_run(config: Config, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "records").write_text("mine", encoding="utf-8")
    with pytest.raises(ExperimentError, match="is not a run folder"):
        RunFolder(tmp_path / "run").prepare(config, overwrite=True)
    assert (tmp_path / "run" / "records").read_text(encoding="utf-8") == "mine"


def test_overwrite_deletes_the_plans_of_a_run(config: Config, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.prepare(config)
    shards = [folder.plans(suffix).path for suffix in ("", "-1of2")]
    for path in shards:
        path.write_text("{}", encoding="utf-8")
    folder.prepare(config, overwrite=True)
    assert not any(path.exists() for path in shards)


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 20])
def test_every_case_is_in_exactly_one_shard(config: Config, parts: int) -> None:
    everything = case_ids(config, Selection())
    shared = [case_ids(config, Selection(shard=(i, parts))) for i in range(1, parts + 1)]
    assert sorted(case for part in shared for case in part) == sorted(everything)
    groups_of = [{case.rpartition("/")[0] for case in part} for part in shared]
    assert max(map(len, groups_of)) - min(map(len, groups_of)) <= 1


def test_report_and_comparison_of_a_run(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(ExperimentError, match=r"not a run folder"):
        report.write(folder)
    sweep.run(config, folder, Selection(only=re.compile("^(dense|pool)/")))
    with (folder.records_path / "sweep.jsonl").open("ab") as file:
        file.write(b"{half\n")
    page = report.write(folder).read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == 4
    assert 'src="http' not in page
    assert "<link" not in page
    for text in (
        "1 record line could not be read",
        "If a case is missing for that",
        "against\nfloat64",
        "What was unsupported",
        "dense/fprop/auto",
        "cores",
    ):
        assert text in page
    assert sorted(p.name for p in folder.plots_path.iterdir()) == [
        "choices.png",
        "error.png",
        "families.png",
        "speed.png",
    ]
    capsys.readouterr()
    compare.print_comparison(folder, folder, Selection())
    assert "geometric mean of b / a 1.000" in capsys.readouterr().out
    assert "What the times above were measured on." in page
    (environment,) = folder.path.glob("environment-*.json")
    environment.unlink()
    page = report.write(folder).read_text(encoding="utf-8")
    assert f"The run folder lacks {environment.name}: what the times above were measured on is not known." in page
    assert "What the times above" not in page
