"""Lax's own convolutions and poolings: the problem that an equation of a jaxpr states."""

from typing import Any

from jax.extend import core
from jax.extend.core.primitives import (
    add_p,
    conv_general_dilated_p,
    max_p,
    min_p,
    reduce_window_max_p,
    reduce_window_min_p,
    reduce_window_p,
    reduce_window_sum_p,
    select_and_gather_add_p,
    select_and_scatter_add_p,
)

from convjax.primitive import problem_of
from convjax.problem import ConvSpec, Problem, WindowSpec
from convjax.request import Pass
from convjax.sizes import are_numbers

# The derivatives of max and min have the operand that is pooled after the value that they carry.
_WINDOWS = {
    reduce_window_max_p: "max",
    reduce_window_min_p: "min",
    reduce_window_sum_p: "sum",
    select_and_gather_add_p: "take",
    select_and_scatter_add_p: "put",
}
_BODIES = {max_p: "max", min_p: "min", add_p: "sum"}

# Of some of these, no problem expresses what they compute.
PRIMITIVES = frozenset([conv_general_dilated_p, reduce_window_p, *_WINDOWS])


def stated(eqn: core.JaxprEqn) -> Problem | None:
    """The problem of one of lax's convolutions or poolings; None for other equations and what problems do not express.

    `reduce_window` with a maximum, minimum or sum for its computation is a pooling, its first value set aside.
    """
    avals: list[Any] = [atom.aval for atom in eqn.invars]
    if eqn.primitive is conv_general_dilated_p:
        return problem_of(avals[0], avals[1], eqn.params) if are_numbers(*avals) else None
    operation = _reduced(eqn) if eqn.primitive is reduce_window_p else _WINDOWS.get(eqn.primitive)
    if operation is None or not are_numbers(*avals):
        return None
    x = avals[1 if operation in ("take", "put") else 0]
    ones = (1,) * x.ndim
    base_dilation = tuple(map(int, eqn.params.get("base_dilation", ones)))
    if operation == "take" and base_dilation != ones:
        return None
    return WindowSpec(
        operation,
        x.shape,
        x.dtype.name,
        tuple(map(int, eqn.params["window_dimensions"])),
        tuple(map(int, eqn.params["window_strides"])),
        tuple((int(lo), int(hi)) for lo, hi in eqn.params["padding"]),
        base_dilation,
        tuple(map(int, eqn.params.get("window_dilation", ones))),
    )


def pass_of(problem: ConvSpec) -> Pass:
    """Which pass of its layer one of lax's convolutions seems to be, by the axes that jax's rules give gradients.

    Weights' gradients sum over the batch and have x's channels in the place of a batch; inputs' gradients read a
    kernel's output channels as the inputs. A forward one with axes like these, as of IOHW kernels, is told as such.
    """
    (batch, features, *_), (outputs, inputs, *_), _ = problem.dimension_numbers
    if features == 0 or problem.batch_groups > 1:
        return "wgrad"
    last = problem.ndim + 1
    swapped = (outputs, inputs) in {(last - 1, last), (1, 0)} and problem.ndim > 0
    return "dgrad" if swapped and batch == 0 else "fprop"


def _reduced(eqn: core.JaxprEqn) -> str | None:
    """What a general window reduction of one array computes, where it is one equation on the two values."""
    body = eqn.params["jaxpr"]
    if len(eqn.invars) != 2 or len(body.eqns) != 1:
        return None
    (combined,) = body.eqns
    read = [atom for atom in combined.invars if isinstance(atom, core.Var)]
    if len(read) != 2 or set(read) != set(body.invars) or combined.outvars != body.outvars:
        return None
    operation = _BODIES.get(combined.primitive)
    # Every padded cell adds the first value to a sum.
    first = eqn.invars[1]
    return None if operation == "sum" and not (isinstance(first, core.Literal) and first.val == 0) else operation
