"""PyTorch's `torch.nn.functional`: its names, argument names, order, defaults, layouts and refusals.

A program that calls PyTorch's function gets the same numbers from this one. Errors are `ValueError` and `TypeError`
that speak of PyTorch's arguments. The functions of `convjax` itself take more: other dtypes, paddings and ranks.
"""

from convjax.functional.adaptive import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
)
from convjax.functional.conv import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d
from convjax.functional.fold import fold, unfold
from convjax.functional.fractional import fractional_max_pool2d, fractional_max_pool3d
from convjax.functional.lp import lp_pool1d, lp_pool2d, lp_pool3d
from convjax.functional.pad import pad
from convjax.functional.pool import avg_pool1d, avg_pool2d, avg_pool3d, max_pool1d, max_pool2d, max_pool3d
from convjax.functional.unpool import max_unpool1d, max_unpool2d, max_unpool3d

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "fold",
    "fractional_max_pool2d",
    "fractional_max_pool3d",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "pad",
    "unfold",
]
