"""Convolution and pooling in JAX: the fastest algorithm for each problem, differentiable any number of times."""

import contextlib as _contextlib
import importlib as _importlib
from importlib import metadata as _metadata
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from convjax import functional as functional
from convjax import taylor as _taylor  # noqa: F401  # its rules, for jax.experimental.jet
from convjax.accelerate import accelerate as accelerate
from convjax.algorithms import algorithms as algorithms
from convjax.calibrate import calibrate as calibrate
from convjax.device import Device as Device
from convjax.explain import Explanation as Explanation
from convjax.explain import explain as explain
from convjax.inspect.count import Count as Count
from convjax.inspect.count import count as count
from convjax.inspect.empirical import empirical_field as empirical_field
from convjax.inspect.receptive_field import ReceptiveField as ReceptiveField
from convjax.inspect.receptive_field import receptive_field as receptive_field
from convjax.inspect.receptive_field import stacked_receptive_field as stacked_receptive_field
from convjax.inspect.sizes import ConvArguments as ConvArguments
from convjax.inspect.sizes import OutputSize as OutputSize
from convjax.inspect.sizes import conv_arguments_for as conv_arguments_for
from convjax.inspect.sizes import conv_output_size as conv_output_size
from convjax.inspect.sizes import conv_transpose_output_size as conv_transpose_output_size
from convjax.inspect.sizes import pool_output_size as pool_output_size
from convjax.inspect.summary import Summary as Summary
from convjax.inspect.summary import summary as summary
from convjax.ops.adaptive import adaptive_avg_pool as adaptive_avg_pool
from convjax.ops.adaptive import adaptive_max_pool as adaptive_max_pool
from convjax.ops.blur import blur_pool as blur_pool
from convjax.ops.conv import conv as conv
from convjax.ops.conv import conv1d as conv1d
from convjax.ops.conv import conv2d as conv2d
from convjax.ops.conv import conv3d as conv3d
from convjax.ops.conv import conv_general_dilated as conv_general_dilated
from convjax.ops.conv import convolve as convolve
from convjax.ops.conv_transpose import conv_transpose as conv_transpose
from convjax.ops.conv_transpose import conv_transpose1d as conv_transpose1d
from convjax.ops.conv_transpose import conv_transpose2d as conv_transpose2d
from convjax.ops.conv_transpose import conv_transpose3d as conv_transpose3d
from convjax.ops.deform import deform_conv2d as deform_conv2d
from convjax.ops.fractional import fractional_max_pool as fractional_max_pool
from convjax.ops.global_pool import global_avg_pool as global_avg_pool
from convjax.ops.global_pool import global_max_pool as global_max_pool
from convjax.ops.local import conv_local as conv_local
from convjax.ops.logsumexp import logsumexp_pool as logsumexp_pool
from convjax.ops.lp import lp_pool as lp_pool
from convjax.ops.median import median_pool as median_pool
from convjax.ops.morphology import dilation2d as dilation2d
from convjax.ops.morphology import erosion2d as erosion2d
from convjax.ops.pad import pad as pad
from convjax.ops.patches import fold as fold
from convjax.ops.patches import unfold as unfold
from convjax.ops.pool import avg_pool as avg_pool
from convjax.ops.pool import max_pool as max_pool
from convjax.ops.pool import min_pool as min_pool
from convjax.ops.pool import sum_pool as sum_pool
from convjax.ops.separable import depthwise_conv as depthwise_conv
from convjax.ops.separable import separable_conv as separable_conv
from convjax.ops.unpool import max_unpool as max_unpool
from convjax.plans import Plans as Plans
from convjax.problem import ConvSpec as ConvSpec
from convjax.problem import WindowSpec as WindowSpec
from convjax.request import using as using
from convjax.tune import tune as tune

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
