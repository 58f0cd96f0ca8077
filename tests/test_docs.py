"""Everything that is shown is run: the examples in docstrings and in the README; and every public name has one."""

import doctest
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

import convjax

README = Path(__file__).parents[1] / "README.md"
MODULES = ["convjax", *(module.name for module in pkgutil.walk_packages(convjax.__path__, "convjax."))]
EXAMPLES = {
    example.name: example
    for module in map(importlib.import_module, MODULES)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module)
    if example.examples
}
PUBLIC = {
    f"{package.__name__}.{name}": getattr(package, name)
    for package in (convjax, convjax.functional, convjax.nn, convjax.testing)
    for name in package.__all__
    if inspect.isfunction(getattr(package, name)) or inspect.isclass(getattr(package, name))
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_docstring_examples_show_what_happens(name: str) -> None:
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(EXAMPLES[name], out=report.append)
    assert runner.failures == 0, "".join(report)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name: str) -> None:
    assert ">>>" in own_docstring(PUBLIC[name]), f"{name} has no example in its docstring"


def test_public_names_are_found() -> None:
    assert {"convjax.conv", "convjax.using", "convjax.functional.fold", "convjax.nn.Conv"} <= set(PUBLIC)
    assert {"conv", "nn", "testing", "__version__"} <= set(dir(convjax))
    assert "jax" not in dir(convjax)


def test_the_version_is_the_one_installed() -> None:
    assert convjax.__version__ == importlib.metadata.version("convjax")
    assert not hasattr(convjax, "version")


def own_docstring(value: Any) -> str:
    """The docstring written for `value`, not one that a class or dataclass supplies."""
    text = vars(value).get("__doc__") if inspect.isclass(value) else inspect.getdoc(value)
    return "" if text is None or text.startswith(f"{getattr(value, '__name__', '')}(") else text


def test_readme_examples_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # some write files
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks, "README.md has no python block"
    namespace: dict[str, Any] = {}
    for block in blocks:
        if ">>>" in block:
            test = doctest.DocTestParser().get_doctest(block, namespace, "README.md", str(README), 0)
            report: list[str] = []
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
            runner.run(test, out=report.append, clear_globs=False)
            assert runner.failures == 0, "".join(report)
            namespace = test.globs
        else:
            exec(compile(block, str(README), "exec"), namespace)
