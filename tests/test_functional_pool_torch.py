"""The poolings of `convjax.functional` are PyTorch's: the same numbers, indices and gradients, or refused by both.

Collected only where torch is installed; elsewhere pytest's header says that parity is left out. Both compute in
float64. `--thorough` samples more.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_functional import LINE, Call, array, ints
from test_functional_pool import REFUSED, SPACE, X, avg2d, avg3d, lp2d, max1d, max2d
from test_functional_torch import by_convjax, by_torch, integers, per_axis, spelled

from convjax import functional

torch.set_num_threads(1)

Ints = tuple[int, ...]
KINDS = ("max", "avg", "lp")
DEFAULTS = {
    "stride": None,
    "padding": 0,
    "dilation": 1,
    "ceil_mode": False,
    "return_indices": False,
    "count_include_pad": True,
    "divisor_override": None,
}


@dataclasses.dataclass(frozen=True)
class Pool:
    """A pooling of x (*batch, C, *size), given as arguments of both libraries, in PyTorch's order."""

    function: str
    shape: Ints
    arguments: tuple[tuple[str, Any], ...]
    positional: bool
    contents: str

    @classmethod
    def sample(cls, seed: int) -> "Pool":
        rng = np.random.default_rng(seed)
        kind, ndim = KINDS[seed % len(KINDS)], 1 + seed // len(KINDS) % 3
        window = per_axis(rng, ndim, 1, 4 if ndim < 3 else 3)
        omitted = rng.random() < 0.2
        stride = window if omitted else per_axis(rng, ndim, 1, 4 if ndim < 3 else 3)
        dilation = per_axis(rng, ndim, 1, 3) if kind == "max" else (1,) * ndim
        padding = tuple(int(rng.integers(0, k // 2 + 1)) if kind != "lp" else 0 for k in window)
        ceil_mode = bool(rng.random() < 0.5)
        options: dict[str, Any] = {
            "kernel_size": spelled(rng, window),
            "stride": [None, []][int(rng.integers(2))] if omitted else spelled(rng, stride),
            "padding": spelled(rng, padding),
        }
        if kind == "max":
            options |= {"dilation": spelled(rng, dilation), "ceil_mode": ceil_mode, "return_indices": True}
        elif kind == "lp":
            del options["padding"]
            p = [1, 2, 2.0, 3, 4, 1.5, np.inf, -np.inf, -2][int(rng.integers(9))]
            kernel = spelled(rng, window, of_one=False) if ndim > 1 else window[0]
            options = {"norm_type": p, **options, "kernel_size": kernel, "ceil_mode": ceil_mode}
        else:
            options |= {"ceil_mode": ceil_mode, "count_include_pad": bool(rng.random() < 0.5)}
            if ndim > 1:
                options["divisor_override"] = int(rng.choice([-2, 1, 3, 7])) if rng.random() < 0.3 else None
        size = tuple(
            cls.least(ndim, kind, k, s, p, d, ceil_mode) + int(rng.integers(0, 6 if ndim < 3 else 4))
            for k, s, p, d in zip(window, stride, padding, dilation, strict=True)
        )
        batch = () if seed // (3 * len(KINDS)) % 4 == 0 else integers(rng, 1, 1, 2)
        return cls(
            function=f"{kind}_pool{ndim}d",
            shape=(*batch, *integers(rng, 1, 1, 3), *size),
            arguments=tuple(options.items()),
            positional=bool(rng.random() < 0.5),
            contents=cls.contents_of(seed, kind, options.get("norm_type")),
        )

    @staticmethod
    def contents_of(seed: int, kind: str, p: float | None) -> str:
        if kind == "max":
            return ("distinct", "ties", "infinities")[seed // (3 * len(KINDS)) % 3]
        if p is None or p % 2 == 0 or np.isinf(p):
            return "distinct"
        return "not negative"  # of others PyTorch has no norm

    @staticmethod
    def least(ndim: int, kind: str, k: int, s: int, p: int, d: int, ceil_mode: bool) -> int:
        """The least size along an axis that has a window, and of which every window has an element."""
        if kind != "max" and ndim == 3:
            return k  # as PyTorch asks
        overhang = s - 1 if ceil_mode else 0
        return max(1 if k == 1 or p == 0 else d, d * (k - 1) + 1 - 2 * p - overhang)

    def by(self, library: Any) -> Callable[..., Any]:
        """The function of x; all arguments given by position, or by name those that are not the default."""
        call = getattr(library, self.function)
        if self.positional:
            return lambda x: call(x, *(value for _, value in self.arguments))
        given = {name: value for name, value in self.arguments if value != DEFAULTS.get(name, ())}
        return lambda x: call(x, **given)

    def x(self) -> np.ndarray:
        rng = np.random.default_rng(len(self.shape))
        match self.contents:
            case "distinct":
                return rng.standard_normal(self.shape)
            case "not negative":
                return np.maximum(rng.standard_normal(self.shape), 0)
            case "ties":
                return rng.integers(0, 3, self.shape).astype(float)
        ndim = int(self.function[-2])
        x: np.ndarray = rng.choice([-np.inf, -np.inf, -1.0, 0.0, np.inf], self.shape)
        planes = x.reshape(-1, math.prod(self.shape[-ndim:]))
        planes[:, int(rng.integers(planes.shape[1]))] = np.nan  # one in each: of two in a window PyTorch takes the last
        return x


# How many are sampled by default and with --thorough.
SAMPLES = (72, 1500)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pool" in metafunc.fixturenames:
        count = SAMPLES[metafunc.config.getoption("--thorough")]
        metafunc.parametrize("pool", [Pool.sample(seed) for seed in range(count)], ids=str)


def as_tuple(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


@pytest.mark.usefixtures("x64")
def test_poolings(pool: Pool) -> None:
    x = pool.x()
    tensor = torch.tensor(x, requires_grad=True)
    want, *want_indices = as_tuple(pool.by(F)(tensor))
    cotangent = np.random.default_rng(1).standard_normal(tuple(want.shape))
    want.backward(torch.tensor(cotangent))

    @jax.jit
    def ours(c: jax.Array, x: jax.Array) -> Any:
        (y, *indices), pullback = jax.vjp(lambda x: as_tuple(pool.by(functional)(x)), x)
        return y, indices, pullback((c, *(np.zeros(i.shape, jax.dtypes.float0) for i in indices)))[0]

    y, indices, gradient = ours(cotangent, x)
    np.testing.assert_allclose(y, want.detach().numpy(), rtol=1e-12, atol=1e-12)
    for got, wanted in zip(indices, want_indices, strict=True):
        np.testing.assert_array_equal(got, wanted.numpy())
    assert tensor.grad is not None
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-12, atol=1e-12)


def test_at_least_1400_poolings_are_sampled_and_mix_every_option() -> None:
    usual, thorough = SAMPLES
    assert len({str(Pool.sample(seed)) for seed in range(thorough)}) >= 1400
    sampled = [Pool.sample(seed) for seed in range(usual)]
    for kind in KINDS:
        given = [dict(p.arguments) for p in sampled if p.function.startswith(kind)]
        assert {type(o["kernel_size"]) for o in given} == {int, tuple, list}
        assert {type(o["stride"]) for o in given} == {int, tuple, list, type(None)}
        assert any(o["stride"] == [] for o in given)
        for ndim in (1, 2, 3):
            pools = [p for p in sampled if p.function == f"{kind}_pool{ndim}d"]
            met = [dict(p.arguments) for p in pools]
            assert {len(p.shape) for p in pools} == {ndim + 1, ndim + 2}
            assert {p.positional for p in pools} == {True, False}
            assert {o["ceil_mode"] for o in met} == {True, False}
            if kind == "lp":
                assert {"distinct", "not negative"} == {p.contents for p in pools}
                continue
            assert any(max(np.atleast_1d(o["padding"])) > 0 for o in met)
            if kind == "max":
                assert {p.contents for p in pools} == {"distinct", "ties", "infinities"}
                assert any(max(np.atleast_1d(o["dilation"])) > 1 for o in met)
            else:
                assert {o["count_include_pad"] for o in met} == {True, False}
                assert ndim == 1 or {o["divisor_override"] is None for o in met} == {True, False}


# Calls that both take, next to those in REFUSED that neither does.
ACCEPTED: dict[str, Call] = {
    "max": max2d(),
    "max, list of one": max2d([3], stride=[2], padding=(1,), dilation=[1]),
    "max, stride of an empty tuple": max2d(stride=()),
    "max, kernel fits with padding": max2d((10, 3), padding=(1, 0)),
    "max, kernel fits in ceil mode": max2d((10, 3), stride=3, ceil_mode=True),
    "max, whole plane": max2d((8, 7)),
    "max, large stride": max2d(2, stride=20),
    "max, empty batch": max2d(x=array(0, 4, 8, 7)),
    "max1d": max1d(),
    "max1d, unbatched": max1d(x=array(3, 4), stride=1, padding=1),
    "max1d, empty batch": max1d(x=array(0, 3, 4)),
    "max3d, empty batch": ("max_pool3d", (array(0, 3, 4, 5, 6), 2), {}),
    **{
        f"{call[0]}, {dtype}": call
        for dtype in ("int8", "uint8", "int16", "int32", "int64", "float16", "bfloat16")
        for call in (
            max1d(x=ints(LINE, dtype), return_indices=True),
            max2d(x=ints(X, dtype)),
            ("max_pool3d", (ints(SPACE, dtype), 2), {}),
        )
    },
    "avg": avg2d(),
    "avg, list of one": avg2d([3], stride=[2], padding=(1,)),
    "avg, stride of an empty tuple": avg2d(stride=()),
    "avg, kernel fits with padding": avg2d((10, 3), padding=(1, 0)),
    "avg, kernel fits in ceil mode": avg2d((10, 3), stride=3, ceil_mode=True),
    "avg, empty batch": avg2d(x=array(0, 4, 8, 7)),
    "avg, negative divisor": avg2d(divisor_override=-4),
    "lp": lp2d(),
    "lp, list of one, stride": lp2d(kernel_size=(3, 3), stride=[2]),
    "lp, norm True": lp2d(True),
    "lp, empty batch": lp2d(x=array(0, 4, 8, 7)),
    "avg1d, empty batch": ("avg_pool1d", (array(0, 3, 4), 2), {}),
    "avg3d, empty batch": avg3d(x=array(0, 3, 4, 5, 6)),
    **{
        f"{call[0]}, {dtype}": call
        for dtype in ("float16", "bfloat16")  # in three dimensions on some devices alone
        for call in (("avg_pool1d", (ints(LINE, dtype), 3), {}), avg2d(x=ints(X, dtype)))
    },
}


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.usefixtures("x64")  # for int64
def test_what_pytorch_takes_is_taken(name: str) -> None:
    want, got = (as_tuple(by(ACCEPTED[name]))[0] for by in (by_torch, by_convjax))
    assert tuple(got.shape) == tuple(want.shape)
    assert f"torch.{got.dtype}" == str(want.dtype)
    np.testing.assert_allclose(np.asarray(got, np.float64), want.to(torch.float64).numpy(), rtol=3e-7)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_pytorch_refuses_too(name: str) -> None:
    with pytest.raises(
        (RuntimeError, TypeError, ValueError, IndexError, ArithmeticError)
    ):  # its NotImplementedError is a RuntimeError
        by_torch(REFUSED[name][0])


# Where the two differ, and why.
UNLIKE: dict[str, tuple[Call, str]] = {
    "max, a window without elements": (max1d(2, array(1, 1, 2), padding=1, dilation=3), "holds no element"),
    "avg of int64": (avg2d(x=ints(X, "int64")), "input is int64"),  # it cuts the averages to integers
    "lp of int64": (("lp_pool2d", (ints(X, "int64"), 2, 2), {}), "input is int64"),  # it cuts the means to integers
    "lp of bools": (("lp_pool2d", (ints(X, "bool"), 2, 2), {}), "input is bool"),
    "lp, norm NaN": (("lp_pool2d", (X, np.nan, 2), {}), "norm_type must be a number"),
    "lp1d, list of one for the largest": (("lp_pool1d", (LINE, np.inf, [2]), {}), "must be an integer"),
}


@pytest.mark.parametrize("name", UNLIKE)
@pytest.mark.usefixtures("x64")
def test_what_only_pytorch_takes(name: str) -> None:
    call, message = UNLIKE[name]
    by_torch(call)
    with pytest.raises((ValueError, TypeError), match=message):
        by_convjax(call)
