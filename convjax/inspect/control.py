"""What loops, branches and calls see: their jaxprs are entered."""

from collections.abc import Sequence
from typing import Any

from jax.extend import core

from convjax.inspect.dependence import Field, Known, Rule, Step
from convjax.inspect.law import STILL
from convjax.inspect.steps import CALLS, called

Fields = Sequence[Field | None]

# Most iterations of a loop that are followed one by one, and of one with a counter whose values are followed too.
_FOLLOWED = 1000
_COUNTED = 64


def _run(step: Step, jaxpr: Any, fields: Fields, known: Sequence[Known] = ()) -> tuple[list[Field | None], list[Known]]:
    consts = jaxpr.consts if isinstance(jaxpr, core.ClosedJaxpr) else ()
    return step.walk.run(getattr(jaxpr, "jaxpr", jaxpr), fields, known, consts, step.scope)


def _call(step: Step, fields: Fields) -> Fields:
    body = called(step.eqn)
    return step.everything(fields) if body is None else _run(step, body, fields, step.known)[0]


def _cond(step: Step, fields: Fields) -> Fields:
    """Every branch, and what it is chosen by."""
    index, *operands = fields
    results = [_run(step, branch, operands, step.known[1:])[0] for branch in step.params["branches"]]
    chosen = step.everything([index, *[None] * len(operands)], assumed=False)
    return [step.union([*found, by], shape) for *found, by, shape in zip(*results, chosen, step.results, strict=True)]


def _while(step: Step, fields: Fields) -> Fields:
    """The carry where an iteration adds nothing to it, else everything."""
    p, count = step.params, step.params["cond_nconsts"]
    asked, held, carry = (
        fields[:count],
        fields[count : count + p["body_nconsts"]],
        list(fields[count + p["body_nconsts"] :]),
    )
    start = len(step.walk.seen)
    for _ in range(3):
        del step.walk.seen[start:]
        stop, _ = _run(step, p["cond_jaxpr"], [*asked, *carry])
        after, _ = _run(step, p["body_jaxpr"], [*held, *carry])
        both = [step.union(pair, shape) for *pair, shape in zip(carry, after, step.results, strict=True)]
        if _same(both, carry) and not any(stop):
            return carry
        carry = both
    return step.everything(fields)


def _scan(step: Step, fields: Fields) -> Fields:
    """Iterations one by one; where they only map what they are given, the law of the axis is kept."""
    p = step.params
    consts, carries = _places(p, fields)
    held, carry, xs = list(fields[:consts]), list(fields[consts:carries]), fields[carries:]
    laws = [x.laws[0] for x in xs if x]
    start = len(step.walk.seen)
    if laws and not any([*held, *carry]) and all(law.same(laws[0]) for law in laws):
        rows = [x and x.along({0: STILL}) for x in xs]
        unknown: list[Known] = [*step.known[:consts], *[None] * (len(fields) - consts)]
        out, _ = _run(step, p["jaxpr"], [*held, *carry, *[row and row.without([0]) for row in rows]], unknown)
        if not any(out[: len(carry)]):
            return [*out[: len(carry)], *[y and y.by([laws[0], *y.laws]) for y in out[len(carry) :]]]

    assumed = [step.name] if any(law.shift for law in laws) else []  # what came before reaches all that comes later
    over = [x and x.over([0], shape) for x, shape in zip(xs, step.shapes[carries:], strict=True)]
    rows = [(row := x and x.without([0])) and row.noted(assumed) for x in over]
    counted = p["length"] <= _COUNTED
    values = list(step.known[consts:carries]) if counted else [None] * len(carry)
    ys: list[Field | None] = [None] * (len(step.results) - len(carry))
    for iteration in range(p["length"]):
        del step.walk.seen[start:]
        place = p["length"] - 1 - iteration if p["reverse"] else iteration
        taken = [_row(value, place) if counted else None for value in step.known[carries:]]
        out, values_after = _run(step, p["jaxpr"], [*held, *carry, *rows], [*step.known[:consts], *values, *taken])
        after, made = out[: len(carry)], [y and y.by([STILL, *y.laws]) for y in out[len(carry) :]]
        ys = [step.union(pair, s) for *pair, s in zip(ys, made, step.results[len(carry) :], strict=True)]
        values = values_after[: len(carry)] if counted else values
        if _same(after, carry) and not any([*values, *taken]):
            break
        if iteration == _FOLLOWED:
            return step.everything(fields)
        carry = after
    return [*carry, *ys]


def _places(params: dict[str, Any], operands: Sequence[Any]) -> tuple[int, int]:
    """Where the operands of a scan that are carried begin and end; jax 0.12 holds them as a tree."""
    if "num_consts" in params:
        return params["num_consts"], params["num_consts"] + params["num_carry"]
    consts, carry, _ = (len(list(part)) for part in params["ft_in"].update(operands).unpack())
    return consts, consts + carry


def _row(value: Known, place: int) -> Known:
    return None if value is None else lambda: value()[place]


def _same(some: Fields, others: Fields) -> bool:
    return all(a is b or (a is not None and a.same(b)) for a, b in zip(some, others, strict=True))


CONTROL: dict[str, Rule] = {
    **dict.fromkeys(CALLS, _call),
    "cond": _cond,
    "while": _while,
    "scan": _scan,
}
