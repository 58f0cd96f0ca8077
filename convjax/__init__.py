"""Convolution and pooling in JAX: the fastest algorithm for each problem, differentiable any number of times."""

from convjax.algorithms import algorithms as algorithms
from convjax.explain import Explanation as Explanation
from convjax.explain import explain as explain
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
from convjax.ops.local import conv_local as conv_local
from convjax.ops.pad import pad as pad
from convjax.ops.patches import fold as fold
from convjax.ops.patches import unfold as unfold
from convjax.ops.pool import avg_pool as avg_pool
from convjax.ops.pool import max_pool as max_pool
from convjax.ops.pool import min_pool as min_pool
from convjax.ops.pool import sum_pool as sum_pool
from convjax.ops.separable import depthwise_conv as depthwise_conv
from convjax.ops.separable import separable_conv as separable_conv
from convjax.problem import ConvSpec as ConvSpec
from convjax.problem import WindowSpec as WindowSpec
from convjax.request import using as using
