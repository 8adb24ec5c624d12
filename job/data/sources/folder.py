"""Images in a folder, and a single image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from job.data.sources import Entry, is_image
from job.errors import UserError


class Folder:
    """Every image below a folder, by its path within it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def files(self) -> list[Path]:
        return [self.root / entry.name for entry in self.entries()]

    def entries(self) -> list[Entry]:
        names = []
        for folder, inner, files in os.walk(self.root, onerror=_unreadable):
            inner[:] = sorted(d for d in inner if not d.startswith("."))
            relative = Path(folder).relative_to(self.root).as_posix()
            names += [f if relative == "." else f"{relative}/{f}" for f in files]
        return [Entry(name) for name in sorted(names) if is_image(name)]

    def read(self) -> Iterator[tuple[str, bytes]]:
        for entry in self.entries():
            try:
                yield entry.name, (self.root / entry.name).read_bytes()
            except FileNotFoundError:
                raise UserError(str(self.root / entry.name), "is a broken link, or was just deleted", "delete it and rerun") from None


def _unreadable(error: OSError) -> None:
    raise UserError(str(error.filename), f"cannot be listed ({error.strerror})", "change its permissions")


class SingleImage:
    """One image file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self) -> list[Path]:
        return [self.path]

    def entries(self) -> list[Entry]:
        return [Entry(self.path.name)]

    def read(self) -> Iterator[tuple[str, bytes]]:
        yield self.path.name, self.path.read_bytes()
