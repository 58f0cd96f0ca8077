"""Checks of a config: what it asks for in vain is said before anything is measured, written or deleted."""

import sys
from pathlib import Path

import pytest

from experiments import config as configs
from experiments.checks import require_sound
from experiments.cli import main
from experiments.errors import ExperimentError
from experiments.folder import RunFolder

# A setting that cannot be, and what is said of it.
UNSOUND = [
    ("sweep.algorithms=['winogard']", "sweep.algorithms: 'winogard' is no algorithm; did you mean 'winograd'"),
    (
        "sweep.algorithms=['winograd(tile=8)']",
        "sweep.algorithms: 'winograd(tile=8)' is no algorithm; did you mean 'winograd(tile=4)'? "
        "valid are winograd(tile=2), winograd(tile=4)",
    ),
    ("sweep.algorithms=['winograd(tile=4']", "'winograd(tile=4' is no algorithm; did you mean 'winograd(tile=4)'"),
    ("train.choices.auto.conv=winogard", "train.choices.auto.conv: 'winogard' is no algorithm; did you mean 'winog"),
    ("train.choices.auto.conv=['shift', 'shift(by=1)']", "'shift(by=1)' is no algorithm; did you mean 'shift(by="),
    ("train.choices.auto.conv={ dgrad = 'separable' }", "train.choices.auto.conv: 'separable' is no algorithm"),
    ("train.choices.auto.conv=['winograd', 'stock']", "train.choices.auto.conv: 'stock' is no algorithm"),
    ("train.choices.auto.conv='winograd(tile=2)'", "train.choices.auto: algorithm does not apply to fprop of conv"),
    ("train.batch_size=9999", "train.batch_size 9999 is more than the 1438 training images"),
    (
        "train.test_fraction=0.0001",
        "train.test_fraction 0.0001 of the 1797 images is none to test on: give at least 0.0006",
    ),
    (
        "models.networks={ unet = { batch = 3, size = 10 } }",
        "models.networks: unet cannot be computed at batch 3 and size 10 (Cannot concatenate",
    ),
    ("models.networks={ dcgan = { size = 32 } }", "dcgan cannot be computed at batch 1 and size 32 (sub got incompat"),
    ("models.networks={ resnet19 = {} }", "models.networks: 'resnet19' is no network; did you mean 'resnet18'"),
]


@pytest.mark.parametrize(("setting", "said"), UNSOUND)
def test_unsound_config_is_refused(config_path: Path, setting: str, said: str) -> None:
    with pytest.raises(ExperimentError) as refused:
        require_sound(configs.load(config_path, [setting]))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "setting",
    [
        "sweep.algorithms=['winograd(tile=4)', 'separable', 'polyphase']",
        "train.choices.auto.conv={ fprop = ['winograd(tile=2)', 'shift'], dgrad = 'shift(by=dot)' }",
        "train.choices.auto.conv=stock",
        "models.networks={ unet = { size = 32 }, dcgan = {} }",
    ],
)
def test_what_can_be_computed_is_not_refused(config_path: Path, setting: str) -> None:
    require_sound(configs.load(config_path, [setting]))


@pytest.mark.parametrize("command", ["run", "sweep", "train"])
@pytest.mark.parametrize(("setting", "said"), [UNSOUND[0], UNSOUND[3], UNSOUND[-1]])
def test_any_section_is_checked_before_anything_is_deleted(
    config_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    setting: str,
    said: str,
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.prepare(configs.load(config_path))
    folder.records_path.mkdir()
    (folder.records_path / "sweep.jsonl").write_text("{}")
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    arguments = [command, "--config", str(config_path), "--set", setting, "--workdir"]
    for where in ([str(folder.path), "--overwrite"], [str(tmp_path / "new")]):
        monkeypatch.setattr(sys, "argv", ["experiments", *arguments, *where])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new").exists()
