"""Pictures: the sliding kernel, kernels and feature maps, receptive fields, time by layer. They need matplotlib."""

from convjax.inspect.pictures.fields import receptive_field_picture as receptive_field_picture
from convjax.inspect.pictures.grids import feature_map_picture as feature_map_picture
from convjax.inspect.pictures.grids import kernel_picture as kernel_picture
from convjax.inspect.pictures.sliding import sliding_kernel as sliding_kernel
from convjax.inspect.pictures.sliding import sliding_kernel_frames as sliding_kernel_frames
from convjax.inspect.pictures.times import time_picture as time_picture
