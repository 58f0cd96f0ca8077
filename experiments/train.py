"""Training: one network, several algorithm choices, the same seed and batches, and what each step took.

The choices go epoch by epoch in turns, so that their step times can be compared. Each epoch ends in a
checkpoint and then a record; a run that was interrupted goes on behind the last epoch that has both.
"""

import functools
import logging
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

from convjax import timing
from experiments import progress
from experiments.cases import Selection, epoch_case, epochs, trained, versions
from experiments.checks import require_sound
from experiments.config import Choice, Config, Train
from experiments.errors import ExperimentError
from experiments.folder import RunFolder
from experiments.models.choices import describe, digits_net
from experiments.models.digits import Digits
from experiments.records import Records, RecordWriter, TrainRecord

State = dict[str, Any]

# Characters of what orbax says of a damaged checkpoint.
_MOST_TOLD = 120


def run(
    config: Config, folder: RunFolder, selection: Selection, *, dry_run: bool = False, overwrite: bool = False
) -> None:
    """Trains every selected choice to the last epoch, resuming what is there."""
    settings: Train = config.section("train")
    require_sound(config)
    folder.check(config, overwrite=overwrite)
    records = Records({}) if overwrite else folder.records()
    todo, finished = epochs(settings, selection, records), trained(records)
    first = next(iter(settings.choices))
    _require_first(first, todo, finished)
    print(f"train: {len(todo)} epochs to do, {len(finished)} recorded", flush=True)
    if dry_run:
        print(*(epoch_case(*place) for place in todo), sep="\n", end="\n" if todo else "")
        return
    environment = folder.prepare(config, overwrite=overwrite)["id"]
    if not todo:
        return
    data = Digits.load(settings.test_fraction, config.seed)
    logging.getLogger("absl").setLevel(logging.WARNING)  # orbax reports every file it touches
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # and what it did not wait for in a damaged checkpoint
    with RecordWriter(folder.records_path / "train.jsonl") as writer, progress.meter("training", len(todo)) as meter:
        params = nnx.state(digits_net(settings, Choice(), config.seed))  # the same for every choice
        runs: dict[str, ChoiceRun] = {}
        for epoch, name in todo:
            if name not in runs:
                done = {e for e in range(1, epoch) if epoch_case(e, name) in finished}
                runs[name] = ChoiceRun(config, name, data, params, folder.checkpoints_path.resolve() / name, done)
            peer = None if name == first else finished[epoch_case(epoch, first)]
            record = runs[name].train_epoch(epoch, environment, peer)
            writer.write([record])
            finished[record.case] = record
            meter.advance(_line(record))
        for choice_run in runs.values():
            choice_run.checkpoints.close()


def _require_first(first: str, todo: list[tuple[int, str]], finished: Collection[str]) -> None:
    """Refuses to train an epoch whose losses could not be compared with those of the first choice."""
    for epoch, name in todo:
        case = epoch_case(epoch, first)
        if (epoch, first) not in todo and case not in finished:
            raise ExperimentError(
                f"train: {epoch_case(epoch, name)} is compared with {case}, which has no record of today's algorithms "
                "and is not selected: select it as well"
            )


