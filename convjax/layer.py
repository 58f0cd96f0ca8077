"""Layers: one convolution or pooling of a network, written in one line and reduced to lax's parameters.

    conv2d 4x56x56x64 -> 128 k3 s2 p1          N x spatial x C -> K, kernel, stride, padding
    conv2d 1x27x27x96 -> 256 k5 p2 g2          groups
    depthwise2d 4x56x56x128 k3 p1              K = C, one kernel a channel
    conv1d 1x8000x32 -> 32 k2 d512 pCAUSAL     dilation; padding by name
    transpose2d 1x32x32x256 -> 128 k4 s2 p1    transposed; op1 enlarges the output
    max2d 8x112x112x64 k3 s2 p1                pooling, also avg2d
    conv2d 4x28x28x128 -> 128 k3 p1 bfloat16   another dtype than float32
    conv2d 4x28x28x32 -> 32 k3 p1 members8     vmapped over 8 members, each with an x and a kernel of its own
    conv2d 4x28x28x32 -> 32 k3 p1 stacked8     the same, but differentiated as one function of all members
    conv2d 1x14x14x16 -> 32 k3 p1 examples32   vmapped over 32 examples that share a kernel, whose gradient is each's
    conv2d Nx56x56x64 -> 64 k3 p1              a batch left open, to be filled in before it is parsed

Each knob takes one number or one for each axis (`k3x5`), padding also `lo_hi` pairs (`p1_0x1_0`).
"""

import dataclasses
import re
from typing import Any, Literal, Self

from convjax import sizes
from convjax.ops.arguments import PADDING_STRINGS, padding_pairs
from convjax.ops.conv_transpose import padding_of_adjoint, transposed_size
from convjax.problem import Ints, Pads

Kind = Literal["conv", "depthwise", "transpose", "max", "avg"]

