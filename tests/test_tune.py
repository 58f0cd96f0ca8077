"""Tuned plans: what is measured, kept, merged and followed, and that a change of plans is a change of program."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import convjax
from convjax import measure
from convjax.device_kind import device_kind
from convjax.plans import Plan, Plans, Time
from convjax.problem import parse

X, W, DEPTHWISE = jnp.ones((2, 9, 8, 4)), jnp.ones((3, 3, 4, 6)), jnp.ones((3, 3, 4, 1))
KIND = device_kind("cpu") or ""


def loss(w: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.square(convjax.depthwise_conv(x, w, padding="SAME")).sum()


gradient = jax.grad(loss)


def conv(x: jax.Array) -> jax.Array:
    return convjax.conv(x, W)


PROBLEM = parse("conv float32[2,9,8,4] float32[3,3,4,6] b01f_01io->b01f")


@pytest.fixture(scope="module")
def plans() -> Plans:
    return convjax.tune(gradient, DEPTHWISE, X, seconds=1e-3)


def plan_for(problem: Any, *times: tuple[str, float], device: str = KIND) -> Plan:
    versions = {str(a): a.version for a in convjax.algorithms("conv")}
    return Plan(str(problem), device, tuple(Time(name, versions.get(name, 1), s) for name, s in times))


def taken(fn: Any = conv, *args: Any) -> Any:
    return convjax.explain(fn, *(args or (X,)), platform="cpu").rows[0]


# Measuring.


def test_every_problem_of_a_gradient_is_measured_once_and_followed(plans: Plans) -> None:
    rows = convjax.explain(gradient, DEPTHWISE, X).rows
    assert {plan.problem for plan in plans} == {str(row.problem) for row in rows}
    assert all(plan.device == KIND and plan.times for plan in plans)
    assert all(list(p.times) == sorted(p.times, key=lambda t: t.seconds) for p in plans)
    with convjax.using(plans, on_miss="error"):
        followed = convjax.explain(gradient, DEPTHWISE, X).rows
        assert ", measured " in str(convjax.explain(gradient, DEPTHWISE, X))
        value = jax.jit(gradient)(DEPTHWISE, X)
    fastest = {plan.problem: plan.times[0] for plan in plans}
    for row in followed:
        assert (row.algorithm, row.measured) == (
            fastest[str(row.problem)].algorithm,
            fastest[str(row.problem)].seconds,
        )
        assert row.reason.startswith(("measured fastest of", "the only one measured"))
    np.testing.assert_allclose(value, gradient(DEPTHWISE, X), 1e-5)


def test_progress_is_told_and_known_problems_are_not_measured_again(plans: Plans) -> None:
    told: list[tuple[int, int]] = []
    some = Plans(plans.entries[1:])
    with convjax.using(some):
        rest = convjax.tune(
            gradient, DEPTHWISE, X, seconds=1e-3, progress=lambda plan, done, total: told.append((done, total))
        )
    assert [p.problem for p in rest] == [plans.entries[0].problem]
    assert told == [(1, 1)]


def test_limits_keep_candidates_out() -> None:
    with convjax.using(max_workspace_bytes=0):
        (plan,) = convjax.tune(conv, X, seconds=1e-3)
    needy = [a for a in convjax.algorithms("conv") if not a.unsupported(PROBLEM, "cpu") and a.cost(PROBLEM).workspace]
    assert needy
    assert not {t.algorithm for t in plan.times} & {str(a) for a in needy}


def test_wrong_values_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import convjax.measure

    cls = convjax.measure.Bound

    class Spoilt(cls):  # type: ignore[misc, valid-type]
        def __call__(self, *operands: jax.Array) -> jax.Array:
            return super().__call__(*operands) + (self.algorithm.name == "shift")

    monkeypatch.setattr(convjax.measure, "Bound", Spoilt)
    with pytest.warns(UserWarning, match="is not within its stated error"):
        (plan,) = convjax.tune(conv, X, seconds=1e-3)
    assert plan.times
    assert not any(t.algorithm.startswith("shift") for t in plan.times)


def test_nothing_right_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import convjax.measure

    monkeypatch.setattr(convjax.measure, "_wrong", lambda values, *rest: list(values))
    with (
        pytest.warns(UserWarning, match="is not within its stated error"),
        pytest.raises(ValueError, match=r"none of .* is within its stated error on conv float32\[2,9,8,4\].*doctor"),
    ):
        convjax.tune(conv, X, seconds=1e-3)


def test_stock_functions_and_odd_arguments_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"1 convolutions and poolings of lax and none of convjax: tune convjax.acceler"
    ):
        convjax.tune(lambda x: lax.conv(x, jnp.ones((2, 8, 1, 1)), (1, 1), "SAME"), jnp.ones((1, 8, 4, 4)))
    with pytest.raises(ValueError, match="seconds must be positive, got 0"):
        convjax.tune(conv, X, seconds=0)
    with pytest.raises(ValueError, match="cannot be measured on tpu: this machine has no such device"):
        convjax.tune(conv, X, platform="tpu")


# Following.


def test_the_fastest_that_the_limits_admit_is_taken() -> None:
    plans = Plans((plan_for(PROBLEM, ("im2col", 1e-6), ("shift(by=dot)", 2e-6), ("lax", 3e-6)),))
    with convjax.using(plans):
        assert taken().algorithm == "im2col"
        rejected = dict(taken().rejected)
        assert rejected["lax"] == ("measured 3.0x the time",)
        assert ("not measured",) in rejected.values()
        with convjax.using(max_workspace_bytes=0):
            assert taken().algorithm == "lax"
        assert taken(lambda x: convjax.conv(x, W, algorithm="lax")).algorithm == "lax"
        assert taken(lambda x: convjax.conv(x, W, algorithm="winograd")).reason == "asked for"


def test_other_devices_versions_and_forgotten_algorithms_do_not_count() -> None:
    usual = taken().algorithm
    stale = Plan(str(PROBLEM), KIND, (Time("im2col", -1, 1e-9), Time("no such algorithm", 1, 1e-9)))
    for plan in (plan_for(PROBLEM, ("im2col", 1e-9), device="another"), stale):
        with convjax.using(Plans((plan,))):
            assert (taken().algorithm, taken().measured) == (usual, None)


def test_other_plans_are_other_programs() -> None:
    fn = jax.jit(conv)
    for name in ("shift(by=dot)", "im2col"):
        with convjax.using(Plans((plan_for(PROBLEM, (name, 1e-6)),))):
            assert name in fn.lower(X).compile().as_text()


def test_without_a_plan_an_error_or_a_measurement() -> None:
    with convjax.using(on_miss="error"), pytest.raises(ValueError, match=r"no plan for conv float32\[2,9,8,4\].*tune"):
        jax.jit(conv)(X)
    with convjax.using(on_miss="error"):
        convjax.conv(X, W, algorithm="lax")  # asked for, so nothing is missing
        convjax.conv(X[:0], W)  # nothing to choose
    before = len(Plans.learnt())
    with convjax.using(on_miss="tune"):
        assert taken(lambda x: convjax.conv(x, W[:2]), X).reason.endswith("until it is measured when lowered")
        first = jax.jit(lambda x: convjax.conv(x, W[:2]))(X)
        jax.jit(lambda x: convjax.conv(x, W[:2]) + 1)(X)
        row = taken(lambda x: convjax.conv(x, W[:2]), X)
    assert len(Plans.learnt()) == before + 1
    assert row.measured == Plans.learnt().entries[-1].times[0].seconds
    assert jnp.allclose(first, convjax.conv(X, W[:2]))


def test_what_was_measured_under_limits_leaves_others_to_be_measured_without() -> None:
    def conv(x: jax.Array) -> jax.Array:
        return convjax.conv(x, W[:2, :2])

    def known() -> set[str]:
        problem = str(taken(conv, X).problem)
        return {t.algorithm for plan in Plans.learnt() if plan.problem == problem for t in plan.times}

    with convjax.using(on_miss="tune", max_workspace_bytes=0):
        jax.jit(lambda x: conv(x))(X)
        few = known()
    with convjax.using(on_miss="tune"):
        jax.jit(lambda x: conv(x) + 1)(X)
        many = known()
        jax.jit(lambda x: conv(x) + 2)(X)
    assert few < many == known()


def test_what_was_measured_without_limits_is_known_under_them(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Any] = []
    measure_problem = measure.measure_problem

    def counted(*args: Any) -> Any:
        measured.append(args)
        return measure_problem(*args)

    monkeypatch.setattr(measure, "measure_problem", counted)
    limits: list[dict[str, Any]] = [{}, {"max_workspace_bytes": 2**30}, {"max_error": 0.1}, {"portable": True}]
    for options in limits:
        with convjax.using(on_miss="tune", **options):
            jax.jit(lambda x: convjax.conv(x, W[:1, :1]))(X)
    assert len(measured) == 1


def test_policies_are_checked() -> None:
    with pytest.raises(ValueError, match="on_miss must be one of heuristic, tune, error, got 'guess'"):
        convjax.using(on_miss="guess").__enter__()  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"plans must be convjax.Plans, got str: read a file with Plans.load"):
        convjax.using("plans.json").__enter__()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be deterministic: tune beforehand"):
        convjax.using(on_miss="tune", deterministic=True).__enter__()


def test_deterministic_rejects_what_may_vary() -> None:
    with convjax.using(deterministic=True):
        reasons = dict(convjax.explain(conv, X, platform="cuda").rows[0].rejected)
        assert reasons["lax"] == ("may give other bits on another run on cuda",)
        assert reasons["polyphase(by=lax)"]
        assert taken().algorithm in {str(a) for a in convjax.algorithms("conv")}


# Keeping.


def test_plans_are_saved_merged_and_read_back(tmp_path: Path, plans: Plans) -> None:
    plans.save(tmp_path / "plans.json")
    assert Plans.load(tmp_path / "plans.json") == plans
    assert hash(Plans.load(tmp_path / "plans.json")) == hash(plans)
    assert [p.name for p in tmp_path.iterdir()] == ["plans.json"]
    newer = Plans((plan_for(PROBLEM, ("lax", 1.0)),))
    older = Plans((plan_for(PROBLEM, ("vmap", 2.0)), plan_for(PROBLEM, ("vmap", 3.0), device="another")))
    assert (older | newer).find(PROBLEM, KIND) == newer.entries[0]
    assert len(older | newer) == 2
    assert "lax 1000.000 ms" in str(newer)
    Plans().save(tmp_path / "none.json")
    assert Plans.load(tmp_path / "none.json") == Plans()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "are not JSON"),
        ("\xff", "are not JSON"),
        ("[]", "does not hold plans"),
        ('{"format": "other"}', "does not hold plans"),
        ('{"format": "convjax plans, version 1"}', "are broken: KeyError: 'plans'"),
        ('{"format": "convjax plans, version 1", "plans": [{"problem": "conv", "device": "", "times": []}]}', "broken"),
        ('{"format": "convjax plans, version 1", "plans": [1]}', "broken"),
    ],
)
def test_broken_files_are_told_in_one_sentence(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "plans.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=told) as raised:
        Plans.load(path)
    assert "\n" not in str(raised.value)


def test_plans_hold_plans_alone() -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        Plans() | None  # type: ignore[operator]
    with pytest.raises(TypeError, match=r"entries must be plans, got \(1,\): read a file with Plans.load"):
        Plans((1,))  # type: ignore[arg-type]


def test_files_keep_what_is_not_understood(tmp_path: Path) -> None:
    plan = Plan(str(PROBLEM), "another machine", (Time("of the future", 7, 1e-3),))
    Plans((plan,)).save(tmp_path / "plans.json")
    assert json.loads((tmp_path / "plans.json").read_text())["plans"][0]["times"][0]["algorithm"] == "of the future"
    assert Plans.load(tmp_path / "plans.json").entries == (plan,)


@pytest.mark.parametrize("factor", [0.1, 10.0])
@pytest.mark.parametrize(("window", "strides"), [(2, 2), (3, 2), (3, 1)])
def test_plans_of_a_maximum_do_not_change_the_program_that_they_were_tuned_for(
    factor: float, window: int, strides: int
) -> None:
    """Its gradient finds the winners in one of two ways, of which plans hold the problems of one alone."""
    gradient = jax.grad(lambda x: jnp.sum(jnp.square(convjax.max_pool(x, window, strides=strides))))
    x = jax.ShapeDtypeStruct((4, 32, 32, 64), jnp.float32)
    rows = convjax.explain(gradient, x, platform="cpu").rows
    version = next(a.version for a in convjax.algorithms("max") if str(a) == "shift")
    plans = [
        Plan(str(row.problem), KIND, (Time("shift", version, factor * row.predicted),))
        for row in rows
        if not row.problem.operation.endswith("equal")
    ]
    with convjax.using(Plans(tuple(plans))):
        again = convjax.explain(gradient, x, platform="cpu").rows
    assert [row.problem for row in again] == [row.problem for row in rows]
