"""Strict by default: four CPU devices, no rank promotion, warnings are errors, fixed seeds."""

import gc
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator

# All are read once, when the libraries are loaded. XLA's passes run as always, but its machine code is left
# unoptimized, which halves the time that the tests take to compile; jaxlib before 0.11 still has the emitters of
# fusions that take a third of that time, and `.ci/run` repeats the conformance of values with those it prefers. Torch's
# threads spin after their work and take a core from whatever jax runs next.
FLAGS = [
    "--xla_force_host_platform_device_count=4",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",  # both cores are at work on tests
]
if [int(n) for n in importlib.metadata.version("jaxlib").split(".")[:2]] < [0, 11]:
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
GIVEN = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join([GIVEN, *(flag for flag in FLAGS if flag.split("=")[0] not in GIVEN)]).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import hypothesis
import jax
import numpy as np
import pytest

# Programs traced leave many objects and few cycles: collected at jax's own pace, they take a tenth of the tests' time.
gc.set_threshold(200_000, 50, 1000)
jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=False)
hypothesis.settings.load_profile("repeatable")

TORCH = importlib.util.find_spec("torch") is not None
collect_ignore_glob = [] if TORCH else ["*_torch.py"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough",
        action="store_true",
        help="try every sampled convolution by every algorithm, and every sampled call of functional, instead of some",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "error")


def pytest_report_header(config: pytest.Config) -> list[str]:
    without = [] if TORCH else ["parity with PyTorch is LEFT OUT: torch is not installed"]
    return [f"jax {jax.__version__} on {len(jax.devices())} {jax.default_backend()} devices", *without]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def x64() -> Iterator[None]:
    """float64 for the length of a test; float32 is what people run, so it is what the other tests see."""
    with jax.enable_x64(True):
        yield
