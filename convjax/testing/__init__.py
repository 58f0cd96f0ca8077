"""References in float64 NumPy, sampled problems, and the check that an algorithm keeps its promises."""

from convjax.testing.check import check_algorithm
from convjax.testing.conv import reference_conv, reference_conv_vjp
from convjax.testing.operands import Kind, needs_x64, random_operands
from convjax.testing.reference import reference
from convjax.testing.sample import CONV_FAMILIES, WINDOW_FAMILIES, sample_conv_problems, sample_window_problems
from convjax.testing.window import reference_max_vjp, reference_window

__all__ = [
    "CONV_FAMILIES",
    "WINDOW_FAMILIES",
    "Kind",
    "check_algorithm",
    "needs_x64",
    "random_operands",
    "reference",
    "reference_conv",
    "reference_conv_vjp",
    "reference_max_vjp",
    "reference_window",
    "sample_conv_problems",
    "sample_window_problems",
]
