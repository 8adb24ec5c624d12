"""Local copies of folders in buckets: bounded, least recently used first, and never one that holds what was not sent."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from job.console import console
from job.storage import local, lock
from job.storage.sent import Sent, mark_of

TABLE, COPY = "sent.json", "copy"


def evict(folder: Path, bound: int, keep: Path) -> None:
    """Delete copies until all take no more than `bound` bytes, or those left are in use, unsent, or `keep`."""
    sizes = {home: _size(home) for home in folder.iterdir() if home.is_dir()}
    total = sum(sizes.values())
    for home in sorted(sizes, key=_used):
        if total <= bound:
            return
        if home == keep:
            continue
        with suppress(lock.InUse), lock.only_writer(home):
            if _is_sent(home):
                local.remove_tree(home)
                total -= sizes[home]
                console.log(f"the local copy in {home} ({local.size(sizes[home])}) made room: all of it is in its bucket")


def _size(home: Path) -> int:
    """Bytes of its files; a process that uses it may delete some of them meanwhile."""
    total = 0
    for place, _, files in os.walk(home):
        for name in files:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size
    return total


def _used(home: Path) -> int:
    table = home / TABLE
    return table.stat().st_mtime_ns if table.exists() else 0


def _is_sent(home: Path) -> bool:
    sent, copy = Sent(home / TABLE), home / COPY
    files = [path for path in copy.rglob("*") if path.is_file() and not any(p.startswith(".") for p in path.relative_to(copy).parts)]
    return all(sent.mark(path.relative_to(copy).as_posix()) == mark_of(path) for path in files)
