"""The environment: what a time was measured on. Its id stands in every record."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from convjax.platforms import default_platform

_PACKAGES = ("convjax", "jax", "jaxlib", "numpy", "scipy", "flax", "optax", "scikit-learn", "torch")
_VECTOR_FLAGS = ("avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "neon", "asimd", "sve")
_FLAGS = ("XLA_FLAGS", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "GLIBC_TUNABLES")


def describe() -> dict[str, Any]:
    """Everything about this machine and these versions that changes a time or a value, and a hash of it as `id`."""
    device = jax.devices()[0]
    name, vector = _cpu()
    facts = {
        "cpu": name,
        "cpu_vector_flags": vector,
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "platform": default_platform(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "git_commit": _git_commit(),
        "flags": {k: v for k, v in sorted(os.environ.items()) if k in _FLAGS or k.startswith("JAX_")},
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return {"id": digest[:12], **facts}


def cores() -> int:
    """Those that this process may run on, which are as many as jax has threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> tuple[str, list[str]]:
    """The processor's name and its vector extensions, as far as the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except FileNotFoundError:
        return platform.processor() or platform.machine(), []
    fields = dict(line.split("\t", 1) for line in text.split("\n\n")[0].splitlines() if "\t" in line)
    facts = {key.strip(): value.strip().lstrip(": ") for key, value in fields.items()}
    name = facts.get("model name", platform.machine())
    if facts.get("vendor_id"):
        name = f"{name} (family {facts.get('cpu family', '?')}, model {facts.get('model', '?')})"
    present = set(facts.get("flags", facts.get("Features", "")).split())
    return name, [flag for flag in _VECTOR_FLAGS if flag in present]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of this source, `+changes` if files differ from it; None outside of a repository."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def _git(directory: Path, *arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, check=True)
    return run.stdout.strip()
