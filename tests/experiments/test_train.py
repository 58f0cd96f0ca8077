"""Training: resumed from its checkpoints to the very losses of an uninterrupted run."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convjax.algorithms.conv.winograd import Winograd
from experiments import report, train
from experiments.cases import Selection, epochs
from experiments.config import Config
from experiments.errors import ExperimentError
from experiments.folder import RunFolder
from experiments.records import Records


def test_interrupted_training_resumes_to_the_same_losses(config: Config, tmp_path: Path) -> None:
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    train.run(config, whole, Selection(only=re.compile("stock")))
    train.run(config, parts, Selection(only=re.compile("stock/epoch-00[12]")))
    # The second record is half-written, while its checkpoint is there: the epoch is trained anew from the first.
    path = parts.records_path / "train.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:40])

    train.run(config, parts, Selection(only=re.compile("stock")))
    assert path.read_bytes().startswith(first)
    expected, found = whole.records(), parts.records()
    assert (sorted(found.by_case), found.broken) == (sorted(expected.by_case), 1)
    for record in expected.train:
        resumed = found.by_case[record.case]
        np.testing.assert_allclose(resumed.losses, record.losses, rtol=1e-5)
        assert len(resumed.samples) == len(record.losses) == 5
    assert 'alt="Loss curves' in report.write(parts).read_text(encoding="utf-8")


def test_choices_learn_alike(config: Config, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    train.run(config, folder, Selection(only=re.compile("epoch-001")))
    stock, auto = folder.records().train
    assert stock.loss_difference is None
    assert auto.loss_difference is not None
    assert auto.loss_difference < 1e-3
    assert stock.parameters == auto.parameters


def test_choice_without_the_first_to_compare_it_with_is_refused(config: Config, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    told = "train/auto/epoch-001 is compared with train/stock/epoch-001, which has no record .* and is not selected"
    for dry_run in (True, False):
        with pytest.raises(ExperimentError, match=told):
            train.run(config, folder, Selection(skip=re.compile("stock")), dry_run=dry_run)
    assert not folder.path.exists()
    train.run(config, folder, Selection(only=re.compile("stock/epoch-001")))
    train.run(config, folder, Selection(only=re.compile("auto/epoch-001")))
    assert [r.loss_difference is None for r in folder.records().train] == [True, False]
    with pytest.raises(ExperimentError, match="train/auto/epoch-002 is compared with train/stock/epoch-002"):
        train.run(config, folder, Selection(skip=re.compile("stock")))


def test_epochs_of_other_versions_of_the_algorithms_are_trained_anew(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, first = RunFolder(tmp_path / "run"), Selection(only=re.compile("epoch-001"))
    train.run(config, folder, first)
    settings = config.section("train")
    assert epochs(settings, first, folder.records()) == []
    before = folder.records().by_case
    monkeypatch.setattr(Winograd, "version", Winograd.version + 1)
    assert epochs(settings, first, folder.records()) == [(1, "stock"), (1, "auto")]
    train.run(config, folder, first)
    assert epochs(settings, first, folder.records()) == []
    for case, record in folder.records().by_case.items():
        assert record.made > before[case].made
    old = {case: r.model_copy(update={"versions": None}) for case, r in before.items()}  # from before it was kept
    assert len(epochs(settings, first, Records(old))) == 2


def test_epochs_go_on_from_no_checkpoint_of_other_versions(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[int, int]] = []
    train_epoch = train.ChoiceRun.train_epoch

    def noted(self: train.ChoiceRun, epoch: int, *given: Any) -> Any:
        begun.append((self.epoch, epoch))
        return train_epoch(self, epoch, *given)

    monkeypatch.setattr(train.ChoiceRun, "train_epoch", noted)
    folder, second = RunFolder(tmp_path / "run"), Selection(only=re.compile("epoch-002"))
    train.run(config, folder, Selection(only=re.compile("epoch-001")))
    train.run(config, folder, second)
    assert begun == [(0, 1), (0, 1), (1, 2), (1, 2)]
    monkeypatch.setattr(Winograd, "version", Winograd.version + 1)
    train.run(config, folder, second)
    assert begun[4:] == [(0, 2), (0, 2)]


@pytest.mark.parametrize("damaged", [{2}, {1, 2}])
def test_a_damaged_checkpoint_is_dropped_for_an_older_one_or_none(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], damaged: set[int]
) -> None:
    whole, resumed, stock = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "run"), re.compile("stock")
    train.run(config, whole, Selection(only=stock))
    train.run(config, resumed, Selection(only=re.compile("stock/epoch-00[12]")))
    for step in damaged:
        path = resumed.checkpoints_path / "stock" / str(step) / "default" / "_METADATA"
        path.write_bytes(path.read_bytes()[:20])
    train.run(config, resumed, Selection(only=stock))
    printed = capsys.readouterr().out
    for step in (1, 2):
        told = f"train: dropped the checkpoint stock/{step}, which is damaged: JSONDecodeError: "
        assert (told in printed) == (step in damaged)
    expected, found = (folder.records().by_case["train/stock/epoch-003"] for folder in (whole, resumed))
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)  # type: ignore[union-attr]
    assert len(resumed.records().train) == 3


def test_the_choices_are_in_one_shard(config: Config) -> None:
    settings, none = config.section("train"), Records({})
    assert epochs(settings, Selection(shard=(2, 2)), none) == []
    assert epochs(settings, Selection(shard=(1, 2)), none) == epochs(settings, Selection(), none)
    assert epochs(settings, Selection(), none)[:3] == [(1, "stock"), (1, "auto"), (2, "stock")]


@pytest.mark.parametrize(("difference", "status"), [(None, 0), (0.05, 0), (0.06, 1), (np.inf, 1), (np.nan, 1)])
def test_losses_that_go_apart_are_wrong(config: Config, difference: float | None, status: int) -> None:
    assert len(train._shortcomings(config.section("train"), 3, 1.0, [1.0], difference)) == status


@pytest.mark.parametrize(
    ("accuracy", "losses", "reasons"),
    [
        (1.0, [1.0, 0.5], ()),
        (np.nan, [1.0], ("test accuracy nan is below 0.0",)),
        (1.0, [1.0, np.nan], ("its loss is not finite",)),
        (1.0, [np.inf], ("its loss is not finite",)),
    ],
)
def test_what_is_no_number_is_wrong(
    config: Config, accuracy: float, losses: list[float], reasons: tuple[str, ...]
) -> None:
    assert train._shortcomings(config.section("train"), 3, accuracy, losses, None) == reasons


def test_infinite_losses_are_no_number_apart() -> None:
    assert np.isnan(train._difference([np.inf], [np.inf]))
    assert train._difference([1.0, 2.0], [1.5, 2.0]) == 0.5
