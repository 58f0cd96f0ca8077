"""The words of a problem's text form: one small writer and reader for each kind of field."""

import re

Ints = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]

# Batch and feature; out feature and in feature.
_LHS, _RHS = "bf", "oi"


def join(*words: str, **fields: object) -> str:
    return " ".join([*words, *(f"{name}={value}" for name, value in fields.items() if value is not None)])


def split(text: str, head: str, count: int, known: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    words = text.split()
    if len(words) < count or words[0] != head:
        raise ValueError(f"problem {text!r} must begin with {head!r} and {count - 1} more words")
    fields = {}
    for word in words[count:]:
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            raise ValueError(f"problem {text!r}: cannot read {word!r}; the fields are {', '.join(known)}")
        if name in fields:
            raise ValueError(f"problem {text!r} has {name} twice: give it once")
        fields[name] = value
    return words[:count], fields


def array(dtype: str, shape: Ints) -> str:
    return f"{dtype}[{','.join(map(str, shape))}]"


def read_array(word: str, text: str) -> tuple[str, Ints]:
    match = re.fullmatch(r"(\w+)\[((?:\d+(?:,\d+)*)?)\]", word)
    if match is None:
        raise ValueError(f"problem {text!r}: {word!r} is not an array like float32[1,28,28,3]")
    return match[1], tuple(int(n) for n in match[2].split(",") if match[2])


def dimension_labels(dims: tuple[Ints, Ints, Ints]) -> str:
    """XLA's dimension labels, as in b01f_01io->b01f: two named axes and the spatial axes by number."""
    lhs, rhs, out = (_labels(spec, names) for spec, names in zip(dims, (_LHS, _RHS, _LHS), strict=True))
    return f"{lhs}_{rhs}->{out}"


def read_dimension_labels(word: str, lhs_rank: int, rhs_rank: int) -> tuple[Ints, Ints, Ints]:
    match = re.fullmatch(r"([bf\d]+)_([oi\d]+)->([bf\d]+)", word)
    if match is None or {len(group) for group in match.groups()} != {lhs_rank} or rhs_rank != lhs_rank:
        raise ValueError(
            f"dimension labels {word!r} must read like b01f_01io->b01f, with one letter per axis of operands "
            f"of rank {lhs_rank} and {rhs_rank}"
        )
    lhs, rhs, out = (_read_labels(g, n) for g, n in zip(match.groups(), (_LHS, _RHS, _LHS), strict=True))
    return lhs, rhs, out


def _labels(spec: Ints, names: str) -> str:
    letters = dict(zip(spec, [*names, *map(str, range(len(spec) - 2))], strict=True))
    return "".join(letters[axis] for axis in range(len(spec)))


def _read_labels(labels: str, names: str) -> Ints:
    expected = [*names, *map(str, range(len(labels) - 2))]
    if sorted(labels) != sorted(expected):
        raise ValueError(f"dimension labels {labels!r} must hold each of {', '.join(expected)} once")
    return tuple(labels.index(label) for label in expected)


def by(values: Ints, default: Ints) -> str | None:
    return None if values == default else "x".join(map(str, values))


def read_by(fields: dict[str, str], name: str, default: Ints) -> Ints:
    return tuple(map(int, _parts(fields, name, r"-?\d+", "2x2"))) if name in fields else default


def read_count(fields: dict[str, str], name: str) -> int:
    if name in fields and not fields[name].isdecimal():
        raise ValueError(f"{name}={fields[name]} must be a number")
    return int(fields.get(name, 1))


def by_pads(padding: Pads) -> str | None:
    return "x".join(f"{lo}_{hi}" for lo, hi in padding) if any(lo or hi for lo, hi in padding) else None


def read_pads(fields: dict[str, str], ndim: int) -> Pads:
    if "pad" not in fields:
        return ((0, 0),) * ndim
    pairs = (part.split("_") for part in _parts(fields, "pad", r"-?\d+_-?\d+", "1_1x0_1"))
    return tuple((int(lo), int(hi)) for lo, hi in pairs)


def _parts(fields: dict[str, str], name: str, pattern: str, example: str) -> list[str]:
    """What x separates, each part being as `pattern`."""
    if not re.fullmatch(f"{pattern}(x{pattern})*", fields[name]):
        raise ValueError(f"{name}={fields[name]} must read like {name}={example}")
    return fields[name].split("x")
