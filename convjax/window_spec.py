"""Windows of one array, reduced or followed: their geometry, what padding holds, and their cost by definition."""

import dataclasses
import math
from functools import cached_property
from typing import Any, Self

from convjax import sizes, text_form
from convjax.dtypes import dtype_name, dtype_of, extremes, itemsize
from convjax.problem_fields import require_integers, require_positive, require_shape
from convjax.text_form import Ints, Pads

_FIELDS = ("window", "stride", "pad", "base_dilate", "window_dilate")
# What holds no integers.
_NAMES = ("operation", "dtype")


@dataclasses.dataclass(frozen=True)
class WindowSpec:
    """A windowed reduction over every axis of one array, or one of the maps that differentiate it.

    `operation` is one of

    - `max`, `min`, `sum`: reduce each window of x to one value;
    - `argmax`, `argmin`: the winning tap of each window. A tap is numbered row-major in the window;
      NaN wins wherever it stands, and the first of equal elements wins;
    - `take`: each window's element at a given tap (the derivative of max along a tangent);
    - `put`: its adjoint, adds each window's value to x at the given tap (the gradient of max);
    - `take_equal`, `put_equal`: the same at the first tap that stands on an element of x equal to the window's
      maximum or minimum y, their operands (t, x, y) and (g, x, y). NaN equals NaN; where nothing is equal, no tap.

    `shape` and `dtype` are x's for all of them. Padding holds the identity of the reduction.

    Example:
        >>> spec = WindowSpec.parse("max float32[8,112,112,64] window=1x3x3x1 stride=1x2x2x1 pad=0_0x1_1x1_1x0_0")
        >>> spec.output_shape
        (8, 56, 56, 64)
    """

    operation: str
    shape: Ints
    dtype: str
    window: Ints
    strides: Ints
    padding: Pads
    base_dilation: Ints
    window_dilation: Ints

    OPERATIONS = ("max", "min", "sum", "argmax", "argmin", "take", "put", "take_equal", "put_equal")

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def taps(self) -> int:
        return math.prod(self.window)

    @property
    def reduces(self) -> bool:
        """Whether the elements of a window are combined to one of their kind."""
        return self.operation in ("max", "min", "sum")

    @property
    def finds_taps(self) -> bool:
        """Whether the result is taps."""
        return self.operation in ("argmax", "argmin")

    @property
    def is_given_taps(self) -> bool:
        """Whether the last operand is taps."""
        return self.operation in ("take", "put")

    @property
    def compares(self) -> bool:
        """Whether taps are found by comparing x with the windows' values."""
        return self.operation in ("take_equal", "put_equal")

    @property
    def follows_taps(self) -> bool:
        """Whether one tap of each window matters, given or found by comparing."""
        return self.is_given_taps or self.compares

    @property
    def puts(self) -> bool:
        """Whether the result is x's shape, from one value of each window."""
        return self.operation in ("put", "put_equal")

    @cached_property
    def windows_shape(self) -> Ints:
        """One entry per window."""
        return tuple(
            sizes.windows(sizes.dilated(n, bd) + lo + hi, sizes.dilated(k, wd), s)
            for n, bd, (lo, hi), k, wd, s in zip(
                self.shape,
                self.base_dilation,
                self.padding,
                self.window,
                self.window_dilation,
                self.strides,
                strict=True,
            )
        )

    @property
    def output_shape(self) -> Ints:
        return self.shape if self.puts else self.windows_shape

    @property
    def macs(self) -> int:
        """Elements combined: one per tap and window."""
        return math.prod(self.windows_shape) * self.taps

    @property
    def flops(self) -> int:
        return self.macs

    @property
    def bytes(self) -> int:
        """Bytes of x and of the windows' values, as operands and as the result, and of the taps where there are any."""
        values = (math.prod(self.shape) + math.prod(self.windows_shape)) * itemsize(self.dtype)
        values *= 2 if self.compares else 1
        return values + (4 * math.prod(self.windows_shape) if self.finds_taps or self.is_given_taps else 0)

    @property
    def empty(self) -> bool:
        return 0 in self.shape or 0 in self.windows_shape

    @property
    def identity(self) -> Any:
        """What padding holds, as a NumPy scalar of `dtype`."""
        dtype = dtype_of(self.dtype)
        if self.operation == "sum" or self.follows_taps:
            return dtype.type(0)
        least, greatest = extremes(dtype)
        return greatest if self.operation in ("min", "argmin") else least

    def __str__(self) -> str:
        ones = (1,) * self.ndim
        return text_form.join(
            self.operation,
            text_form.array(self.dtype, self.shape),
            window=text_form.by(self.window, ones),
            stride=text_form.by(self.strides, ones),
            pad=text_form.by_pads(self.padding),
            base_dilate=text_form.by(self.base_dilation, ones),
            window_dilate=text_form.by(self.window_dilation, ones),
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The problem that `str` wrote as `text`; `ValueError` names what cannot be read."""
        operation = text.split()[0] if text.split() else ""
        if operation not in cls.OPERATIONS:
            raise ValueError(f"problem {text!r} must begin with one of {', '.join(cls.OPERATIONS)}")
        words, fields = text_form.split(text, operation, 2, _FIELDS)
        dtype, shape = text_form.read_array(words[1], text)
        ones = (1,) * len(shape)
        return cls(
            operation=operation,
            shape=shape,
            dtype=dtype,
            window=text_form.read_by(fields, "window", ones),
            strides=text_form.read_by(fields, "stride", ones),
            padding=text_form.read_pads(fields, len(ones)),
            base_dilation=text_form.read_by(fields, "base_dilate", ones),
            window_dilation=text_form.read_by(fields, "window_dilate", ones),
        )

    def __post_init__(self) -> None:
        if self.operation not in self.OPERATIONS:
            raise ValueError(f"operation must be one of {', '.join(self.OPERATIONS)}, got {self.operation!r}")
        object.__setattr__(self, "dtype", dtype_name(self.dtype))
        require_integers(self, _NAMES)
        require_shape("x", self.shape)
        for name in ("window", "strides", "base_dilation", "window_dilation", "padding"):
            value = getattr(self, name)
            if len(value) != len(self.shape):
                raise ValueError(f"{name} has {len(value)} entries for {len(self.shape)} axes: give one per axis")
            if name != "padding":
                require_positive(name, value)
        if not self.reduces and any(d > 1 for d in self.base_dilation):
            raise ValueError(
                f"{self.operation} is not defined with base_dilation {self.base_dilation}: use 1 on every axis"
            )
