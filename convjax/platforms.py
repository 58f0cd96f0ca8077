"""Platforms: what jax compiles programs for, by the names that its lowering rules have."""

import jax
from jax.extend.backend import get_backend

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
GPUS = ("cuda", "rocm")


def default_platform() -> str:
    """The platform of programs that do not say where they run."""
    backend = jax.default_backend()
    if backend != "gpu":  # which jax calls those of both makers
        return backend
    return "rocm" if "rocm" in get_backend().platform_version.lower() else "cuda"


def known_platform(platform: str | None) -> str:
    """`platform`, None being the default backend's; refuses what is none."""
    default = default_platform()
    if platform not in (None, default, *PLATFORMS):
        raise ValueError(f"platform must be one of {', '.join(PLATFORMS)}, got {platform!r}")
    return platform or default
