"""Jaxprs with other primitives in the place of lax's: replayed by our rules, rewritten for `accelerate`."""

import contextlib
import dataclasses
import functools
import operator
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.extend import core, linear_util

from convjax.tracing import trace

# What stands in for a primitive: called with the equation's operands and parameters, returns a list of results.
Replacement = Callable[..., Sequence[Any]]


def replay(closed: core.ClosedJaxpr, replacements: Mapping[core.Primitive, Replacement], *operands: Any) -> list[Any]:
    """Evaluates `closed` on `operands`, calling a replacement wherever its primitive stands.

    Calls of inner functions (`jit`) are entered; all other equations are bound as they are.
    """
    jaxpr = closed.jaxpr
    values: dict[core.Var, Any] = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, operands, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        if eqn.primitive in replacements:
            outputs = replacements[eqn.primitive](*inputs, **eqn.params)
        elif eqn.primitive.name in ("jit", "pjit"):
            outputs = replay(eqn.params["jaxpr"], replacements, *inputs)
        else:
            outputs = eqn.primitive.bind(*inputs, **eqn.params)
            if not eqn.primitive.multiple_results:
                outputs = [outputs]
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def makers(jaxpr: core.Jaxpr, primitive: core.Primitive) -> dict[core.Var, core.JaxprEqn]:
    """The equations of `primitive` by what they make, but for those whose operands a call may write over later."""
    gone = donated(jaxpr)
    return {
        eqn.outvars[0]: eqn
        for eqn in jaxpr.eqns
        if eqn.primitive is primitive and gone.isdisjoint(atom for atom in eqn.invars if isinstance(atom, core.Var))
    }


def donated(jaxpr: core.Jaxpr) -> set[core.Var]:
    """What the functions that the jaxpr calls may write over."""
    return {
        atom
        for eqn in jaxpr.eqns
        for atom, given in zip(eqn.invars, eqn.params.get("donated_invars", ()), strict=False)
        if given and isinstance(atom, core.Var)
    }


def with_equations(jaxpr: core.Jaxpr, equations: Sequence[core.JaxprEqn], unread: core.Primitive) -> core.Jaxpr:
    """`jaxpr` with other equations, without those of the primitive `unread` whose result nothing reads."""
    read = {atom for atom in jaxpr.outvars if isinstance(atom, core.Var)}
    kept = []
    for eqn in reversed(equations):
        if eqn.primitive is not unread or eqn.outvars[0] in read:
            kept.append(eqn)
            read |= {atom for atom in eqn.invars if isinstance(atom, core.Var)}
    return jaxpr.replace(eqns=kept[::-1])


# Primitives that only evaluate the jaxprs they hold, or their derivatives, so that these can be rewritten in place.
ENTERED = frozenset(
    [
        "jit",
        "pjit",
        "call",
        "closed_call",
        "eval_jaxpr",
        "scan",
        "while",
        "cond",
        "checkpoint",
        "remat2",
        "shard_map",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_linear_solve",
        "composite",
        "xla_metadata_call",
        "remat_opt",
    ]
)
# Rules of custom derivatives are traced when they are differentiated; these return jaxprs, and `bwd` arrays.
_THUNKS = ("jvp_jaxpr_fun", "fwd_jaxpr_thunk")


