"""The table of families: means, worst cases and regret from records alone."""

import dataclasses
import re
from pathlib import Path

import pytest
from rich.console import Console
from test_records import sweep_record

from experiments import config as configs
from experiments import families, report, tables
from experiments.folder import RunFolder
from experiments.records import RecordWriter, SweepRecord
from experiments.results import Cell, cells

LAYERS = {"wide": "depthwise2d 1x9x9x4 k3", "narrow": "depthwise2d 1x9x9x2 k3", "point": "conv2d 1x9x9x8 -> 8 k1"}


def record(case: str, seconds: float, **fields: object) -> SweepRecord:
    """Stock lax takes 8 seconds everywhere."""
    layer = case.split("/")[0]
    chosen = {"chosen": "shift(by=multiply)"} if case.endswith("/auto") else {}
    update = {"layer_text": LAYERS[layer], "baseline_seconds": 8.0, "error_bound": 1e-6, "bytes": 1000, **chosen}
    return sweep_record(case, (seconds,)).model_copy(update=update | fields)


RECORDS = [
    # Twice as fast as lax, half as fast as the faster of torch's layouts, and a candidate is 4/3 faster.
    record("wide/fprop/jax.lax", 8.0, compile_seconds=0.5),
    record("wide/fprop/auto", 4.0, compile_seconds=1.6, workspace_bytes=4001),
    record("wide/fprop/shift(by=multiply)", 4.1),
    record("wide/fprop/im2col", 3.0),
    record("wide/fprop/fft", 1.0, error_bound=1e-3),  # too inexact to be chosen
    record("wide/fprop/torch", 2.0),
    record("wide/fprop/torch (channels last)", 2.5),
    # Eight times as fast as lax, the choice itself is the fastest.
    record("narrow/dgrad/jax.lax", 8.0),
    record("narrow/dgrad/auto", 1.0, workspace_bytes=4000),
    record("narrow/dgrad/shift(by=multiply)", 0.9),
    # Slower than lax.
    record("point/wgrad/jax.lax", 8.0),
    record("point/wgrad/auto", 10.0, compile_seconds=1.4),
]


@pytest.fixture(scope="module")
def table() -> list[Cell]:
    return cells(RECORDS, list(LAYERS))


def test_rows_hold_means_and_the_worst(table: list[Cell]) -> None:
    depthwise, pointwise, everything = families.rows(table)
    assert [row.family for row in (depthwise, pointwise, everything)] == ["depthwise to 7", "1x1", families.EVERYTHING]
    assert (depthwise.layers, everything.layers) == (2, 3)
    assert depthwise.over_stock.keys() == {"fprop", "dgrad", "gradients", "all"}
    every = depthwise.over_stock["all"]
    assert (every.count, every.mean, every.worst, every.where) == (2, pytest.approx(4.0), 2.0, "wide/fprop")
    assert everything.over_stock["gradients"].mean == pytest.approx((8 * 0.8) ** 0.5)
    assert depthwise.over_torch.keys() == {"fprop", "all"}
    assert depthwise.over_torch["all"].mean == pytest.approx(0.5)
    assert depthwise.regret is not None
    assert (depthwise.regret.mean, depthwise.regret.worst) == (pytest.approx((4 / 3) ** 0.5), pytest.approx(4 / 3))
    assert pointwise.regret is None


def test_regret_is_of_what_each_gains_over_stock_in_its_own_turns(table: list[Cell]) -> None:
    """The candidate was measured anew while everything took twice as long: 4/3 as fast as the choice all the same."""
    wide, narrow, _ = table
    slowed = record("wide/fprop/im2col", 6.0, baseline_seconds=16.0)
    resumed = dataclasses.replace(wide, records=wide.records | {"im2col": slowed})
    assert resumed.best_candidate == slowed
    assert resumed.regret == pytest.approx(4 / 3) == wide.regret
    assert [cell.is_of_several_turns for cell in (wide, narrow, resumed)] == [False, False, True]
    untold = {name: r.model_copy(update={"baseline_seconds": None}) for name, r in wide.records.items()}
    assert dataclasses.replace(wide, records=untold).regret == pytest.approx(4 / 3)


def test_rows_of_several_turns_are_told(tmp_path: Path) -> None:
    page = page_of(tmp_path, RECORDS)
    assert "all from the same turns.</p>" in page
    assert "their milliseconds are not to be compared" not in page
    resumed = [r if r.algorithm != "im2col" else r.model_copy(update={"baseline_seconds": 16.0}) for r in RECORDS]
    page = page_of(tmp_path, resumed)
    assert "In 1 row not all records come from the same turns (wide/fprop):" in page


def test_shortcomings_are_listed(table: list[Cell]) -> None:
    wide, narrow, point = table
    assert families.regretted(table) == [wide]
    assert families.regretted(table, most=0) == []
    assert wide.best_candidate is not None
    assert wide.best_candidate.algorithm == "im2col"
    assert narrow.regret == 1.0
    assert families.behind(table) == [point]  # half as fast as torch is not below half
    assert families.late(table) == [wide]
    assert families.large(table) == [wide]


def test_gradients_are_set_beside_the_forward_pass() -> None:
    times = {"fprop": 0.1, "dgrad": 1.5, "wgrad": 1.0}
    table = cells([record(f"narrow/{p}/auto", seconds) for p, seconds in times.items()], list(LAYERS))
    ((slow, ratio),) = families.long_gradients(table)
    assert (slow.pass_, ratio) == ("dgrad", pytest.approx(15.0))


def page_of(tmp_path: Path, records: list[SweepRecord]) -> str:
    """The report of a run that holds these records, at last."""
    folder = RunFolder(tmp_path)
    text = "".join(f'{name} = "{text}"\n' for name, text in LAYERS.items())
    (tmp_path / "config.toml").write_text(f'name = "x"\n[sweep.layers]\n{text}', encoding="utf-8")
    assert configs.load(folder.config_path).name == "x"
    with RecordWriter(folder.records_path / "sweep.jsonl") as writer:
        writer.write(records)
    return report.write(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize("algorithm", ["im2col", "jax.lax"])
def test_a_report_of_algorithms_without_a_choice_is_made(tmp_path: Path, algorithm: str) -> None:
    page = page_of(tmp_path, [r for r in RECORDS if r.algorithm == algorithm])
    assert "Family by family" not in page
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["error.png", "speed.png"]


def test_a_report_shows_and_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = page_of(tmp_path, RECORDS)
    for title in ("Family by family", "loses most", "choice is behind", "compiles long or needs much memory"):
        assert title in page
    assert (tmp_path / "plots" / "families.png").exists()
    printed = capsys.readouterr().out
    assert re.search(r"depthwise to 7 +2 +2.00x \(2.00x\)", printed)
    assert "own choice over torch: geometric means" in printed


@pytest.mark.parametrize("width", [80, 100])
def test_no_figure_is_cut_on_a_narrow_terminal(
    table: list[Cell], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setattr(tables, "console", lambda _: Console(width=width, markup=False))
    report._print_families(families.rows(table))
    printed = capsys.readouterr().out
    assert "…" not in printed
    for figure in ("8.00x", "(1.33x)", "0.50x", "(0.80x)"):
        assert figure in printed.split()


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, ""), (1.18, "1180"), (0.5678, "568"), (0.0999, "99.9"), (0.00123, "1.23")]
)
def test_milliseconds_are_no_powers_of_ten(seconds: float | None, said: str) -> None:
    assert report._milliseconds(seconds) == said
