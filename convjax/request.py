"""What the caller asks of the choice: algorithms by pass, and constraints on all of them.

A request is a static parameter of every convjax primitive, so it takes part in jit's cache key and
reaches the derived passes through the rules.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import jax

from convjax.algorithms import named
from convjax.algorithms.protocol import Algorithm
from convjax.device import Device

Pass = Literal["fprop", "dgrad", "wgrad"]
PASSES: tuple[Pass, ...] = ("fprop", "dgrad", "wgrad")

# One entry of a request: a family or full name, or an algorithm value.
Wish = str | Algorithm
AlgorithmLike = Wish | Sequence[Wish] | Mapping[str, Wish | Sequence[Wish]] | None

# Which pass the transpose of a pass with respect to its first or second operand is: the input gradient of the
# input gradient is a forward convolution again.
_TRANSPOSED: dict[tuple[Pass, int], Pass] = {
    ("fprop", 0): "dgrad",
    ("fprop", 1): "wgrad",
    ("dgrad", 0): "fprop",
    ("dgrad", 1): "wgrad",
    ("wgrad", 0): "dgrad",
    ("wgrad", 1): "fprop",
}


@dataclasses.dataclass(frozen=True)
class Constraints:
    """Limits that an algorithm must keep to be a candidate, and the constants that rank those that do.

    Attributes:
        max_workspace_bytes: most bytes of intermediate arrays; None does not limit.
        max_error: largest stated error as a fraction of the largest output; None leaves it to `precision`.
        device: the rates predictions are made with; None takes those shipped for the device at hand.
    """

    max_workspace_bytes: int | None = None
    max_error: float | None = None
    device: Device | None = None

    def __str__(self) -> str:
        limits = {"max_workspace_bytes": self.max_workspace_bytes, "max_error": self.max_error}.items()
        return ", ".join(f"{name}={value}" for name, value in limits if value is not None)


@dataclasses.dataclass(frozen=True)
class Request:
    """The algorithms wished for each pass, the pass at hand, and the constraints at the time of tracing.

    Attributes:
        wishes: for each of fprop, dgrad, wgrad the wishes in order, or None to choose.
        strict: whether the pass's wish must be met, or is only preferred where it applies.
        role: the pass that the present problem is.
        constraints: limits on every candidate.
    """

    wishes: tuple[tuple[Wish, ...] | None, ...] = (None, None, None)
    strict: tuple[bool, ...] = (False, False, False)
    role: Pass = "fprop"
    constraints: Constraints = Constraints()

    @property
    def wish(self) -> tuple[Wish, ...] | None:
        return self.wishes[PASSES.index(self.role)]

    @property
    def must(self) -> bool:
        return self.strict[PASSES.index(self.role)]

    def transposed(self, operand: int) -> "Request":
        """The request for the gradient with respect to operand 0 or 1."""
        return dataclasses.replace(self, role=_TRANSPOSED[self.role, operand])


def request(algorithm: AlgorithmLike, operation: str) -> Request:
    """Reads an `algorithm=` argument, under the constraints in force here.

    A mapping binds the passes that it names. Anything else binds the forward pass, and its gradients
    use the same algorithm where it applies and a chosen one elsewhere.
    """
    constraints = _constraints.value or Constraints()
    if algorithm is None:
        return Request(constraints=constraints)
    if isinstance(algorithm, Mapping):
        unknown = [key for key in algorithm if key not in PASSES]
        if unknown:
            raise ValueError(f"algorithm has the pass {unknown[0]!r}; the passes are {', '.join(PASSES)}")
        wishes = tuple(_wishes(algorithm[p], operation) if p in algorithm else None for p in PASSES)
        return Request(wishes, tuple(w is not None for w in wishes), constraints=constraints)
    wish = _wishes(algorithm, operation)
    return Request((wish, wish, wish), (True, False, False), constraints=constraints)


def _wishes(algorithm: Wish | Sequence[Wish], operation: str) -> tuple[Wish, ...]:
    wishes = (algorithm,) if isinstance(algorithm, str | Algorithm) else tuple(algorithm)
    if not wishes:
        raise ValueError("algorithm is an empty sequence: name at least one, or pass None to choose")
    for wish in wishes:
        if isinstance(wish, str):
            named(operation, wish)  # refuses unknown names here, where the caller is
        elif not isinstance(wish, Algorithm):
            raise TypeError(f"algorithm must be a name, an algorithm value or a sequence of them, got {wish!r}")
    return wishes


_constraints = jax.make_user_context(default_value=None)


@contextlib.contextmanager
def using(
    *, max_workspace_bytes: int | None = None, max_error: float | None = None, device: Device | None = None
) -> Iterator[None]:
    """Limits or informs the choice inside the block; functions already jitted are traced again under it.

    Args:
        max_workspace_bytes: candidates needing more bytes of intermediate arrays are rejected.
        max_error: candidates whose stated error, as a fraction of the largest output, is larger are rejected.
        device: candidates are ranked by these constants, such as `convjax.calibrate` measures.

    Example:
        >>> import jax.numpy as jnp, convjax
        >>> x, w = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
        >>> with convjax.using(max_workspace_bytes=0):
        ...     convjax.conv(x, w).shape
        (1, 6, 6, 4)
    """
    for name, value in (("max_workspace_bytes", max_workspace_bytes), ("max_error", max_error)):
        if value is not None and value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    outer = _constraints.value or Constraints()
    given = {"max_workspace_bytes": max_workspace_bytes, "max_error": max_error, "device": device}
    inner = dataclasses.replace(outer, **{k: v for k, v in given.items() if v is not None})
    with _constraints(inner):
        yield
