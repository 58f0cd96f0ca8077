"""What a time was measured on: times and plans hold for one kind of device and one compiler."""

import functools
import importlib.metadata
import os
import platform as host
from pathlib import Path

import jax


@functools.cache
def device_kind(platform: str) -> str | None:
    """The model of this machine's `platform` devices with jaxlib's version, None where there is none.

    A CPU is told by its model and the number of cores that the process may use.
    """
    try:
        device = jax.devices(platform)[0]
    except RuntimeError:
        return None
    model = f"{_processor()}, {_cores()} cores" if platform == "cpu" else device.device_kind
    return f"{model}, jaxlib {importlib.metadata.version('jaxlib')}"


def _processor() -> str:
    """The processor's name as the system tells it, the architecture where it does not."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else host.processor() or host.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
