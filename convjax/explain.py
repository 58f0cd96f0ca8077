"""`explain`: every convolution and pooling in a function, with the algorithm taken and why."""

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from jax.extend import core

from convjax import window_primitive
from convjax.algorithms.protocol import Reasons, describe, workspace_on
from convjax.choose import choose
from convjax.lowering import compiled_here
from convjax.measure import with_learnt
from convjax.platforms import known_platform
from convjax.primitive import conv_p, problem_of
from convjax.problem import Problem
from convjax.request import Pass, Request, request
from convjax.rewrite import ENTERED
from convjax.stock import PRIMITIVES, stated
from convjax.sums import sums_p
from convjax.tracing import trace

# What these compute is not seen, or is code for one device only.
_FOREIGN = frozenset(["pallas_call", "ffi_call", "tpu_custom_call", "call_exported", "pure_callback", "io_callback"])


@dataclasses.dataclass(frozen=True)
class Row:
    """One problem of a function.

    Attributes:
        problem: what is computed.
        role: the pass it is: "fprop", "dgrad" (the gradient of the input) or "wgrad" (of the weights), told by the axes
            where a gradient had been taken before `accelerate` met it; "stock" for one of lax's own primitives.
        algorithm: the name of what computes it.
        reason: why this one, in a few words.
        predicted: seconds by the cost model, None where the device has no constants.
        measured: seconds by a plan in force, None without one.
        workspace: bytes of intermediate arrays by the algorithm's own account.
        rejected: the other algorithms by name, each with its reasons.
        count: how often the problem occurs.

    Example:
        >>> import jax.numpy as jnp, convjax
        >>> (row,) = convjax.explain(lambda x: convjax.max_pool(x, 2), jnp.ones((1, 4, 4, 1)), platform="cpu").rows
        >>> row.problem.taps, dict(row.rejected)["mask"]
        (4, ('max is given no values of windows to compare with',))
    """

    problem: Problem
    role: Pass | str
    algorithm: str
    reason: str
    predicted: float | None
    measured: float | None
    workspace: float
    rejected: tuple[tuple[str, Reasons], ...]
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What `explain` found; prints as a table, one block a problem.

    Attributes:
        platform: the platform chosen for.
        rows: one `Row` a distinct problem, in the order of the program.
        left: one sentence a primitive that `accelerate` does not enter or no problem expresses.
        sums: of the equations that `accelerate` makes of sums over the rows of maps, how many each holds.

    Example:
        >>> import jax.numpy as jnp, convjax
        >>> explanation = explain(lambda x: convjax.max_pool(x, 2), jnp.ones((1, 4, 4, 1)), platform="cpu")
        >>> print(str(explanation).splitlines()[0])
        1 convolutions and poolings, 1 distinct, on cpu
    """

    platform: str
    rows: tuple[Row, ...]
    left: tuple[str, ...] = ()
    sums: tuple[int, ...] = ()

    def __str__(self) -> str:
        count = sum(row.count for row in self.rows)
        lines = [f"{count} convolutions and poolings, {len(self.rows)} distinct, on {self.platform}"]
        for row in self.rows:
            times = f" x{row.count}" if row.count > 1 else ""
            predicted = "" if row.predicted is None else f", predicted {_time(row.predicted)}"
            measured = "" if row.measured is None else f", measured {_time(row.measured)}"
            lines.append(f"{row.role:6} {row.problem}{times}")
            lines.append(
                f"       -> {row.algorithm}: {row.reason}{predicted}{measured}, workspace {_bytes(row.workspace)}"
            )
            lines += [f"          not {names}: {'; '.join(reasons)}" for names, reasons in _by_reasons(row)]
        if self.sums:
            lines.append(f"sums   {sum(self.sums)} over the rows of maps, in {len(self.sums)} equations")
        lines += [f"left   {sentence}" for sentence in self.left]
        return "\n".join(lines)


def explain(fn: Callable[..., Any], *args: Any, platform: str | None = None, **kwargs: Any) -> Explanation:
    """Traces `fn(*args, **kwargs)` and says, for every convolution and pooling in it, which algorithm is taken and why.

    Nothing is run. Equal problems make one row. To see the gradients, pass the gradient. What is said is of a program
    on one device; where XLA divides one among several, algorithms that would gather what is divided are not taken.

    Args:
        fn: any traceable function, jitted or not.
        *args, **kwargs: its arguments; arrays may be `jax.ShapeDtypeStruct`s, and what is no array reaches fn as given.
        platform: "cpu", "cuda", "rocm" or "tpu"; None is the default backend's.

    Returns:
        An `Explanation`; `print` it, or read its `.rows`.

    Raises:
        ValueError: a problem for which the algorithm asked for does not apply, or an unknown platform.
        TypeError: fn is not callable.

    Example:
        >>> import jax, jax.numpy as jnp, convjax
        >>> x, w = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
        >>> loss = lambda w: convjax.conv(x, w, algorithm={"fprop": "winograd(tile=2)"}).sum()
        >>> [(row.role, row.algorithm) for row in explain(loss, w, platform="cpu").rows]
        [('fprop', 'winograd(tile=2)')]
    """
    platform = known_platform(platform)
    jaxpr = trace(fn, args, kwargs).closed.jaxpr
    found: dict[Row, int] = {}
    for problem, asked in problems(jaxpr):
        row = _row(problem, asked, platform)
        found[row] = found.get(row, 0) + 1
    rows = tuple(dataclasses.replace(row, count=n) for row, n in found.items())
    sums = tuple(len(eqn.invars) for eqn in _equations(jaxpr) if eqn.primitive is sums_p)
    return Explanation(platform, rows, _left(jaxpr), sums)


def explain_problem(problem: Problem, *, platform: str | None = None) -> Explanation:
    """Which algorithm is taken for one problem and why, nothing being asked for but the limits in force.

    Args:
        problem: a `ConvSpec` or `WindowSpec`.
        platform: as `explain`.

    Returns:
        An `Explanation` of one row.

    Example:
        >>> from convjax import ConvSpec
        >>> problem = ConvSpec.parse("conv float32[1,9,9,32] float32[3,3,1,32] b01f_01io->b01f feature_groups=32")
        >>> [row.algorithm for row in explain_problem(problem, platform="cpu").rows]
        ['shift(by=multiply)']
    """
    platform = known_platform(platform)
    return Explanation(platform, (_row(problem, request(None, problem.operation), platform),))


def problems(jaxpr: core.Jaxpr) -> Iterator[tuple[Problem, Request | None]]:
    """Every convolution and pooling, in the order of the program; those of lax itself have no request."""
    return (found for eqn in _equations(jaxpr) if (found := stated_by(eqn)) is not None)


def stated_by(eqn: Any) -> tuple[Problem, Request | None] | None:
    """The convolution or pooling that an equation of convjax or of lax is, and what is asked of it; None of others."""
    if eqn.primitive is conv_p:
        lhs, rhs = (atom.aval for atom in eqn.invars)
        return problem_of(lhs, rhs, eqn.params), eqn.params["request"]
    if eqn.primitive in window_primitive.PRIMITIVES:
        return eqn.params["problem"], eqn.params["request"]
    problem = stated(eqn)
    return None if problem is None else (problem, None)


def _row(problem: Problem, asked: Request | None, platform: str) -> Row:
    if asked is None:
        return Row(problem, "stock", "lax", "lax's own primitive, not called through convjax", None, None, 0, ())
    target = compiled_here(platform, asked.policy)
    choice = choose(problem, with_learnt(problem, asked, target), target)
    reason = choice.reason
    if asked.policy.on_miss == "tune" and asked.wish is None and choice.measured is None:
        reason += ", until it is measured when lowered"
    return Row(
        problem,
        asked.role,
        describe(choice.algorithm),
        reason,
        choice.predicted,
        choice.measured,
        0 if problem.empty else workspace_on(platform, choice.algorithm, problem),
        tuple((describe(a), reasons) for a, reasons in choice.rejected),
    )


def _by_reasons(row: Row) -> list[tuple[str, Reasons]]:
    """The algorithms rejected for the same reasons together, a family of which none is left out by its name alone."""
    together: dict[Reasons, list[str]] = {}
    for name, reasons in row.rejected:
        together.setdefault(reasons, []).append(name)
    every = collections.Counter(name.partition("(")[0] for name in (row.algorithm, *dict(row.rejected)))

    def listed(names: list[str]) -> str:
        families = collections.Counter(name.partition("(")[0] for name in names)
        whole = {family for family, count in families.items() if count == every[family] > 1}
        return ", ".join(dict.fromkeys(f if (f := name.partition("(")[0]) in whole else name for name in names))

    return [(listed(names), reasons) for reasons, names in together.items()]


def _left(jaxpr: core.Jaxpr) -> tuple[str, ...]:
    """What `accelerate` leaves as it is, each primitive once: what it cannot enter, and what no problem expresses."""
    inside: dict[str, int] = {}
    beyond: dict[str, int] = {}
    for eqn in _entered(jaxpr):
        name = eqn.primitive.name
        if eqn.primitive in PRIMITIVES:
            if stated(eqn) is None:
                beyond[name] = beyond.get(name, 0) + 1
        elif name not in ENTERED:
            inner = sum(stated(e) is not None for j in core.jaxprs_in_params(eqn.params) for e in _equations(j))
            if inner or name in _FOREIGN:
                inside[name] = inside.get(name, 0) + inner
    return tuple(
        f"{name} is not entered: {n} of lax's convolutions and poolings stay in it"
        if n
        else f"{name} is not entered: what it computes is not seen"
        for name, n in inside.items()
    ) + tuple(f"{name} stays lax's where no problem expresses it: {n} times" for name, n in beyond.items())


def _entered(jaxpr: core.Jaxpr) -> Iterator[Any]:
    """Every equation that `accelerate` comes to."""
    for eqn in jaxpr.eqns:
        yield eqn
        if eqn.primitive.name in ENTERED:
            for inner in core.jaxprs_in_params(eqn.params):
                yield from _entered(inner)


def _equations(jaxpr: core.Jaxpr) -> Iterator[Any]:
    """Every equation, those of inner jaxprs (jit, scan, cond, remat, custom rules) included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in core.jaxprs_in_params(eqn.params):
            yield from _equations(inner)


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-4 else f"{seconds * 1e6:.0f} us"


def _bytes(count: float) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"
