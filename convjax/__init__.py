"""Convolution and pooling in JAX: the fastest algorithm for each problem, differentiable any number of times."""

import contextlib as _contextlib
import importlib as _importlib
import importlib.util as _importlib_util
from importlib import metadata as _metadata
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from convjax import functional
from convjax import taylor as _taylor  # noqa: F401  # its rules, for jax.experimental.jet
from convjax.accelerate import accelerate
from convjax.algorithms import algorithms
from convjax.algorithms.protocol import Algorithm, Cost
from convjax.calibrate import calibrate
from convjax.device import Device
from convjax.explain import Explanation, Row, explain
from convjax.inspect.count import Count, count
from convjax.inspect.empirical import EmpiricalField, empirical_field
from convjax.inspect.receptive_field import ReceptiveField, receptive_field, stacked_receptive_field
from convjax.inspect.sizes import (
    ConvArguments,
    OutputSize,
    conv_arguments_for,
    conv_output_size,
    conv_transpose_output_size,
    pool_output_size,
)
from convjax.inspect.summary import Summary, summary
from convjax.ops.adaptive import adaptive_avg_pool, adaptive_max_pool
from convjax.ops.blur import blur_pool
from convjax.ops.conv import conv, conv1d, conv2d, conv3d, conv_general_dilated, convolve
from convjax.ops.conv_transpose import conv_transpose, conv_transpose1d, conv_transpose2d, conv_transpose3d
from convjax.ops.deform import deform_conv2d
from convjax.ops.fractional import fractional_max_pool
from convjax.ops.global_pool import global_avg_pool, global_max_pool
from convjax.ops.local import conv_local
from convjax.ops.logsumexp import logsumexp_pool
from convjax.ops.lp import lp_pool
from convjax.ops.median import median_pool
from convjax.ops.morphology import dilation2d, erosion2d
from convjax.ops.pad import pad
from convjax.ops.patches import fold, unfold
from convjax.ops.pool import avg_pool, max_pool, min_pool, sum_pool
from convjax.ops.separable import depthwise_conv, separable_conv
from convjax.ops.unpool import max_unpool
from convjax.plans import Plan, Plans
from convjax.problem import ConvSpec, WindowSpec
from convjax.request import using
from convjax.tune import tune

__all__ = [
    "Algorithm",
    "ConvArguments",
    "ConvSpec",
    "Cost",
    "Count",
    "Device",
    "EmpiricalField",
    "Explanation",
    "OutputSize",
    "Plan",
    "Plans",
    "ReceptiveField",
    "Row",
    "Summary",
    "WindowSpec",
    "accelerate",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "algorithms",
    "avg_pool",
    "blur_pool",
    "calibrate",
    "conv",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_arguments_for",
    "conv_general_dilated",
    "conv_local",
    "conv_output_size",
    "conv_transpose",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "conv_transpose_output_size",
    "convolve",
    "count",
    "deform_conv2d",
    "depthwise_conv",
    "dilation2d",
    "empirical_field",
    "erosion2d",
    "explain",
    "fold",
    "fractional_max_pool",
    "functional",
    "global_avg_pool",
    "global_max_pool",
    "logsumexp_pool",
    "lp_pool",
    "max_pool",
    "max_unpool",
    "median_pool",
    "min_pool",
    "pad",
    "pool_output_size",
    "receptive_field",
    "separable_conv",
    "stacked_receptive_field",
    "sum_pool",
    "summary",
    "tune",
    "unfold",
    "using",
]

if _TYPE_CHECKING:
    from convjax import nn as nn

    __version__: str


def __getattr__(name: str) -> _Any:
    """`convjax.nn` when it is first asked for, since it needs Flax; the version as it is installed, if it is."""
    if name == "nn":
        return _importlib.import_module("convjax.nn")
    if name == "__version__":
        with _contextlib.suppress(_metadata.PackageNotFoundError):
            return _metadata.version("convjax")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    own = [name for name in globals() if name.startswith("__")]
    flax = ["nn"] if _importlib_util.find_spec("flax") else []
    return sorted([*__all__, *own, *flax, "inspect", "testing", "__version__"])
