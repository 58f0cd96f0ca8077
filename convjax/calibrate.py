"""Calibration: the rates of this machine, from a handful of small programs, for devices that have no constants.

Every program's time is nearly all one kind of work. They are solved one after another: what a program's other work
takes by the rates known by then is subtracted, and the rest is the rate sought.
"""

import dataclasses
import functools
import math
import statistics

import jax
import jax.numpy as jnp

from convjax import timing
from convjax.algorithms.conv.lax_conv import Lax
from convjax.algorithms.conv.shift import Shift
from convjax.algorithms.protocol import Algorithm, Cost, cost_on
from convjax.device import Device
from convjax.platforms import GPUS, default_platform
from convjax.problem import ConvSpec

# Kernels in the chain that measures what one takes.
_CHAIN = 64
# An array larger than the caches of a core, smaller than those of a server: as large as activations are; and one far
# larger than a GPU's.
_STREAMED, _STREAMED_ON_GPUS = (2**22,), (2**28,)
# What remains of a program's time, at least, when its other work is subtracted: the rest is noise.
_LEAST = 0.2

# On a GPU: larger ones, for `scalar` what cuDNN has no kernel for, and for `gemm` a product of square matrices.
_SQUARE = 4096
_ON_GPUS: dict[str, tuple[Algorithm, str]] = {
    "vector": (
        Shift("multiply"),
        "conv float32[32,28,28,256] float32[13,13,1,256] b01f_01io->b01f pad=6_6x6_6 feature_groups=256",
    ),
    "library": (Lax(), "conv float32[64,28,28,256] float32[3,3,256,256] b01f_01io->b01f pad=1_1x1_1"),
    "scalar": (
        Lax(),
        "conv float32[32,28,28,256] float32[13,13,1,256] b01f_01io->b01f pad=6_6x6_6 feature_groups=256",
    ),
}
_CONVOLUTIONS: dict[str, tuple[Algorithm, str]] = {
    "gemm": (Shift("dot"), "conv float32[4,28,28,256] float32[1,1,256,512] b01f_01io->b01f"),
    "vector": (
        Shift("multiply"),
        "conv float32[4,32,32,192] float32[5,5,1,192] b01f_01io->b01f feature_groups=192",
    ),
    "library": (Lax(), "conv float32[4,28,28,128] float32[3,3,128,128] b01f_01io->b01f pad=1_1x1_1"),
    "scalar": (Lax(), "conv float32[1,28,28,256] float32[3,3,1,256] b01f_01io->b01f pad=1_1x1_1 feature_groups=256"),
}


@dataclasses.dataclass(frozen=True)
class _Probe:
    """A program and its work: the rate called `name` is what is left when the rest is known."""

    name: str
    program: timing.Program
    cost: Cost


def calibrate(*, seconds: float = 20.0) -> Device:
    """Measures the rates that the choice is made with, on jax's default device.

    The constants shipped with convjax were fitted to the times of many layers on few machines; for another kind of
    machine these are a first approximation of its own. Print what is returned and keep that line, which reads back, or
    measure at every start.

    Args:
        seconds: how long to measure, compilation not counted. The machine should do nothing else meanwhile.

    Returns:
        A `Device`, for `convjax.using(device=...)`; its `repr` reads back.

    Raises:
        ValueError: `seconds` is not positive.

    Example:
        >>> import jax.numpy as jnp, convjax
        >>> from convjax.calibrate import calibrate
        >>> device = calibrate(seconds=0.05)
        >>> with convjax.using(device=device):
        ...     convjax.conv(jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))).shape
        (1, 6, 6, 4)
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    probes = _probes()
    calls = {probe.name: probe.program for probe in probes}
    for call in calls.values():
        call()  # warms up
    budget = timing.Budget(seconds / len(probes), 3, 10_000)
    samples = timing.interleave(calls, dict.fromkeys(calls, budget))

    rates = dict.fromkeys((field.name for field in dataclasses.fields(Device)), math.inf) | {"call": 0.0}
    for probe in probes:
        took = statistics.quantiles(samples[probe.name], n=4)[0]  # a busy neighbour only ever adds
        left = max(took - Device(**rates).seconds(probe.cost), _LEAST * took)
        rates[probe.name] = left / probe.cost.calls if probe.name == "call" else _work(probe) / left
    return Device(**rates)


def _probes() -> list[_Probe]:
    """In an order in which each needs only the rates before it."""
    on_gpu = default_platform() in GPUS
    convolutions = _ON_GPUS if on_gpu else _CONVOLUTIONS
    unit, streamed = jnp.eye(8, dtype=jnp.float32), jnp.ones(_STREAMED_ON_GPUS if on_gpu else _STREAMED, jnp.float32)
    return [
        _Probe("call", timing.compile_program(_chain, unit), Cost(calls=_CHAIN)),
        _Probe("memory", timing.compile_program(lambda x: x + 1, streamed), Cost(bytes=2.0 * streamed.nbytes)),
        *([_product()] if on_gpu else []),
        *(_convolution(name, algorithm, ConvSpec.parse(text)) for name, (algorithm, text) in convolutions.items()),
    ]


def _chain(x: jax.Array) -> jax.Array:
    """Kernels that wait for each other and cannot be fused."""
    for _ in range(_CHAIN):
        x = jnp.dot(x, x)
    return x


def _product() -> _Probe:
    square = jnp.ones((_SQUARE, _SQUARE), jnp.float32)
    cost = Cost(gemm=float(_SQUARE) ** 3, bytes=3.0 * square.nbytes)
    return _Probe("gemm", timing.compile_program(jnp.dot, square, square), cost)


def _convolution(name: str, algorithm: Algorithm, problem: ConvSpec) -> _Probe:
    lhs, rhs = (jnp.ones(shape, jnp.float32) for shape in (problem.lhs_shape, problem.rhs_shape))
    cost = cost_on(default_platform(), algorithm, problem)
    if cost is None:
        raise ValueError(f"nothing is known of what {algorithm} costs on {default_platform()}")
    return _Probe(name, timing.compile_program(functools.partial(algorithm, problem), lhs, rhs), cost)


def _work(probe: _Probe) -> float:
    return float(getattr(probe.cost, "bytes" if probe.name == "memory" else probe.name))
