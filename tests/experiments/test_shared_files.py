"""The files of a run folder: written whole, and lost to no shard that writes at the same time."""

import concurrent.futures
import itertools
import threading
from pathlib import Path
from typing import Any

import pytest

from convjax import whole_file
from convjax.device import devices
from experiments import environment, fit
from experiments.config import Config
from experiments.errors import ExperimentError
from experiments.folder import RunFolder
from experiments.records import TrainRecord


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Texts are cut in the middle by an interruption, until this is undone."""

    def half(path: Path, text: str, **_: Any) -> None:
        path.write_bytes(text[: len(text) // 2].encode())
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", half)
    return monkeypatch


def test_interrupted_write_leaves_the_old_text(tmp_path: Path, interrupted: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"the old")
    with pytest.raises(KeyboardInterrupt):
        whole_file.write(path, "the new one")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x.txt", b"the old")]
    interrupted.undo()
    whole_file.write(path, "the new one")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x.txt", b"the new one")]


def test_interrupted_fit_leaves_the_constants(tmp_path: Path, interrupted: pytest.MonkeyPatch) -> None:
    path = tmp_path / "devices.toml"
    path.write_bytes(b"[other]\ngemm = 1.0\n")
    with pytest.raises(KeyboardInterrupt):
        fit.store(path, "cpu", devices()["cpu"], "New.")
    assert path.read_bytes() == b"[other]\ngemm = 1.0\n"


def test_interrupted_beginning_is_begun_again(config: Config, tmp_path: Path, interrupted: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        folder.prepare(config)
    assert not folder.config_path.exists()
    interrupted.undo()
    folder.prepare(config)
    assert folder.config() == config


def record(environment: str, made: float) -> TrainRecord:
    return TrainRecord.model_construct(environment=environment, made=made)


def test_environments_of_shards_that_begin_at_once_are_all_kept(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, shards = RunFolder(tmp_path / "run"), 8
    folder.prepare(config)
    count, together = itertools.count(), threading.Barrier(shards)

    def describe() -> dict[str, Any]:
        together.wait()
        return {"id": f"e{next(count)}", "cpu": "x" * 10_000}

    monkeypatch.setattr(environment, "describe", describe)
    with concurrent.futures.ThreadPoolExecutor(shards) as pool:
        begun = pool.map(lambda _: folder.prepare(config)["id"], range(shards))
    expected = sorted(begun)
    assert expected == [f"e{i}" for i in range(shards)]
    made = [record(id_, float(id_[1:])) for id_ in expected]
    assert [e["id"] for e in folder.environments(made)] == expected[::-1]  # the newest first
    assert [e["id"] for e in folder.environments(made[:2])] == ["e1", "e0"]  # of these records alone
    assert folder.lost_environments(made) == []
    (folder.path / "environment-e1.json").unlink()
    assert [e["id"] for e in folder.environments(made[:2])] == ["e0"]
    assert folder.lost_environments(made) == ["environment-e1.json"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[]", "describes no environment, which has an id"),
        (b"{}", "describes no environment, which has an id"),
        (b'{"id": []}', "describes no environment, which has an id"),
        (b"\xff{}", "is not JSON .* codec can't decode"),
        (b"{", "is not JSON"),
    ],
)
def test_damaged_environment_is_named(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "environment-abc.json").write_bytes(text)
    with pytest.raises(
        ExperimentError, match=rf"environment-abc.json {said}.*: delete it, the next run writes it anew"
    ):
        RunFolder(tmp_path).environments([])
