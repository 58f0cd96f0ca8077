"""Problems: what is to be computed, without arrays and without saying how.

A problem is frozen and hashable, validates itself, knows its output and its cost, and has a text
form that parses back; errors, plan keys, configs and records all use that form.
"""

from convjax.conv_spec import ConvSpec as ConvSpec
from convjax.problem_fields import require_positive as require_positive
from convjax.text_form import Ints as Ints
from convjax.text_form import Pads as Pads
from convjax.window_spec import WindowSpec as WindowSpec

Problem = ConvSpec | WindowSpec


def parse(text: str) -> Problem:
    """The problem of either kind that `text` describes."""
    operation = "".join(text.split()[:1])
    if operation not in ("conv", *WindowSpec.OPERATIONS):
        operations = ", ".join(WindowSpec.OPERATIONS)
        raise ValueError(f"problem {text!r} must begin with one of {operations}, or with conv")
    return ConvSpec.parse(text) if operation == "conv" else WindowSpec.parse(text)
