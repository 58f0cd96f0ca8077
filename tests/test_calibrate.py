"""Calibration: rates of this machine, and that the choice is made by the rates it is given."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

import convjax
from convjax.calibrate import calibrate
from convjax.device import Device, device_of, devices
from convjax.explain import Row
from convjax.request import Policy

X, W = jnp.ones((4, 28, 28, 128)), jnp.ones((3, 3, 128, 128))


def test_rates_are_measured_and_read_back() -> None:
    device = calibrate(seconds=0.05)
    for rate, value in dataclasses.asdict(device).items():
        assert 0 < value < math.inf, rate
    assert eval(repr(device), {"Device": Device}) == device
    # Seconds a call, and operations a second: within what any machine of two decades does.
    assert device.call < 1e-2
    assert device.gemm > 1e7


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_no_time_to_measure_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"seconds must be positive, got"):
        calibrate(seconds=seconds)


def test_the_choice_is_made_by_the_rates_in_force() -> None:
    traces = 0

    def conv(x: jax.Array, w: jax.Array) -> jax.Array:
        nonlocal traces
        traces += 1
        return convjax.conv(x, w)

    fn = jax.jit(conv)

    def row() -> Row:
        (found,) = convjax.explain(fn, X, W, platform="cpu").rows
        return found

    free = row()
    assert free.algorithm != "lax"
    with convjax.using(device=dataclasses.replace(devices()["cpu"], library=1e15)):
        assert row().algorithm == "lax"
        assert traces == 2
        with convjax.using(max_workspace_bytes=10**9):
            assert row().algorithm == "lax"
        assert Policy(max_error=0.1, device=devices()["cpu"]).limits == "max_error=0.1"
    assert row() == free


def test_a_platform_without_rates_has_no_device() -> None:
    assert device_of("cpu") == devices()["cpu"]
    assert device_of("tpu") is None
