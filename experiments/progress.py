"""Progress: a bar with counts and time left on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Meter:
    """Counts steps done of a known number and says how long the rest will take."""

    def __init__(self, console: Console, bar: Progress | None, title: str, total: int) -> None:
        self._console, self._bar, self._total, self._done = console, bar, total, 0
        self._start = time.monotonic()
        self._task = bar.add_task(title, total=total) if bar else None

    def advance(self, message: str) -> None:
        """One step is done; `message` says what came of it."""
        self._done += 1
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1)
            self._console.print(message, highlight=False, markup=False)
            return
        left = (time.monotonic() - self._start) / self._done * (self._total - self._done)
        print(f"[{self._done}/{self._total}] {message}; {duration(left)} left", flush=True)


@contextlib.contextmanager
def meter(title: str, total: int) -> Iterator[Meter]:
    """A `Meter` of `total` steps, drawn on a terminal and written line by line elsewhere."""
    console = Console()
    if not console.is_terminal:
        yield Meter(console, None, title, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Progress(*columns, console=console) as bar:
        yield Meter(console, bar, title, total)


def duration(seconds: float) -> str:
    """`7 s`, `3 min 20 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
