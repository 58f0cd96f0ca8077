"""References in float64 NumPy, sampled problems, and the check that an algorithm keeps its promises."""

from convjax.testing.check import check_algorithm as check_algorithm
from convjax.testing.conv import reference_conv as reference_conv
from convjax.testing.conv import reference_conv_vjp as reference_conv_vjp
from convjax.testing.operands import Kind as Kind
from convjax.testing.operands import needs_x64 as needs_x64
from convjax.testing.operands import random_operands as random_operands
from convjax.testing.reference import reference as reference
from convjax.testing.sample import CONV_FAMILIES as CONV_FAMILIES
from convjax.testing.sample import WINDOW_FAMILIES as WINDOW_FAMILIES
from convjax.testing.sample import sample_conv_problems as sample_conv_problems
from convjax.testing.sample import sample_window_problems as sample_window_problems
from convjax.testing.window import reference_max_vjp as reference_max_vjp
from convjax.testing.window import reference_window as reference_window
