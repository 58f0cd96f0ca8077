"""Training: resumed from its checkpoints to the very losses of an uninterrupted run."""

import re
from pathlib import Path

import numpy as np
import pytest

from experiments import config as configs
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


def test_bad_choices_are_refused(config_path: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(ExperimentError, match="'winogard' is no algorithm; did you mean 'winograd'"):
        train.run(configs.load(config_path, ["train.choices.auto.conv=winogard"]), folder, Selection())
    with pytest.raises(ExperimentError, match=r"train.choices.auto: .*no axis has 2 to 3 taps"):
        train.run(configs.load(config_path, ["train.choices.auto.conv='winograd(tile=2)'"]), folder, Selection())
    with pytest.raises(ExperimentError, match="batch_size 9999 is more than the 1438 training images"):
        train.run(configs.load(config_path, ["train.batch_size=9999"]), RunFolder(tmp_path / "b"), Selection())


def test_the_choices_are_in_one_shard(config: Config) -> None:
    settings, none = config.section("train"), Records({})
    assert epochs(settings, Selection(shard=(2, 2)), none) == []
    assert epochs(settings, Selection(shard=(1, 2)), none) == epochs(settings, Selection(), none)
    assert epochs(settings, Selection(), none)[:3] == [(1, "stock"), (1, "auto"), (2, "stock")]


@pytest.mark.parametrize(("difference", "status"), [(None, 0), (0.05, 0), (0.06, 1), (np.inf, 1), (np.nan, 1)])
def test_losses_that_go_apart_are_wrong(config: Config, difference: float | None, status: int) -> None:
    assert len(train._shortcomings(config.section("train"), 3, 1.0, difference)) == status
