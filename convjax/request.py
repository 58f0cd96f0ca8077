"""What the caller asks of the choice: algorithms by pass, and a policy for all of them.

A request is a static parameter of every convjax primitive, so it takes part in jit's cache key and
reaches the derived passes through the rules.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from convjax.algorithms import named
from convjax.algorithms.protocol import Algorithm, members_missing
from convjax.device import Device
from convjax.plans import NO_PLANS, Plans

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


# Of a value that lacks no more than this many members of an algorithm, they are named.
_FEW_MEMBERS = 4

OnMiss = Literal["heuristic", "tune", "error"]
_ON_MISS: tuple[OnMiss, ...] = ("heuristic", "tune", "error")


@dataclasses.dataclass(frozen=True)
class Policy:
    """What the `using` blocks around a call say.

    Attributes:
        plans: measured times, which come before predicted ones.
        on_miss: what to do without a plan: predict, measure, or refuse.
        deterministic: whether an algorithm must give the same bits on every run.
        max_workspace_bytes: most bytes of intermediate arrays; None leaves it to the problem's size.
        max_error: largest stated error as a fraction of the largest output; None leaves it to `precision`.
        device: the rates that times are predicted by; None takes those known of the device at hand.
        portable: whether to call no library by name, so that compiled programs can be saved.
    """

    plans: Plans = NO_PLANS
    on_miss: OnMiss = "heuristic"
    deterministic: bool = False
    max_workspace_bytes: int | None = None
    max_error: float | None = None
    device: Device | None = None
    portable: bool = False

    @property
    def limits(self) -> str:
        """The limits that are set, as `using` takes them."""
        set_: dict[str, Any] = {"deterministic": self.deterministic or None, "portable": self.portable or None}
        set_ |= {"max_error": self.max_error}
        set_ |= {"max_workspace_bytes": self.max_workspace_bytes}
        return ", ".join(f"{name}={value}" for name, value in set_.items() if value is not None)


@dataclasses.dataclass(frozen=True)
class Request:
    """The algorithms wished for each pass, the pass at hand, and the policy at the time of tracing.

    Attributes:
        wishes: for each of fprop, dgrad, wgrad the wishes in order, or None to choose.
        strict: whether the pass's wish must be met, or is only preferred where it applies.
        role: the pass that the present problem is.
        policy: limits on every candidate, and the plans.
    """

    wishes: tuple[tuple[Wish, ...] | None, ...] = (None, None, None)
    strict: tuple[bool, ...] = (False, False, False)
    role: Pass = "fprop"
    policy: Policy = Policy()

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
    """Reads an `algorithm=` argument, under the policy in force here.

    A mapping binds the passes that it names. Anything else binds the forward pass, and its gradients
    use the same algorithm where it applies and a chosen one elsewhere.
    """
    policy = _policy.value or Policy()
    if algorithm is None:
        return Request(policy=policy)
    if isinstance(algorithm, Mapping):
        unknown = [key for key in algorithm if key not in PASSES]
        if unknown:
            raise ValueError(f"algorithm has the pass {unknown[0]!r}; the passes are {', '.join(PASSES)}")
        wishes = tuple(_wishes(algorithm[p], operation) if p in algorithm else None for p in PASSES)
        return Request(wishes, tuple(w is not None for w in wishes), policy=policy)
    wish = _wishes(algorithm, operation)
    return Request((wish, wish, wish), (True, False, False), policy=policy)


def _wishes(algorithm: Wish | Sequence[Wish], operation: str) -> tuple[Wish, ...]:
    wishes = tuple(algorithm) if isinstance(algorithm, Sequence) and not isinstance(algorithm, str) else (algorithm,)
    if not wishes:
        raise ValueError("algorithm is an empty sequence: name at least one, or pass None to choose")
    for wish in wishes:
        if isinstance(wish, str):
            named(operation, wish)  # refuses unknown names here, where the caller is
        elif isinstance(wish, type):
            raise TypeError(f"algorithm must be a value and not a class: pass {wish.__name__}()")
        elif missing := members_missing(wish):
            lacks = f", which lacks {', '.join(missing)}" if len(missing) <= _FEW_MEMBERS else ""
            raise TypeError(f"algorithm must be a name, an algorithm value or a sequence of them, got {wish!r}{lacks}")
    return wishes


_policy = jax.make_user_context(default_value=None)


@contextlib.contextmanager
def using(
    plans: Plans | None = None,
    *,
    on_miss: OnMiss | None = None,
    deterministic: bool | None = None,
    max_workspace_bytes: int | None = None,
    max_error: float | None = None,
    device: Device | None = None,
    portable: bool | None = None,
) -> Iterator[None]:
    """Plans to follow and limits to keep inside the block; functions already jitted are traced again under it.

    Blocks nest: an inner one adds its plans to the outer's and replaces what else it names. None keeps what an outer
    block says.

    Args:
        plans: measured times, from `convjax.tune` or `Plans.load`. Where a problem has a plan, the fastest algorithm
            measured that the limits admit is taken.
        on_miss: what to do with a problem that has no plan: "heuristic" predicts times by the cost model; "tune"
            measures when the program is lowered (`Plans.learnt()` has the results); "error" refuses.
        deterministic: whether to reject algorithms that may give other bits on another run. Not together with
            on_miss="tune", whose choices may differ between processes.
        max_workspace_bytes: candidates needing more bytes of intermediate arrays are rejected. Without a limit, those
            are rejected that need more than four times the operands and the result, and more than 4 MiB.
        max_error: candidates whose stated error, as a fraction of the largest output, is larger are rejected.
        device: the rates that times are predicted by, such as `convjax.calibrate` measures.
        portable: whether to leave aside the oneDNN that jaxlib brings for CPUs, whose calls jax cannot serialize.
            Programs that are exported, or compiled where jax keeps a compilation cache, are portable unasked.

    Raises:
        TypeError: plans are not `Plans`, a limit is no number, a switch no bool, or device no `Device`.
        ValueError: a limit is negative, `on_miss` is unknown, or "tune" is to be deterministic.

    Example:
        >>> import jax.numpy as jnp, convjax
        >>> x, w = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
        >>> with convjax.using(max_workspace_bytes=0):
        ...     convjax.conv(x, w).shape
        (1, 6, 6, 4)
    """
    if plans is not None and not isinstance(plans, Plans):
        raise TypeError(f"plans must be convjax.Plans, got {type(plans).__name__}: read a file with Plans.load(path)")
    if on_miss is not None and on_miss not in _ON_MISS:
        raise ValueError(f"on_miss must be one of {', '.join(_ON_MISS)}, got {on_miss!r}")
    limits: tuple[tuple[str, Any], ...] = (("max_workspace_bytes", max_workspace_bytes), ("max_error", max_error))
    for name, value in limits:
        if value is not None and not isinstance(value, int | float | np.integer | np.floating):
            raise TypeError(f"{name} must be a number, got {value!r}")
        if value is not None and not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    for name, switch in (("deterministic", deterministic), ("portable", portable)):
        if not isinstance(switch, bool | None):
            raise TypeError(f"{name} must be True or False, got {switch!r}")
    if not isinstance(device, Device | None):
        raise TypeError(f"device must be a convjax.Device, got {device!r}: convjax.calibrate() measures one")
    outer = _policy.value or Policy()
    given = {
        "plans": None if plans is None else outer.plans | plans,
        "on_miss": on_miss,
        "deterministic": deterministic,
        "max_workspace_bytes": max_workspace_bytes,
        "max_error": max_error,
        "device": device,
        "portable": portable,
    }
    inner = dataclasses.replace(outer, **{k: v for k, v in given.items() if v is not None})
    if inner.deterministic and inner.on_miss == "tune":
        raise ValueError(
            "on_miss='tune' chooses by times, which differ between processes, and cannot be deterministic: "
            "tune beforehand and pass the plans"
        )
    with _policy(inner):
        yield
