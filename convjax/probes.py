"""Probes: faults known underneath convjax, each a small program with the right answer beside it.

`python -m convjax doctor` runs each in a process of its own, because some end the process.
"""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@dataclasses.dataclass(frozen=True)
class Probe:
    """One fault.

    Attributes:
        name: what the command calls it.
        fault: what goes wrong where it is present.
        source: where it is reported.
        answer: what convjax does about it.
        program: computes something that the fault spoils, and the right result.
        avoided: whether that answer keeps programs right on a jaxlib that has the fault.
    """

    name: str
    fault: str
    source: str
    answer: str
    program: Callable[[], tuple[jax.Array, np.ndarray]]
    avoided: bool = True

    def holds(self) -> bool:
        """Whether the result is right."""
        got, want = self.program()
        return np.allclose(np.asarray(got), want, rtol=1e-4, atol=1e-4, equal_nan=True)


# How the process of a probe ends; a signal is a crash.
_RIGHT, _WRONG, _RAISED = 0, 3, 4


def run(probe: Probe, seconds: float = 120.0) -> str:
    """`right`, `wrong`, `raises`, `crashes` or `hangs`, found in a process of its own; or why it cannot be run here."""
    command = [sys.executable, "-m", "convjax.probes", probe.name]
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env=os.environ | {"JAX_TRACEBACK_FILTERING": "off"},  # so that an error comes last
        )
    except subprocess.TimeoutExpired:
        return "hangs"
    if ended.returncode < 0:
        return "crashes"
    said = ended.stderr.strip().splitlines()[-1:] or ["nothing"]
    return {_RIGHT: "right", _WRONG: "wrong", _RAISED: "raises"}.get(ended.returncode, f"cannot be run: {said[0]}")


_CONV: dict[str, Any] = {"window_strides": (1, 1), "dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _matrix_vector_sum() -> tuple[jax.Array, np.ndarray]:
    rows, matrix = np.zeros((40_000, 3), np.float32), np.eye(3, dtype=np.float32)
    rows[:, 0] = np.arange(len(rows))
    got = jax.jit(jax.vmap(lambda row: jnp.sum(jnp.square(matrix @ row))))(rows)
    return got, np.square(rows.astype(np.float64)).sum(-1)


def _crop_by_negative_pad() -> tuple[jax.Array, np.ndarray]:
    x = np.array([[669, -763]], np.int32)

    def program(x: jax.Array) -> jax.Array:
        cropped = lax.pad(x, np.int32(0), [(0, 0, 1), (-1, 0, 0)])
        return lax.reduce_window(cropped, np.int32(0), lax.add, (1, 2), (1, 1), [(0, 0), (1, 0)])

    return jax.jit(program)(x), np.array([[-763]])


def _negative_window_padding() -> tuple[jax.Array, np.ndarray]:
    x = _normal(8, 4)
    program = partial(_windows, lax.add, 0.0, window=(1, 1), padding=[(-1, 0), (0, 0)])
    return jax.jit(program)(x), x[1:]


def _base_dilation() -> tuple[jax.Array, np.ndarray]:
    x = _normal(64, 128)
    dilated = np.full((64, 255), -np.inf, np.float32)
    dilated[:, ::2] = x
    program = partial(_windows, lax.max, -np.inf, window=(2, 1), padding=[(0, 0), (0, 0)], base_dilation=(1, 2))
    return jax.jit(program)(x), np.maximum(dilated[::2], dilated[1::2])


def _windows(
    combine: Any, first: float, x: jax.Array, window: Sequence[int], padding: Any, base_dilation: Any = None
) -> jax.Array:
    """Windows that tile."""
    return lax.reduce_window(x, np.float32(first), combine, window, window, padding, base_dilation=base_dilation)


def _product_of_rank_7() -> tuple[jax.Array, np.ndarray]:
    x = _normal(3, 1, 2, 2, 8, 8, 8)
    got = jax.jit(lambda x, y: jnp.sum(x * y, axis=3))(x, x)
    return got, np.square(x.astype(np.float64)).sum(3)


def _crop_beside_padding() -> tuple[jax.Array, np.ndarray]:
    x, w = _normal(1, 15, 6, 8), np.eye(8, dtype=np.float32).reshape(1, 1, 8, 8)
    padding = [(0, 0), (-5, 1)]
    got = jax.jit(partial(lax.conv_general_dilated, **_CONV, padding=padding))(x, w)
    return got, np.pad(x[:, :, 5:], [(0, 0), (0, 0), (0, 1), (0, 0)])


def _padded_int8() -> tuple[jax.Array, np.ndarray]:
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-9, 9, shape).astype(np.int8) for shape in ((1, 4, 4, 40), (5, 5, 40, 4)))
    pads = [(0, 0), (2, 2), (2, 2), (0, 0)]

    def program(x: jax.Array, w: jax.Array) -> jax.Array:
        x = jnp.pad(x, pads)
        return lax.conv_general_dilated(x, w, padding="VALID", **_CONV, preferred_element_type=jnp.int32)

    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, pads), (5, 5), (1, 2))
    return jax.jit(program)(x, w), np.einsum("nhwcrs,rsck->nhwk", windows, w, dtype=np.int64)


