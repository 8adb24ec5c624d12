"""Where the files are that a CSV names: in a folder of this machine, or below a prefix of a bucket."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from job.data.sources import names
from job.data.sources.objects import Objects
from job.errors import UserError

_ODD = {"", ".", ".."}


class Place(Protocol):
    """Files by their paths, which are relative to the place, or lead out of it. `where` is its name in messages."""

    where: str

    def inside(self, name: str) -> str | None:
        """A path in its plain form within the place; None if it leads out."""
        ...

    def is_file(self, name: str) -> bool: ...

    def is_folder(self, name: str) -> bool: ...

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """The names of the files and of the folders in a folder, each sorted; none where it cannot be listed."""
        ...

    def walk(self) -> Iterator[tuple[str, list[str]]]:
        """Every folder that is not a system's own, each with the names of its files; the place itself is called ``."""
        ...

    def same(self, name: str) -> str:
        """What tells whether two paths are of one file."""
        ...

    def read(self, found: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Files with their bytes, in this order."""
        ...


class Disk:
    """A folder of this machine, links followed."""

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        self._roots = tuple(dict.fromkeys(os.path.join(root, "") for root in (os.path.abspath(folder), os.path.realpath(folder))))

    def inside(self, name: str) -> str | None:
        if not os.path.isabs(name) and ".." not in name.split("/"):
            return os.path.normpath(name)
        path = os.path.normpath(os.path.join(self._roots[0], name))
        root = next((root for root in self._roots if path.startswith(root)), "")
        return path[len(root) :] if root else None

    def is_file(self, name: str) -> bool:
        return os.path.isfile(os.path.join(self.where, name))

    def is_folder(self, name: str) -> bool:
        return os.path.isdir(os.path.join(self.where, name))

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        files, folders = list[str](), list[str]()
        for entry in _scan(os.path.join(self.where, folder)):
            if entry.is_file():
                files.append(entry.name)
            elif entry.is_dir():
                folders.append(entry.name)
        return files, folders

    def walk(self) -> Iterator[tuple[str, list[str]]]:
        yield from self._walk("", ())

    def _walk(self, folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, list[str]]]:
        """Links are followed, but for those that lead back to a folder above."""
        try:
            status = os.stat(os.path.join(self.where, folder))
        except OSError:
            return
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        files, folders = self.entries(folder)
        yield folder, files
        for name in folders:
            if not names.is_system_folder(name):
                yield from self._walk(os.path.join(folder, name), (*above, here))

    def same(self, name: str) -> str:
        return os.path.realpath(os.path.join(self.where, name))

    def read(self, found: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        for name in found:
            path = Path(self.where) / name
            try:
                yield name, path.read_bytes()
            except FileNotFoundError:
                raise UserError(str(path), "was just deleted", "rerun") from None


class Prefix:
    """The objects below a prefix; their addresses are paths too."""

    def __init__(self, objects: Objects) -> None:
        self.where, self._objects = objects.where, objects
        self._entries: dict[str, tuple[list[str], list[str]]] = {".": ([], [])}
        for name in sorted(name for name in objects.files if not _ODD & {*name.split("/")}):  # those are found as they stand
            folder, _, file = name.rpartition("/")
            self._folder(folder or ".")[0].append(file)

    def _folder(self, folder: str) -> tuple[list[str], list[str]]:
        if folder not in self._entries:
            self._entries[folder] = ([], [])
            above, _, name = folder.rpartition("/")
            self._folder(above or ".")[1].append(name)
        return self._entries[folder]

    def inside(self, name: str) -> str:
        """What leads out has a form too: no object has that name."""
        return name if name in self._objects.files else os.path.normpath(name.removeprefix(f"{self.where}/"))

    def is_file(self, name: str) -> bool:
        return self.inside(name) in self._objects.files

    def is_folder(self, name: str) -> bool:
        return self.inside(name) in self._entries

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        return self._entries.get(self.inside(folder), ([], []))

    def walk(self) -> Iterator[tuple[str, list[str]]]:
        for folder in sorted(self._entries):
            if not any(map(names.is_system_folder, folder.split("/"))):
                yield folder.removeprefix("."), self._entries[folder][0]

    def same(self, name: str) -> str:
        return self.inside(name)

    def read(self, found: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        yield from self._objects.contents(found)


def _scan(folder: str) -> list[os.DirEntry[str]]:
    """What a folder holds, by name; nothing where it cannot be listed, for it may be one that only the CSV knows."""
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return []
