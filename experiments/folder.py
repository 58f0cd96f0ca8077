"""A run folder: config, environment, records, plots, report, checkpoints and plans of one experiment."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from experiments import config as configs
from experiments import environment, records
from experiments.config import Config
from experiments.errors import ExperimentError

_CONTENTS = ("config.toml", "environment.json", "records", "plots", "report.html", "checkpoints", "plans.json")


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The paths of one run and what is read from them."""

    path: Path

    @property
    def config_path(self) -> Path:
        return self.path / "config.toml"

    @property
    def records_path(self) -> Path:
        return self.path / "records"

    @property
    def plots_path(self) -> Path:
        return self.path / "plots"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    @property
    def plans_path(self) -> Path:
        return self.path / "plans.json"

    @property
    def checkpoints_path(self) -> Path:
        return self.path / "checkpoints"

    def config(self) -> Config:
        """The resolved config the run was made with."""
        if not self.config_path.exists():
            raise ExperimentError(f"{self.path} is not a run folder: it holds no config.toml")
        return configs.load(self.config_path)

    def require_config(self, config: Config) -> None:
        """Refuses a config that differs from the one the folder's records were made with."""
        if not self.config_path.exists():
            return
        changes = configs.differences(self.config(), config)
        if changes:
            told = "; ".join(changes[:3]) + ("; ..." if len(changes) > 3 else "")
            raise ExperimentError(
                f"{self.path} holds a run of another config ({told}): "
                "use another --workdir, or --overwrite to start afresh"
            )

    def check(self, config: Config, *, overwrite: bool = False) -> None:
        """Refuses what `prepare` would, and changes nothing."""
        if self.path.exists() and not self.config_path.exists() and any(self.path.iterdir()):
            raise ExperimentError(
                f"{self.path} is not a run folder (no config.toml in it): --overwrite deletes nothing there"
                if overwrite
                else f"{self.path} is not empty and not a run folder: use another --workdir"
            )
        if not overwrite:
            self.require_config(config)

    def prepare(self, config: Config, *, overwrite: bool = False) -> dict[str, Any]:
        """Makes the folder ready to be resumed or begun, and returns the environment its new records name."""
        self.check(config, overwrite=overwrite)
        if overwrite:
            self._clear()
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.config_path.exists():
            self.config_path.write_text(config.text(), encoding="utf-8")
        return self._note_environment()

    def records(self) -> records.Records:
        return records.read(self.records_path.glob("*.jsonl"))

    def environments(self) -> list[dict[str, Any]]:
        """The environment of the newest records first; a run resumed after an update has several."""
        path = self.path / "environment.json"
        try:
            newest = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except json.JSONDecodeError as error:
            raise ExperimentError(f"{path} is not JSON ({error}): delete it, the next run writes it anew") from None
        earlier = newest.pop("earlier", [])
        return [newest, *earlier]

    def _note_environment(self) -> dict[str, Any]:
        now = environment.describe()
        earlier = [e for e in self.environments() if e["id"] != now["id"]]
        text = json.dumps({**now, "earlier": earlier} if earlier else now, indent=2)
        (self.path / "environment.json").write_text(text + "\n", encoding="utf-8")
        return now

    def _clear(self) -> None:
        for name in _CONTENTS:
            target = self.path / name
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
