"""Starts in a row without a new checkpoint, counted in the run folder: so many, and the next one is refused."""

from __future__ import annotations

import json
from pathlib import Path

from job.errors import StuckError
from job.storage import local

NAME, MOST = "starts.json", 5
_KEY = "starts_without_a_new_checkpoint"


def begin(folder: Path) -> None:
    """Count a start, for good before its training begins.

    Raises:
        StuckError: so many before it came to nothing. The count is 0 then: whoever has mended the cause may start.
    """
    count = _read(folder)
    if count >= MOST:
        clear(folder)
        raise StuckError(
            str(folder), f"{count} starts in a row ended without a new checkpoint, and another would cost as much",
            f"look at the end of {folder / 'log.txt'}, mend the cause, and rerun to resume",
        )  # fmt: skip
    _write(folder, count + 1)


def clear(folder: Path) -> None:
    """Forget the starts before: there is a new checkpoint, or a stop was asked for."""
    if _read(folder):
        _write(folder, 0)


def _read(folder: Path) -> int:
    """The count; 0 where there is none, or it is damaged."""
    try:
        count = json.loads((folder / NAME).read_bytes())[_KEY]
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return 0
    return count if type(count) is int else 0


def _write(folder: Path, count: int) -> None:
    local.write_json(folder / NAME, {_KEY: count})
