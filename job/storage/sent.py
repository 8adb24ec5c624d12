"""What of a local folder is in the bucket: for each file how it was when it was sent or fetched, and as which version."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from job.storage import local


class Mark(NamedTuple):
    """What changes when a file is written: size in bytes, time of change in nanoseconds, inode."""

    size: int
    time: int
    inode: int


def mark_of(path: Path) -> Mark:
    status = path.stat()
    return Mark(status.st_size, status.st_mtime_ns, status.st_ino)


class Sent:
    """The table, kept in a file beside the local folder.

    `tokens` are those of leases that processes of this machine have held; two while the second one is being taken. `whole` says
    that all that the bucket had by then was fetched, so that under these leases nothing is newer than the folder.
    """

    def __init__(self, path: Path) -> None:
        self._path, self.tokens, self.whole = path, list[str](), False
        self._rows: dict[str, tuple[Mark, str]] = {}
        self._lock, self._saved = threading.Lock(), ""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            self.tokens, self.whole = [str(token) for token in document["tokens"]], document["whole"] is True
            self._rows = {name: (Mark(*mark), version) for name, (mark, version) in document["sent"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # without it all is fetched anew
            self.tokens, self.whole, self._rows = [], False, {}

    def save(self) -> None:
        """Write it where it has changed."""
        with self._lock:
            text = json.dumps(dict(tokens=self.tokens, whole=self.whole, sent=self._rows))
        if text != self._saved:
            local.write_atomic(self._path, text)
            self._saved = text

    def mark(self, name: str) -> Mark | None:
        """How a file was when it was sent; None where it never was."""
        row = self._rows.get(name)
        return None if row is None else row[0]

    def version(self, name: str) -> str:
        """As which version it lies in the bucket; empty where it was never sent."""
        row = self._rows.get(name)
        return "" if row is None else row[1]

    def add(self, name: str, mark: Mark, version: str) -> None:
        with self._lock:
            self._rows[name] = (mark, version)

    def forget(self, name: str) -> None:
        with self._lock:
            self._rows.pop(name, None)

    def keep(self, names: Collection[str]) -> None:
        """Forget all others."""
        with self._lock:
            self._rows = {name: row for name, row in self._rows.items() if name in names}
