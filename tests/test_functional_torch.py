"""`convjax.functional` is PyTorch's: the same calls give the same numbers and gradients, or are refused by both.

Collected only where torch is installed; elsewhere pytest's header says that parity is left out. PyTorch computes in
float64. `--thorough` samples more.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_functional import (
    COLUMNS,
    LINE,
    PLANE,
    REFUSED,
    Call,
    V,
    W,
    X,
    array,
    conv2d,
    conv_transpose2d,
    fold,
    ints,
    is_array,
    numbers,
    pad,
    unfold,
)
from transforms import assert_close

from convjax import functional

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
torch.set_num_threads(1)
# Default precision admits algorithms within 2e-5 of the largest output.
BOUND = 4e-5

Ints = tuple[int, ...]
DEFAULTS = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution of x (*batch, C, *size), given as arguments of both libraries.

    Five in six ask convjax for lax, which compiles fastest: what is compared here is what the arguments mean.
    """

    function: str
    shapes: tuple[Ints, ...]
    options: tuple[tuple[str, Any], ...]
    positional: bool
    algorithm: str | None

    @classmethod
    def sample(cls, seed: int) -> "Conv":
        rng = np.random.default_rng(seed)
        ndim, transposed = 1 + seed % 3, seed // 3 % 2 == 1
        kernel = integers(rng, ndim, 1, 4 if ndim < 3 else 3)
        dilation = per_axis(rng, ndim, 1, 3 if ndim < 3 else 2)
        stride = per_axis(rng, ndim, 1, 3)
        groups = int(rng.choice([1, 1, 2, 3]))
        channels, outputs = (groups * n for n in integers(rng, 2, 1, 3))
        extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        padding: Any = tuple(int(rng.integers(0, e + 1)) for e in extent)
        options: dict[str, Any] = {"groups": groups, "dilation": spelled(rng, dilation)}
        if transposed:
            extra = tuple(int(rng.integers(0, max(s, d))) for s, d in zip(stride, dilation, strict=True))
            least = [
                max(1, 1 + -(-(2 * p + 1 - e - o) // s))  # so that at least one element is left
                for p, e, o, s in zip(padding, extent, extra, stride, strict=True)
            ]
            options["output_padding"] = spelled(rng, extra)
            weight = (channels, outputs // groups, *kernel)
        else:
            least = [max(1, e - 2 * p) for e, p in zip(extent, padding, strict=True)]
            weight = (outputs, channels // groups, *kernel)
            if rng.random() < 0.2:
                padding, stride, least = "same", (1,) * ndim, [1] * ndim
            elif rng.random() < 0.1:
                padding, least = "valid", extent
        batch = () if rng.random() < 0.25 else integers(rng, 1, 1, 3)
        size = tuple(n + int(rng.integers(0, 5 if ndim < 3 else 4)) for n in least)
        options |= {
            "stride": spelled(rng, stride),
            "padding": padding if isinstance(padding, str) else spelled(rng, padding),
        }
        bias = ((outputs,),) if rng.random() < 0.5 else ()
        name = f"conv_transpose{ndim}d" if transposed else f"conv{ndim}d"
        positional, algorithm = rng.random() < 0.5, "lax" if rng.random() < 5 / 6 else None
        return cls(name, ((*batch, channels, *size), weight, *bias), tuple(options.items()), positional, algorithm)

    def by(self, library: Any) -> Callable[..., Any]:
        """The function of its operands; all arguments given by position, or by name those that are not the default."""
        call, options = getattr(library, self.function), dict(self.options)
        if library is functional:
            call = functools.partial(call, algorithm=self.algorithm)
        if not self.positional:
            given = {name: value for name, value in options.items() if value != DEFAULTS[name]}
            return lambda *operands: call(*operands, **given)
        order = ["stride", "padding", "dilation", "groups"]
        if "transpose" in self.function:
            order = ["stride", "padding", "output_padding", "groups", "dilation"]
        return lambda x, w, b=None: call(x, w, b, *(options[name] for name in order))


@dataclasses.dataclass(frozen=True)
class Patches:
    """An image (*batch, C, H, W), unfolded and folded."""

    shape: Ints
    kernel: Any
    options: tuple[Any, ...]

    @classmethod
    def sample(cls, seed: int) -> "Patches":
        rng = np.random.default_rng(seed)
        kernel, dilation, padding = per_axis(rng, 2, 1, 4), per_axis(rng, 2, 1, 3), per_axis(rng, 2, 0, 4)
        size = tuple(
            max(1, d * (k - 1) + 1 - 2 * p) + int(rng.integers(0, 6))
            for k, d, p in zip(kernel, dilation, padding, strict=True)
        )
        batch = () if seed % 4 == 0 else integers(rng, 1, 1, 3)
        options = (dilation, padding, per_axis(rng, 2, 1, 3))
        return cls(
            (*batch, *integers(rng, 1, 1, 3), *size),
            spelled(rng, kernel, of_one=False),
            tuple(spelled(rng, values, of_one=False) for values in options),
        )

    def unfold_by(self, library: Any) -> Callable[..., Any]:
        return lambda x: library.unfold(x, self.kernel, *self.options)

    def fold_by(self, library: Any) -> Callable[..., Any]:
        return lambda columns: library.fold(columns, self.shape[-2:], self.kernel, *self.options)


@dataclasses.dataclass(frozen=True)
class Padding:
    """An array and how it is padded."""

    shape: Ints
    widths: Ints
    mode: str
    value: float | None

    @classmethod
    def sample(cls, seed: int) -> "Padding":
        rng = np.random.default_rng(seed)
        mode = ("constant", "reflect", "replicate", "circular")[seed % 4]
        axes = 1 + seed // 4 % 3
        if mode == "constant":
            shape = integers(rng, axes + int(rng.integers(0, 3)), 1, 5)  # batch and channels padded too, or not there
        else:
            shape = (*integers(rng, 2 - int(rng.random() < 0.3), 1, 3), *integers(rng, axes, 1, 6))
        widths = tuple(width for n in reversed(shape[-axes:]) for width in cls.widths_of(rng, n, mode))
        return cls(shape, widths, mode, float(rng.integers(-3, 4)) if mode == "constant" and seed % 8 else None)

    @staticmethod
    def widths_of(rng: np.random.Generator, n: int, mode: str) -> Ints:
        """(lo, hi) of an axis of n that the mode takes."""
        while True:
            lo, hi = integers(rng, 2, -n, n + 3)
            left = n + min(lo, 0) + min(hi, 0)
            most = {"reflect": n - 1, "circular": left}.get(mode, n + 3)
            if max(lo, hi) <= most and left >= 0 and n + lo + hi >= 1:
                return lo, hi

    def by(self, library: Any) -> Callable[..., Any]:
        return lambda x: library.pad(x, self.widths, self.mode, self.value)


# Convolutions a test.
_TOGETHER = 6

# What is sampled, how many by default and how many with --thorough.
SAMPLES: dict[str, tuple[Any, int, int]] = {
    "convs": (Conv, 90, 2100),
    "patches": (Patches, 12, 100),
    "padding": (Padding, 30, 200),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, (kind, usual, thorough) in SAMPLES.items():
        if name in metafunc.fixturenames:
            count = thorough if metafunc.config.getoption("--thorough") else usual
            sampled: list[Any] = [kind.sample(seed) for seed in range(count)]
            if name == "convs":
                sampled = [tuple(sampled[i : i + _TOGETHER]) for i in range(0, count, _TOGETHER)]
            metafunc.parametrize(name, sampled, ids=None if name == "convs" else str)


def integers(rng: np.random.Generator, count: int, low: int, high: int) -> Ints:
    return tuple(int(n) for n in rng.integers(low, high, count, endpoint=True))


def per_axis(rng: np.random.Generator, count: int, low: int, high: int) -> Ints:
    """Often the same for all."""
    values = integers(rng, count, low, high)
    return values[:1] * count if rng.random() < 0.4 else values


def spelled(rng: np.random.Generator, values: Ints, of_one: bool = True) -> Any:
    """The same numbers in one of the forms that PyTorch takes."""
    forms: list[Any] = [values, list(values)]
    if len(set(values)) == 1:
        forms += [values[0], (values[0],)] if of_one else [values[0]]
    return forms[int(rng.integers(len(forms)))]


def standard_normal(*shapes: Ints) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


Calls = Sequence[tuple[str, Callable[[Any], Callable[..., Any]], tuple[Ints, ...]]]


def assert_parity(by: Callable[[Any], Callable[..., Any]], shapes: tuple[Ints, ...], bound: float) -> None:
    """The value and every operand's gradient are PyTorch's; `by` gives a library's function."""
    assert_all_parity([("call", by, shapes)], bound)


def assert_all_parity(calls: Calls, bound: float) -> None:
    """The same of several calls by name, which are one program: that takes half as long."""
    operands = [standard_normal(*shapes) for _, _, shapes in calls]
    wanted, cotangents = {}, []
    for (name, by, _), arrays in zip(calls, operands, strict=True):
        tensors = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]
        value = by(F)(*tensors)
        cotangents += standard_normal(tuple(value.shape))
        value.backward(torch.tensor(cotangents[-1], dtype=torch.float64))
        grads = [t.grad.numpy() for t in tensors if t.grad is not None]
        assert len(grads) == len(arrays)
        wanted[name] = [value.detach().numpy(), *grads]

    @jax.jit
    def ours(cotangents: list[jax.Array], operands: list[list[jax.Array]]) -> Any:
        results = {}
        for (name, by, _), c, arrays in zip(calls, cotangents, operands, strict=True):
            value, pullback = jax.vjp(by(functional), *arrays)
            results[name] = [value, *pullback(c)]
        return results

    assert_close(ours(cotangents, operands), wanted, bound)


def test_convolutions(convs: tuple[Conv, ...]) -> None:
    assert_all_parity([(str(conv), conv.by, conv.shapes) for conv in convs], BOUND)


def test_patches(patches: Patches) -> None:
    assert_parity(patches.unfold_by, (patches.shape,), 1e-6)
    columns = tuple(F.unfold(torch.zeros(patches.shape), patches.kernel, *patches.options).shape)
    assert_parity(patches.fold_by, (columns,), 1e-6)


def test_paddings(padding: Padding) -> None:
    assert_parity(padding.by, (padding.shape,), 1e-6)


def test_at_least_2000_convolutions_are_sampled_and_mix_every_option() -> None:
    _, usual, thorough = SAMPLES["convs"]
    assert len({str(Conv.sample(seed)) for seed in range(thorough)}) >= 2000
    sampled = [Conv.sample(seed) for seed in range(usual)]
    for ndim in (1, 2, 3):
        for function in (f"conv{ndim}d", f"conv_transpose{ndim}d"):
            met = [dict(c.options) | {"shapes": c.shapes} for c in sampled if c.function == function]
            assert {1, 2, 3} <= {o["groups"] for o in met}
            assert {len(o["shapes"]) for o in met} == {2, 3}  # without and with a bias
            assert {len(o["shapes"][0]) for o in met} == {ndim + 1, ndim + 2}
            assert {k % 2 for o in met for k in o["shapes"][1][2:]} == {0, 1}
            assert {type(o["stride"]) for o in met} == {int, tuple, list}
            paddings = {o["padding"] if isinstance(o["padding"], str) else type(o["padding"]) for o in met}
            assert paddings >= ({"same", tuple} if "transpose" not in function else {tuple, list})
            if "transpose" in function:
                assert any(max(np.atleast_1d(o["output_padding"])) > 0 for o in met)


# Calls that both take, next to those in REFUSED that neither does.
ACCEPTED: dict[str, Call] = {
    "conv": conv2d(),
    "conv, list of one": conv2d(stride=[2], padding=[1], dilation=(2,)),
    "conv, same": conv2d(padding="same", dilation=(2, 3), stride=[1]),
    "conv, same with a kernel that is too large": conv2d(array(2, 4, 2, 7), padding="same"),
    "conv, same, even kernel": conv2d(w=array(6, 4, 2, 4), padding="same"),
    "conv, valid with a stride": conv2d(padding="valid", stride=2),
    "conv, more padding than kernel": conv2d(padding=20),
    "conv, kernel fits with padding": conv2d(array(2, 4, 2, 7), padding=1),
    "conv, unbatched": conv2d(array(4, 8, 7), padding="same"),
    "conv, groups": conv2d(w=array(6, 2, 3, 3), groups=2),
    "conv, empty batch": conv2d(array(0, 4, 8, 7), b=array(6)),
    **{
        f"conv, {dtype}": conv2d(ints(X, dtype), ints(W, dtype), array(6, dtype=dtype))
        for dtype in ("int8", "uint8", "int16", "int32", "int64", "float16", "bfloat16", "float64", "complex64")
    },
    "conv1d": ("conv1d", (LINE, array(2, 3, 3)), {}),
    "conv1d, unbatched": ("conv1d", (array(3, 4), array(2, 3, 3), array(2), 2, 1), {}),
    "conv3d": ("conv3d", (array(1, 2, 4, 5, 6), array(3, 2, 2, 2, 2)), {"padding": "same"}),
    "transposed": conv_transpose2d(),
    "transposed, list of one": conv_transpose2d(stride=[2], padding=[1], dilation=(2,), output_padding=[1]),
    "transposed, output_padding below dilation": conv_transpose2d(output_padding=1, dilation=2),
    "transposed, output_padding of one axis": conv_transpose2d(output_padding=(1, 0), stride=(2, 1)),
    "transposed, groups": conv_transpose2d(b=array(12), groups=2),
    "transposed, one element left": conv_transpose2d(padding=4),
    "transposed, unbatched": conv_transpose2d(array(4, 8, 7)),
    "transposed, empty batch": conv_transpose2d(array(0, 4, 8, 7)),
    **{
        f"transposed, {dtype}": conv_transpose2d(ints(X, dtype), ints(V, dtype), array(6, dtype=dtype))
        for dtype in ("int64", "float16", "bfloat16", "float64", "complex64")
    },
    "conv_transpose1d": ("conv_transpose1d", (LINE, array(3, 2, 3), None, 2, 1, 1), {}),
    "conv_transpose3d": ("conv_transpose3d", (array(2, 3, 3, 3), array(2, 4, 2, 2, 2), None, 2, 0, 1), {}),
    "unfold": unfold(),
    "unfold, per axis": unfold((3, 2), dilation=[1, 2], padding=(0, 1), stride=2),
    "unfold, kernel fits with padding": unfold(9, padding=1),
    "unfold, unbatched": unfold(x=array(4, 8, 7)),
    "unfold, empty batch": unfold(x=array(0, 4, 8, 7)),
    **{f"unfold, {dtype}": unfold(x=ints(X, dtype)) for dtype in ("bool", "float16", "bfloat16", "complex64")},
    "fold": fold(),
    "fold, square": fold(8, x=array(2, 36, 36)),
    "fold, padding": fold((6, 5), padding=1),
    "fold, unbatched": fold(x=array(36, 30)),
    "fold, empty batch": fold(x=array(0, 36, 30)),
    **{f"fold, {dtype}": fold(x=ints(COLUMNS, dtype)) for dtype in ("float16", "bfloat16", "complex64")},
    "pad, nothing": pad(LINE, ()),
    "pad, a scalar by nothing": pad(array(), ()),
    "pad, an array of one axis": pad(array(3), (1, 2)),
    "pad, last axis of four": pad(PLANE, (1, 2)),
    "pad, channels": pad(PLANE, (0, 0, 1, 0, 2, 1)),
    "pad, channels and batch": pad(PLANE, (1, 0, 0, 1, 2, 0, 1, 1), "constant", 1.5),
    "pad, six axes": pad(array(1, 2, 1, 2, 1, 2), (1,) * 12),
    "pad, crops": pad(PLANE, (-1, -2, 0, -1)),
    "pad, crops all": pad(LINE, (-4, 0)),
    "pad, crops all and fills": pad(LINE, (-4, 3)),
    "pad, crops the batch": pad(LINE, (0, 0, 1, -1, -1, 0)),
    "pad, fills and crops": pad(LINE, (5, -4)),
    "pad, empty axis": pad(array(2, 3, 0), (1, 1)),
    "pad, empty batch": pad(array(0, 3, 4), (1, 1)),
    "pad, value None": pad(LINE, (1, 1), "constant", None),
    "pad, value a bool": pad(LINE, (1, 1), "constant", True),
    "pad, NaN": pad(LINE, (1, 1), "constant", float("nan")),
    "pad, infinity": pad(LINE, (1, 1), "constant", float("inf")),
    "pad, 1.5 in int32": pad(ints(LINE), (1, 1), "constant", 1.5),
    "pad, -1.5 in int8": pad(ints(LINE, "int8"), (1, 1), "constant", -1.5),
    "pad, 2 in bool": pad(ints(LINE, "bool"), (1, 1), "constant", 2),
    "circular, bools": pad(ints(LINE, "bool"), (1, 1), "circular"),
    "circular, crops all": pad(LINE, (-4, 0), "circular"),
    "circular, empty axis left alone": pad(array(2, 3, 0), (0, 0), "circular"),
    "circular, no channels": pad(array(2, 0, 4), (1, 1), "circular"),
    "circular, a whole axis": pad(LINE, (4, 4), "circular"),
    "circular, all that is left": pad(LINE, (-1, 3), "circular"),
    "reflect, all but one": pad(LINE, (3, 3), "reflect"),
    "reflect, then crops all that was there": pad(LINE, (-4, 3), "reflect"),
    "reflect, then crops more": pad(LINE, (-5, 3), "reflect"),
    "reflect, crops at the end": pad(LINE, (3, -3), "reflect"),
    "replicate, more than an axis": pad(LINE, (6, 5), "replicate"),
    "replicate, then crops more": pad(LINE, (-6, 7), "replicate"),
    **{
        f"{mode}, {name}": pad(x, widths, mode, *value)
        for mode in ("reflect", "replicate", "circular")
        for name, x, widths, value in (
            ("unbatched line", array(3, 4), (1, 1), ()),
            ("plane", PLANE, (1, 2, 0, 1), ()),
            ("unbatched plane", array(3, 4, 5), (1, 2, 2, 1), ()),
            ("space", array(1, 2, 3, 4, 5), (1, 2, 0, 1, 2, 2), ()),
            ("unbatched space", array(2, 3, 4, 5), (1, 2, 0, 1, 2, 2), ()),
            ("crops", LINE, (-1, -2), ()),
            ("crops and fills", PLANE, (1, -1, -1, 1), ()),
            ("empty batch", array(0, 3, 4), (1, 1), ()),
            ("value 0", LINE, (1, 1), (0.0,)),
            ("int32", ints(LINE), (1, 1), ()),
            ("uint8", ints(LINE, "uint8"), (1, 1), ()),
            ("complex64", ints(LINE, "complex64"), (1, 1), ()),
            ("bfloat16", ints(LINE, "bfloat16"), (1, 1), ()),
        )
    },
}


def by_torch(call: Call) -> torch.Tensor:
    function, arguments, options = call
    operands = (torch.tensor(numbers(a)).to(getattr(torch, a[1])) if is_array(a) else a for a in arguments)
    return getattr(F, function)(*operands, **options)


def by_convjax(call: Call) -> jax.Array:
    function, arguments, options = call
    operands = [jnp.asarray(numbers(a), a[1]) for a in arguments if is_array(a)]

    @jax.jit
    def ours(*operands: jax.Array) -> jax.Array:
        given = iter(operands)
        return getattr(functional, function)(*(next(given) if is_array(a) else a for a in arguments), **options)

    return ours(*operands)


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.usefixtures("x64")  # for int64
def test_what_pytorch_takes_is_taken(name: str) -> None:
    want, got = by_torch(ACCEPTED[name]), by_convjax(ACCEPTED[name])
    assert tuple(got.shape) == tuple(want.shape)
    assert f"torch.{got.dtype}" == str(want.dtype)
    np.testing.assert_array_equal(np.asarray(got, np.complex64), want.to(torch.complex64).numpy())


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_pytorch_refuses_too(name: str) -> None:
    with pytest.raises((RuntimeError, TypeError, IndexError)):  # its NotImplementedError is a RuntimeError
        by_torch(REFUSED[name][0])


# Where the two differ, and why.
UNLIKE: dict[str, tuple[Call, str]] = {
    "fold of bools": (fold(x=ints(COLUMNS, "bool")), "columns are bool"),  # it takes or for the sum
    "conv, neither batch nor space": (conv2d(array(0, 4, 0, 7), padding=2), "has an empty spatial axis"),
    "transposed, neither batch nor space": (conv_transpose2d(array(0, 4, 0, 7)), "has an empty spatial axis"),
    "circular, all cropped": (pad(LINE, (-4, 3), "circular"), "must be at most 0"),  # it returns unwritten memory
    "circular, more than is left": (pad(LINE, (-1, 4), "circular"), "must be at most 3"),  # it refuses a single line
}


@pytest.mark.parametrize("name", UNLIKE)
def test_what_only_pytorch_takes(name: str) -> None:
    call, message = UNLIKE[name]
    by_torch(call)
    with pytest.raises((ValueError, TypeError), match=message):
        by_convjax(call)


def test_without_channels_pytorch_loses_the_outputs() -> None:
    call = conv2d(array(2, 0, 8, 7), array(6, 0, 3, 3))
    assert tuple(by_torch(call).shape) == (2, 0, 6, 5)
    np.testing.assert_array_equal(by_convjax(call), np.zeros((2, 6, 6, 5)))
