"""The doctor's probes: each finds its fault where the fault is known to be, and no algorithm meets it."""

import importlib.metadata
from pathlib import Path

import pytest

import convjax
from convjax import doctor, pages, probes
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
CRASHES = {"negative-window-padding", "dilated-and-short", "rank-7"}
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
    assert probes.run(by_name["groups-divided"]) == "wrong"
    assert probes.run(by_name["groups-as-product-divided"]) == "wrong"


def test_algorithms_are_tried_and_failures_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.probes, "PROBES", ())
    monkeypatch.setattr(doctor, "algorithms", lambda operation: convjax.algorithms(operation)[:1])
    lines = list(doctor.examine())
    assert all(well for well, _ in lines)
    assert lines[-2:] == [(True, "lax: right on 2 convolutions"), (True, "lax: right on 2 windows")]

    class Wrong(type(convjax.algorithms("conv")[0])):  # type: ignore[misc]
        def error(self, problem: object) -> float:
            return 0.0

    well, line = doctor._tried(Wrong(), sample_conv_problems(seed=0, count=3), "cpu")
    assert not well
    assert line.startswith("lax: FAILS: lax is wrong on")

    class Elsewhere(type(convjax.algorithms("conv")[0])):  # type: ignore[misc]
        def unsupported(self, problem: object, platform: str) -> tuple[str, ...]:
            return ("runs on the moon",)

    nowhere = doctor._tried(Elsewhere(), sample_conv_problems(seed=0, count=3), "cpu")
    assert nowhere == (True, "lax: applies to none of the convolutions tried")
