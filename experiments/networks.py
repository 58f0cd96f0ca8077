"""Networks: an inference and a training step of each, stock, accelerated and by peers, checked and timed in turns."""

import contextlib
import dataclasses
import functools
import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import convjax
from convjax import timing
from convjax.plans import Plan
from experiments import peers, progress
from experiments.cases import Selection, versions
from experiments.checks import require_sound
from experiments.config import Config, Mode, Models
from experiments.folder import RunFolder, SharedPlans
from experiments.measure import Outcome, guarded
from experiments.models.catalogue import NETWORKS, Network
from experiments.network_steps import NetworkSteps, State, Training, distance, nearby, parameters, split
from experiments.records import NetworkRecord, Records, RecordWriter

STOCK = "stock"
# How long a variant runs before the next one does.
_TURN_SECONDS = 0.5
# What a convolution may be off by at default precision.
_APART = 2e-5
TUNED = "tuned"
# What each of our variants makes of a function.
_WAYS: dict[str, Callable[[Any], Any]] = {
    STOCK: lambda fn: fn,
    "accelerated": convjax.accelerate,
    TUNED: convjax.accelerate,
}


@dataclasses.dataclass(frozen=True)
class Group:
    """One network in one mode with everything that computes it: the cases that are timed in turns."""

    network: Network
    mode: Mode
    batch: int
    size: int
    variants: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"{self.network.name}/{self.mode}"

    def case(self, variant: str) -> str:
        """The id of a case: network/mode/variant."""
        return f"{self.id}/{variant}"

    def holds(self, variant: str, records: Records) -> bool:
        """Whether there is a record of a case as it is now: by the algorithms of today, where convjax computes it."""
        record = records.by_case.get(self.case(variant))
        if not isinstance(record, NetworkRecord):
            return False
        if record.status == "unsupported":  # by what may have been installed since
            return record.reasons == peers.absent()
        return variant == STOCK or variant in peers.CASES or record.versions == versions()


Todo = list[tuple[Group, list[str]]]


def groups(settings: Models) -> list[Group]:
    """All of a config, in the order of its networks and modes."""
    variants = (STOCK, *settings.variants, *settings.peers)
    return [
        Group(NETWORKS[name], mode, timed.batch, timed.size or NETWORKS[name].size, variants)
        for name, timed in settings.networks.items()
        for mode in settings.modes
    ]


def remaining(settings: Models, selection: Selection, records: Records) -> Todo:
    """The groups that have selected cases without a valid record, with the variants of these."""
    todo = [
        (group, [v for v in group.variants if selection.takes(group.case(v)) and not group.holds(v, records)])
        for index, group in enumerate(groups(settings))
        if selection.takes_group(index)
    ]
    return [(group, variants) for group, variants in todo if variants]


def run(
    config: Config, folder: RunFolder, selection: Selection, *, dry_run: bool = False, overwrite: bool = False
) -> None:
    """Checks and times the selected cases that have no valid record."""
    settings: Models = config.section("models")
    require_sound(config)
    folder.check(config, overwrite=overwrite)
    records = Records({}) if overwrite else folder.records()
    todo = remaining(settings, selection, records)
    cases = sum(len(variants) for _, variants in todo)
    print(f"models: {cases} cases in {len(todo)} groups to do, {len(records.networks)} recorded", flush=True)
    if dry_run:
        for group, variants in todo:
            print(f"{group.id}: {', '.join(variants)}")
        return
    environment = folder.prepare(config, overwrite=overwrite)["id"]
    plans = folder.plans(selection.suffix)
    if "tuned" in settings.variants:
        plans.load()  # says so if they are broken
    with (
        RecordWriter(folder.records_path / f"models{selection.suffix}.jsonl") as writer,
        progress.meter("models", len(todo)) as meter,
    ):
        for group, variants in todo:
            measurement = Measurement(group, settings, config.seed, environment, plans)
            measured = measurement.measure(variants)
            writer.write(measured)
            jax.clear_caches()  # a group's programs are not needed again
            meter.advance(_line(group, measured))


