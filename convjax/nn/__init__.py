"""Flax NNX modules over convjax's functions. Importing convjax alone does not import flax."""

try:
    import flax.nnx  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("flax", "flax.nnx"):
        raise
    raise ImportError("convjax.nn holds Flax modules and flax is not installed: pip install flax") from error

from convjax.nn.adaptive import AdaptiveAvgPool, AdaptiveMaxPool
from convjax.nn.blur import BlurPool
from convjax.nn.conv import Conv
from convjax.nn.conv_transpose import ConvTranspose
from convjax.nn.deform import DeformConv
from convjax.nn.local import ConvLocal
from convjax.nn.pool import AvgPool, LpPool, MaxPool
from convjax.nn.separable import DepthwiseConv, SeparableConv

__all__ = [
    "AdaptiveAvgPool",
    "AdaptiveMaxPool",
    "AvgPool",
    "BlurPool",
    "Conv",
    "ConvLocal",
    "ConvTranspose",
    "DeformConv",
    "DepthwiseConv",
    "LpPool",
    "MaxPool",
    "SeparableConv",
]
