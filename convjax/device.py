"""Devices: the rates that turn an algorithm's work into seconds, and where they are known.

`devices.toml` holds those that were fitted to recorded sweeps; `convjax.calibrate` measures those of this machine.
"""

import dataclasses
import functools
import importlib.resources
import tomllib

import jax

from convjax.algorithms.protocol import Cost
from convjax.platforms import default_platform


@dataclasses.dataclass(frozen=True)
class Device:
    """Rates of one kind of device, in operations or bytes per second, and seconds per kernel.

    Attributes:
        gemm, vector, library, scalar: multiply-adds per second in each kind of code (`Cost`).
        memory: bytes per second.
        call: seconds that any kernel takes.

    Example:
        >>> from convjax import Cost
        >>> device = Device(gemm=1e11, vector=1e10, library=5e10, scalar=1e9, memory=2e10, call=1e-5)
        >>> f"{device.seconds(Cost(gemm=1e8, bytes=2e6, calls=2)):.5f}"
        '0.00112'
    """

    gemm: float
    vector: float
    library: float
    scalar: float
    memory: float
    call: float

    def seconds(self, cost: Cost) -> float:
        """Predicted time: an algorithm's kernels run one after another, some bound by arithmetic, some by memory."""
        return (
            cost.gemm / self.gemm
            + cost.vector / self.vector
            + cost.library / self.library
            + cost.scalar / self.scalar
            + cost.bytes / self.memory
            + cost.calls * self.call
        )


@functools.cache
def devices() -> dict[str, Device]:
    """The fitted constants, by platform or by jax's name of a device kind."""
    text = importlib.resources.files("convjax").joinpath("devices.toml").read_text()
    return {kind: Device(**rates) for kind, rates in tomllib.loads(text).items()}


def device_of(platform: str) -> Device | None:
    """The constants of this machine's kind of device, else of its platform; None where neither was measured."""
    kind = jax.devices()[0].device_kind if platform == default_platform() else platform
    return devices().get(kind) or devices().get(platform)