_SYNTAX = "like 'conv2d 4x56x56x64 -> 64 k3 p1', 'depthwise2d 4x56x56x128 k3 p1' or 'max2d 8x112x112x64 k3 s2 p1'"
# Knobs that vmap a layer.
_MAPPED = {"members", "stacked", "examples"}
_DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer with lax's parameters, channels last; `w_shape` is None for a pooling.

    Where it is vmapped, over so many `members`, the shapes are those of one. Gradients are then vmapped ones of each
    member, or where `as_one` those of the vmapped function, as of the sum of all members' losses.
    """

    name: str
    text: str
    kind: Kind
    dtype: str
    x_shape: Ints
    w_shape: Ints | None
    kernel: Ints
    strides: Ints
    padding: Pads
    # As written: what a transposed layer crops, and what it adds.
    written_padding: str | Pads
    output_padding: Ints
    lhs_dilation: Ints
    rhs_dilation: Ints
    groups: int
    members: int = 0
    shares_kernel: bool = False
    as_one: bool = False

    @property
    def ndim(self) -> int:
        return len(self.kernel)

    @property
    def is_pool(self) -> bool:
        return self.w_shape is None

    @property
    def mapped(self) -> tuple[int | None, ...]:
        """The axis of x, w and the cotangent that `jax.vmap` maps where there are members."""
        return 0, None if self.shares_kernel else 0, 0

    @property
    def dimension_numbers(self) -> tuple[str, str, str]:
        spatial = "DHW"[3 - self.ndim :]
        return f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"

    @property
    def conv_arguments(self) -> dict[str, Any]:
        """What `lax.conv_general_dilated` takes after its operands."""
        return {
            "window_strides": self.strides,
            "padding": self.padding,
            "lhs_dilation": self.lhs_dilation,
            "rhs_dilation": self.rhs_dilation,
            "dimension_numbers": self.dimension_numbers,
            "feature_group_count": self.groups,
        }

    @property
    def window_arguments(self) -> dict[str, Any]:
        """What `lax.reduce_window` takes after its operation, one entry for each axis of x."""
        return {
            "window_dimensions": (1, *self.kernel, 1),
            "window_strides": (1, *self.strides, 1),
            "padding": ((0, 0), *self.padding, (0, 0)),
            "window_dilation": (1, *self.rhs_dilation, 1),
        }

    @classmethod
    def parse(cls, name: str, text: str) -> Self:
        """The layer that `text` describes; `ValueError` names what cannot be read or does not fit."""
        words = text.split()
        head = re.fullmatch(r"(conv|depthwise|transpose|max|avg)([123])d", words[0]) if words else None
        shape = re.fullmatch(r"(N|\d+)(x\d+)+", words[1]) if len(words) > 1 else None
        if head is None or shape is None:
            raise ValueError(f"layer {name!r}: cannot read {text!r}; a layer reads {_SYNTAX}")
        if shape[1] == "N":
            raise ValueError(f"layer {name!r}: {words[1]} leaves its batch open: write a number for N")
        kind: Any = head[1]
        ndim = int(head[2])
        x_shape = tuple(int(n) for n in words[1].split("x"))
        if len(x_shape) != ndim + 2:
            raise ValueError(
                f"layer {name!r}: {words[1]} has {len(x_shape)} axes, {words[0]} takes {ndim + 2} (N, spatial, C)"
            )
        rest = words[2:]
        channels = x_shape[-1]
        if kind in ("conv", "transpose"):
            if rest[:1] != ["->"] or not rest[1:2] or not rest[1].isdigit():
                raise ValueError(
                    f"layer {name!r}: {words[0]} needs its output channels, as in '-> 64', after {words[1]}"
                )
            channels = int(rest[1])
            rest = rest[2:]
        knobs, dtype = _knobs(name, rest)
        kernel = _per_axis(name, knobs, "k", ndim, None)
        strides = _per_axis(name, knobs, "s", ndim, kernel if kind in ("max", "avg") else (1,) * ndim)
        dilation = _per_axis(name, knobs, "d", ndim, (1,) * ndim)
        extra = _per_axis(name, knobs, "op", ndim, (0,) * ndim)
        _refuse_foreign(name, knobs, kind)
        asked = _asked_padding(name, knobs.get("p", "0"), ndim)
        padding = _padding(name, kind, x_shape[1:-1], kernel, strides, dilation, asked, extra)
        groups = x_shape[-1] if kind == "depthwise" else int(knobs.get("g", "1"))
        if groups < 1 or x_shape[-1] % groups or channels % groups:
            raise ValueError(f"layer {name!r}: {groups} groups do not divide {x_shape[-1]} -> {channels} channels")
        lhs_dilation = (1,) * ndim
        if kind == "transpose":
            lhs_dilation, strides = strides, lhs_dilation
        return cls(
            name=name,
            text=" ".join(words),
            kind=kind,
            dtype=dtype,
            x_shape=x_shape,
            w_shape=None if kind in ("max", "avg") else (*kernel, x_shape[-1] // groups, channels),
            kernel=kernel,
            strides=strides,
            padding=padding,
            written_padding=asked,
            output_padding=extra,
            lhs_dilation=lhs_dilation,
            rhs_dilation=dilation,
            groups=groups,
            members=int(next((knobs[knob] for knob in _MAPPED if knob in knobs), "0")),
            shares_kernel="examples" in knobs,
            as_one="stacked" in knobs,
        )

    def __post_init__(self) -> None:
        for axis, (n, k, (lo, hi)) in enumerate(zip(self.x_shape[1:-1], self.kernel, self.padding, strict=True)):
            room = sizes.dilated(n, self.lhs_dilation[axis]) + lo + hi
            reach = sizes.dilated(k, self.rhs_dilation[axis])
            if room < reach:
                raise ValueError(
                    f"layer {self.name!r}: a kernel reaching over {reach} does not fit the {room} padded cells "
                    f"of axis {axis}: its output would be empty"
                )


def _knobs(name: str, words: list[str]) -> tuple[dict[str, str], str]:
    """Knobs by letter, and the dtype."""
    knobs: dict[str, str] = {}
    for word in words:
        match = re.fullmatch(r"(op|[ksdg])(\d+(?:x\d+)*)|(members|stacked|examples)([1-9]\d*)|(p)(\w+)", word)
        if word in _DTYPES:
            knob, value = "", word
        elif match is None:
            raise ValueError(f"layer {name!r}: cannot read {word!r}; a layer reads {_SYNTAX}")
        else:
            knob, value = (part for part in match.groups() if part is not None)
        if knob in knobs:
            raise ValueError(f"layer {name!r}: {word} comes after {knob}{knobs[knob]}: write one")
        knobs[knob] = value
    return knobs, knobs.pop("", "float32")


def _per_axis(name: str, knobs: dict[str, str], knob: str, ndim: int, default: Ints | None) -> Ints:
    if knob not in knobs:
        if default is None:
            raise ValueError(f"layer {name!r}: the kernel size is missing, as in {knob}3")
        return default
    values = tuple(int(n) for n in knobs[knob].split("x"))
    values = values * ndim if len(values) == 1 else values
    if len(values) != ndim:
        raise ValueError(f"layer {name!r}: {knob}{knobs[knob]} has {len(values)} numbers for {ndim} spatial axes")
    if knob != "op" and min(values) < 1:
        raise ValueError(f"layer {name!r}: {knob}{knobs[knob]} must be at least 1")
    return values


def _refuse_foreign(name: str, knobs: dict[str, str], kind: Kind) -> None:
    """Knobs that would have no effect, or say more than one number can."""
    if "g" in knobs and (kind not in ("conv", "transpose") or not knobs["g"].isdecimal()):
        raise ValueError(f"layer {name!r}: g{knobs['g']} must be one number, and only conv and transpose have it")
    if "op" in knobs and kind != "transpose":
        raise ValueError(f"layer {name!r}: only transpose has op, which enlarges its output")
    mapped = _MAPPED & knobs.keys()
    if len(mapped) > 1 or (mapped and kind in ("max", "avg")):
        raise ValueError(
            f"layer {name!r}: a convolution may have members, stacked or examples, but one of them, and a pooling none"
        )


def _padding(
    name: str, kind: Kind, size: Ints, kernel: Ints, strides: Ints, dilation: Ints, asked: str | Pads, extra: Ints
) -> Pads:
    """Lax's padding, by the operation's own function."""
    extent = tuple(map(sizes.dilated, kernel, dilation))
    if kind != "transpose":
        return padding_pairs(asked, size, extent, strides)
    try:
        output, crop = transposed_size(size, extent, strides, dilation, asked, extra, None)
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from None
    return padding_of_adjoint(size, output, extent, strides, crop)


def _asked_padding(name: str, text: str, ndim: int) -> str | Pads:
    """A name, or (lo, hi) an axis."""
    if text in PADDING_STRINGS:
        return text
    if not re.fullmatch(r"\d+(_\d+)?(x\d+(_\d+)?)*", text):
        raise ValueError(
            f"layer {name!r}: padding p{text} must be numbers (p1, p1x2, p1_0x1_0) or one of "
            f"{', '.join(PADDING_STRINGS)}"
        )
    pairs = [part.partition("_") for part in text.split("x")]
    padding = tuple((int(lo), int(hi or lo)) for lo, _, hi in pairs)
    padding = padding * ndim if len(padding) == 1 else padding
    if len(padding) != ndim:
        raise ValueError(f"layer {name!r}: padding p{text} has {len(padding)} entries for {ndim} spatial axes")
    return padding
