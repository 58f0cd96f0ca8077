"""The doctor's probes: each finds its fault where the fault is known to be, and no algorithm meets it."""

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest

import convjax
from convjax import doctor, pages, probes
from convjax.problem import WindowSpec
from convjax.testing import sample_conv_problems

# What each jaxlib computes wrongly; others are not known yet.
WRONG = {
    "0.10.1": {
        "crop-by-negative-pad",
        "crop-beside-padding",
        "maximum-of-nan",
        "groups-divided",
        "groups-as-product-divided",
    },
    "0.12.0.1": {"base-dilation", "maximum-of-nan", "groups-divided", "groups-as-product-divided"},
}
# Found in processes of their own, which some of these end.
CRASHES = {"negative-window-padding", "dilated-and-short", "rank-7", "padded-int8"}
JAXLIB = importlib.metadata.version("jaxlib")


@pytest.mark.skipif(JAXLIB not in WRONG, reason=f"what jaxlib {JAXLIB} computes wrongly is not known")
def test_probes_find_the_faults_of_this_jaxlib() -> None:
    found = {probe.name for probe in probes.PROBES if probe.name not in CRASHES and not probe.holds()}
    assert found == WRONG[JAXLIB]


@pytest.mark.parametrize(
    ("given", "tunables", "libc", "said"),
    [
        ("[always] madvise never", "", ("glibc", "2.36"), "given to every program"),
        ("always madvise [never]", "", ("glibc", "2.36"), "the system gives none"),
        ("always [madvise] never", "", ("glibc", "2.36"), f"given on request; started with {pages.SETTING}"),
        ("always [madvise] never", "glibc.malloc.check=0:glibc.malloc.hugetlb=1", ("glibc", "2.36"), "asked for"),
        ("always [madvise] never", "glibc.malloc.hugetlb=2:glibc.malloc.check=0", ("glibc", "2.36"), "asked for"),
        ("always [madvise] never", "glibc.malloc.hugetlb=0", ("glibc", "2.36"), "given on request; started with"),
        (
            "always [madvise] never",
            "glibc.malloc.hugetlb=0:glibc.malloc.check=1",
            ("glibc", "2.36"),
            "given on request;",
        ),
        ("always [madvise] never", "", ("glibc", "2.31"), "which glibc 2.31 does not make"),
        ("always [madvise] never", "", ("", ""), "which this C library does not make"),
        (None, "", ("glibc", "2.36"), "this system has no transparent ones"),
    ],
)
def test_large_pages(tmp_path: Path, given: str | None, tunables: str, libc: tuple[str, str], said: str) -> None:
    policy = tmp_path / "enabled"
    if given:
        policy.write_text(given)
    assert said in pages.large_pages(policy, {"GLIBC_TUNABLES": tunables}, libc)


def test_a_crash_is_told_from_a_wrong_result() -> None:
    by_name = {probe.name: probe for probe in probes.PROBES}
    assert probes.run(by_name["maximum-of-nan"]) == "wrong"
    assert probes.run(by_name["dilated-and-short"]) == "crashes"
    assert probes.run(by_name["padded-int8"]) in ("wrong", "raises")
    assert probes.run(by_name["groups-divided"]) == "wrong"
    assert probes.run(by_name["groups-as-product-divided"]) == "wrong"


def test_algorithms_are_tried_and_failures_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.probes, "PROBES", ())
    monkeypatch.setattr(doctor, "algorithms", lambda operation: convjax.algorithms(operation)[:1])
    lines = list(doctor.examine())
    assert all(well for well, _ in lines)
    assert lines[-3:] == [
        (True, "lax: right on 2 convolutions"),
        (True, "lax: right on 6 windows"),
        (True, "shift: right on 1 windows"),  # which comes first for `put`
    ]

    class Wrong(type(convjax.algorithms("conv")[0])):  # type: ignore[misc]
        def error(self, problem: object) -> float:
            return 0.0

    well, line = doctor._tried(Wrong(), sample_conv_problems(seed=0, count=3), "cpu", "convolutions", 2)
    assert not well
    assert line.startswith("lax: FAILS: lax is wrong on")

    class Elsewhere(type(convjax.algorithms("conv")[0])):  # type: ignore[misc]
        def unsupported(self, problem: object, platform: str) -> tuple[str, ...]:
            return ("runs on the moon",)

    nowhere = doctor._tried(Elsewhere(), sample_conv_problems(seed=0, count=3), "cpu", "convolutions", 2)
    assert nowhere == (True, "lax: applies to none of the convolutions tried")


def test_windows_of_every_operation_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: dict[str, set[str]] = {}

    def check(algorithm: Any, problems: Any, *args: Any, **kwargs: Any) -> int:
        tried.setdefault(str(algorithm), set()).update(problem.operation for problem in problems)
        return len(problems)

    monkeypatch.setattr(doctor.probes, "PROBES", ())
    monkeypatch.setattr(doctor, "check_algorithm", check)
    assert not [line for _, line in doctor.examine() if "applies to none" in line]
    assert tried["shift"] == set(WindowSpec.OPERATIONS) - {"take_equal", "put_equal"}
    assert "sum" in tried["summed_area"]
    assert {"take_equal", "put_equal"} <= tried["mask"]


@pytest.mark.parametrize(
    ("avoided", "verdict", "well", "told"),
    [
        (True, "right", True, "absent"),
        (True, "crashes", True, "PRESENT (crashes); crops are slices"),
        (False, "right", True, "absent"),
        (False, "wrong", False, "PRESENT (wrong); not avoided here"),
        (True, "cannot be run: no backend", False, "cannot be run: no backend"),
    ],
)
def test_a_fault_that_is_not_avoided_is_an_ill(avoided: bool, verdict: str, well: bool, told: str) -> None:
    probe = probes.Probe("name", "fault", "source", "crops are slices", lambda: ..., avoided)  # type: ignore[arg-type]
    assert doctor._probed(probe, verdict) == (well, f"name: fault (source): {told}")


def test_a_probe_that_cannot_be_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    assert "cannot be run: RuntimeError: Unable to initialize backend" in probes.run(probes.PROBES[0])
