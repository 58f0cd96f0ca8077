"""Tables on a terminal and elsewhere: the console that the commands print them on."""

from rich.console import Console


def console(width: int) -> Console:
    """As wide as the terminal, and `width` characters where there is none.

    It takes every text as it stands: names and shapes hold brackets, which rich would read as its markup.
    """
    plain = Console(markup=False, emoji=False, highlight=False)
    return plain if plain.is_terminal else Console(markup=False, emoji=False, highlight=False, width=width)
