"""What a program costs: its products and windows one by one, everything else in sums.

Convolutions, windows and `dot_general` are operations, with MACs, bytes and shapes of their own. Arithmetic on single
elements is only counted, and is taken to be fused into the operations: it moves no bytes.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

from convjax.explain import stated_by
from convjax.inspect.layers import Path, labelled
from convjax.inspect.primitives import CUMULATIVE, ELEMENTWISE, JOINED, REDUCTIONS, SCATTERED
from convjax.inspect.steps import LOOPS, Step, Value, arguments, steps
from convjax.problem import ConvSpec
from convjax.stock import pass_of, stated

# The same elements in another shape or dtype.
_RESHAPED = frozenset(["convert_element_type", "copy", "expand_dims", "reduce_precision", "reshape", "squeeze"])
_ARRANGED = _RESHAPED | {"broadcast_in_dim", "rev", "transpose"}
_NOT_STORED = frozenset(["broadcast_in_dim", "iota"])
# What is computed where it is used.
FUSED = ELEMENTWISE | _ARRANGED | _NOT_STORED
_NOT_SEEN = frozenset([
    "call_exported", "cholesky", "cudnn_fusion", "custom_linear_solve", "custom_partitioning", "custom_vmap_call",
    "dot_product_attention_bwd", "dot_product_attention_fwd", "eig", "eigh", "fft", "ffi_call", "geqrf",
    "householder_product", "io_callback", "linear_call", "lu", "pallas_call", "pure_callback", "qr",
    "ragged_dot_general", "scaled_dot", "scaled_matmul_wrapper", "svd", "tpu_custom_call", "triangular_solve",
    "tridiagonal_solve",
])  # fmt: skip
# In the names of what jax transposes; and of a function that is a transposed convolution.
_GRADIENT = "transpose("
_TRANSPOSED = re.compile(r"(?:^|/)(?:(?:transpose|jvp|vmap)\()*conv_transpose\)*$")


@dataclasses.dataclass(eq=False)
class Operation:
    """One product or window of a program, with what it costs however often it is run."""

    kind: str
    scope: str
    layer: Path | None
    output_shape: tuple[int, ...]
    macs: int = 0
    window_operations: int = 0
    bytes: int = 0
    bias_adds: int = 0
    activation_bytes: int = 0
    features: frozenset[int] = frozenset()  # elements that a bias can have
    arguments: list[Value] = dataclasses.field(default_factory=list)  # of the program, those that it reads
    reads_parts: bool = False  # of arguments that a scan maps


@dataclasses.dataclass
class Costs:
    """What was found: by layer where equations stand in one, else under None.

    Attributes:
        operations: in the order of the program.
        elementwise: operations on single elements.
        activations: the most bytes of results alive at once.
        left: one sentence a thing that could not be counted.
        arguments: of the program.
        inputs: those of them that are known to be neither parameters nor state.
    """

    operations: list[Operation] = dataclasses.field(default_factory=list)
    elementwise: collections.Counter[Path | None] = dataclasses.field(default_factory=collections.Counter)
    activations: collections.Counter[Path | None] = dataclasses.field(default_factory=collections.Counter)
    left: dict[str, None] = dataclasses.field(default_factory=dict)
    arguments: list[Value] = dataclasses.field(default_factory=list)
    inputs: frozenset[Value] = frozenset()

    @property
    def macs(self) -> int:
        return sum(operation.macs for operation in self.operations)

    @property
    def window_operations(self) -> int:
        return sum(operation.window_operations for operation in self.operations)


def costs(jaxpr: Any, before_inputs: int) -> Costs:
    """The costs of `jaxpr`, of whose arguments so many stand before its inputs; 0 if none is known to."""
    found = Costs(arguments=arguments(jaxpr))
    found.inputs = frozenset(found.arguments[before_inputs:] if before_inputs else ())
    _Program(found).run(jaxpr, found.arguments, "", times=1, held=0)
    return found


@dataclasses.dataclass(frozen=True)
class Origin:
    """An argument of the program, and how many elements of it an evaluation sees: of what a scan maps, one part."""

    argument: Value
    size: int

    @property
    def is_part(self) -> bool:
        return self.size < self.argument.size


@dataclasses.dataclass(frozen=True)
class _Program:
    """Walks a program once, adding what each step costs to `found`."""

    found: Costs
    # The operation that values are the sums of; the argument of the program that values are arranged from.
    _sums: dict[Value, Operation] = dataclasses.field(default_factory=dict)
    _origins: dict[Value, Origin] = dataclasses.field(default_factory=dict)

    def run(self, jaxpr: Any, operands: Sequence[Value], scope: str, times: int, held: int) -> int:
        """Adds the costs of `times` evaluations while `held` bytes are alive; returns the most bytes alive at once."""
        program, results = steps(jaxpr, operands, scope)
        last = {value: i for i, step in enumerate(program) for value in step.operands}
        last.update(dict.fromkeys(results, len(program)))
        alive: dict[Value, int] = {}
        peak = held
        for i, step in enumerate(program):
            operation = self._add(step, times)
            stored = [] if step.name in _NOT_STORED else [v for v in step.results if v not in self._origins]
            made = sum(value.bytes for value in stored)
            dying = [value for value in dict.fromkeys(step.operands) if value in alive and last[value] == i]
            replaced = sum(alive[v] for v in dying) if step.name in ELEMENTWISE | _RESHAPED else 0
            most = max(held + max(made - replaced, 0), self._enter(step, times, held))
            self.found.activations[step.layer] = max(self.found.activations[step.layer], most)
            if operation is not None:
                operation.activation_bytes = most
            peak = max(peak, most)
            for value in dying:
                held -= alive.pop(value)
            for value in stored:
                if value in last:
                    alive[value] = value.bytes
                    held += value.bytes
        return peak

    def _enter(self, step: Step, times: int, held: int) -> int:
        """Adds what the bodies of a loop or branch cost; returns the most bytes alive at once."""
        eqn = step.eqn
        if step.name == "cond":
            return self._costliest(step, times, held)
        if step.name == "while":
            self.found.left["while: how often it is run is not known, and it is counted once"] = None
        elif step.name == "scan":
            times *= eqn.params["length"]
        elif step.name == "shard_map":
            axes = eqn.params["manual_axes" if "manual_axes" in eqn.params else "newly_manual_axes"]  # since jax 0.12
            times *= math.prod(eqn.params["mesh"].shape[axis] for axis in axes)
        elif step.name in _NOT_SEEN:
            self.found.left[f"{step.name}: what it computes is not counted"] = None
        if step.name not in LOOPS - _NOT_SEEN:
            return held
        if step.name != "shard_map":
            held += sum(value.bytes for value in step.results)  # what is carried and stacked
        return max(self.run(body, self._inside(step.operands, body), step.scope, times, held) for body in step.bodies)

    def _costliest(self, step: Step, times: int, held: int) -> int:
        """Of the branches of a `cond`, the one with the most MACs is counted, and the most bytes of any."""
        branches = []
        for body in step.eqn.params["branches"]:
            program = dataclasses.replace(self, found=Costs(inputs=self.found.inputs), _sums={})
            inside = self._inside(step.operands[1:], body)
            branches.append((program.run(body, inside, step.scope, times, held), program.found))
        by_work = {(b.macs, b.window_operations, sum(b.elementwise.values())): b for _, b in branches}
        most = max(by_work)
        self.found.operations += by_work[most].operations
        self.found.elementwise += by_work[most].elementwise
        for _, branch in branches:
            self.found.activations |= branch.activations
            self.found.left |= branch.left
        if any(macs < most[0] or windows < most[1] for macs, windows, _ in by_work):
            self.found.left["cond: the branch with the most MACs is counted"] = None
        return max(peak for peak, _ in branches)

    def _inside(self, operands: Sequence[Value], body: Any) -> list[Value]:
        """The arguments of a body; those of the program are known as such inside."""
        inner = [dataclasses.replace(value, argument=False) for value in arguments(body)]
        for value, outer in zip(inner, operands, strict=False):  # `while` holds two bodies, of other operands
            origin = self._origin(outer)
            if origin is not None and len(inner) == len(operands):
                self._origins[value] = dataclasses.replace(origin, size=value.size)
        return inner

    def _origin(self, value: Value) -> Origin | None:
        """What `value` is arranged from, None where it is computed."""
        return Origin(value, value.size) if value.argument else self._origins.get(value)

    def _add(self, step: Step, times: int) -> Operation | None:
        """Adds the step itself; the operation that it is, if it is one."""
        operation = self._operation(step, times)
        if operation is not None:
            self.found.operations.append(operation)
            origins = [origin for operand in step.operands if (origin := self._origin(operand)) is not None]
            operation.arguments += [origin.argument for origin in origins]
            operation.reads_parts = any(origin.is_part for origin in origins)
            self._sums[step.results[0]] = operation
            return operation
        if step.name in _ARRANGED:
            (value,), (result,) = step.operands[:1], step.results
            origin = self._origin(value)
            if origin is not None:
                self._origins[result] = origin
            if value in self._sums and step.name != "broadcast_in_dim":
                self._sums[result] = self._sums[value]
        elif step.name in ELEMENTWISE:
            if not (step.name == "add" and self._add_bias(step, times)):
                self.found.elementwise[step.layer] += times * step.results[0].size
            if step.name == "add" and all(operand in self._sums for operand in step.operands):
                self._sums[step.results[0]] = self._sums[step.operands[0]]
        elif step.name in REDUCTIONS | CUMULATIVE | JOINED:
            self.found.elementwise[step.layer] += times * sum(operand.size for operand in step.operands)
        elif step.name == "reduce":  # of several arrays together, whose first elements follow them
            self.found.elementwise[step.layer] += times * sum(v.size for v in step.operands[: len(step.results)])
        elif step.name in SCATTERED:
            self.found.elementwise[step.layer] += times * step.operands[2].size
        return None

    def _add_bias(self, step: Step, times: int) -> bool:
        """Whether the step adds an argument with one element for each feature to sums of products."""
        for sums, bias in (step.operands, step.operands[::-1]):
            operation, origin = self._sums.get(sums), self._origin(bias)
            if operation is not None and origin is not None and self._is_bias(origin, operation):
                operation.arguments.append(origin.argument)
                operation.bias_adds += times * step.results[0].size
                return True
        return False

    def _is_bias(self, origin: Origin, operation: Operation) -> bool:
        """Whether it can be a parameter of the operation, and is no input that happens to have as many elements."""
        if origin.argument in self.found.inputs or origin.argument in operation.arguments:
            return False
        return origin.size in operation.features and (operation.reads_parts or not origin.is_part)

    def _operation(self, step: Step, times: int) -> Operation | None:
        eqn, output_shape = step.eqn, step.results[0].shape if step.results else ()
        if step.name == "dot_general":
            return _product(step, times)
        if "window_dimensions" in eqn.params and stated(eqn) is None:
            combined = step.results[0].size * math.prod(eqn.params["window_dimensions"])
            moved = sum(value.bytes for value in (*step.operands, *step.results))
            return Operation(
                step.name, step.scope, step.layer, output_shape, window_operations=times * combined, bytes=times * moved
            )
        found = stated_by(eqn)
        if found is None:
            return None
        problem, _ = found
        if not isinstance(problem, ConvSpec):
            kind, bytes = problem.operation, times * problem.bytes
            return Operation(
                kind, step.scope, step.layer, output_shape, window_operations=times * problem.macs, bytes=bytes
            )
        dilated, named = any(d > 1 for d in problem.lhs_dilation), _is_transposed(step.scope)
        macs = problem.macs
        if named:
            # The input's gradient of an input's gradient is the convolution again.
            macs = _transposed_macs(problem, is_gradient=step.scope.count(_GRADIENT) % 2 == 1)
        return Operation(
            "conv_transpose" if dilated or named else "conv",
            step.scope,
            step.layer,
            output_shape,
            macs=times * macs,
            bytes=times * problem.bytes,
            features=frozenset([problem.G * problem.K]),
        )


def _transposed_macs(problem: ConvSpec, is_gradient: bool) -> int:
    """MACs of a transposed convolution; the gradient of its input is a convolution like others."""
    if not is_gradient:
        return problem.transposed_macs
    return problem.transposed_wgrad_macs if pass_of(problem) == "wgrad" else problem.macs


def _is_transposed(scope: str) -> bool:
    """Whether a convolution without inserted zeros is a transposed one of stride 1, by its layer or its scope."""
    layer = labelled(scope)
    if layer is not None and "Conv" in layer[1] and "Transpose" in layer[1]:
        return True
    return _TRANSPOSED.search(scope) is not None


def _product(step: Step, times: int) -> Operation:
    (lhs, rhs), result = step.operands, step.results[0]
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = step.eqn.params["dimension_numbers"]

    def free(value: Value, *others: Sequence[int]) -> int:
        return math.prod(n for axis, n in enumerate(value.shape) if axis not in {a for axes in others for a in axes})

    rows, columns = free(lhs, lhs_contract, lhs_batch), free(rhs, rhs_contract, rhs_batch)
    members = math.prod(lhs.shape[axis] for axis in lhs_batch)
    return Operation(
        "dot",
        step.scope,
        step.layer,
        result.shape,
        macs=times * result.size * math.prod(lhs.shape[axis] for axis in lhs_contract),
        bytes=times * (lhs.bytes + rhs.bytes + result.bytes),
        features=frozenset([rows, columns, members * rows, members * columns]),
    )
