"""What a report makes of a training's records: curves by step, choices in the config's order, and no NaN lost."""

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from test_records import train_record

from experiments import plots, report
from experiments.folder import RunFolder
from experiments.records import RecordWriter, TrainRecord
from experiments.results import by_choice


def epoch(choice: str, number: int, losses: tuple[float, ...], difference: float | None = None) -> TrainRecord:
    update = {"choice": choice, "losses": losses, "loss_difference": difference}
    timed = {"samples": (0.001,) * len(losses), "compile_seconds": 0.5}
    return train_record(number).model_copy(update=update | timed)


def test_choices_stand_in_the_order_of_the_config() -> None:
    records = [epoch("auto", 2, (1.0,)), epoch("auto", 1, (1.0,)), epoch("stock", 1, (1.0,))]
    found = by_choice(records, ["stock", "shift", "auto"])
    assert [(name, [r.epoch for r in epochs]) for name, epochs in found.items()] == [("stock", [1]), ("auto", [1, 2])]


def test_curves_are_set_side_by_side_at_the_same_steps() -> None:
    figure = plots.training(
        {
            "stock": [epoch("stock", 1, (3.0, 2.0)), epoch("stock", 3, (1.5, 1.4))],
            "auto": [epoch("auto", 2, (1.0, 0.9)), epoch("auto", 3, (1.25, 1.2))],  # the first epoch's record was lost
        }
    )
    losses, apart, _ = figure.axes
    nan = np.nan
    for line, expected in zip(
        [*losses.lines, *apart.lines],
        [[3.0, 2.0, nan, nan, 1.5, 1.4], [nan, nan, 1.0, 0.9, 1.25, 1.2], [nan, nan, nan, nan, 0.25, 0.2]],
        strict=True,
    ):
        np.testing.assert_array_equal(line.get_xdata(), range(6))
        np.testing.assert_allclose(np.asarray(line.get_ydata()), expected)
    plt.close(figure)


@pytest.mark.parametrize("differences", [(math.nan, 0.1), (0.1, math.nan)])
def test_a_difference_that_is_no_number_is_the_largest(differences: tuple[float, float]) -> None:
    row = report._training_row([epoch("auto", i + 1, (1.0,), d) for i, d in enumerate(differences)])
    assert math.isnan(row["difference"])
    assert report._training_row([epoch("stock", 1, (1.0,))])["difference"] is None


def test_what_went_wrong_in_a_training_is_listed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    failed = epoch("auto", 1, (math.nan,)).model_copy(
        update={"status": "wrong", "reasons": ("its loss is not finite",)}
    )
    with RecordWriter(folder.records_path / "train.jsonl") as writer:
        writer.write([failed])
    folder.config_path.write_text('name = "x"\n[train.choices]\nauto = {}\n', encoding="utf-8")
    page = report.write(folder).read_text(encoding="utf-8")
    assert "What went wrong" in page
    assert "every value was checked against" not in page
    assert f'<td>{failed.case}</td><td class="bad">wrong</td><td>its loss is not finite</td>' in page