def _dilated_and_short() -> tuple[jax.Array, np.ndarray]:
    x, w = _normal(1, 8, 4, 3), _normal(2, 5, 3, 4)
    padding, lhs_dilation = [(0, 0), (0, 0)], (2, 2)
    got = jax.jit(partial(lax.conv_general_dilated, **_CONV, padding=padding, lhs_dilation=lhs_dilation))(x, w)
    dilated = np.zeros((15, 7, 3))
    dilated[::2, ::2] = x[0]
    windows = np.lib.stride_tricks.sliding_window_view(dilated, (2, 5), (0, 1))
    return got[0], np.einsum("hwcrs,rsck->hwk", windows, w)


def _maximum_of_nan() -> tuple[jax.Array, np.ndarray]:
    x = _normal(256, 256)
    x[100, 101] = np.nan
    return jnp.stack([jax.jit(jnp.max)(x), jax.jit(jnp.min)(x)]), np.full(2, np.nan)


def _groups_divided() -> tuple[jax.Array, np.ndarray]:
    x, w = _normal(2, 5, 5, 4), _normal(3, 3, 1, 4)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
    want = np.einsum("nhwcrs,rsc->nchw", windows, w[:, :, 0], dtype=np.float64)
    return _divided_by_channels(x, w, groups=4, out="NCHW"), want


def _product_of_groups_divided() -> tuple[jax.Array, np.ndarray]:
    x, w = _normal(2, 5, 5, 4), _normal(5, 5, 2, 4)
    want = np.einsum("nhwgc,hwcgk->ngk", x.reshape(2, 5, 5, 2, 2), w.reshape(5, 5, 2, 2, 2), dtype=np.float64)
    return _divided_by_channels(x, w, groups=2, out="NHWC"), want.reshape(2, 1, 1, 4)


def _divided_by_channels(x: np.ndarray, w: np.ndarray, *, groups: int, out: str) -> jax.Array:
    devices = jax.devices("cpu")[:2]
    if len(devices) < 2:
        raise RuntimeError("this needs two CPU devices: jax.config.update('jax_num_cpu_devices', 2) before any is used")
    conv = partial(
        lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", out),
        feature_group_count=groups,
    )
    by_channels = NamedSharding(Mesh(np.asarray(devices), "d"), PartitionSpec(None, None, None, "d"))
    return jax.jit(conv)(*(jax.device_put(a, by_channels) for a in (x, w)))


PROBES = (
    Probe(
        "matrix-vector-sum",
        "vmap of a matrix-vector product followed by a sum is wrong above some 16,000 rows",
        "jax-ml/jax#39103",
        "jaxlib 0.10.2 is excluded",
        _matrix_vector_sum,
        avoided=False,
    ),
    Probe(
        "rank-7",
        "a broadcast, a product and a sum of rank 7 crash",
        "jax-ml/jax#39257",
        "jaxlib 0.10.2 and 0.11.0 are excluded, and no algorithm forms such an array",
        _product_of_rank_7,
    ),
    Probe(
        "crop-by-negative-pad",
        "a crop written as a negative pad before a padded window is folded wrongly",
        "openxla/xla#48715",
        "crops are slices",
        _crop_by_negative_pad,
    ),
    Probe(
        "negative-window-padding",
        "windows of one element with negative padding end the process",
        "openxla/xla#48719",
        "crops are slices",
        _negative_window_padding,
    ),
    Probe(
        "crop-beside-padding",
        "a convolution that crops one end of an axis and pads the other reads outside of its input",
        "openxla/xla#48713",
        "`lax` writes such padding out",
        _crop_beside_padding,
    ),
    Probe(
        "padded-int8",
        "a convolution of int8 into int32 whose input is padded before is wrong, or does not compile",
        "seen on jaxlib 0.10.1 and 0.12.0.1",
        "`lax` keeps small integers apart from what made them",
        _padded_int8,
    ),
    Probe(
        "base-dilation",
        "a maximum over windows of a dilated input is wrong on larger inputs",
        "openxla/xla#48714",
        "windows dilate their input beforehand",
        _base_dilation,
    ),
    Probe(
        "dilated-and-short",
        "a convolution of a dilated input with an axis shorter than its kernel ends the process",
        "seen on jaxlib 0.10.1 and 0.12.0.1",
        "`lax` writes such dilation out",
        _dilated_and_short,
    ),
    Probe(
        "maximum-of-nan",
        "maxima and minima of larger arrays lose NaN",
        "seen on jaxlib 0.10.1 and 0.12.0.1",
        "reductions spell the comparison out",
        _maximum_of_nan,
    ),
    Probe(
        "groups-divided",
        "a grouped convolution divided among devices by features, which its result has at another axis, is half zeros",
        "seen on jaxlib 0.10.1 and 0.12.0.1",
        "`lax` has the features of groups last",
        _groups_divided,
    ),
    Probe(
        "groups-as-product-divided",
        "a grouped convolution whose kernel is as large as its input is wrong when it is divided among devices",
        "seen on jaxlib 0.10.1 and 0.12.0.1",
        "`lax` makes it a batched product",
        _product_of_groups_divided,
    ),
)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    probes = {probe.name: probe for probe in PROBES}
    try:
        sys.exit(_RIGHT if probes[sys.argv[1]].holds() else _WRONG)
    except jax.errors.JaxRuntimeError:  # by XLA; that there is no backend is another error
        sys.exit(_RAISED)
