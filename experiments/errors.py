"""What a command says when it cannot go on, and how it names what was probably meant."""

import difflib
from collections.abc import Iterable


class ExperimentError(Exception):
    """Bad input to a command: one clear sentence, printed without a traceback."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean ...? valid are ...`, to be put behind the refusal of `name`."""
    valid = list(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    guess = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{guess} valid are {', '.join(valid)}"
