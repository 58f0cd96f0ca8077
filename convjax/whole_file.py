"""Files written whole: who reads one meanwhile finds the old text or the new, and an interruption leaves the old."""

import os
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Puts `text` into the file at `path` by way of a draft beside it, `<name>.<process>`."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)  # what a disk that is full leaves of it
