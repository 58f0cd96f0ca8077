"""One name for the reference of any problem."""

from typing import Any

import numpy as np

from convjax.problem import ConvSpec, Problem
from convjax.testing.conv import reference_conv
from convjax.testing.window import reference_window


def reference(problem: Problem, *operands: Any) -> np.ndarray:
    """What `problem` asks of `operands`, in float64 NumPy (complex128 or int64 for those operands).

    Written on its own, from the definition: nothing of the library computes in it.

    Args:
        problem: a convolution or a window operation.
        *operands: arrays in the problem's shapes.

    Returns:
        The result; for argmax and argmin the winning taps, int32.

    Example:
        >>> from convjax.problem import ConvSpec
        >>> problem = ConvSpec.parse("conv float32[1,4,1] float32[2,1,1] b0f_0io->b0f")
        >>> reference(problem, np.ones((1, 4, 1)), np.ones((2, 1, 1))).ravel()
        array([2., 2., 2.])
    """
    if isinstance(problem, ConvSpec):
        return reference_conv(problem, *operands)
    return reference_window(problem, *operands)
