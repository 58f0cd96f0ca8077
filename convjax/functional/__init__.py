"""PyTorch's `torch.nn.functional`: its names, argument names, order, defaults, layouts and refusals.

A program that calls PyTorch's function gets the same numbers from this one. Errors are `ValueError` and `TypeError`
that speak of PyTorch's arguments. The functions of `convjax` itself take more: other dtypes, paddings and ranks.
"""

from convjax.functional.adaptive import adaptive_avg_pool1d as adaptive_avg_pool1d
from convjax.functional.adaptive import adaptive_avg_pool2d as adaptive_avg_pool2d
from convjax.functional.adaptive import adaptive_avg_pool3d as adaptive_avg_pool3d
from convjax.functional.adaptive import adaptive_max_pool1d as adaptive_max_pool1d
from convjax.functional.adaptive import adaptive_max_pool2d as adaptive_max_pool2d
from convjax.functional.adaptive import adaptive_max_pool3d as adaptive_max_pool3d
from convjax.functional.conv import conv1d as conv1d
from convjax.functional.conv import conv2d as conv2d
from convjax.functional.conv import conv3d as conv3d
from convjax.functional.conv import conv_transpose1d as conv_transpose1d
from convjax.functional.conv import conv_transpose2d as conv_transpose2d
from convjax.functional.conv import conv_transpose3d as conv_transpose3d
from convjax.functional.fold import fold as fold
from convjax.functional.fold import unfold as unfold
from convjax.functional.fractional import fractional_max_pool2d as fractional_max_pool2d
from convjax.functional.fractional import fractional_max_pool3d as fractional_max_pool3d
from convjax.functional.lp import lp_pool1d as lp_pool1d
from convjax.functional.lp import lp_pool2d as lp_pool2d
from convjax.functional.lp import lp_pool3d as lp_pool3d
from convjax.functional.pad import pad as pad
from convjax.functional.pool import avg_pool1d as avg_pool1d
from convjax.functional.pool import avg_pool2d as avg_pool2d
from convjax.functional.pool import avg_pool3d as avg_pool3d
from convjax.functional.pool import max_pool1d as max_pool1d
from convjax.functional.pool import max_pool2d as max_pool2d
from convjax.functional.pool import max_pool3d as max_pool3d
from convjax.functional.unpool import max_unpool1d as max_unpool1d
from convjax.functional.unpool import max_unpool2d as max_unpool2d
from convjax.functional.unpool import max_unpool3d as max_unpool3d
