"""Networks timed: steps that train and keep statistics, and records that are right, complete and resumed."""

import dataclasses
import functools
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import convjax
from convjax.algorithms.conv.winograd import Winograd
from experiments import config as configs
from experiments import networks, report
from experiments.cases import Selection
from experiments.cli import main
from experiments.config import Config
from experiments.errors import ExperimentError
from experiments.folder import RunFolder
from experiments.listing import print_cases
from experiments.models.catalogue import NETWORKS, Network, squared_error
from experiments.models.layers import ConvNorm
from experiments.network_steps import Training, distance, nearby, split
from experiments.records import Records
from experiments.results import network_means, network_rows

SMALL = """
name = "small"

[models]
seconds = 0.001
min_samples = 1
max_samples = 1
learning_rate = 0.05
steps = 3
networks = { tiny = { batch = 2, size = 6 } }
"""


# A convolution and a norm, 60 parameters.
TINY = Network(
    "tiny",
    lambda rngs: ConvNorm(2, 3, (3, 3), rngs=rngs),
    input_shape=lambda size: (size, size, 2),
    target_shape=lambda size: (size, size, 3),
    classes=None,
    loss=squared_error,
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "tiny", TINY)


def config_of(tmp_path: Path, *settings: str) -> Config:
    path = tmp_path / "models.toml"
    path.write_text(SMALL, encoding="utf-8")
    return configs.load(path, settings)


