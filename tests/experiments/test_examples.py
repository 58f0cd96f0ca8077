"""The example programs run, and the numbers in them are right: each asserts its own."""

import importlib
import pkgutil

import pytest

from experiments import examples

NAMES = [module.name for module in pkgutil.iter_modules(examples.__path__)]


def test_all_are_found() -> None:
    assert {"cross_correlation_and_convolution", "output_sizes", "parameters", "padding_modes", "pooling"} <= set(NAMES)
    assert "gradient_by_hand" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module(f"experiments.examples.{name}").main()
    assert capsys.readouterr().out.count("\n") > 5