@dataclasses.dataclass(frozen=True, eq=False)
class Rewriter:
    """Puts other equations in the place of some, wherever a jaxpr holds them; everything else stays the same object.

    A jaxpr is rewritten once, so that blocks which share one still share one, and programs compiled for it are found.

    Attributes:
        replacement: the function of an equation's operands that stands in for it and returns its results; two that
            compute the same must be equal, since what they trace to is kept by them. None leaves the equation as it is.
        joined: puts a jaxpr in the place of one whose equations were replaced, in programs that hold such equations.
        joined_in_rules: the same of other programs, whose custom derivatives may hold some, and of rules of custom
            JVPs, where tangents may be unknown of what is known.
        names: what policies of `jax.checkpoint` know the new primitives by.
    """

    replacement: Callable[[core.JaxprEqn], Replacement | None]
    joined: Callable[[core.Jaxpr], core.Jaxpr]
    joined_in_rules: Callable[[core.Jaxpr], core.Jaxpr]
    names: Mapping[core.Primitive, core.Primitive]
    _rewritten: weakref.WeakKeyDictionary[Any, Any] = dataclasses.field(
        default_factory=weakref.WeakKeyDictionary, repr=False
    )
    _holding: weakref.WeakKeyDictionary[Any, bool] = dataclasses.field(
        default_factory=weakref.WeakKeyDictionary, repr=False
    )
    _traced: dict[Any, core.Jaxpr] = dataclasses.field(default_factory=dict, repr=False)

    def call(self, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """`fn(*args, **kwargs)`, traced on the arrays in its arguments, rewritten and evaluated."""
        traced = trace(fn, args, kwargs)
        rewriter = self if self._holds(traced.closed.jaxpr) else self._of_rules
        jaxpr, consts = rewriter.jaxpr(traced.closed.jaxpr), traced.closed.consts
        with _public_errors():
            return traced.results(jax.core.eval_jaxpr(jaxpr, consts, *traced.operands))

    @functools.cached_property
    def _of_rules(self) -> "Rewriter":
        return dataclasses.replace(
            self, joined=self.joined_in_rules, _rewritten=weakref.WeakKeyDictionary(), _traced={}
        )

    def _holds(self, jaxpr: core.Jaxpr) -> bool:
        """Whether an equation is replaced in it; what rules of custom derivatives hold is seen when they are traced."""
        if jaxpr not in self._holding:
            entered = (eqn for eqn in jaxpr.eqns if eqn.primitive.name in ENTERED)
            inner = (body for eqn in entered for body in core.jaxprs_in_params(eqn.params))
            found = any(self.replacement(eqn) is not None for eqn in jaxpr.eqns) or any(map(self._holds, inner))
            self._holding[jaxpr] = found
        return self._holding[jaxpr]

    def jaxpr(self, jaxpr: Any) -> Any:
        """The jaxpr, open or closed, with its equations replaced; itself where there is none to replace."""
        if jaxpr not in self._rewritten:
            # A value that is its own key would never be let go.
            rewritten = self._jaxpr(jaxpr)
            self._rewritten[jaxpr] = None if rewritten is jaxpr else rewritten
        return self._rewritten[jaxpr] or jaxpr

    def _jaxpr(self, jaxpr: Any) -> Any:
        if not isinstance(jaxpr, core.Jaxpr):
            inner = self.jaxpr(jaxpr.jaxpr)
            return jaxpr if inner is jaxpr.jaxpr else core.ClosedJaxpr(inner, jaxpr.consts)
        equations = [new for eqn in jaxpr.eqns for new in self._equations(eqn)]
        return jaxpr if _same(equations, jaxpr.eqns) else self.joined(jaxpr.replace(eqns=equations))

    def _equations(self, eqn: core.JaxprEqn) -> list[core.JaxprEqn]:
        function = self.replacement(eqn)
        if function is not None:
            avals = tuple(atom.aval for atom in eqn.invars)
            key = (function, avals, eqn.ctx)
            if key not in self._traced:
                with eqn.ctx.manager:  # the mesh, if it stands in shard_map
                    self._traced[key] = jax.make_jaxpr(function)(*avals).jaxpr
            return _inlined(self._traced[key], eqn)
        if eqn.primitive.name not in ENTERED:
            return [eqn]
        params = {name: self._param(name, value) for name, value in eqn.params.items()}
        if _same(params.values(), eqn.params.values()):
            return [eqn]
        if params.get("policy") is not None:
            params["policy"] = functools.partial(self._policy, params["policy"])
        return [eqn.replace(params=params)]

    def _param(self, name: str, value: Any) -> Any:
        if isinstance(value, core.Jaxpr | core.ClosedJaxpr):
            return self.jaxpr(value)
        if isinstance(value, tuple):
            entries = [self._param("", v) for v in value]
            if _same(entries, value):
                return value
            return type(value)(*entries) if hasattr(value, "_fields") else tuple(entries)
        if name in _THUNKS:
            thunk = self._of_rules._thunk if name == "jvp_jaxpr_fun" else self._thunk
            return linear_util.wrap_init(functools.partial(thunk, value), debug_info=value.debug_info)
        if name == "fun_jaxpr_thunk":  # of `optimize_remat`
            return functools.partial(self._thunk, value)
        if name == "bwd":
            return linear_util.wrap_init(functools.partial(self._backward, value), debug_info=value.debug_info)
        return value

    def _policy(self, policy: Callable[..., Any], primitive: core.Primitive, *avals: Any, **params: Any) -> Any:
        return policy(self.names.get(primitive, primitive), *avals, **params)

    def _thunk(self, rule: Any, *zeros: Any) -> tuple[Any, ...]:
        jaxpr, *rest = getattr(rule, "call_wrapped", rule)(*zeros)
        return self.jaxpr(jaxpr), *rest

    def _backward(self, rule: Any, *operands: Any) -> Any:
        return self.call(rule.call_wrapped, operands, {})


@contextlib.contextmanager
def _public_errors() -> Iterator[None]:
    """jax's public error for what `jax_debug_nans` finds in an inner function, whose private one `jit` translates."""
    try:
        yield
    except Exception as error:  # whatever a program raises: the one that is meant has no public name
        if type(error).__name__ != "InternalFloatingPointError":
            raise
        raise FloatingPointError("invalid value (nan or inf) encountered in a jitted function") from None


def _same(new: Collection[Any], old: Collection[Any]) -> bool:
    """Whether these are the very same objects."""
    return len(new) == len(old) and all(map(operator.is_, new, old))


def _inlined(jaxpr: core.Jaxpr, eqn: core.JaxprEqn) -> list[core.JaxprEqn]:
    """The equations of `jaxpr` on eqn's operands and results, at eqn's place in the user's program."""
    atoms: dict[Any, Any] = dict(zip(jaxpr.invars, eqn.invars, strict=True))
    atoms.update(zip(jaxpr.outvars, eqn.outvars, strict=True))

    def renamed(atom: Any) -> Any:
        return atom if isinstance(atom, core.Literal) else atoms.setdefault(atom, core.Var(atom.aval))

    return [
        inner.replace(
            invars=list(map(renamed, inner.invars)),
            outvars=list(map(renamed, inner.outvars)),
            source_info=eqn.source_info,
            ctx=eqn.ctx,
        )
        for inner in jaxpr.eqns
    ]
