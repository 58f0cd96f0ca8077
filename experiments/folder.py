"""A run folder: config, environment, records, plots, report, checkpoints and plans of one experiment."""

import dataclasses
import functools
import json
import operator
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import convjax
from convjax import whole_file
from convjax.plans import Plan
from experiments import config as configs
from experiments import environment, records
from experiments.config import Config
from experiments.errors import ExperimentError
from experiments.records import AnyRecord

# Patterns of names. Of environments, records and plans there are several files, so that no two shards write to one.
_CONTENTS = ("config.toml", "environment*.json", "records", "plots", "report.html", "checkpoints", "plans*.json")


@dataclasses.dataclass(frozen=True)
class SharedPlans:
    """The plans that the shards of one run keep, each in a file of its own."""

    folder: Path
    # Of the shard that keeps plans here.
    suffix: str

    @property
    def path(self) -> Path:
        return self.folder / f"plans{self.suffix}.json"

    def load(self) -> convjax.Plans:
        """Those of all shards; of two for one problem this shard's counts."""
        paths = sorted(self.folder.glob("plans*.json"), key=lambda path: path == self.path)
        try:
            return functools.reduce(operator.or_, map(convjax.Plans.load, paths), convjax.Plans())
        except ValueError as error:
            raise ExperimentError(f"{error}: delete that file, the next run tunes anew") from None

    def keep(self, plan: Plan) -> None:
        own = convjax.Plans.load(self.path) if self.path.exists() else convjax.Plans()
        (own | convjax.Plans((plan,))).save(self.path)


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
        present = {p.name for p in self.path.iterdir()} if self.path.exists() else set()
        # A draft of the config is that of another shard, which begins just now, or of an interrupted beginning.
        strange = {name for name in present if not name.startswith("config.toml.")}
        if strange and "config.toml" not in strange:
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
            whole_file.write(self.config_path, config.text())
        now = environment.describe()
        whole_file.write(self.path / f"environment-{now['id']}.json", json.dumps(now, indent=2) + "\n")
        return now

    def records(self) -> records.Records:
        return records.read(self.records_path.glob("*.jsonl"))

    def plans(self, suffix: str) -> SharedPlans:
        """The plans of a run as the shard with this suffix sees them."""
        return SharedPlans(self.path, suffix)

    def environments(self, made: Iterable[AnyRecord]) -> list[dict[str, Any]]:
        """What these records were measured on, of the newest first; a run resumed after an update has several."""
        found = self._environments()
        return [found[id_] for id_ in _named(made) if id_ in found]

    def lost_environments(self, made: Iterable[AnyRecord]) -> list[str]:
        """The files of environments that these records name, and that are not there."""
        found = self._environments()
        return [f"environment-{id_}.json" for id_ in _named(made) if id_ not in found]

    def _environments(self) -> dict[str, dict[str, Any]]:
        """Those described here, by id."""
        found: dict[str, dict[str, Any]] = {}
        for path in self.path.glob("environment*.json"):
            try:
                noted = json.loads(path.read_text(encoding="utf-8"))
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise ExperimentError(f"{path} is not JSON ({error}): delete it, the next run writes it anew") from None
            if not isinstance(noted, dict) or not isinstance(noted.get("id"), str):
                raise ExperimentError(
                    f"{path} describes no environment, which has an id: delete it, the next run writes it anew"
                )
            found[noted["id"]] = noted
        return found

    def _clear(self) -> None:
        for target in [path for pattern in _CONTENTS for path in self.path.glob(pattern)]:
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)


def _named(made: Iterable[AnyRecord]) -> dict[str, None]:
    """The ids of the environments that records name, that of the newest record first."""
    return dict.fromkeys(r.environment for r in sorted(made, key=lambda r: r.made, reverse=True))
