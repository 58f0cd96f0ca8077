"""What a time was measured on: times and plans hold for one kind of device and one compiler."""

import functools
import importlib.metadata

import jax

from convjax.processor import cores, processor


@functools.cache
def device_kind(platform: str) -> str | None:
    """The model of this machine's `platform` devices with jaxlib's version, None where there is none.

    A CPU is told by its model and the number of cores that the process may use.
    """
    try:
        device = jax.devices(platform)[0]
    except RuntimeError:
        return None
    model = f"{processor()}, {cores()} cores" if platform == "cpu" else device.device_kind
    return f"{model}, jaxlib {importlib.metadata.version('jaxlib')}"
