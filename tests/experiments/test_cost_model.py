"""The fitted cost model: constants that made the times are found again, and choose as they choose."""

import dataclasses
import functools
import tomllib
from pathlib import Path

import numpy as np
import pytest
from test_records import sweep_record

import convjax
from convjax.choose import choose
from convjax.device import Device, devices
from convjax.layer import Layer
from convjax.request import Policy, Request
from convjax.target import Target
from experiments import config as configs
from experiments import cost_model, fit
from experiments.errors import ExperimentError
from experiments.folder import RunFolder
from experiments.programs import layer_problem
from experiments.records import RecordWriter, SweepRecord
from experiments.results import cells

CPU_LAYERS = Path(__file__).parents[2] / "configs" / "sweep" / "cpu_layers.toml"
TRUE = Device(gemm=4e10, vector=2e10, library=9e10, scalar=3e8, memory=8e9, call=3e-6)


def layers() -> dict[str, str]:
    """Every third layer."""
    return dict(list(configs.load(CPU_LAYERS).section("sweep").layers.items())[::3])


@functools.cache
def records(device: Device, outliers: float = 0.0) -> list[SweepRecord]:
    """What a sweep of forward passes would record on `device`, with some times far too long."""
    generator, found = np.random.default_rng(0), []
    for name, text in layers().items():
        problem = layer_problem(Layer.parse(name, text))
        for algorithm in convjax.algorithms(problem.operation):
            if algorithm.unsupported(problem, "cpu"):
                continue
            seconds = device.seconds(algorithm.cost(problem)) * (3.0 if generator.random() < outliers else 1.0)
            update = {"layer_text": text, "problem": str(problem), "version": algorithm.version}
            record = sweep_record(f"{name}/fprop/{algorithm}", (seconds,))
            found.append(record.model_copy(update=update))
    return found


def times(device: Device, outliers: float = 0.0) -> cost_model.Times:
    return cost_model.times_of(cells(records(device, outliers), list(layers())), "cpu")


def test_known_constants_are_recovered() -> None:
    measured, shipped = times(TRUE), devices()["cpu"]
    assert cost_model.predicting(measured, shipped) == TRUE
    for count, bias in cost_model.by_algorithm(measured, dataclasses.replace(TRUE, call=TRUE.call / 2)).values():
        assert count > 0
        assert 0.5 <= bias < 1
    found = cost_model.fit(measured, shipped)
    # lax keeps its place against small gains, so even these choices lose some time, and the fit gives way to that.
    assert found.regret.mean <= cost_model.judge(measured, TRUE).regret.mean
    assert found.error < 1.05
    for rate in cost_model.RATES:
        assert getattr(found.device, rate) == pytest.approx(getattr(TRUE, rate), rel=0.25)


def test_outliers_do_not_bend_them_and_the_regret_falls() -> None:
    measured = times(TRUE, outliers=0.08)
    shipped, found = cost_model.judge(measured, devices()["cpu"]), cost_model.fit(measured, devices()["cpu"])
    assert found.regret.mean < shipped.regret.mean
    assert found.error < shipped.error
    robust = cost_model.predicting(measured, devices()["cpu"])
    for rate in cost_model.RATES:
        assert getattr(robust, rate) == pytest.approx(getattr(TRUE, rate), rel=0.15)


def test_it_chooses_as_the_library_does() -> None:
    measured = times(devices()["cpu"])
    request = Request(policy=Policy(device=TRUE))
    chosen = cost_model.judge(measured, TRUE).regret.chosen
    for cell, names, index in zip(measured.cells, measured.names, chosen, strict=True):
        problem = layer_problem(Layer.parse(cell.layer, layers()[cell.layer]))
        assert str(choose(problem, request, Target("cpu")).algorithm) == names[index]


def times_with(update: dict[str, object] | None) -> tuple[cost_model.Times, str]:
    """Of one row, in which the second candidate's record is changed so, or lost, and that candidate's name."""
    cell = cells(records(TRUE)[:8], list(layers()))[0]
    name = list(cell.records)[1]
    kept = {n: r for n, r in cell.records.items() if n != name}
    if update is not None:
        kept[name] = cell.records[name].model_copy(update=update)
    return cost_model.times_of([dataclasses.replace(cell, records=kept)], "cpu"), name


@pytest.mark.parametrize("status", ["timeout", "wrong", "error"])
def test_what_was_stopped_counts_as_the_slowest(status: str) -> None:
    measured, name = times_with({"status": status, "samples": ()})
    index = measured.names[0].index(name)
    assert not measured.timed[0, index]
    assert measured.seconds[0, index] == measured.seconds[0][measured.timed[0]].max()


@pytest.mark.parametrize("update", [None, {"version": -1}, {"version": -1, "status": "timeout", "samples": ()}])
def test_what_has_no_record_of_today_is_left_out(update: dict[str, object] | None) -> None:
    complete, _ = times_with({})
    measured, name = times_with(update)
    assert measured.names[0] == tuple(n for n in complete.names[0] if n != name)
    assert measured.seconds.shape == (1, len(measured.names[0]))
    assert measured.left_out == complete.left_out + 1


def test_the_command_prints_and_stores_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output, latin = RunFolder(tmp_path / "run"), tmp_path / "devices.toml", tmp_path / "latin.toml"
    folder.path.mkdir()
    latin.write_bytes("# für\n".encode("latin-1"))
    config = configs.load(CPU_LAYERS)
    folder.config_path.write_text(config.text(), encoding="utf-8")
    with pytest.raises(ExperimentError, match="has no sweep records yet"):
        fit.run(folder, None)
    environment = folder.prepare(config)["id"]
    made = [record.model_copy(update={"environment": environment}) for record in records(TRUE)]
    with RecordWriter(folder.records_path / "sweep.jsonl") as writer:
        writer.write(made[:20])
    file = folder.path / f"environment-{environment}.json"
    kept = file.read_bytes()
    file.unlink()
    with pytest.raises(ExperimentError, match=f"run lacks {file.name}, which its records name"):
        fit.run(folder, output)
    file.write_bytes(kept)
    with pytest.raises(ExperimentError, match=r"has \d+ timed cases .* need at least 60"):
        fit.run(folder, output)
    assert not output.exists()
    for unwritable, said in [
        (tmp_path / "nowhere" / "devices.toml", r"nowhere/devices.toml cannot be written: .*nowhere is no folder"),
        (latin, r"latin.toml is not TOML: 'utf-8' codec can't decode"),
    ]:
        with pytest.raises(ExperimentError, match=said):
            fit.run(folder, unwritable)
    with RecordWriter(folder.records_path / "sweep.jsonl") as writer:
        writer.write(made[20:])
    other = "# The file.\n\n# Of another.\n[other]\ngemm = 1.0\n"
    output.write_text(f"{other}\n# Old.\n# Older.\n[cpu]\ngemm = 2.0\n", encoding="utf-8")
    device = fit.run(folder, output).device
    written = output.read_text(encoding="utf-8")
    assert written.startswith(other)
    assert "Old" not in written
    assert tomllib.loads(written) == {"other": {"gemm": 1.0}, "cpu": dataclasses.asdict(device)}
    printed = capsys.readouterr().out
    assert "left out" not in printed
    old = [record.model_copy(update={"version": -1}) for record in made[-2:]]
    with RecordWriter(folder.records_path / "sweep.jsonl") as writer:
        writer.write(old)
    fit.run(folder, None)
    assert "2 candidates are left out for want of a record of today's version" in capsys.readouterr().out
    for told in ("regret, geometric mean", "regret, worst", "predictions are off by", "im2col, ", "shipped", "gemm"):
        assert told in printed
