"""Configs: what an experiment consists of. TOML in, checked here once, and written back resolved."""

import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
import tomli_w
from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, PositiveInt

from experiments import problems, sections, timed_networks
from experiments.errors import ExperimentError
from experiments.sections import Section, distinct, named, some
from experiments.timed_networks import TimedNetwork

Pass = Literal["fprop", "dgrad", "wgrad"]
PASSES: tuple[Pass, ...] = typing.get_args(Pass)
Mode = Literal["inference", "train"]
MODES: tuple[Mode, ...] = typing.get_args(Mode)
Peer = Literal["torch"]


def _layers(texts: dict[str, str]) -> dict[str, str]:
    for name, text in named(texts).items():
        problems.require_layer(name, text)
    return texts


def _all_or_names(value: Any) -> Any:
    if value == "all":
        return value
    if not isinstance(value, list | tuple):
        raise ValueError(f"it must be 'all' or a list of names, such as ['lax'], and is {value!r}")
    return distinct(tuple(value))  # no array of JSON any more, which a strict tuple takes


def _require_counts(least: int, most: int) -> None:
    if least > most:
        raise ValueError(f"min_samples {least} is more than max_samples {most}")


Paths = Annotated[tuple[str, ...], AfterValidator(distinct)]


class Sweep(Section):
    """Layers x passes x algorithms: each checked against float64, then timed."""

    passes: Annotated[tuple[Pass, ...], AfterValidator(some), AfterValidator(distinct)] = PASSES
    # "all", or names: `winograd` takes every variant of it, `winograd(tile=4)` only that one.
    algorithms: Annotated[Literal["all"] | tuple[str, ...], BeforeValidator(_all_or_names)] = "all"
    # Other libraries in the same turns; where one is not installed its cases are recorded as unsupported.
    peers: Annotated[tuple[Peer, ...], AfterValidator(distinct)] = ()
    # Untimed calls of a program before its first sample; the value check is the first of them.
    warmup: PositiveInt = 2
    # In a round a program is sampled until `seconds` are spent, within the two counts.
    seconds: PositiveFloat = 0.1
    min_samples: PositiveInt = 5
    max_samples: PositiveInt = 50
    # How often a group is sampled. A neighbour slows a shared machine for seconds at a time, which the samples of a
    # single round may all fall into.
    rounds: PositiveInt = 1
    # Groups (a layer and a pass each) that are compiled together, to be sampled one after another in every round;
    # with one round each group is done by itself. What is interrupted loses so many.
    round_groups: PositiveInt = 12
    # stock lax, convjax's own choice and peers get this many times the seconds and samples of an algorithm.
    favour: PositiveFloat = 2.0
    # A program whose warmed-up call takes longer than `slow_seconds` gets `slow_samples` samples in a round.
    slow_seconds: PositiveFloat = 0.1
    slow_samples: PositiveInt = 2
    # Beyond these a case is a `timeout`: predicted by the cost model before it runs, or found after it was compiled
    # or called once. Nothing within the process can interrupt either, so one call may overrun; it is not repeated.
    # stock lax and convjax's own choice are exempt: without them there is nothing to compare.
    predicted_limit_seconds: PositiveFloat = 5.0
    # The same, as so many times what is predicted of the choice: what could be faster is measured in less time.
    predicted_limit_times: PositiveFloat | None = None
    compile_limit_seconds: PositiveFloat = 10.0
    limit_seconds: PositiveFloat = 1.0
    # Compilations at a time; with more than one, `compile_seconds` are those of a busy machine.
    compile_threads: PositiveInt = 1
    # Files of named layers, relative to the config's own, and the batch of those that say N, for that of their list;
    # see experiments/problems.py. Resolved, the layers stand below.
    problems: Paths | None = None
    batch: PositiveInt | None = None
    # name -> text, such as "conv2d 4x56x56x64 -> 64 k3 p1"; see convjax/layer.py.
    layers: Annotated[dict[str, str], AfterValidator(_layers)] = Field(default={})

    @pydantic.model_validator(mode="after")
    def _counts(self) -> Self:
        _require_counts(self.min_samples, self.max_samples)
        return self


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
    choices: Annotated[dict[str, Choice], AfterValidator(named)] = Field(min_length=1)


class Models(Section):
    """Stock networks, an inference and a training step of each: as they are, accelerated, and by peers."""

    modes: Annotated[tuple[Mode, ...], AfterValidator(some), AfterValidator(distinct)] = MODES
    # Beside the stock network, which the others are compared with.
    variants: Annotated[tuple[Literal["accelerated", "tuned"], ...], AfterValidator(distinct)] = ("accelerated",)
    # For "tuned": the time spent on each algorithm of each problem of a network.
    tune_seconds: PositiveFloat = 0.05
    # The same networks by other libraries; where one is not installed its cases are recorded as unsupported.
    peers: Annotated[tuple[Peer, ...], AfterValidator(distinct)] = ()
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
    # Files of networks, relative to the config's own; see experiments/timed_networks.py. Resolved, they stand below,
    # where those of the same name go first.
    files: Paths | None = None
    networks: dict[str, TimedNetwork] = Field(default={})

    @pydantic.model_validator(mode="after")
    def _counts(self) -> Self:
        _require_counts(self.min_samples, self.max_samples)
        return self


class Config(Section):
    """One experiment."""

    name: str
    # jax keeps 32 bits of it.
    seed: int = Field(default=0, ge=0, lt=2**32)
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
    """The config in the file at `path` with `a.b=c` settings laid over it, the files that it names read."""
    config = sections.read(path, Config, "config", settings)
    resolved = {
        "sweep": config.sweep and _with_lists(config.sweep, path),
        "models": config.models and _with_files(config.models, path),
    }
    return config.model_copy(update=resolved)


def _with_lists(sweep: Sweep, path: Path) -> Sweep:
    """`sweep` of the config at `path` with the layers of its problem lists."""
    listed = problems.layers_of(sweep.problems or (), path.parent, sweep.batch)
    for name in listed.keys() & sweep.layers.keys():
        raise ExperimentError(f"config {path}: the layer {name!r} of sweep.layers is in one of sweep.problems as well")
    if sweep.batch and not sweep.problems:
        raise ExperimentError(f"config {path}: sweep.batch is of the lists in sweep.problems, and there are none")
    if not listed and not sweep.layers:
        raise ExperimentError(f"config {path}: [sweep] has no layers: give some under layers, or lists under problems")
    return sweep.model_copy(update={"layers": listed | sweep.layers, "problems": None, "batch": None})


def _with_files(models: Models, path: Path) -> Models:
    """`models` of the config at `path` with the networks of its files."""
    networks = timed_networks.networks_of(models.files or (), path.parent) | models.networks
    if not networks:
        raise ExperimentError(f"config {path}: [models] has no networks: give some under networks, or their files")
    return models.model_copy(update={"networks": networks, "files": None})


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
