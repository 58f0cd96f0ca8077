"""Sections: the strict tables that configs are made of, read from TOML and refused in one sentence when wrong."""

import datetime
import json
import re
import tomllib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict

from experiments.errors import ExperimentError, nearest

NAME = re.compile(r"[\w.@+-]+")
# What TOML knows beside what JSON does.
_DATES = (datetime.date, datetime.time)


class Section(BaseModel):
    """A table of the config: strict, and without unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Model = TypeVar("Model", bound=Section)
Names = TypeVar("Names", bound=tuple[str, ...])


def named(names: dict[str, Any]) -> dict[str, Any]:
    """`names`, if each can stand in a case's id and in a file's name."""
    for name in names:
        if not NAME.fullmatch(name):
            raise ValueError(f"the name {name!r} may hold only letters, digits and _ . @ + -")
    return names


def distinct(names: Names) -> Names:
    """`names`, if none is there twice."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is named twice: name it once")
    return names


def some(names: Names) -> Names:
    """`names`, if there are any."""
    if not names:
        raise ValueError("it is empty: name one at least, or leave the key out for its default")
    return names


def read(path: Path, model: type[Model], what: str, settings: Sequence[str] = ()) -> Model:
    """The `model` in the file at `path`, which errors call `what`, with `a.b=c` settings laid over it."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        beside = sorted(p.name for p in path.parent.glob("*.toml"))
        raise ExperimentError(f"{what} {path} does not exist{nearest(path.name, beside) if beside else ''}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{what} {path} is not TOML: {error}") from None
    for setting in settings:
        _lay_over(data, setting)
    if date := _date(data):
        raise ExperimentError(f"{what} {path}: {date} is a date, which no key takes: put it in quotes if it is a text")
    try:
        # JSON, because a strict tuple takes an array there but no list in Python.
        return model.model_validate_json(json.dumps(data))
    except pydantic.ValidationError as error:
        raise ExperimentError(f"{what} {path}: {_sentence(error, model)}") from None


def _lay_over(data: dict[str, Any], setting: str) -> None:
    """Sets one `a.b=c` in `data`; c is read as TOML, and as a plain string where it is not, or a date."""
    key, equals, text = setting.partition("=")
    *parents, last = key.split(".")
    if not equals or not all([*parents, last]):
        raise ExperimentError(f"--set {setting!r} must read a.b=c, such as sweep.seconds=0.2")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if isinstance(value, _DATES):
        value = text
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ExperimentError(f"--set {setting!r}: {parent!r} is a value and not a table")
    data[last] = value


def _date(value: Any, place: str = "") -> str | None:
    """`a.b = 2024-01-01` of the first of TOML's dates and times in `value`, if there is one."""
    if isinstance(value, _DATES):
        return f"{place} = {value}"
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return next((date for key, v in inner if (date := _date(v, f"{place}.{key}" if place else str(key)))), None)


def _sentence(error: pydantic.ValidationError, model: type[Section]) -> str:
    """The first thing wrong, with the place it stands in and, for an unknown key, the nearest valid one."""
    # Of a union every member complains; the one that got deepest is the one that was meant.
    first = max(error.errors(), key=lambda e: len(e["loc"]))
    where = [str(part) for part in first["loc"] if not re.search(r"\W", str(part)) or NAME.fullmatch(str(part))]
    if first["type"] == "extra_forbidden":
        table = f"[{'.'.join(where[:-1])}]" if len(where) > 1 else "the top level"
        return f"unknown key {where[-1]!r} in {table}{nearest(where[-1], _keys(model, where[:-1]))}"
    if first["type"] == "missing":
        return f"the key {'.'.join(where)!r} is missing"
    place = f"{'.'.join(where)}: " if where else ""
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}{message[0].lower() + message[1:]}" + (
        "" if first["type"] == "value_error" else f", got {first['input']!r}"
    )


def _keys(model: type[Section], where: list[str]) -> list[str]:
    """The valid keys of the table that stands at `where` in a `model`."""
    annotation: Any = model
    for part in where:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            annotation = annotation.model_fields[part].annotation
        elif typing.get_origin(annotation) is dict:
            annotation = typing.get_args(annotation)[1]
        if isinstance(annotation, types.UnionType):
            annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    return list(annotation.model_fields)
