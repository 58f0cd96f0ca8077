"""The processor that XLA's CPU client runs on: its name, cores and vectors, and how wide XLA makes them."""

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

# By which XLA fills the widest vectors that x86 has; it asks for half of them. Read when jax is first used.
SETTING = "XLA_FLAGS=--xla_cpu_prefer_vector_width=512"
_CPUINFO = Path("/proc/cpuinfo")
_VECTORS = ("avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "neon", "asimd", "sve")


def processor(cpuinfo: Path = _CPUINFO) -> str:
    """Its name, with family and model where the system tells them: makers sell unlike ones by one name.

    Args:
        cpuinfo: the file in which Linux describes it.

    Example:
        >>> processor(Path("/nowhere")) == (platform.processor() or platform.machine())
        True
    """
    fields = _fields(cpuinfo)
    name = fields.get("model name") or platform.processor() or platform.machine()
    if "cpu family" not in fields:
        return name
    return f"{name} (family {fields['cpu family']}, model {fields.get('model', '?')})"


def vectors(cpuinfo: Path = _CPUINFO) -> tuple[str, ...]:
    """Its vector extensions of those that change a time, as the system names them."""
    fields = _fields(cpuinfo)
    present = fields.get("flags", fields.get("Features", "")).split()
    return tuple(name for name in _VECTORS if name in present)


def cores() -> int:
    """Those that this process may run on, which are as many as jax has threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def vector_width(cpuinfo: Path = _CPUINFO, environ: Mapping[str, str] = os.environ) -> str:
    """How much of the processor's vectors XLA's loops use, and what would give them more: a line of `doctor`'s report.

    Args:
        cpuinfo: the file in which Linux describes the processor.
        environ: the environment that the process began with.

    Example:
        >>> vector_width(Path("/nowhere"))
        'vectors: as wide as XLA makes them'
    """
    if "avx512f" not in vectors(cpuinfo):
        return "vectors: as wide as XLA makes them"
    given = re.search(r"--xla_cpu_prefer_vector_width=(\d+)", environ.get("XLA_FLAGS", ""))
    if given:
        return f"vectors: XLA makes them {given[1]} bits wide of 512, as XLA_FLAGS asks"
    return f"vectors: XLA makes them 256 bits wide of 512; started with {SETTING}, depthwise layers can be faster"


def _fields(cpuinfo: Path) -> dict[str, str]:
    """What it says of the first processor."""
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}
