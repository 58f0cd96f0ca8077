"""Configs: what an experiment consists of. TOML in, checked here once, and written back resolved."""

import json
import re
import tomllib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from experiments.errors import ExperimentError, nearest
from experiments.layers import Layer

Pass = Literal["fprop", "dgrad", "wgrad"]
PASSES: tuple[Pass, ...] = typing.get_args(Pass)
Mode = Literal["inference", "train"]
MODES: tuple[Mode, ...] = typing.get_args(Mode)
Peer = Literal["torch"]

NAME = re.compile(r"[\w.@+-]+")


def _named(names: dict[str, Any]) -> dict[str, Any]:
    for name in names:
        if not NAME.fullmatch(name):
            raise ValueError(f"the name {name!r} may hold only letters, digits and _ . @ + -")
    return names


def _layers(texts: dict[str, str]) -> dict[str, str]:
    for name, text in _named(texts).items():
        Layer.parse(name, text)
    return texts


class Section(BaseModel):
    """A table of the config: strict, and without unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Sweep(Section):
    """Layers x passes x algorithms: each checked against float64, then timed."""

    passes: tuple[Pass, ...] = PASSES
    # "all", or names: `winograd` takes every variant of it, `winograd(tile=4)` only that one.
    algorithms: Literal["all"] | tuple[str, ...] = "all"
    # Other libraries in the same turns; where one is not installed its cases are recorded as unsupported.
    peers: tuple[Peer, ...] = ()
    # Untimed calls of a program before its first sample; the value check is the first of them.
    warmup: PositiveInt = 2
    # A program is sampled until `seconds` are spent, within the two counts.
    seconds: PositiveFloat = 0.1
    min_samples: PositiveInt = 5
    max_samples: PositiveInt = 50
    # stock lax, convjax's own choice and peers get this many times the seconds and samples of an algorithm.
    favour: PositiveFloat = 2.0
    # A program whose warmed-up call takes longer than `slow_seconds` gets `slow_samples` samples.
    slow_seconds: PositiveFloat = 0.1
    slow_samples: PositiveInt = 2
    # Beyond these a case is a `timeout`: predicted by the cost model before it runs, or found after it was compiled
    # or called once. Nothing within the process can interrupt either, so one call may overrun; it is not repeated.
    # stock lax and convjax's own choice are exempt: without them there is nothing to compare.
    predicted_limit_seconds: PositiveFloat = 5.0
    compile_limit_seconds: PositiveFloat = 10.0
    limit_seconds: PositiveFloat = 1.0
    # Compilations at a time; with more than one, `compile_seconds` are those of a busy machine.
    compile_threads: PositiveInt = 1
    # name -> text, such as "conv2d 4x56x56x64 -> 64 k3 p1"; see experiments/layers.py.
    layers: Annotated[dict[str, str], AfterValidator(_layers)] = Field(min_length=1)


AlgorithmName = str | tuple[str, ...]


class Choice(Section):
    """How a network's convolutions and poolings are computed.

    "stock" is jax.lax itself and "auto" convjax's own choice; else an algorithm's name, several names, of which
    the first that applies is taken, or one of these for each pass.
    """

    conv: AlgorithmName | dict[Pass, AlgorithmName] = "auto"
    pool: Literal["auto", "stock"] = "auto"


class Train(Section):
    """The digits network, trained once for each choice from the same seed on the same batches."""

    epochs: PositiveInt = 10
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 2e-3
    width: PositiveInt = 32
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    # What every choice must reach at the end, and how far its loss may be from the first choice's at any step.
    accuracy: Annotated[float, Field(ge=0, le=1)] = 0.97
    loss_tolerance: PositiveFloat = 0.05
    choices: Annotated[dict[str, Choice], AfterValidator(_named)] = Field(min_length=1)


class TimedNetwork(Section):
    """A network of the catalogue at a batch and a size; without one, at its own."""

    batch: PositiveInt = 1
    size: PositiveInt | None = None


class Models(Section):
    """Stock networks, an inference and a training step of each: as they are, accelerated, and by peers."""

    modes: tuple[Mode, ...] = MODES
    # Beside the stock network, which the others are compared with.
    variants: tuple[Literal["accelerated"], ...] = ("accelerated",)
    # The same networks by other libraries; where one is not installed its cases are recorded as unsupported.
    peers: tuple[Peer, ...] = ()
    # Untimed calls before the first sample; then each variant is sampled until `seconds` are spent, within the counts.
    warmup: PositiveInt = 1
    seconds: PositiveFloat = 2.0
    min_samples: PositiveInt = 5
    max_samples: PositiveInt = 50
    learning_rate: PositiveFloat = 1e-3
    # How far an output may be from stock's, and how far the loss and any parameter's gradient, relative in the 2-norm.
    # Gradients are given more room: where the input of a rectifier is rounded to the other side of zero, a path through
    # the network is switched on or off.
    output_tolerance: PositiveFloat = 1e-3
    gradient_tolerance: PositiveFloat = 2e-2
    # Training goes on to this many steps, and no loss may be further from stock's at the same step than this part of
    # the first; or, as training amplifies whatever is rounded differently, than twice as far as stock's own losses go
    # apart when its parameters start 2e-5 off, which is what a convolution may be off. None are compared if 0.
    steps: int = Field(default=0, ge=0)
    loss_tolerance: PositiveFloat = 0.01
    networks: dict[str, TimedNetwork] = Field(min_length=1)


class Config(Section):
    """One experiment."""

    name: str
    seed: int = Field(default=0, ge=0)
    sweep: Sweep | None = None
    train: Train | None = None
    models: Models | None = None

    def section(self, name: Literal["sweep", "train", "models"]) -> Any:
        """The table `name`, which a command needs."""
        value = getattr(self, name)
        if value is None:
            raise ExperimentError(f"config {self.name!r} has no [{name}] table: add one, or use a config that has it")
        return value

    def text(self) -> str:
        """The resolved config as TOML, every default written out; it reads back to an equal one."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def load(path: Path, settings: Sequence[str] = ()) -> Config:
    """The config in the file at `path` with `a.b=c` settings laid over it."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExperimentError(f"config {path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExperimentError(f"config {path} is not TOML: {error}") from None
    for setting in settings:
        _lay_over(data, setting)
    try:
        # JSON, because a strict tuple takes an array there but no list in Python.
        return Config.model_validate_json(json.dumps(data))
    except pydantic.ValidationError as error:
        raise ExperimentError(f"config {path}: {_sentence(error)}") from None


def differences(a: Config, b: Config) -> list[str]:
    """`a.b.c: old, new` for every key in which two configs differ."""
    left, right = _flat(a.model_dump(mode="json")), _flat(b.model_dump(mode="json"))
    keys = [*left, *(key for key in right if key not in left)]
    return [f"{key}: {left.get(key)}, now {right.get(key)}" for key in keys if left.get(key) != right.get(key)]


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _lay_over(data: dict[str, Any], setting: str) -> None:
    """Sets one `a.b=c` in `data`; c is read as TOML, and as a plain string where it is not."""
    key, equals, text = setting.partition("=")
    *parents, last = key.split(".")
    if not equals or not all([*parents, last]):
        raise ExperimentError(f"--set {setting!r} must read a.b=c, such as sweep.seconds=0.2")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ExperimentError(f"--set {setting!r}: {parent!r} is a value and not a table")
    data[last] = value


def _sentence(error: pydantic.ValidationError) -> str:
    """The first thing wrong, with the place it stands in and, for an unknown key, the nearest valid one."""
    # Of a union every member complains; the one that got deepest is the one that was meant.
    first = max(error.errors(), key=lambda e: len(e["loc"]))
    where = [str(part) for part in first["loc"] if not re.search(r"\W", str(part)) or NAME.fullmatch(str(part))]
    if first["type"] == "extra_forbidden":
        table = f"[{'.'.join(where[:-1])}]" if len(where) > 1 else "the top level"
        return f"unknown key {where[-1]!r} in {table}{nearest(where[-1], _keys(where[:-1]))}"
    if first["type"] == "missing":
        return f"the key {'.'.join(where)!r} is missing"
    message = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(where)}: {message[0].lower() + message[1:]}" + (
        "" if first["type"] == "value_error" else f", got {first['input']!r}"
    )


def _keys(where: list[str]) -> list[str]:
    """The valid keys of the table that stands at `where` in a config."""
    annotation: Any = Config
    for part in where:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            annotation = annotation.model_fields[part].annotation
        elif typing.get_origin(annotation) is dict:
            annotation = typing.get_args(annotation)[1]
        if isinstance(annotation, types.UnionType):
            annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    return list(annotation.model_fields)
