"""`count`: parameters, MACs, bytes and activations of a function or model, by layer and in all."""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from convjax.inspect import table
from convjax.inspect.costs import Costs, Operation, costs
from convjax.inspect.layers import Path
from convjax.inspect.models import read
from convjax.inspect.trace import Trace


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a model or one of its layers has and costs, for one call.

    Attributes:
        parameters: elements of the arrays that are trained.
        macs: multiply-accumulates of convolutions and products. Padding counts as computed; the zeros that a transposed
            convolution inserts do not, and what it crops does.
        bias_adds: additions of biases to these, one for each of their outputs.
        window_operations: comparisons of maxima and minima and additions of sums over windows, one for each tap.
        elementwise: all other arithmetic, one for each element made, or read by a reduction or scattered; in no other
            figure.
        bytes: of the operands and results of convolutions, products and windows, each moved once. Elementwise
            operations are taken to be fused into these and move none.
        activation_bytes: the most bytes of results alive at once, each freed after its last use, and those of
            elementwise operations in the place of operands. Arguments and parameters are not among them.
        training_bytes: bytes of results that JAX keeps from the forward pass for the gradient of the parameters (of all
            arguments where there are none), the outputs among them; without what elementwise operations make again from
            the others. None where it is not known.
    """

    parameters: int
    macs: int
    bias_adds: int
    window_operations: int
    elementwise: int
    bytes: int
    activation_bytes: int
    training_bytes: int | None

    @property
    def flops(self) -> int:
        """2 x MACs."""
        return 2 * self.macs

    @property
    def flops_with_bias(self) -> int:
        """2 x MACs and the additions of biases."""
        return self.flops + self.bias_adds

    @property
    def intensity(self) -> float:
        """FLOPs for each byte moved; 0 where nothing is."""
        return self.flops / self.bytes if self.bytes else 0.0


@dataclasses.dataclass(frozen=True)
class LayerCount(Figures):
    """The figures of one layer: what it does itself, not the layers in it.

    Attributes:
        path: where the module stands in the model, or the named scopes around the operation of a function.
        kind: the module's type, or the operation.
        output_shape: of its first result.
    """

    path: str
    kind: str
    output_shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Count(Figures):
    """What `count` found; prints as a table.

    Attributes:
        layers: of a model, the modules that have parameters, products or windows themselves, in the order of their
            first calls; of a function, its convolutions, products and windows. Elementwise work elsewhere is in the
            totals alone.
        left: one sentence a thing that could not be counted.

    Example:
        >>> import jax.numpy as jnp, convjax
        >>> x, w, b = jnp.ones((1, 10, 10, 3)), jnp.ones((3, 3, 3, 5)), jnp.ones(5)
        >>> print(count(lambda x, w, b: convjax.conv(x, w, bias=b), x, w, b, parameters=(1, 2)))
        Layer  Type  Output   Parameters   MACs  Bias adds  Windows     Bytes  Activations  FLOP/byte
        -----  ----  -------  ----------  -----  ---------  -------  --------  -----------  ---------
               conv  1x8x8x5         140  8,640        320        0  2.95 KiB     1.25 KiB        5.7
        140 parameters; 8.64 k MACs = 17.3 k FLOPs, 17.6 k with biases; 0 operations of windows, 0 of single elements
        2.95 KiB moved, 5.7 FLOPs a byte; activations: 1.25 KiB forward, 1.25 KiB kept for a training step
    """

    layers: tuple[LayerCount, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        rows = [
            (
                layer.path,
                layer.kind,
                table.shape(layer.output_shape),
                f"{layer.parameters:,}",
                f"{layer.macs:,}",
                f"{layer.bias_adds:,}",
                f"{layer.window_operations:,}",
                table.size(layer.bytes),
                table.size(layer.activation_bytes),
                f"{layer.intensity:.1f}",
            )
            for layer in self.layers
        ]
        return "\n".join([table.text(_COLUMNS, rows, left=3), *self._totals(), *self.left])

    def _totals(self) -> list[str]:
        training = "unknown" if self.training_bytes is None else table.size(self.training_bytes)
        flops, biased = table.number(self.flops), table.number(self.flops_with_bias)
        windows, elementwise = table.number(self.window_operations), table.number(self.elementwise)
        return [
            f"{self.parameters:,} parameters; {table.number(self.macs)} MACs = {flops} FLOPs, {biased} with biases; "
            f"{windows} operations of windows, {elementwise} of single elements",
            f"{table.size(self.bytes)} moved, {self.intensity:.1f} FLOPs a byte; activations: "
            f"{table.size(self.activation_bytes)} forward, {training} kept for a training step",
        ]


_COLUMNS = (
    "Layer",
    "Type",
    "Output",
    "Parameters",
    "MACs",
    "Bias adds",
    "Windows",
    "Bytes",
    "Activations",
    "FLOP/byte",
)


def count(fn_or_module: Callable[..., Any], *args: Any, parameters: int | Sequence[int] = (), **kwargs: Any) -> Count:
    """Counts what one call `fn_or_module(*args, **kwargs)` has and costs. It is traced, and nothing is run.

    MACs(conv) = N prod(output) prod(kernel) C K / G;  MACs(transposed conv) = N prod(input) prod(kernel) C K / G

    N batch, C input and K output channels, G groups. FLOPs are 2 x MACs. Loops of `lax.scan` count as often as they are
    run. A convolution of stride 1 is a transposed one in `convjax.conv_transpose` and in modules that are called so.

    Args:
        fn_or_module: any function that `jax.jit` could trace, or a model: an `nnx.Module`; a Linen module, bound, or
            with its variables before the inputs; an `equinox.Module`, which takes one example or maps over a batch
            itself; what `haiku.transform` returned, with parameters (and state) before the inputs, and an rng between
            where the model draws numbers.
        *args, **kwargs: its arguments. Arrays, those of models too, may be `jax.ShapeDtypeStruct`s.
        parameters: which arguments of a function are its parameters, by position. A function says nothing about that,
            and by default none are counted.

    Returns:
        A `Count`; `print` it, or read its attributes and `.layers`.

    Raises:
        ValueError: parameters names no argument, or is given for a model, which knows its own.
        TypeError: fn_or_module cannot be called.

    Example:
        >>> import jax, jax.numpy as jnp, convjax
        >>> from flax import nnx
        >>> model = nnx.eval_shape(lambda: nnx.Conv(3, 5, (3, 3), padding="VALID", rngs=nnx.Rngs(0)))
        >>> counted = count(model, jax.ShapeDtypeStruct((1, 10, 10, 3), jnp.float32))
        >>> counted.parameters, counted.macs, counted.flops_with_bias, counted.layers[0].output_shape
        (140, 8640, 17600, (1, 8, 8, 5))
    """
    model = read(fn_or_module, args, kwargs, parameters)
    trace = Trace(model)
    found = costs(trace.jaxpr, trace.inputs)
    left = list(found.left)
    kept = None
    try:
        kept = trace.kept()
    except (TypeError, ValueError, NotImplementedError) as error:
        left.append(f"training_bytes is not known: {str(error).strip().splitlines()[0]}")
    totals = Figures(
        parameters=sum(size for _, size in trace.parameters),
        macs=found.macs,
        bias_adds=sum(operation.bias_adds for operation in found.operations),
        window_operations=sum(operation.window_operations for operation in found.operations),
        elementwise=sum(found.elementwise.values()),
        bytes=sum(operation.bytes for operation in found.operations),
        activation_bytes=max(found.activations.values(), default=0),
        training_bytes=None if kept is None else sum(kept.values()),
    )
    layers = _modules(trace, found, kept) if model.modules else _operations(trace, found)
    return Count(**dataclasses.asdict(totals), layers=tuple(layers), left=tuple(left))


def _modules(trace: Trace, found: Costs, kept: Mapping[Path | None, int] | None) -> Iterator[LayerCount]:
    owned = owned_parameters(trace)
    operations = operations_by_layer(found)
    for path, layer in trace.layers.items():
        if owned[path] or operations[path]:
            yield LayerCount(
                path=".".join(path),
                kind=layer.kind,
                output_shape=layer.output_shapes[0] if layer.output_shapes else (),
                parameters=owned[path],
                macs=sum(operation.macs for operation in operations[path]),
                bias_adds=sum(operation.bias_adds for operation in operations[path]),
                window_operations=sum(operation.window_operations for operation in operations[path]),
                elementwise=found.elementwise[path],
                bytes=sum(operation.bytes for operation in operations[path]),
                activation_bytes=found.activations[path],
                training_bytes=None if kept is None else kept.get(path, 0),
            )


def _operations(trace: Trace, found: Costs) -> Iterator[LayerCount]:
    """Parameters are listed with the first operation that reads them."""
    unread = dict(zip(found.arguments, (size for _, size in trace.parameters), strict=False))
    for operation in found.operations:
        yield LayerCount(
            path=operation.scope,
            kind=operation.kind,
            output_shape=operation.output_shape,
            parameters=sum(unread.pop(argument, 0) for argument in operation.arguments),
            macs=operation.macs,
            bias_adds=operation.bias_adds,
            window_operations=operation.window_operations,
            elementwise=0,
            bytes=operation.bytes,
            activation_bytes=operation.activation_bytes,
            training_bytes=None,
        )


def owned_parameters(trace: Trace, chosen: Callable[[str], bool] = lambda path: True) -> collections.Counter[Path]:
    """Elements of each layer's own parameters whose paths are chosen, those of the layers in it not among them."""
    owned: collections.Counter[Path] = collections.Counter()
    for path, size in trace.parameters:
        if chosen(".".join(path)):
            owned[trace.owner(path)] += size
    return owned


def operations_by_layer(found: Costs) -> dict[Path | None, list[Operation]]:
    operations: dict[Path | None, list[Operation]] = collections.defaultdict(list)
    for operation in found.operations:
        operations[operation.layer].append(operation)
    return operations
