"""Networks beside their PyTorch twins: timed in the same turns, and once torch is installed where it was not before."""

from pathlib import Path

import pytest

from experiments import config as configs
from experiments import networks, peers, results
from experiments.cases import Selection
from experiments.folder import RunFolder

CONFIG = """
name = "small"

[models]
peers = ["torch"]
seconds = 0.001
min_samples = 1
max_samples = 1
modes = ["inference"]
networks = { dpsgd = { batch = 2, size = 8 } }
"""


def test_twin_is_timed_once_torch_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = tmp_path / "models.toml", RunFolder(tmp_path / "run")
    path.write_text(CONFIG, encoding="utf-8")
    config = configs.load(path)
    with monkeypatch.context() as patched:
        patched.setattr(peers, "absent", lambda: ("torch is not installed",))
        networks.run(config, folder, Selection())
        twin = folder.records().networks[-1]
        assert (twin.variant, twin.status, twin.reasons) == ("torch", "unsupported", ("torch is not installed",))
        assert not networks.remaining(config.section("models"), Selection(), folder.records())
    before = folder.records().by_case
    networks.run(config, folder, Selection())
    stock, accelerated, twin = folder.records().networks
    assert (before[stock.case], before[accelerated.case]) == (stock, accelerated)
    assert (twin.status, len(twin.samples), twin.losses) == ("ok", 1, ())
    (means,) = results.network_means(results.network_rows(folder.records().networks))
    assert (means.networks, means.with_peer) == (1, 1)
    assert means.over_peer == pytest.approx(accelerated.speedup / twin.speedup)  # type: ignore[operator]