class ChoiceRun:
    """The network under one choice: its compiled step, its state and its checkpoints."""

    def __init__(
        self, config: Config, name: str, data: Digits, params: Any, directory: Path, done: Collection[int]
    ) -> None:
        settings: Train = config.section("train")
        self.name, self.data, self.settings, self.seed = name, data, settings, config.seed
        self.choice = settings.choices[name]
        graph = nnx.graphdef(nnx.eval_shape(functools.partial(digits_net, settings, self.choice, config.seed)))
        steps = settings.epochs * (len(data.train_images) // settings.batch_size)
        optimiser = optax.adam(optax.cosine_decay_schedule(settings.learning_rate, steps))
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
        self.state: State = {"params": params, "optimiser": optimiser.init(params)}
        images = jnp.asarray(data.train_images[: settings.batch_size])
        labels = jnp.asarray(data.train_labels[: settings.batch_size])
        program = timing.compile_program(functools.partial(_step, graph, optimiser), self.state, images, labels)
        program()  # warms up; its result is not kept
        self.step, self.compile_seconds = program.executable, program.compile_seconds
        self.predict = jax.jit(lambda params, images: nnx.merge(graph, params)(images).argmax(-1))
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self.checkpoints = ocp.CheckpointManager(directory, options=options)
        self.epoch = 0
        self._resume(done)

    def train_epoch(self, epoch: int, environment: str, peer: TrainRecord | None) -> TrainRecord:
        """Trains up to the end of `epoch`, saves a checkpoint and says how it went beside `peer`."""
        while self.epoch < epoch:  # more than one only where checkpoints were lost
            self.epoch += 1
            losses, seconds = self._one_epoch(self.epoch)
        self.checkpoints.save(epoch, args=ocp.args.StandardSave(self.state), force=True)
        trained, tested = self._accuracies()
        difference = _difference(losses, peer.losses) if peer else None
        reasons = _shortcomings(self.settings, epoch, tested, losses, difference)
        return TrainRecord(
            case=epoch_case(epoch, self.name),
            status="wrong" if reasons else "ok",
            reasons=reasons,
            samples=tuple(seconds),
            compile_seconds=self.compile_seconds,
            environment=environment,
            versions=versions(),
            choice=self.name,
            algorithms=describe(self.choice),
            epoch=epoch,
            losses=tuple(losses),
            loss_difference=difference,
            train_accuracy=trained,
            test_accuracy=tested,
            parameters=self.parameters,
        )

    def _one_epoch(self, epoch: int) -> tuple[list[float], list[float]]:
        losses, seconds = [], []
        for images, labels in self.data.batches(self.settings.batch_size, (self.seed, epoch)):
            batch = jnp.asarray(images), jnp.asarray(labels)
            start = time.perf_counter()
            self.state, loss = jax.block_until_ready(self.step(self.state, *batch))
            seconds.append(time.perf_counter() - start)
            losses.append(float(loss))
        return losses, seconds

    def _accuracies(self) -> tuple[float, float]:
        """The parts of the training and of the test images that are named rightly."""
        images = np.concatenate([self.data.train_images, self.data.test_images])  # one program for both
        right = np.asarray(self.predict(self.state["params"], images)) == self.data.labels
        train, test = np.split(right, [len(self.data.train_images)])
        return float(train.mean()), float(test.mean())

    def _resume(self, done: Collection[int]) -> None:
        """Takes up the newest checkpoint of the epochs that are done; others, by other algorithms, are retrained."""
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, self.state)
        for step in sorted(self.checkpoints.all_steps(), reverse=True):
            if step in done and not self.epoch:
                try:
                    self.state = self.checkpoints.restore(step, args=ocp.args.StandardRestore(target))
                except Exception as error:  # orbax raises no narrower one where it cannot read an array
                    told = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])[:_MOST_TOLD]
                    print(f"train: dropped the checkpoint {self.name}/{step}, which is damaged: {told}", flush=True)
                else:
                    self.epoch = step
            if step not in done or not self.epoch:
                self.checkpoints.delete(step)


def _step(graph: Any, optimiser: Any, state: State, images: jax.Array, labels: jax.Array) -> tuple[State, jax.Array]:
    def loss(params: Any) -> jax.Array:
        logits = nnx.merge(graph, params)(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    value, gradient = jax.value_and_grad(loss)(state["params"])
    updates, memory = optimiser.update(gradient, state["optimiser"], state["params"])
    return {"params": optax.apply_updates(state["params"], updates), "optimiser": memory}, value


def _difference(losses: Sequence[float], expected: Sequence[float]) -> float:
    """The largest at any step; NaN where a loss is NaN, or both are infinite."""
    with np.errstate(invalid="ignore"):
        return float(np.max(np.abs(np.subtract(losses, expected))))


def _shortcomings(
    settings: Train, epoch: int, accuracy: float, losses: Sequence[float], difference: float | None
) -> tuple[str, ...]:
    reasons = []
    if not np.all(np.isfinite(losses)):
        reasons.append("its loss is not finite")
    if epoch == settings.epochs and not accuracy >= settings.accuracy:  # NaN is wrong too
        reasons.append(f"test accuracy {accuracy:.4f} is below {settings.accuracy}")
    if difference is not None and not difference <= settings.loss_tolerance:
        reasons.append(
            f"its losses differ by {difference:.2g} from the first choice's, above {settings.loss_tolerance}"
        )
    return tuple(reasons)


def _line(record: TrainRecord) -> str:
    median = record.median or 0.0
    return (
        f"{record.choice} epoch {record.epoch}: loss {record.losses[-1]:.4f}, "
        f"test accuracy {record.test_accuracy:.2%}, {1e3 * median:.2f} ms a step"
    )
