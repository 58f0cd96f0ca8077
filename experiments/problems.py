"""Problem lists: the layers of one network or family, by name, in a file that configs share.

    batch = 4                                        # where a layer says N, unless the config says otherwise

    [layers]
    "resnet-64-3x3@56" = "conv2d Nx56x56x64 -> 64 k3 p1"

A config names lists under `sweep.problems`; resolved, it holds their layers itself.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Self

import pydantic
from pydantic import AfterValidator, Field, PositiveInt

from convjax.layer import Layer
from experiments.errors import ExperimentError
from experiments.sections import Section, named, read


def require_layer(name: str, text: str) -> None:
    """Refuses with a `ValueError` what cannot be read as a layer, and a layer that computes nothing."""
    layer = Layer.parse(name, text)
    if 0 in (*layer.x_shape, *(layer.w_shape or ())):
        raise ValueError(f"layer {name!r}: {text!r} is empty: its batch, space and channels must be at least 1")


class ProblemList(Section):
    """Named layers, whose batch may be left to a config."""

    batch: PositiveInt = 1
    layers: Annotated[dict[str, str], AfterValidator(named)] = Field(min_length=1)

    @pydantic.model_validator(mode="after")
    def _reads(self) -> Self:
        for name, text in self.at(None).items():
            require_layer(name, text)
        return self

    def at(self, batch: int | None) -> dict[str, str]:
        """The layers, with `batch` or else the list's own where they say N."""
        size = self.batch if batch is None else batch
        return {name: re.sub(r"(?<= )N(?=x)", str(size), text, count=1) for name, text in self.layers.items()}


def layers_of(paths: Iterable[str], directory: Path, batch: int | None) -> dict[str, str]:
    """The layers of the lists at `paths`, which are relative to `directory`, in their order."""
    found: dict[str, str] = {}
    source: dict[str, str] = {}
    for path in paths:
        layers = read(directory / path, ProblemList, "problem list").at(batch)
        for name in found.keys() & layers.keys():
            raise ExperimentError(f"the layer {name!r} is in both {source[name]} and {path}: name each layer once")
        found |= layers
        source |= dict.fromkeys(layers, path)
    return found
