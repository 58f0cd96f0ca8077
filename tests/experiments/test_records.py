"""Records: written, read back, and read past damage."""

import math
from pathlib import Path

import pytest

from experiments.records import RecordWriter, SweepRecord, TrainRecord, read


def sweep_record(case: str, samples: tuple[float, ...] = (0.002, 0.001, 0.003)) -> SweepRecord:
    layer, pass_, algorithm = case.split("/")
    return SweepRecord.model_validate(
        {
            "case": case,
            "status": "ok",
            "samples": samples,
            "compile_seconds": 0.5,
            "environment": "abc",
            "layer": layer,
            "layer_text": "conv2d 1x8x8x3 -> 4 k3",
            "pass": pass_,
            "algorithm": algorithm,
            "version": 1,
            "problem": "conv float32[1,8,8,3] float32[3,3,3,4] b01f_01io->b01f",
            "fields": {"strides": [1, 1]},
            "flops": 1000,
            "bytes": 2000,
            "workspace_bytes": 0,
            "error": 1e-7,
            "error_bound": 1e-6,
            "baseline_seconds": 0.004,
        }
    )


def train_record(epoch: int) -> TrainRecord:
    return TrainRecord(
        case=f"train/a/epoch-{epoch:03d}",
        status="ok",
        environment="abc",
        choice="a",
        algorithms="auto",
        epoch=epoch,
        losses=(1.0, 0.5),
        loss_difference=None,
        train_accuracy=0.9,
        test_accuracy=0.9,
        parameters=10,
    )


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 7.0)


def test_round_trip(tmp_path: Path) -> None:
    lost = train_record(2).model_copy(update={"losses": (math.inf, -math.inf)})
    records = [sweep_record("a/fprop/shift"), train_record(1), lost]
    with RecordWriter(tmp_path / "records" / "x.jsonl") as writer:
        writer.write(records)
    found = read((tmp_path / "records").glob("*.jsonl"))
    assert list(found.by_case.values()) == [r.model_copy(update={"made": 7.0}) for r in records]
    assert found.broken == 0
    assert (found.sweep[0].median, found.sweep[0].speedup) == (0.002, 2.0)


def test_a_loss_that_is_no_number_is_read_back(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "x.jsonl") as writer:
        writer.write([train_record(1).model_copy(update={"losses": (1.0, math.nan), "loss_difference": math.nan})])
    found = read([tmp_path / "x.jsonl"])
    assert found.broken == 0
    assert math.isnan(found.train[0].losses[1])


@pytest.mark.parametrize(
    "damage", [b'{"case": "b/fprop/sh', b"\xff\xfe\n", b"[]\n", b'{"kind": "sweep", "case": "b/fprop/shift"}\n']
)
def test_damage_is_counted_and_swallows_nothing(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "x.jsonl"
    first, second = sweep_record("a/fprop/shift"), sweep_record("b/fprop/shift")
    with RecordWriter(path) as writer:
        writer.write([first])
    with path.open("ab") as file:
        file.write(damage)
    with RecordWriter(path) as writer:
        writer.write([second])
    found = read([path])
    assert list(found.by_case.values()) == [r.model_copy(update={"made": 7.0}) for r in (first, second)]
    assert found.broken == 1


def test_later_record_of_a_case_counts(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with RecordWriter(path) as writer:
        writer.write([sweep_record("a/fprop/shift"), sweep_record("a/fprop/shift", (0.009,))])
    assert [r.samples for r in read([path]).sweep] == [(0.009,)]


def test_record_made_later_counts_whatever_its_file_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As shards write them: "sweep-1of2.jsonl" is read before "sweep.jsonl".
    whole, shard = tmp_path / "sweep.jsonl", tmp_path / "sweep-1of2.jsonl"
    for path, version, made in [(whole, 1, 10.0), (shard, 2, 20.0)]:
        monkeypatch.setattr("time.time", lambda made=made: made)
        with RecordWriter(path) as writer:
            writer.write([sweep_record("a/fprop/shift").model_copy(update={"version": version})])
    (found,) = read([whole, shard]).sweep
    assert (found.version, found.made) == (2, 20.0)


def test_record_without_a_time_is_older_than_those_with(tmp_path: Path) -> None:
    old = sweep_record("a/fprop/shift", (0.009,)).model_dump_json(exclude={"made"})
    (tmp_path / "sweep.jsonl").write_text(old + "\n")
    assert [r.samples for r in read(tmp_path.glob("*")).sweep] == [(0.009,)]
    with RecordWriter(tmp_path / "sweep-1of2.jsonl") as writer:
        writer.write([sweep_record("a/fprop/shift", (0.001,))])
    assert [r.samples for r in read(tmp_path.glob("*")).sweep] == [(0.001,)]
