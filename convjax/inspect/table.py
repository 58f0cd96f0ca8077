"""Tables for terminals and notebooks, and numbers as people read them."""

import html as escapes
from collections.abc import Sequence

Row = Sequence[str]


def text(columns: Row, rows: Sequence[Row], left: int) -> str:
    """A table with a line under its heads; the first `left` columns start where they do, the others end together."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]

    def line(cells: Row) -> str:
        padded = [
            cell.ljust(width) if n < left else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return "\n".join([line(columns), line(["-" * width for width in widths]), *map(line, rows)])


def html(columns: Row, rows: Sequence[Row], left: int, caption: str) -> str:
    """The same as an HTML table; spaces that indent a cell are kept."""

    def cells(tag: str, row: Row) -> str:
        styles = ["text-align: left; white-space: pre" if n < left else "text-align: right" for n in range(len(row))]
        filled = zip(styles, map(escapes.escape, row), strict=True)
        return "<tr>" + "".join(f'<{tag} style="{style}">{cell}</{tag}>' for style, cell in filled) + "</tr>"

    head = f"<thead>{cells('th', columns)}</thead>"
    body = "".join(cells("td", row) for row in rows)
    note = (
        f'<caption style="caption-side: bottom; text-align: left; white-space: pre">{escapes.escape(caption)}</caption>'
    )
    return f"<table>{note}{head}<tbody>{body}</tbody></table>"


def shape(sizes: Sequence[int]) -> str:
    """(1, 5, 8, 8) as 1x5x8x8."""
    return "x".join(map(str, sizes)) or "scalar"


def number(value: float) -> str:
    """Three significant digits or more and a thousand's letter."""
    return _scaled(value, 1000, ("", " k", " M", " G", " T", " P"))


def size(value: float) -> str:
    """Bytes, in multiples of 1024."""
    return _scaled(value, 1024, (" B", " KiB", " MiB", " GiB", " TiB", " PiB"))


def _scaled(value: float, step: int, units: Sequence[str]) -> str:
    unit = 0
    while value >= step and unit + 1 < len(units):
        value, unit = value / step, unit + 1
    if unit == 0:
        return f"{value:.0f}{units[0]}"
    return f"{value:.{max(0, 3 - len(str(int(value))))}f}{units[unit]}"
