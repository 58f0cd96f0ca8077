"""Flax NNX modules over convjax's functions. Importing convjax alone does not import flax."""

try:
    import flax.nnx  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("flax", "flax.nnx"):
        raise
    raise ImportError("convjax.nn holds Flax modules and flax is not installed: pip install flax") from error

from convjax.nn.adaptive import AdaptiveAvgPool as AdaptiveAvgPool
from convjax.nn.adaptive import AdaptiveMaxPool as AdaptiveMaxPool
from convjax.nn.blur import BlurPool as BlurPool
from convjax.nn.conv import Conv as Conv
from convjax.nn.conv_transpose import ConvTranspose as ConvTranspose
from convjax.nn.deform import DeformConv as DeformConv
from convjax.nn.local import ConvLocal as ConvLocal
from convjax.nn.pool import AvgPool as AvgPool
from convjax.nn.pool import LpPool as LpPool
from convjax.nn.pool import MaxPool as MaxPool
from convjax.nn.separable import DepthwiseConv as DepthwiseConv
from convjax.nn.separable import SeparableConv as SeparableConv
