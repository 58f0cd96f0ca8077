"""A convolution: its shapes, dtypes and geometry, what they make of its output, and what it costs by its definition."""

import collections
import dataclasses
import math
from functools import cached_property
from typing import Self

from convjax import sizes, text_form
from convjax.dtypes import dtype_name, itemsize
from convjax.problem_fields import axis_orders, precision_name, require_integers, require_positive, require_shape
from convjax.text_form import Ints, Pads

_FIELDS = ("stride", "pad", "lhs_dilate", "rhs_dilate", "feature_groups", "batch_groups", "precision", "out")
# What holds no integers.
_NAMES = ("lhs_dtype", "rhs_dtype", "dimension_numbers", "precision", "preferred_element_type")


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """A convolution, with the parameters of `jax.lax.conv_general_dilated`: strides are its window_strides, groups its
    feature_group_count and batch_group_count.

    The axes are read through `dimension_numbers`, lax's `(lhs_spec, rhs_spec, out_spec)`: positions
    of (batch, feature, *spatial) in lhs and out, of (out feature, in feature, *spatial) in rhs.
    Letters are sizes of one group, unlike in `convjax.conv`: N batch, C and K channels in and out; G is the groups.

    Example:
        >>> spec = ConvSpec.parse("conv float32[4,56,56,64] float32[3,3,64,128] b01f_01io->b01f stride=2x2")
        >>> spec.output_shape
        (4, 27, 27, 128)
        >>> ConvSpec.parse(str(spec)) == spec
        True
    """

    lhs_shape: Ints
    rhs_shape: Ints
    lhs_dtype: str
    rhs_dtype: str
    strides: Ints
    padding: Pads
    lhs_dilation: Ints
    rhs_dilation: Ints
    dimension_numbers: tuple[Ints, Ints, Ints]
    feature_groups: int = 1
    batch_groups: int = 1
    precision: str | None = None
    preferred_element_type: str | None = None

    @property
    def operation(self) -> str:
        return "conv"

    @property
    def ndim(self) -> int:
        """Spatial axes."""
        return len(self.strides)

    @property
    def N(self) -> int:
        return self.lhs_shape[self.dimension_numbers[0][0]] // self.batch_groups

    @property
    def G(self) -> int:
        return self.feature_groups * self.batch_groups

    @property
    def C(self) -> int:
        return self.rhs_shape[self.dimension_numbers[1][1]]

    @property
    def K(self) -> int:
        return self.rhs_shape[self.dimension_numbers[1][0]] // self.G

    @cached_property
    def input(self) -> Ints:
        """Spatial sizes of lhs."""
        return tuple(self.lhs_shape[axis] for axis in self.dimension_numbers[0][2:])

    @cached_property
    def kernel(self) -> Ints:
        """Spatial sizes of rhs, in taps."""
        return tuple(self.rhs_shape[axis] for axis in self.dimension_numbers[1][2:])

    @cached_property
    def output(self) -> Ints:
        """Spatial sizes of the output."""
        return tuple(
            sizes.windows(sizes.dilated(n, ld) + lo + hi, sizes.dilated(k, rd), s)
            for n, ld, (lo, hi), k, rd, s in zip(
                self.input, self.lhs_dilation, self.padding, self.kernel, self.rhs_dilation, self.strides, strict=True
            )
        )

    @cached_property
    def output_shape(self) -> Ints:
        shape = dict(zip(self.dimension_numbers[2], (self.N, self.G * self.K, *self.output), strict=True))
        return tuple(shape[axis] for axis in range(len(shape)))

    @property
    def output_dtype(self) -> str:
        return self.preferred_element_type or self.lhs_dtype

    @property
    def has_few_outputs(self) -> bool:
        """Whether windows are fewer than the elements of each, as in weight gradients."""
        return self.taps > math.prod(self.output)

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    @property
    def macs(self) -> int:
        """Multiply-accumulates that the definition needs: padding counts as computed, inserted zeros do not.

        Every output meets every tap; where lhs is dilated, as in a transposed convolution, every element of lhs does.
        """
        return self.adjoint_macs if any(d > 1 for d in self.lhs_dilation) else self.products

    @property
    def adjoint_macs(self) -> int:
        """MACs as those of a transposed convolution or of a gradient of one: every element of lhs meets every tap.

        In its weight gradient taps and outputs change places, and every element meets every output. Of the two the
        fewer are counted: shapes alone do not tell a gradient from what is cropped to less than its kernel.
        """
        pairs = [
            n * min(k, o) if s == 1 else _meetings(o, s, k, rd, lo, ld)
            for n, o, s, k, rd, (lo, _), ld in zip(
                self.input,
                self.output,
                self.strides,
                self.kernel,
                self.rhs_dilation,
                self.padding,
                self.lhs_dilation,
                strict=True,
            )
        ]
        return self.N * self.G * self.K * self.C * math.prod(pairs)

    @property
    def transposed_macs(self) -> int:
        """MACs as those of a transposed convolution that is no gradient: every element of lhs meets every tap."""
        return self.N * self.G * self.K * self.C * math.prod(self.input) * self.taps

    @property
    def transposed_wgrad_macs(self) -> int:
        """MACs as those of the weights' gradient of one, whose outputs are the taps: as many as its own."""
        return self.N * self.G * self.K * self.C * math.prod(self.input) * math.prod(self.output)

    @property
    def products(self) -> int:
        """Multiplications of direct summation, those by padding and by inserted zeros among them."""
        return math.prod(self.output_shape) * self.taps * self.C

    @property
    def flops(self) -> int:
        """2 x MACs; bias is not part of a problem and is not counted."""
        return 2 * self.macs

    @property
    def bytes(self) -> int:
        """Bytes of both operands and the result, each touched once."""
        return (
            math.prod(self.lhs_shape) * itemsize(self.lhs_dtype)
            + math.prod(self.rhs_shape) * itemsize(self.rhs_dtype)
            + math.prod(self.output_shape) * itemsize(self.output_dtype)
        )

    @property
    def empty(self) -> bool:
        """Whether nothing is summed or nothing is produced: the result is zeros, or has no elements."""
        return 0 in self.lhs_shape or 0 in self.rhs_shape or 0 in self.output_shape

    def __str__(self) -> str:
        ones = (1,) * self.ndim
        return text_form.join(
            "conv",
            text_form.array(self.lhs_dtype, self.lhs_shape),
            text_form.array(self.rhs_dtype, self.rhs_shape),
            text_form.dimension_labels(self.dimension_numbers),
            stride=text_form.by(self.strides, ones),
            pad=text_form.by_pads(self.padding),
            lhs_dilate=text_form.by(self.lhs_dilation, ones),
            rhs_dilate=text_form.by(self.rhs_dilation, ones),
            feature_groups=self.feature_groups if self.feature_groups > 1 else None,
            batch_groups=self.batch_groups if self.batch_groups > 1 else None,
            precision=self.precision,
            out=self.preferred_element_type,
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The problem that `str` wrote as `text`; `ValueError` names what cannot be read."""
        words, fields = text_form.split(text, "conv", 4, _FIELDS)
        lhs_dtype, lhs_shape = text_form.read_array(words[1], text)
        rhs_dtype, rhs_shape = text_form.read_array(words[2], text)
        dims = text_form.read_dimension_labels(words[3], len(lhs_shape), len(rhs_shape))
        ones = (1,) * (len(lhs_shape) - 2)
        return cls(
            lhs_shape=lhs_shape,
            rhs_shape=rhs_shape,
            lhs_dtype=lhs_dtype,
            rhs_dtype=rhs_dtype,
            strides=text_form.read_by(fields, "stride", ones),
            padding=text_form.read_pads(fields, len(ones)),
            lhs_dilation=text_form.read_by(fields, "lhs_dilate", ones),
            rhs_dilation=text_form.read_by(fields, "rhs_dilate", ones),
            dimension_numbers=dims,
            feature_groups=text_form.read_count(fields, "feature_groups"),
            batch_groups=text_form.read_count(fields, "batch_groups"),
            precision=fields.get("precision"),
            preferred_element_type=fields.get("out"),
        )

    def __post_init__(self) -> None:
        require_integers(self, _NAMES)
        ndim = len(self.lhs_shape) - 2
        if ndim < 0 or len(self.rhs_shape) != ndim + 2:
            raise ValueError(
                f"lhs of shape {self.lhs_shape} has {ndim + 2} axes and rhs of shape {self.rhs_shape} has "
                f"{len(self.rhs_shape)}: they need as many, at least 2"
            )
        for name, value in [
            ("strides", self.strides),
            ("padding", self.padding),
            ("lhs_dilation", self.lhs_dilation),
            ("rhs_dilation", self.rhs_dilation),
        ]:
            if len(value) != ndim:
                raise ValueError(f"{name} has {len(value)} entries for {ndim} spatial axes: give one per axis")
        for name, shape in [("lhs", self.lhs_shape), ("rhs", self.rhs_shape)]:
            require_shape(name, shape)
        for name, value in [
            ("strides", self.strides),
            ("lhs_dilation", self.lhs_dilation),
            ("rhs_dilation", self.rhs_dilation),
            ("feature_groups", (self.feature_groups,)),
            ("batch_groups", (self.batch_groups,)),
        ]:
            require_positive(name, value)
        for name, kept in [
            ("lhs_dtype", dtype_name(self.lhs_dtype)),
            ("rhs_dtype", dtype_name(self.rhs_dtype)),
            ("dimension_numbers", axis_orders(self.dimension_numbers, ndim + 2)),
            ("precision", precision_name(self.precision)),
        ]:
            object.__setattr__(self, name, kept)
        if self.preferred_element_type is not None:
            object.__setattr__(self, "preferred_element_type", dtype_name(self.preferred_element_type))
        batch, features = (self.lhs_shape[axis] for axis in self.dimension_numbers[0][:2])
        outputs, inputs = (self.rhs_shape[axis] for axis in self.dimension_numbers[1][:2])
        if features != inputs * self.feature_groups:
            raise ValueError(
                f"x has {features} channels but w takes {inputs} in each of {self.feature_groups} groups: "
                f"x needs {inputs * self.feature_groups} channels"
            )
        if outputs % self.G:
            raise ValueError(f"w has {outputs} output channels, which {self.G} groups do not divide")
        if batch % self.batch_groups:
            raise ValueError(f"lhs has batch {batch}, which {self.batch_groups} batch groups do not divide")
        if self.feature_groups > 1 and self.batch_groups > 1:
            raise ValueError(
                f"feature_groups ({self.feature_groups}) and batch_groups ({self.batch_groups}) "
                "cannot both be above 1: fold one of them into the batch or the channels"
            )


def _meetings(windows: int, stride: int, taps: int, dilation: int, lo: int, spread: int) -> int:
    """How many pairs of a window and a tap meet an element, not a zero between two that stand `spread` apart."""
    starts = collections.Counter(o * stride % spread for o in range(windows))
    return sum(starts[(lo - t * dilation) % spread] for t in range(taps))
