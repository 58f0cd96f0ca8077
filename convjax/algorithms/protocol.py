"""What an algorithm is: a frozen value that says where it applies, what it costs, how exact it is, and runs.

An algorithm holds no gradient code and never asks which others there are: derivatives and batches reach it as problems
of their own. Some hold another by name, or fall back on one.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from convjax.platforms import GPUS

Reasons = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Cost:
    """Work by the kind of code that does it, which the chooser turns into seconds.

    Attributes:
        gemm: multiply-adds inside matrix products.
        vector: multiply-adds (or compare-selects) inside fused elementwise loops.
        library: multiply-adds inside XLA's own convolution library call.
        scalar: multiply-adds where that is slow: in XLA's unvectorised loops, or by cuDNN's general kernels.
        bytes: bytes read and written, intermediate arrays counted.
        workspace: bytes of the largest set of intermediate arrays alive at once.
        calls: kernels launched, each with a fixed overhead.

    Example:
        >>> from convjax import Cost, Device
        >>> device = Device(gemm=1e11, vector=1e10, library=1e11, scalar=1e9, memory=1e10, call=1e-5)
        >>> f"{device.seconds(Cost(gemm=1e9, bytes=1e6)):.5f}"
        '0.01011'
    """

    gemm: float = 0.0
    vector: float = 0.0
    library: float = 0.0
    scalar: float = 0.0
    bytes: float = 0.0
    workspace: float = 0.0
    calls: float = 1.0


def total_cost(costs: Sequence[Cost]) -> Cost:
    """That of one after another, each with a workspace of its own."""
    return Cost(**{f.name: sum(getattr(cost, f.name) for cost in costs) for f in dataclasses.fields(Cost)})


@runtime_checkable
class Algorithm(Protocol):
    """A way to compute one operation. Its dataclass fields are its knobs.

    Attributes:
        name: the family's name, to which `describe` adds the knobs.
        version: raised when the result or the cost changes, so that old records are not compared with new.
        exact: whether small integers come out exactly, i.e. it only multiplies inputs and adds products.
        varies_on: the platforms on which it may give other bits on another run.

    It may have an `amplification` too: by how much the rounding of a matrix product's inputs (TensorFloat-32 on a GPU)
    is multiplied on its way to the result. It is 0 without matrix products, and 1 where it is not given. And it may be
    `opaque`: called by a name that XLA can neither divide among devices nor save.

    Values with these members, registered or not, can be asked for: `convjax.conv(x, w, algorithm=value)`;
    `convjax.testing.check_algorithm` tells whether one keeps its promises.

    Example:
        >>> import dataclasses, convjax
        >>> @dataclasses.dataclass(frozen=True)
        ... class ByLax:
        ...     name, version, exact, varies_on = "by_lax", 1, True, ()
        ...
        ...     def unsupported(self, problem, platform):
        ...         return ()
        ...
        ...     def cost(self, problem):
        ...         return convjax.Cost(library=problem.macs, bytes=problem.bytes)
        ...
        ...     def error(self, problem):
        ...         return 1e-2 if "16" in problem.output_dtype else 1e-5
        ...
        ...     def __call__(self, problem, lhs, rhs):
        ...         return convjax.algorithms("conv")[0](problem, lhs, rhs)
        >>> isinstance(ByLax(), convjax.Algorithm)
        True
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def exact(self) -> bool: ...

    @property
    def varies_on(self) -> tuple[str, ...]: ...

    def unsupported(self, problem: Any, platform: str) -> Reasons:
        """Why it cannot compute `problem`; empty promises a correct answer."""
        ...

    def cost(self, problem: Any) -> Cost:
        """What it costs; this and `error` are asked only of problems that it applies to."""
        ...

    def error(self, problem: Any) -> float:
        """Bound on max|error| / max|output| for standard normal operands in the problem's dtype."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`algorithm(problem, *operands)`: the result, traced with plain jax.numpy and lax."""
        ...


@runtime_checkable
class ReadsReversed(Protocol):
    """An algorithm of convolutions that reads a kernel from its last tap to its first without a reversed copy."""

    def of_reversed(self, problem: Any, lhs: Any, rhs: Any) -> Any:
        """What calling it on rhs reversed along all its spatial axes gives."""
        ...


@runtime_checkable
class ComputesDivided(Protocol):
    """An algorithm of convolutions that does otherwise in programs which XLA divides among devices."""

    def of_divided(self, problem: Any, lhs: Any, rhs: Any) -> Any:
        """What calling it gives, by what XLA divides rightly."""
        ...


@runtime_checkable
class Gathers(Protocol):
    """An algorithm for some of whose problems XLA moves operands that are divided by batch among devices."""

    def gathers(self, problem: Any) -> bool:
        """Whether it does for `problem`; a convolution with few outputs is a weight gradient, which sums the batch."""
        ...


@runtime_checkable
class CostsOnGPU(Protocol):
    """An algorithm whose time on a GPU is predicted, so that it may be chosen there untuned."""

    def gpu_cost(self, problem: Any) -> Cost | None:
        """What it costs on a GPU; None where that is not known."""
        ...


def members_missing(value: Any) -> list[str]:
    """The members of an `Algorithm` that `value` lacks."""
    members = ("name", "version", "exact", "varies_on", "unsupported", "cost", "error", "__call__")
    return [member for member in members if not hasattr(value, member)]


def cost_on(platform: str, algorithm: Algorithm, problem: Any) -> Cost | None:
    """What `algorithm` costs on a platform; None where that is not known."""
    return gpu_cost(algorithm, problem) if platform in GPUS else algorithm.cost(problem)


def is_opaque(algorithm: Algorithm) -> bool:
    """Whether it is called by a name that XLA can neither divide among devices nor save."""
    return bool(getattr(algorithm, "opaque", False))


def workspace_on(platform: str, algorithm: Algorithm, problem: Any) -> float:
    """Bytes of workspace on a platform; what it needs on CPUs where nothing else is known."""
    return (cost_on(platform, algorithm, problem) or algorithm.cost(problem)).workspace


def gpu_cost(algorithm: Algorithm, problem: Any) -> Cost | None:
    """What `algorithm` costs on a GPU; None where that is not known."""
    return algorithm.gpu_cost(problem) if isinstance(algorithm, CostsOnGPU) else None


def describe(algorithm: Any) -> str:
    """`name`, or `name(knob=value)` when it has knobs."""
    knobs = ",".join(f"{f.name}={getattr(algorithm, f.name)}" for f in dataclasses.fields(algorithm))
    return f"{algorithm.name}({knobs})" if knobs else str(algorithm.name)
