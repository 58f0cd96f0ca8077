"""A config small enough to be measured within a test."""

from pathlib import Path

import pytest

from experiments import config as configs
from experiments.config import Config

SMALL = """
name = "small"

[sweep]
algorithms = ["lax", "winograd"]
warmup = 1
seconds = 0.001
min_samples = 3
max_samples = 3
predicted_limit_seconds = 100.0
compile_limit_seconds = 100.0
limit_seconds = 100.0

[sweep.layers]
dense = "conv2d 1x6x6x4 -> 4 k3 p1"
depthwise = "depthwise2d 1x6x6x4 k3 p1"
pool = "max2d 1x6x6x4 k2"

[train]
epochs = 3
batch_size = 256
width = 4
accuracy = 0.0

[train.choices]
stock = { conv = "stock", pool = "stock" }
auto = {}
"""


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return path


@pytest.fixture
def config(config_path: Path) -> Config:
    return configs.load(config_path)
