"""Configs: what they refuse and what they say, and that a resolved one reads back."""

from pathlib import Path

import pytest

from experiments import config as configs
from experiments.errors import ExperimentError

GOOD = """
name = "small"
[sweep]
layers = { a = "conv2d 1x8x8x3 -> 4 k3" }
[train.choices]
auto = {}
mixed = { conv = { fprop = ["winograd(tile=2)", "shift"], wgrad = "im2col" } }
"""
# The beginnings of tables that lack nothing.
SWEEP = "[sweep]\nlayers = { a = 'max2d 1x8x8x3 k2' }\n"
MODELS = "[models]\nnetworks = { a = {} }\n"


def load(tmp_path: Path, text: str, *settings: str) -> configs.Config:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return configs.load(path, settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[swep]", "unknown key 'swep' in the top level; did you mean 'sweep'?"),
        ('[sweep]\nwarmpu = 3\nlayers = { a = "max2d 1x8x8x3 k2" }', "'warmpu' in [sweep]; did you mean 'warmup'?"),
        ("[train.choices]\na = { pol = 'auto' }", "'pol' in [train.choices.a]; did you mean 'pool'?"),
        (
            "[train.choices]\na = { conv = { fpop = 'shift' } }",
            "input should be 'fprop', 'dgrad' or 'wgrad', got 'fpop'",
        ),
        ("[models]\nnetworks = { a = { bach = 2 } }", "'bach' in [models.networks.a]; did you mean 'batch'?"),
        ("[sweep]\nseconds = 1.0", "[sweep] has no layers"),
        ("[sweep]\nlayers = { a = 'conv2d 1x8x8x3 -> 4 k9' }", "sweep.layers: layer 'a': a kernel reaching over 9"),
        ("[sweep]\nlayers = { 'a/b' = 'max2d 1x8x8x3 k2' }", "the name 'a/b' may hold only"),
        (
            "[sweep]\nwarmup = 1.5\nlayers = { a = 'max2d 1x8x8x3 k2' }",
            "sweep.warmup: input should be a valid integer, got 1.5",
        ),
        (f"{SWEEP}passes = ['fprop', 'dgrad', 'fprop']", "sweep.passes: 'fprop' is named twice: name it once"),
        (f"{SWEEP}passes = []", "sweep.passes: it is empty: name one at least"),
        (f"{SWEEP}peers = ['torch', 'torch']", "sweep.peers: 'torch' is named twice"),
        (f"{SWEEP}algorithms = ['lax', 'lax']", "sweep.algorithms: 'lax' is named twice"),
        (
            f"{SWEEP}algorithms = 'lax'",
            "sweep.algorithms: it must be 'all' or a list of names, such as ['lax'], and is 'l",
        ),
        (f"{SWEEP}min_samples = 51", "sweep: min_samples 51 is more than max_samples 50"),
        (f"{MODELS}modes = ['train', 'train']", "models.modes: 'train' is named twice"),
        (f"{MODELS}modes = []", "models.modes: it is empty"),
        (f"{MODELS}variants = ['tuned', 'tuned']", "models.variants: 'tuned' is named twice"),
        (f"{MODELS}max_samples = 4", "models: min_samples 5 is more than max_samples 4"),
        ("seed = 4294967296", "seed: input should be less than 4294967296, got 4294967296"),
        ("seed = 2024-01-01", "seed = 2024-01-01 is a date, which no key takes: put it in quotes if it is a text"),
        ("[sweep]\nlayers = { a = 07:32:00 }", "sweep.layers.a = 07:32:00 is a date"),
        ("[sweep]\npasses = ['fprop', 2024-01-01T07:32:00Z]", "sweep.passes.1 = 2024-01-01 07:32:00+00:00 is a date"),
        ("[sweep", "is not TOML"),
    ],
)
def test_bad_configs_are_refused_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        load(tmp_path, f'name = "small"\n{text}')
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"absent.toml does not exist"):
        configs.load(tmp_path / "absent.toml")


def test_settings_override_and_are_checked(tmp_path: Path) -> None:
    changed = load(tmp_path, GOOD, "sweep.seconds=0.5", "sweep.algorithms=['shift']", "name=other")
    assert changed.sweep is not None
    assert (changed.sweep.seconds, changed.sweep.algorithms, changed.name) == (0.5, ("shift",), "other")
    assert load(tmp_path, GOOD, "seed=4294967295").seed == 2**32 - 1
    assert load(tmp_path, GOOD, "name=2024-01-01").name == "2024-01-01"
    for setting, said in [
        ("sweep.layers={ a = 2024-01-01 }", "sweep.layers.a = 2024-01-01 is a date"),
        ("seed=99999999999999999999", "seed: input should be less than 4294967296"),
        ("sweep.secs=1", "unknown key 'secs'"),
        ("seconds", "must read a.b=c"),
        ("name.x=1", "is a value"),
    ]:
        with pytest.raises(ExperimentError, match=said):
            load(tmp_path, GOOD, setting)


def test_resolved_config_reads_back(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert load(tmp_path, config.text()) == config
    changed = load(tmp_path, GOOD, "sweep.seconds=0.5")
    assert configs.differences(config, changed) == ["sweep.seconds: 0.1, now 0.5"]


CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(path for place in (".", "sweep", "train") for path in (CONFIGS / place).glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configs_load(path: Path) -> None:
    assert configs.load(path).name == path.stem
