"""Timed networks: one of the catalogue at the batch and the size it is timed at, in a file that configs share.

    network = "mobilenetv2"
    batch = 4
    size = 128

A config names such files under `models.files`; resolved, it holds the networks themselves.
"""

from collections.abc import Iterable
from pathlib import Path

from pydantic import PositiveInt

from experiments.errors import ExperimentError
from experiments.sections import Section, read


class TimedNetwork(Section):
    """A network of the catalogue at a batch and a size; without one, at its own."""

    batch: PositiveInt = 1
    size: PositiveInt | None = None


class _NetworkFile(TimedNetwork):
    network: str


def networks_of(paths: Iterable[str], directory: Path) -> dict[str, TimedNetwork]:
    """The networks in the files at `paths`, which are relative to `directory`, in their order."""
    found: dict[str, TimedNetwork] = {}
    source: dict[str, str] = {}
    for path in paths:
        file = read(directory / path, _NetworkFile, "network")
        if file.network in found:
            raise ExperimentError(f"{file.network!r} is in both {source[file.network]} and {path}: time it once")
        found[file.network] = TimedNetwork(batch=file.batch, size=file.size)
        source[file.network] = path
    return found
