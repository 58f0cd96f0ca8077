"""Platforms: what jax compiles programs for, by the names that its lowering rules have."""

import jax

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
GPUS = ("cuda", "rocm")


def default_platform() -> str:
    """The platform of programs that do not say where they run."""
    backend = jax.default_backend()
    return "cuda" if backend == "gpu" else backend


def known_platform(platform: str | None) -> str:
    """`platform`, None being the default backend's; refuses what is none."""
    default = default_platform()
    if platform not in (None, default, *PLATFORMS):
        raise ValueError(f"platform must be one of {', '.join(PLATFORMS)}, got {platform!r}")
    return platform or default
