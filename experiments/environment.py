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
from convjax.processor import cores, processor, vectors

_PACKAGES = ("convjax", "jax", "jaxlib", "numpy", "scipy", "flax", "optax", "scikit-learn", "torch")
_FLAGS = ("XLA_FLAGS", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "GLIBC_TUNABLES")


def describe() -> dict[str, Any]:
    """Everything about this machine and these versions that changes a time or a value, and a hash of it as `id`."""
    device = jax.devices()[0]
    facts = {
        "cpu": processor(),
        "cpu_vector_flags": list(vectors()),
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