class Measurement:
    """The variants of one group on this machine."""

    def __init__(self, group: Group, settings: Models, seed: int, environment: str, plans: SharedPlans) -> None:
        self.group, self.settings, self.environment, self.plans = group, settings, environment, plans
        self.steps, self.state = _built(group.network, seed, settings.learning_rate)
        self.batch = tuple(map(jnp.asarray, group.network.batch(group.batch, group.size, seed)))
        self.parameters = parameters(self.state)
        inference = group.mode == "inference"
        self.bound = settings.output_tolerance if inference else settings.gradient_tolerance

    def measure(self, variants: Collection[str]) -> list[NetworkRecord]:
        """Their records. The stock network runs beside them in any case: it is what they are compared with."""
        present = [v for v in self.group.variants if v in variants or v == STOCK]
        stock = self._ours(STOCK)  # whose faults stop the experiment
        outcomes = {STOCK: stock} | {v: guarded(self._prepared, v) for v in present if v != STOCK}
        calls = {v: o.program for v, o in outcomes.items() if o.program}
        s = self.settings
        budget = timing.Budget(s.seconds, s.min_samples, s.max_samples)
        # As a training loop runs them: one and the same step again and again.
        samples = timing.interleave(calls, dict.fromkeys(calls, budget), turn_seconds=_TURN_SECONDS, settled=calls)
        losses = {v: self._losses(call) for v, call in calls.items()}
        loss_bound = self._loss_bound(stock.program, losses[STOCK]) if sum(map(bool, losses.values())) > 1 else None
        return [
            NetworkRecord(
                case=self.group.case(v),
                samples=tuple(samples.get(v, ())),
                compile_seconds=outcomes[v].compile_seconds,
                environment=self.environment,
                versions=versions(),
                network=self.group.network.name,
                mode=self.group.mode,
                variant=v,
                batch=self.group.batch,
                size=self.group.size,
                parameters=self.parameters,
                error=outcomes[v].error,
                error_bound=None if outcomes[v].error is None else self.bound,
                losses=losses.get(v, ()),
                baseline_seconds=statistics.median(samples[STOCK]),
                **self._verdict(outcomes[v], losses.get(v, ()), losses[STOCK], loss_bound),
            )
            for v in present
            if v in variants
        ]

    def _prepared(self, variant: str) -> Outcome:
        return self._ours(variant) if variant in _WAYS else self._by_torch()

    def _ours(self, variant: str) -> Outcome:
        """A variant of ours compiled, its value compared with stock's, and warmed up."""
        with self._tuned() if variant == TUNED else contextlib.nullcontext():
            return self._compiled(variant)

    @contextlib.contextmanager
    def _tuned(self) -> Iterator[None]:
        """Under plans for every problem of the step; those measured are kept, for a run that is interrupted."""
        steps, settings = self.steps, self.settings
        inference = self.group.mode == "inference"
        step, operands = (steps.inference, self.batch[:1]) if inference else (steps.train, self.batch)

        def keep(plan: Plan, done: int, total: int) -> None:
            self.plans.keep(plan)

        with convjax.using(self.plans.load()):
            tuned = convjax.accelerate(step)
            new = convjax.tune(tuned, self.state, *operands, seconds=settings.tune_seconds, progress=keep)
            with convjax.using(new):
                yield

    def _compiled(self, variant: str) -> Outcome:
        way, steps, inputs = _WAYS[variant], self.steps, self.batch[0]
        if self.group.mode == "inference":
            program: timing.Program | Training = timing.compile_program(way(steps.inference), self.state, inputs)
            value = program()
        else:
            value = timing.compile_program(way(steps.gradients), self.state, *self.batch)()
            program = Training(way(steps.train), self.state, *self.batch)
        if variant == STOCK:
            self.expected, error = value, None
        else:
            error, bound = distance(value, self.expected), self.bound
            if not error <= bound:  # NaN is wrong too
                reason = f"{error:.2g} from stock, above {bound:g}"
                return Outcome("wrong", (reason,), None, program.compile_seconds, error)
        for _ in range(self.settings.warmup):
            program()
        return Outcome("ok", (), program, program.compile_seconds, error)

    def _by_torch(self) -> Outcome:
        """The twin, which starts from parameters of its own: its values are compared where it is tested."""
        if reasons := peers.absent():
            return Outcome("unsupported", reasons)
        inputs, targets = map(np.asarray, self.batch)
        rate = self.settings.learning_rate
        step = peers.network_step(self.group.mode, self.group.network.name, inputs, targets, learning_rate=rate)
        for _ in range(self.settings.warmup):
            step()
        return Outcome("ok", (), step, 0.0)

    def _losses(self, call: Any) -> tuple[float, ...]:
        """Of the first `steps` steps, which are gone on with until there are so many."""
        if not isinstance(call, Training):
            return ()
        while len(call.losses) < self.settings.steps:
            call()
        return tuple(call.losses[: self.settings.steps])

    def _loss_bound(self, stock: Any, losses: Sequence[float]) -> float:
        """How far losses may be from stock's: in units of the first."""
        stock.start(nearby(self.state, _APART))
        return max(self.settings.loss_tolerance, 2 * _difference(self._losses(stock), losses))

    def _verdict(
        self, outcome: Outcome, losses: Sequence[float], stock: Sequence[float], bound: float | None
    ) -> dict[str, Any]:
        """Status and reasons, and how far the losses went from stock's."""
        if bound is None or not losses or losses is stock:
            return {"status": outcome.status, "reasons": outcome.reasons}
        told: dict[str, Any] = {"loss_difference": _difference(losses, stock), "loss_bound": bound}
        if told["loss_difference"] <= bound:
            return {"status": outcome.status, "reasons": outcome.reasons, **told}
        reason = "its losses differ by {loss_difference:.2g} of the first from stock's, above {loss_bound:.2g}"
        return {"status": "wrong", "reasons": (reason.format(**told),), **told}


def _difference(losses: Sequence[float], expected: Sequence[float]) -> float:
    """The largest at any step, relative to the first loss."""
    return float(np.max(np.abs(np.subtract(losses, expected)))) / abs(expected[0])


@functools.lru_cache(maxsize=1)  # both modes of a network start from one state, and come one after the other
def _built(network: Network, seed: int, learning_rate: float) -> tuple[NetworkSteps, State]:
    return split(network, network.build(nnx.Rngs(seed)), learning_rate)


def _line(group: Group, measured: list[NetworkRecord]) -> str:
    """`network/mode: stock 812.0 ms; accelerated 90.1 ms, 9.01x`."""
    told = [
        f"{r.variant} {1e3 * r.median:.1f} ms, {r.speedup:.2f}x"
        if r.median and r.speedup
        else f"{r.variant} {r.status}"
        for r in measured
    ]
    return f"{group.id}: {'; '.join(told)}"
