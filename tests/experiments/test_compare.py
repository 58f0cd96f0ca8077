"""Comparing runs: of the same problems alone, and what is left out is told."""

from pathlib import Path

import pytest
from test_records import sweep_record, train_record

from experiments.cases import Selection
from experiments.compare import comparison, print_comparison
from experiments.errors import ExperimentError
from experiments.folder import RunFolder
from experiments.records import AnyRecord, NetworkRecord, RecordWriter

CONFIG = 'name = "x"\n[sweep.layers]\na = "conv2d 1x8x8x3 -> 4 k3"\n'


def run_of(path: Path, *records: AnyRecord) -> RunFolder:
    folder = RunFolder(path)
    with RecordWriter(folder.records_path / "all.jsonl") as writer:
        writer.write(records)
    folder.config_path.write_text(CONFIG, encoding="utf-8")
    return folder


def network_record(**update: object) -> NetworkRecord:
    record = NetworkRecord(
        case="tiny/train/stock",
        status="ok",
        samples=(0.1, 0.2, 0.3),
        environment="abc",
        network="tiny",
        mode="train",
        variant="stock",
        batch=2,
        size=6,
    )
    return record.model_copy(update=update)


def test_cases_of_one_problem_that_are_right_in_both_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["same", "resized", "wrong", "quick", "untimed", "unsupported"]
    first = {name: sweep_record(f"{name}/fprop/auto") for name in names}
    second = dict(first)
    second["resized"] = first["resized"].model_copy(update={"problem": "conv float32[1,9,9,3]"})
    second["wrong"] = first["wrong"].model_copy(update={"status": "wrong"})
    second["quick"] = first["quick"].model_copy(update={"samples": (0.0, 0.0, 0.001)})
    second["untimed"] = first["untimed"].model_copy(update={"samples": ()})
    for records in (first, second):
        records["unsupported"] = records["unsupported"].model_copy(update={"status": "unsupported", "samples": ()})
    left = sweep_record("left/fprop/auto")
    a = run_of(tmp_path / "a", *first.values(), left)
    b = run_of(tmp_path / "b", *second.values(), *(sweep_record(f"right{i}/fprop/auto") for i in range(4)))
    found = comparison(a, b, Selection())
    assert [r.case for r in found.ratios] == ["same/fprop/auto"]
    assert found.left_out == {
        "of another problem": ["resized/fprop/auto"],
        "not right in one": ["wrong/fprop/auto"],
        "with samples of 0 s": ["quick/fprop/auto"],
        "without samples in one": ["untimed/fprop/auto"],
        "only in a": ["left/fprop/auto"],
        "only in b": [f"right{i}/fprop/auto" for i in range(4)],
    }
    print_comparison(a, b, Selection())
    printed = capsys.readouterr().out
    assert "1 case of another problem: resized/fprop/auto\n" in printed
    assert "4 cases only in b: right0/fprop/auto, right1/fprop/auto, right2/fprop/auto, ..." in printed


@pytest.mark.parametrize("update", [{"batch": 4}, {"size": 8}])
def test_networks_of_another_batch_or_size_are_not_compared(tmp_path: Path, update: dict[str, object]) -> None:
    a, b = run_of(tmp_path / "a", network_record()), run_of(tmp_path / "b", network_record(**update))
    assert comparison(a, a, Selection()).left_out == {}
    assert comparison(a, b, Selection()).left_out == {"of another problem": ["tiny/train/stock"]}
    with pytest.raises(ExperimentError, match=r"no timed case in common \(1 case of another problem: tiny/train/stock"):
        print_comparison(a, b, Selection())


@pytest.mark.parametrize("update", [{"losses": (1.0,)}, {"algorithms": "shift"}, {"parameters": 11}])
def test_trainings_of_other_settings_are_not_compared(tmp_path: Path, update: dict[str, object]) -> None:
    record = train_record(1).model_copy(update={"samples": (0.1, 0.2, 0.3)})
    a, b = run_of(tmp_path / "a", record), run_of(tmp_path / "b", record.model_copy(update=update))
    assert len(comparison(a, a, Selection()).ratios) == 1
    assert comparison(a, b, Selection()).left_out == {"of another problem": [record.case]}


def test_environments_are_compared_as_far_as_they_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (run_of(tmp_path / name, sweep_record("same/fprop/auto")) for name in "ab")
    (b.path / "environment-abc.json").write_text('{"id": "abc", "cores": 2}', encoding="utf-8")
    print_comparison(a, b, Selection())
    printed = capsys.readouterr().out
    assert "a lacks environment-abc.json: what its records were measured on is not known" in printed
    assert "b lacks" not in printed
    assert "None" not in printed
    (a.path / "environment-abc.json").write_text('{"id": "abc", "cores": 4}', encoding="utf-8")
    print_comparison(a, b, Selection())
    assert "cores: 4 / 2" in capsys.readouterr().out
