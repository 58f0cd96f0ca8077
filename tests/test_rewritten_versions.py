"""Records of an algorithm that holds another are of both: a new version of either makes them old."""

import dataclasses

import pytest

import convjax
from convjax.algorithms.conv.rewritten import Holding

HOLDING = [algorithm for algorithm in convjax.algorithms("conv") if isinstance(algorithm, Holding)]


@pytest.mark.parametrize("algorithm", HOLDING, ids=str)
def test_the_version_rises_with_the_held_algorithm_and_with_what_is_done_around_it(algorithm: Holding) -> None:
    held = type(algorithm.by)
    newer = type(held.__name__, (held,), {"version": algorithm.by.version + 1})
    later = type(type(algorithm).__name__, (type(algorithm),), {"revision": algorithm.revision + 1})
    knobs = {field.name: getattr(algorithm.by, field.name) for field in dataclasses.fields(algorithm.by)}
    assert dataclasses.replace(algorithm, by=newer(**knobs)).version == algorithm.version + 1
    assert later(algorithm.by).version == algorithm.version + 1


def test_some_algorithm_holds_another() -> None:
    assert HOLDING