def test_steps_descend_and_keep_statistics() -> None:
    steps, state = split(TINY, TINY.build(nnx.Rngs(0)), 0.1)
    inputs, targets = map(jnp.asarray, TINY.batch(4, 5, 0))
    conv = np.asarray(nnx.merge(steps.still, *state).conv(inputs))
    mean, var = conv.mean((0, 1, 2)), conv.var((0, 1, 2))
    normed = (conv - mean) / np.sqrt(var + 1e-5)

    (params, rest), loss = jax.jit(steps.train)(state, inputs, targets)
    np.testing.assert_allclose(loss, np.square(normed - targets).mean(), rtol=1e-5)
    np.testing.assert_allclose(
        params["norm"]["bias"][...], -0.1 * 2 / 3 * (normed - targets).mean((0, 1, 2)), rtol=1e-4
    )
    np.testing.assert_allclose(rest["norm"]["mean"][...], 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(rest["norm"]["var"][...], 0.9 + 0.1 * var, rtol=1e-4)

    # On running statistics, 0 and 1, the norm only scales.
    loss, gradient = jax.jit(steps.gradients)(state, inputs, targets)
    np.testing.assert_allclose(loss, np.square(conv / np.sqrt(1 + 1e-5) - targets).mean(), rtol=1e-5)
    assert jax.tree.structure(gradient) == jax.tree.structure(state[0])

    training = Training(steps.train, state, inputs, targets)
    for _ in range(3):
        training()
    assert training.losses[0] > training.losses[1] > training.losses[2]
    assert all(not leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_nearby_parameters_are_off_by_what_is_asked() -> None:
    state = {"a": jnp.ones((30, 40)), "b": jnp.full(500, -3.0)}, {"mean": jnp.zeros(2)}
    params, rest = nearby(state, 1e-3)
    assert rest is state[1]
    for name, value in params.items():
        assert distance(value, state[0][name]) == pytest.approx(1e-3, rel=0.1)


def test_distance_is_that_of_the_worst_array() -> None:
    expected = {"a": np.array([3.0, 4.0]), "b": np.zeros(2)}
    assert distance(expected, expected) == 0
    assert distance({"a": np.array([3.0, 4.5]), "b": np.zeros(2)}, expected) == pytest.approx(0.1)
    assert distance({"a": expected["a"], "b": np.array([0.0, 0.2])}, expected) == pytest.approx(0.2)
    assert np.isnan(distance({"a": expected["a"], "b": np.array([0.0, np.nan])}, expected))


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["experiments", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_networks_are_checked_timed_resumed_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config_of(tmp_path)
    folder = RunFolder(tmp_path / "run")
    train = ("train", "--config", tmp_path / "models.toml", "--workdir", folder.path)
    assert command(monkeypatch, *train, "--only", "inference") == 0
    path = folder.records_path / "models.jsonl"
    before = path.read_bytes()
    assert command(monkeypatch, *train) == 0
    assert path.read_bytes().startswith(before)
    assert command(monkeypatch, *train) == 0
    assert "models: 0 cases in 0 groups to do, 4 recorded" in capsys.readouterr().out
    assert len(path.read_bytes().splitlines()) == 4

    records = folder.records()
    assert list(records.by_case) == [
        f"tiny/{mode}/{variant}" for mode in ("inference", "train") for variant in ("stock", "accelerated")
    ]
    for record in records.networks:
        assert (record.status, len(record.samples), record.parameters) == ("ok", 1, 60)
        assert (record.compile_seconds or 0) > 0
        assert (record.error is None) == (record.variant == "stock")
        assert len(record.losses) == (3 if record.mode == "train" else 0)
    stock, accelerated = records.networks[2:]
    assert stock.losses[0] > stock.losses[-1]
    assert accelerated.loss_difference is not None
    assert accelerated.loss_bound is not None
    assert accelerated.loss_difference <= accelerated.loss_bound == 0.01
    assert 0 < accelerated.speedup == stock.median / accelerated.median  # type: ignore[operator]
    page = report.write(folder).read_text(encoding="utf-8")
    assert 'alt="Speed of networks relative to stock"' in page
    assert "<th>status</th>" not in page
    assert "tiny" in page


def test_tuned_networks_follow_plans_that_are_kept(tmp_path: Path) -> None:
    config = config_of(tmp_path, 'models.variants=["tuned"]', 'models.modes=["train"]', "models.tune_seconds=0.001")
    folder = RunFolder(tmp_path / "run")
    networks.run(config, folder, Selection())
    stock, tuned = folder.records().networks
    assert (tuned.variant, tuned.status, len(tuned.losses)) == ("tuned", "ok", 3)
    assert tuned.losses == pytest.approx(stock.losses, rel=1e-5)
    plans = convjax.Plans.load(folder.path / "plans.json")
    assert len(plans) == 2  # the convolution and its weight gradient; nothing asks for that of the images
    (folder.records_path / "models.jsonl").unlink()
    networks.run(config, folder, Selection())
    assert convjax.Plans.load(folder.path / "plans.json") == plans


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff"])
def test_broken_plans_are_named_and_no_fault_of_a_network(tmp_path: Path, text: bytes) -> None:
    config = config_of(tmp_path, 'models.variants=["tuned"]', 'models.modes=["inference"]')
    folder = RunFolder(tmp_path / "run")
    folder.prepare(config)
    path = folder.plans("-1of2").path
    path.write_bytes(text)
    with pytest.raises(ExperimentError, match=r"plans-1of2.json .*: delete that file, the next run tunes anew"):
        networks.run(config, folder, Selection())
    assert not folder.records().by_case


def test_shards_keep_plans_in_files_of_their_own_and_follow_each_other_s(tmp_path: Path) -> None:
    config = config_of(tmp_path, 'models.variants=["tuned"]', "models.tune_seconds=0.001")
    folder = RunFolder(tmp_path / "run")
    for part in (1, 2):  # inference; training, which has the same convolution
        networks.run(config, folder, Selection(shard=(part, 2)))
    kept = {part: convjax.Plans.load(folder.path / f"plans-{part}of2.json") for part in (1, 2)}
    assert {part: len(plans) for part, plans in kept.items()} == {1: 1, 2: 1}
    assert folder.plans("-1of2").load() == kept[2] | kept[1]
    (plan,) = kept[1]
    (other,) = kept[2]
    again = dataclasses.replace(other, times=plan.times)
    folder.plans("-1of2").keep(again)
    assert set(convjax.Plans.load(folder.path / "plans-1of2.json")) == {plan, again}
    assert set(folder.plans("-1of2").load()) == {plan, again}
    assert set(folder.plans("-2of2").load()) == {plan, other}


def test_cases_of_other_versions_of_the_algorithms_are_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, 'models.modes=["inference"]')
    folder, settings = RunFolder(tmp_path / "run"), config.section("models")
    networks.run(config, folder, Selection())
    assert not networks.remaining(settings, Selection(), folder.records())
    monkeypatch.setattr(Winograd, "version", Winograd.version + 1)
    ((_, variants),) = networks.remaining(settings, Selection(), folder.records())
    assert variants == ["accelerated"]  # stock has none of them
    networks.run(config, folder, Selection())
    assert not networks.remaining(settings, Selection(), folder.records())


def test_what_is_too_far_from_stock_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def faulty(fn: Any) -> Any:
        scaled = functools.wraps(fn)(lambda *args: jax.tree.map(lambda y: 1.01 * y, fn(*args)))
        return fn if fn.__name__ == "gradients" else scaled

    monkeypatch.setitem(networks._WAYS, "accelerated", faulty)
    folder = RunFolder(tmp_path / "run")
    networks.run(config_of(tmp_path, "models.loss_tolerance=0.001"), folder, Selection())
    _, output, _, losses = folder.records().networks
    assert (output.status, output.samples) == ("wrong", ())
    assert output.reasons == ("0.01 from stock, above 0.001",)
    assert (losses.status, losses.error, len(losses.samples)) == ("wrong", 0.0, 1)
    assert re.fullmatch(r"its losses differ by .* of the first from stock's, above 0.001", losses.reasons[0])

    assert re.search(r"tiny/train: stock [\d.]+ ms, 1.00x; accelerated wrong", capsys.readouterr().out)
    rows = network_rows(folder.records().networks)
    assert [row.speedup("accelerated") for row in rows] == [None, None]
    assert network_means(rows) == []
    page = report.write(folder).read_text(encoding="utf-8")
    _, failures, table = re.split("<h2>What went wrong</h2>|<h2>Networks</h2>", page)
    for case in ("tiny/inference/accelerated", "tiny/train/accelerated"):
        assert f'<td>{case}</td><td class="bad">wrong</td>' in failures
    assert "<th>status</th>" in table


def test_dry_run_and_list_name_the_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(tmp_path)
    networks.run(config, RunFolder(tmp_path / "run"), Selection(), dry_run=True)
    print_cases(config, Selection(only=re.compile("train")), None)
    printed = capsys.readouterr().out
    assert "tiny/inference: stock, accelerated" in printed
    assert "2x6x6x2" in printed
    assert "2 of networks" in printed
    assert not (tmp_path / "run").exists()


def test_unknown_network_is_named_with_the_nearest(tmp_path: Path) -> None:
    config = config_of(tmp_path, "models.networks={ resnet19 = {} }")
    with pytest.raises(ExperimentError, match="'resnet19' is no network; did you mean 'resnet18'"):
        networks.run(config, RunFolder(tmp_path / "run"), Selection())


def test_every_group_is_in_exactly_one_shard(tmp_path: Path) -> None:
    settings = config_of(tmp_path).section("models")
    parts = [networks.remaining(settings, Selection(shard=(i, 2)), Records({})) for i in (1, 2)]
    assert [[group.id for group, _ in part] for part in parts] == [["tiny/inference"], ["tiny/train"]]
