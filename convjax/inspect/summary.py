"""`summary`: the table of a model's layers."""

import dataclasses
from collections.abc import Callable
from typing import Any

from convjax.inspect import table
from convjax.inspect.costs import costs
from convjax.inspect.count import operations_by_layer, owned_parameters
from convjax.inspect.layers import Layer, Path, output_of
from convjax.inspect.models import read
from convjax.inspect.receptive_field import equation_fields
from convjax.inspect.trace import Trace


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """One layer, with all that stands in it.

    Attributes:
        path: where it stands in the model, "" for the model itself.
        kind: its type.
        depth: how many of the layers listed hold it.
        output_shapes: of what its first call gives.
        parameters: its own and those of the layers in it.
        trainable: how many of these are trained.
        macs: likewise, of all its calls.
        receptive_field: elements of the first input along each of its spatial axes that an output depends on; None
            where it is not known.
    """

    path: str
    kind: str
    depth: int
    output_shapes: tuple[tuple[int, ...], ...]
    parameters: int
    trainable: int
    macs: int
    receptive_field: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `summary` found: prints as a table, and shows as one in a notebook.

    Attributes:
        rows: one `SummaryRow` a layer, the model itself first, in the order of their first calls.
        left: one sentence a thing that could not be counted.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> found = summary(nnx.Conv(5, 4, (2, 2, 2), padding="VALID", rngs=nnx.Rngs(0)), jnp.ones((1, 4, 10, 10, 5)))
        >>> [(row.kind, row.output_shapes, row.parameters) for row in found.rows]
        [('Conv', ((1, 3, 9, 9, 4),), 164)]
    """

    rows: tuple[SummaryRow, ...]
    left: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([table.text(_COLUMNS, self._cells(), left=3), *self._totals()])

    def _repr_html_(self) -> str:
        return table.html(_COLUMNS, self._cells(), left=3, caption="\n".join(self._totals()))

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                "  " * row.depth + _name(row, self.rows),
                _shapes(row),
                _answer(row),
                f"{row.parameters:,}",
                f"{row.macs:,}",
                "-" if row.receptive_field is None else table.shape(row.receptive_field),
            )
            for row in self.rows
        ]

    def _totals(self) -> list[str]:
        model = self.rows[0]
        return [
            f"{model.parameters:,} parameters, {model.trainable:,} of them trainable; {table.number(model.macs)} MACs",
            *self.left,
        ]


_COLUMNS = ("Layer (type)", "Output", "Trainable", "Parameters", "MACs", "Receptive field")


def summary(
    module: Callable[..., Any], *args: Any, trainable: Callable[[str], bool] = lambda path: True, **kwargs: Any
) -> Summary:
    """The layers of a model as a table: output shapes, parameters, MACs and receptive fields. Nothing is run.

    Layers are the modules that `module(*args, **kwargs)` calls, indented by the modules that hold them, whose rows sum
    up what is in them. Statistics of normalisation and other state are not parameters. Behind a normalisation by the
    statistics of the batch, as in training, every output sees the whole input: the field of the layers alone is that of
    the model as it is evaluated, for Flax NNX after `model.eval()`.

    Args:
        module: a model of Flax NNX, Flax Linen, Equinox or Haiku, as `convjax.count` takes them.
        *args, **kwargs: its arguments. Arrays, those of models too, may be `jax.ShapeDtypeStruct`s.
        trainable: whether the parameter at a path, e.g. "blocks.0.conv.kernel", is trained; by default all are.

    Returns:
        A `Summary`; `print` it, show it in a notebook, or read its `.rows`.

    Raises:
        TypeError: module is not a model of these libraries.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> rngs = nnx.Rngs(0)
        >>> layers = nnx.Conv(3, 5, (3, 3), padding="VALID", rngs=rngs), nnx.BatchNorm(5, rngs=rngs)
        >>> model = nnx.Sequential(*layers)
        >>> model.eval()
        >>> print(summary(model, jnp.ones((1, 10, 10, 3)), trainable=lambda path: "scale" not in path))
        Layer (type)            Output   Trainable  Parameters   MACs  Receptive field
        ----------------------  -------  ---------  ----------  -----  ---------------
        Sequential              1x8x8x5  in part           150  8,640              3x3
          layers.0 (Conv)       1x8x8x5  yes               140  8,640              3x3
          layers.1 (BatchNorm)  1x8x8x5  in part            10      0              3x3
        150 parameters, 145 of them trainable; 8.64 k MACs
    """
    model = read(module, args, kwargs, ())
    if not model.modules:
        raise TypeError(
            f"{model.kind} is a function, whose layers are not known: pass a model of Flax NNX, Flax Linen, Equinox or "
            "Haiku, or count a function by convjax.count"
        )
    trace = Trace(model)
    found = costs(trace.jaxpr, trace.inputs)
    owned = owned_parameters(trace)
    trained = owned_parameters(trace, trainable)
    macs = {layer: sum(o.macs for o in operations) for layer, operations in operations_by_layer(found).items()}
    layers = trace.layers
    fields = _fields(trace)

    def row(path: Path, layer: Layer) -> SummaryRow:
        inside = [other for other in layers if other[: len(path)] == path]
        return SummaryRow(
            path=".".join(path),
            kind=layer.kind,
            depth=sum(path[:n] in layers for n in range(len(path))),
            output_shapes=layer.output_shapes,
            parameters=sum(owned[other] for other in inside),
            trainable=sum(trained[other] for other in inside),
            macs=sum(macs.get(other, 0) for other in inside),
            receptive_field=fields.get(path),
        )

    return Summary(tuple(row(path, layer) for path, layer in layers.items()), tuple(found.left))


def _fields(trace: Trace) -> dict[Path, tuple[int, ...]]:
    """The receptive field of each layer's first output, by its first call."""
    found: dict[Path, tuple[int, ...]] = {}
    if trace.inputs < len(trace.jaxpr.jaxpr.invars):
        for entry in equation_fields(trace.jaxpr, trace.inputs):
            output = output_of(entry.eqn)
            if output is not None and output[1] == 0:
                found.setdefault(output[0], entry.fields[0].size)
    return found


def _name(row: SummaryRow, rows: tuple[SummaryRow, ...]) -> str:
    """The path from the innermost listed layer that holds this one, and the type."""
    if not row.path:
        return row.kind
    holders = [other.path for other in rows if other.path and row.path.startswith(f"{other.path}.")]
    return f"{row.path.removeprefix(f'{max(holders, key=len)}.' if holders else '')} ({row.kind})"


def _shapes(row: SummaryRow) -> str:
    shown = [table.shape(shape) for shape in row.output_shapes[:3]]
    return ", ".join([*shown, "..."] if len(row.output_shapes) > 3 else shown)


def _answer(row: SummaryRow) -> str:
    if not row.parameters:
        return ""
    return "yes" if row.trainable == row.parameters else "in part" if row.trainable else "no"
