"""Files of plans: one name for each problem, and nothing left of one that could not be written."""

import json
from pathlib import Path

import pytest

from convjax.plans import Plan, Plans, Time
from convjax.problem import ConvSpec

TEXT = "conv float32[1,8,8,4] float32[3,3,4,2] b01f_01io->b01f"
PLANS = Plans((Plan(TEXT, "cpu", (Time("lax", 1, 1.0),)),))


def test_a_plan_written_under_another_name_of_a_dtype_is_found(tmp_path: Path) -> None:
    PLANS.save(tmp_path / "plans.json")
    text = (tmp_path / "plans.json").read_text()
    (tmp_path / "plans.json").write_text(text.replace("float32", "f4"))
    assert json.loads(text.replace("float32", "f4"))["plans"][0]["problem"] != TEXT
    assert Plans.load(tmp_path / "plans.json").find(ConvSpec.parse(TEXT), "cpu") == PLANS.entries[0]


def test_plans_that_cannot_be_written_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANS.save(tmp_path / "plans.json")
    kept = (tmp_path / "plans.json").read_text()

    def broken(draft: Path, text: str, encoding: str) -> None:
        draft.write_bytes(text[:20].encode(encoding))
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", broken)
        with pytest.raises(OSError, match="no space left"):
            Plans().save(tmp_path / "plans.json")
    assert [file.name for file in tmp_path.iterdir()] == ["plans.json"]
    assert (tmp_path / "plans.json").read_text() == kept
