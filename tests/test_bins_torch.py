"""Unpooling, adaptive and fractional pooling give PyTorch's numbers: values, indices, gradients, and refusals.

Collected only where torch is installed; elsewhere pytest's header says that parity is left out. PyTorch computes in
float64, and with fractional windows in float32, which decides where they start. `--thorough` samples more.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_functional import Call, array, ints, is_array, numbers
from test_functional_bins import LINE, PLANE, REFUSED, SPACE, fractional, unpool
from test_functional_torch import integers, per_axis, spelled
from transforms import assert_close

from convjax import functional

torch.set_num_threads(1)
Ints = tuple[int, ...]
KINDS = ("max_unpool", "adaptive_avg_pool", "adaptive_max_pool", "fractional_max_pool")
# How many are sampled by default and with --thorough.
USUAL, THOROUGH = 36, 720


@dataclasses.dataclass(frozen=True)
class Pooling:
    """A pooling of an array of `shape`, given as arguments of both libraries."""

    function: str
    shape: Ints
    arguments: tuple[Any, ...]

    @classmethod
    def sample(cls, seed: int) -> "Pooling":
        rng = np.random.default_rng(seed)
        kind = KINDS[seed % 4]
        ndim = 2 + seed // 4 % 2 if kind == "fractional_max_pool" else 1 + seed // 4 % 3
        leading = integers(rng, 1 if rng.random() < 0.25 else 2, 1, 3)
        high = {1: 20, 2: 9, 3: 6}[ndim]
        size, counts = integers(rng, ndim, 1, high), per_axis(rng, ndim, 1, high)
        match kind:
            case "max_unpool":
                size, arguments = cls._unpool(rng, ndim)
            case "fractional_max_pool":
                spare = ndim == 3  # PyTorch takes one output fewer there
                size = tuple(n + spare for n in size)
                window = tuple(int(rng.integers(1, min(n - spare, 3) + 1)) for n in size)
                output = tuple(int(rng.integers(1, n - spare - k + 2)) for n, k in zip(size, window, strict=True))
                by_ratio = rng.random() < 0.3
                ratios = tuple((o + 0.5) / n for o, n in zip(output, size, strict=True))
                arguments = (window, None, ratios) if by_ratio else (window, spelled(rng, output, False), None)
            case _:
                kept = ndim > 1 and rng.random() < 0.3
                arguments = ((None, *counts[1:]) if kept else spelled(rng, counts, ndim == 1),)
        return cls(f"{kind}{ndim}d", (*leading, *size), arguments)

    @staticmethod
    def _unpool(rng: np.random.Generator, ndim: int) -> tuple[Ints, tuple[Any, ...]]:
        """Windows and arguments, of sizes with room for every window to have an index of its own."""
        while True:
            windows, kernel = integers(rng, ndim, 1, 4), per_axis(rng, ndim, 1, 4)
            stride = per_axis(rng, ndim, 1, 4) if rng.random() < 0.6 else kernel
            padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
            default = [(n - 1) * s - 2 * p + k for n, k, s, p in zip(windows, kernel, stride, padding, strict=True)]
            given = [n + int(rng.integers(1 - s, s)) for n, s in zip(default, stride, strict=True)]
            whole = (9, 9, *given) if rng.random() < 0.3 else tuple(given)
            plane, output_size = (given, whole) if rng.random() < 0.5 else (default, None)
            if min(plane) > 0 and np.prod(windows) <= np.prod(plane):
                return windows, (*(spelled(rng, values, False) for values in (kernel, stride, padding)), output_size)

    @property
    def ndim(self) -> int:
        return int(self.function[-2])

    def by(self, library: Any) -> Callable[..., Any]:
        """The function of the operands; values and, of a pooling that has them, indices."""
        call = getattr(library, self.function)
        if self.function.startswith("fractional"):
            return lambda x, samples: call(x, *self.arguments, True, samples)
        if self.function.startswith("adaptive_max"):
            return lambda x: call(x, *self.arguments, True)
        return lambda x, *indices: call(x, *indices, *self.arguments)

    def others(self) -> list[np.ndarray]:
        """What is pooled beside: indices, each another in its plane; or samples."""
        rng = np.random.default_rng(2)
        leading, space = self.shape[: -self.ndim], self.shape[-self.ndim :]
        if self.function.startswith("fractional"):
            return [rng.random((*(1, *leading)[-2:], self.ndim)).astype(np.float32)]
        if not self.function.startswith("max_unpool"):
            return []
        plane = self.by(F)(torch.zeros(self.shape), torch.zeros(self.shape, dtype=torch.int64)).shape[-self.ndim :]
        planes = [rng.permutation(int(np.prod(plane)))[: int(np.prod(space))] for _ in range(int(np.prod(leading)))]
        return [np.reshape(planes, self.shape).astype(np.int32)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pooling" in metafunc.fixturenames:
        count = THOROUGH if metafunc.config.getoption("--thorough") else USUAL
        metafunc.parametrize("pooling", [Pooling.sample(seed) for seed in range(count)], ids=str)


def test_values_indices_and_gradients(pooling: Pooling) -> None:
    x = np.random.default_rng(0).permutation(int(np.prod(pooling.shape))).reshape(pooling.shape).astype(np.float32)
    others = pooling.others()
    wide = torch.float32 if pooling.function.startswith("fractional") else torch.float64
    tensor = torch.tensor(x, dtype=wide, requires_grad=True)
    result = pooling.by(F)(
        tensor, *(torch.tensor(a, dtype=torch.int64 if a.dtype == np.int32 else wide) for a in others)
    )
    value, *want_indices = result if isinstance(result, tuple) else (result,)
    cotangent = np.random.default_rng(1).integers(-3, 4, value.shape).astype(np.float32)
    value.backward(torch.tensor(cotangent, dtype=wide))

    @jax.jit
    def ours(c: jax.Array, x: jax.Array, *others: jax.Array) -> Any:
        def pooled(x: jax.Array) -> Any:
            result = pooling.by(functional)(x, *others)
            return result if isinstance(result, tuple) else (result, ())

        value, pullback, indices = jax.vjp(pooled, x, has_aux=True)
        return value, pullback(c)[0], indices

    got, gradient, indices = ours(cotangent, x, *others)
    bound = 2e-6 if pooling.function.startswith("adaptive_avg") else 0.0
    assert tensor.grad is not None
    assert_close(
        {"value": got, "grad": gradient}, {"value": value.detach().numpy(), "grad": tensor.grad.numpy()}, bound
    )
    for wanted in want_indices:
        np.testing.assert_array_equal(indices, wanted.numpy())


def test_at_least_700_poolings_are_sampled_and_mix_every_option() -> None:
    assert len({str(Pooling.sample(seed)) for seed in range(THOROUGH)}) >= 700
    sampled = [Pooling.sample(seed) for seed in range(USUAL)]
    assert {p.function for p in sampled} == {
        f"{kind}{n}d" for kind in KINDS for n in (1, 2, 3) if (kind, n) != ("fractional_max_pool", 1)
    }
    for kind in KINDS:
        met = [p for p in sampled if p.function.startswith(kind)]
        assert {len(p.shape) - p.ndim for p in met} == {1, 2}
        assert len({type(p.arguments[0]) for p in met}) >= 2 or kind == "fractional_max_pool"


def test_tied_maxima_have_the_same_index_and_gradient() -> None:
    x = np.random.default_rng(0).integers(0, 2, (2, 3, 9, 8)).astype(np.float32)
    samples = np.random.default_rng(1).random((2, 3, 2)).astype(np.float32)
    for call in (
        lambda library, x, samples: library.adaptive_max_pool2d(x, (4, 5), True),
        lambda library, x, samples: library.fractional_max_pool2d(x, 3, (4, 5), None, True, samples),
    ):
        tensor = torch.tensor(x, requires_grad=True)
        want, want_indices = call(F, tensor, torch.tensor(samples))
        c = np.random.default_rng(2).integers(-3, 4, want.shape).astype(np.float32)
        want.backward(torch.tensor(c))

        @jax.jit
        def ours(x: jax.Array, samples: jax.Array, c: jax.Array, call: Any = call) -> Any:
            y, pullback, indices = jax.vjp(lambda x: call(functional, x, samples), x, has_aux=True)
            return y, indices, pullback(c)[0]

        y, indices, gradient = ours(x, samples, c)
        np.testing.assert_array_equal(y, want.detach().numpy())
        np.testing.assert_array_equal(indices, want_indices.numpy())
        assert tensor.grad is not None
        np.testing.assert_array_equal(gradient, tensor.grad.numpy())


def test_the_last_of_equal_indices_is_written() -> None:
    rng = np.random.default_rng(0)
    y, indices = rng.standard_normal((2, 3, 4, 4)).astype(np.float32), rng.integers(0, 64, (2, 3, 4, 4))
    want = F.max_unpool2d(torch.tensor(y), torch.tensor(indices), 2)
    np.testing.assert_array_equal(functional.max_unpool2d(jnp.asarray(y), jnp.asarray(indices, jnp.int32), 2), want)


# Calls that both take, next to those in REFUSED that neither does.
ACCEPTED: dict[str, Call] = {
    "unpool": unpool(),
    "unpool, unbatched": unpool(array(3, 3, 4), ints(array(3, 3, 4))),
    "unpool, much padding": unpool(kernel_size=4, stride=4, padding=4),
    "unpool, a size": unpool(output_size=[7, 9]),
    "unpool, a whole shape": unpool(output_size=(0, 0, 7, 9)),
    "unpool, lists": unpool(kernel_size=[2, 3], stride=[3, 2], padding=[1, 0]),
    "unpool, empty batch": unpool(array(0, 3, 3, 4), ints(array(0, 3, 3, 4))),
    "unpool1d": ("max_unpool1d", (LINE, ints(LINE), (3,)), {"stride": [2]}),
    "unpool3d": ("max_unpool3d", (SPACE, ints(SPACE), 2, 3, 1), {}),
    "fractional": fractional(),
    "fractional, samples to spare": fractional(samples=array(4, 3, 2)),
    "fractional, unbatched": fractional(array(3, 6, 5), samples=array(1, 3, 2)),
    "fractional, both sizes": fractional(output_ratio=(0.1, 7.0)),
    "fractional, all in one window": fractional(kernel_size=(6, 5), output_size=1),
    "fractional, as many as there are": fractional(kernel_size=1, output_size=(6, 5)),
    "fractional, no windows": fractional(output_size=(0, 3)),
    "fractional, empty batch": fractional(array(0, 3, 6, 5), samples=array(0, 3, 2)),
    "fractional3d": (
        "fractional_max_pool3d",
        (SPACE, 2, None, 0.5),
        {"_random_samples": array(1, 2, 3), "return_indices": True},
    ),
} | {
    f"{name}, {what}": (f"adaptive_{name}_pool{n}d", (x, size), {})
    for name in ("avg", "max")
    for what, n, x, size in (
        ("plane", 2, PLANE, (6, 5)),
        ("None", 2, PLANE, (None, 1)),
        ("more than elements", 2, PLANE, 60),
        ("empty batch", 2, array(0, 3, 6, 5), 2),
        ("float16", 2, ints(PLANE, "float16"), 2),
        ("bfloat16", 2, ints(PLANE, "bfloat16"), 2),
    )
}


def by_torch(call: Call) -> Any:
    function, arguments, options = call

    def made(argument: Any, place: Any) -> Any:
        if not is_array(argument):
            return argument
        is_index = function.startswith("max_unpool") and place == 1 and argument[1] == "int32"
        return torch.tensor(numbers(argument)).to(torch.int64 if is_index else getattr(torch, argument[1]))

    given = [made(argument, place) for place, argument in enumerate(arguments)]
    return getattr(F, function)(*given, **{name: made(value, name) for name, value in options.items()})


def by_convjax(call: Call) -> Any:
    function, arguments, options = call
    places = {str(place): a for place, a in enumerate(arguments)} | options
    operands = {k: jnp.asarray(numbers(a), a[1]) for k, a in places.items() if is_array(a)}

    @jax.jit
    def ours(operands: dict[str, jax.Array]) -> Any:
        given = [operands.get(str(place), argument) for place, argument in enumerate(arguments)]
        named = {name: operands.get(name, value) for name, value in options.items()}
        return getattr(functional, function)(*given, **named)

    return ours(operands)


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_pytorch_takes_is_taken(name: str) -> None:
    want, got = by_torch(ACCEPTED[name]), by_convjax(ACCEPTED[name])
    for a, b in zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]:
        assert a.shape == tuple(b.shape)
        np.testing.assert_allclose(np.asarray(a, np.float32), b.to(torch.float32).numpy(), rtol=1e-2)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_pytorch_refuses_too(name: str) -> None:
    with pytest.raises((RuntimeError, TypeError, IndexError, ValueError, AssertionError)):
        by_torch(REFUSED[name][0])


# Where the two differ, and why.
UNLIKE: dict[str, tuple[Call, str]] = {
    "unpool, stride 0": (unpool(stride=0), "stride must be at least 1"),
    "unpool, negative padding": (unpool(padding=-1), "padding must be at least 0"),
    "unpool, no size": (unpool(array(2, 3, 1, 1), ints(array(2, 3, 1, 1)), padding=1), "would be .0, 0. by default"),
    "fractional, no taps": (fractional(kernel_size=0), "kernel_size must be at least 1"),
    "avg, no channels": (("adaptive_avg_pool2d", (array(2, 0, 6, 5), 2), {}), "only N may be 0"),
    "avg, no bins": (("adaptive_avg_pool2d", (PLANE, 0), {}), "output_size must be at least 1"),
    "max, no bins": (("adaptive_max_pool2d", (PLANE, (2, 0)), {}), "output_size must be at least 1"),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_what_only_pytorch_takes(name: str) -> None:
    call, message = UNLIKE[name]
    by_torch(call)
    with pytest.raises((ValueError, TypeError), match=message):
        by_convjax(call)


def test_one_number_is_a_ratio_of_every_axis() -> None:
    """PyTorch's own documentation says so, but its function of two axes fails to take its length."""
    call = fractional(output_size=None, output_ratio=0.5)
    with pytest.raises(TypeError, match="len"):
        by_torch(call)
    assert by_convjax(call).shape == (2, 3, 3, 2)
