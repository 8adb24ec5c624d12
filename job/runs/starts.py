"""Starts in a row without a new checkpoint, counted in the run folder: so many, and the next one is refused."""

from __future__ import annotations

import json
from pathlib import Path

from job.errors import StuckError
from job.storage import local

NAME, MOST = "starts.json", 5
_COUNT, _AFTER = "starts_without_a_new_checkpoint", "newest_checkpoint"


def begin(folder: Path, newest: str = "") -> None:
    """Count a start, for good before its training begins.

    Args:
        newest: the checkpoint that it goes on from. Starts from another one count no more, whichever file of the two a kill,
            or a bucket that is sent one after the other, left older.

    Raises:
        StuckError: so many before it came to nothing. The count is 0 then: whoever has mended the cause may start.
    """
    count = counted(folder, newest)
    if count >= MOST:
        clear(folder)
        raise StuckError(
            str(folder), f"{count} starts in a row ended without a new checkpoint, and another would cost as much",
            f"look at the end of {folder / 'log.txt'}, mend the cause, and rerun to resume",
        )  # fmt: skip
    local.write_json(folder / NAME, {_COUNT: count + 1, _AFTER: newest})


def clear(folder: Path) -> None:
    """Forget the starts before: a stop was asked for."""
    if (folder / NAME).exists():
        local.write_json(folder / NAME, {_COUNT: 0, _AFTER: ""})


def counted(folder: Path, newest: str = "") -> int:
    """The starts from that checkpoint; 0 where none is noted, or the file is damaged."""
    try:
        noted = json.loads((folder / NAME).read_bytes())
        count = noted[_COUNT] if noted[_AFTER] == newest else 0
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return 0
    return count if type(count) is int else 0
