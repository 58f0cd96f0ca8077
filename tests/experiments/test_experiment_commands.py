"""The commands: one sentence and exit code 2 for bad input, and the whole small experiment."""

import re
import sys
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.config import load
from experiments.folder import RunFolder


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["experiments", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sweep", "--config", "absent.toml", "--workdir", "w"], "absent.toml does not exist"),
        (["sweep", "--workdir", "w"], "w is not a run folder"),
        (["sweep", "--config", "CONFIG", "--workdir", "w", "--only", "("], "--only '(' is no regular expression"),
        (["sweep", "--config", "CONFIG", "--workdir", "w", "--passes", "fprop,dgard"], "did you mean 'dgrad'?"),
        (["sweep", "--config", "CONFIG", "--workdir", "w", "--shard", "3/2"], "must read i/n"),
        (["sweep", "--config", "CONFIG", "--workdir", "w", "--set", "sweep.secs=1"], "unknown key 'secs' in [sweep]"),
        (["run", "--config", "EMPTY", "--workdir", "w"], "config 'small' has no [sweep], [train] or [models] table"),
        (["run", "--config", "EMPTY", "--workdir", "w", "--overwrite"], "has no [sweep], [train] or [models] table"),
        (["list"], "--config is missing"),
        ([], "Missing command (see --help)"),
        (["swep"], "No such command 'swep'"),
        (["sweep"], "Missing option '--workdir' (see --help)"),
        (["sweep", "--workdir", "w", "--config", "CONFIG", "--sets", "a.b=1"], "No such option: --sets"),
        (["report", "--workdir", "w"], "w is not a run folder"),
        (["fit", "--workdir", "w"], "w is not a run folder"),
        (["compare", "w", "v"], "w is not a run folder"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str],
    said: str,
    config_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.toml").write_text('name = "small"\n', encoding="utf-8")
    paths = {"CONFIG": str(config_path), "EMPTY": "empty.toml"}
    assert call(monkeypatch, *(paths.get(a, a) for a in arguments)) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1
    assert "Traceback" not in printed
    assert not (tmp_path / "w").exists()


def test_run_does_everything_and_then_nothing(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = {
        "sweep.passes": "['fprop']",
        "sweep.layers": "{ dense = 'conv2d 1x6x6x4 -> 4 k3 p1' }",
        "train.choices": "{ auto = {} }",
        "train.epochs": "1",
    }
    settings = [word for key, value in overrides.items() for word in ("--set", f"{key}={value}")]
    arguments = ["run", "--config", config_path, "--workdir", tmp_path / "run", *settings]
    assert call(monkeypatch, *arguments) == 0
    folder = tmp_path / "run"
    assert {re.sub("-[0-9a-f]{12}", "-ID", p.name) for p in folder.iterdir()} == {
        "config.toml", "environment-ID.json", "records", "plots", "report.html", "checkpoints",
    }  # fmt: skip
    lines = (folder / "records" / "sweep.jsonl").read_bytes()
    capsys.readouterr()
    assert call(monkeypatch, "run", "--workdir", folder) == 0
    assert "sweep: 0 cases in 0 groups to do" in capsys.readouterr().out
    assert (folder / "records" / "sweep.jsonl").read_bytes() == lines


def test_what_is_refused_deletes_nothing(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.prepare(load(config_path))
    kept = folder.records_path / "sweep.jsonl"
    kept.parent.mkdir()
    kept.write_text("{}")
    arguments = ["sweep", "--config", config_path, "--workdir", folder.path, "--set"]
    unknown = [*arguments, "sweep.algorithms=['fast']", "--overwrite"]
    assert call(monkeypatch, *unknown) == 2
    assert "'fast' is no algorithm" in capsys.readouterr().err
    assert call(monkeypatch, *arguments, "sweep.seconds=9", "--dry-run") == 2  # as without --dry-run
    assert "holds a run of another config" in capsys.readouterr().err
    assert kept.read_text() == "{}"


def test_dry_run_and_list_write_nothing(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "sweep", "--config", config_path, "--workdir", tmp_path / "run", "--dry-run") == 0
    assert call(monkeypatch, "list", "--config", config_path, "--only", "^dense/fprop/") == 0
    printed = capsys.readouterr().out
    assert "depthwise/wgrad: jax.lax, auto" in printed
    assert "conv float32[1,6,6,4]" in printed
    assert "train/" not in printed
    assert not (tmp_path / "run").exists()


def test_list_of_a_run_leaves_out_what_is_done_and_refuses_another_config(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = ("--workdir", tmp_path / "run", "--config", config_path, "--only", "^dense/fprop/(jax.lax|auto)$")
    assert call(monkeypatch, "list", *case) == 0  # there is no run yet
    assert "2 sweep cases" in capsys.readouterr().out
    assert call(monkeypatch, "sweep", *case) == 0
    assert call(monkeypatch, "list", *case) == 0
    assert "0 sweep cases" in capsys.readouterr().out
    assert call(monkeypatch, "list", *case, "--set", "sweep.seconds=9") == 2
    assert "holds a run of another config (sweep.seconds: 0.001, now 9.0)" in capsys.readouterr().err


def test_names_in_brackets_are_printed_as_they_stand(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--set", "name='exp [/1] :x:'", "--only", "^dense/fprop/jax.lax$")
    assert call(monkeypatch, "list", "--config", config_path, *settings) == 0
    assert "exp [/1] :x:: cases" in capsys.readouterr().out
    folder = tmp_path / "run [bold][" / "1]"
    assert call(monkeypatch, "sweep", "--config", config_path, "--workdir", folder, *settings) == 0
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "compare", folder.relative_to(tmp_path), folder) == 0
    assert " against run [bold][/1] (below 1" in re.sub(r"\s+", " ", capsys.readouterr().out)
