"""Images in a folder, its links followed and its archives opened, and a single image."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from job.data import signatures
from job.data.sources import Entry, Listing, names
from job.data.sources.archive import Archive
from job.data.sources.walk import Member, Walk, sort
from job.errors import UserError


class Folder(Walk):
    """Every image below a folder, by its path within it."""

    def __init__(self, root: Path, scratch: Path = Path(), zip_encoding: str = "") -> None:
        self.root, self.where = root, str(root)
        self._scratch, self._zip_encoding = scratch, zip_encoding
        self.has_archives = False

    def files(self) -> list[Path]:
        unopened = self._walk(str(self.root), "", (), open_archives=False)
        return [self.root / entry.name for entry in sort(unopened, self.where)[0].entries]

    def members(self) -> Iterator[Member]:
        yield from self._walk(str(self.root), "", (), open_archives=True)

    def _walk(self, folder: str, prefix: str, above: tuple[tuple[int, int], ...], open_archives: bool) -> Iterator[Member]:
        """The files below a folder, sorted by name; a link that leads back to a folder above is where the walk turns round."""
        try:
            status = os.stat(folder)
            found = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(folder, f"cannot be listed ({error.strerror})", "change its permissions") from None
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        for entry in found:
            name = prefix + entry.name
            kind = _kind(entry)
            if kind == stat.S_IFDIR:
                if not names.is_system_folder(entry.name):
                    yield from self._walk(entry.path, name + "/", (*above, here), open_archives)
            elif kind == stat.S_IFREG:
                yield from self._file(entry.path, name, open_archives)
            elif kind == 0:
                yield Member(name, bytes, bytes, fault=_broken(entry.path), special="" if names.is_image(name) else "a broken link")
            else:
                yield _member(entry.path, name, special="a pipe, socket or device")

    def _file(self, path: str, name: str, open_archives: bool) -> Iterator[Member]:
        if not names.is_archive(name) or names.what(name, bytes) != names.ARCHIVE:
            yield _member(path, name)
        elif open_archives:
            self.has_archives = True
            yield from Archive(Path(path), self._scratch, self._zip_encoding).below(name + "/")
        else:
            yield _member(path, name, special=names.IMAGE)  # one of the files that the source consists of


def _kind(entry: os.DirEntry[str]) -> int:
    """What is there, links followed, as `stat` has it; 0 for a link that leads nowhere."""
    try:
        if entry.is_file():  # told by the folder itself, where it is no link
            return stat.S_IFREG
        return stat.S_IFMT(entry.stat().st_mode)
    except OSError:
        return 0


def _member(path: str, name: str, fault: str = "", special: str = "") -> Member:
    return Member(name, partial(_first, path), partial(_content, path), fault=fault, special=special)


def _first(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(signatures.FIRST)
    except OSError:  # what cannot be opened here is no image of ours, or reading it will say so
        return b""


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(path, "was just deleted", "rerun") from None


def _broken(path: str) -> str:
    target = os.readlink(path)
    if "annex/objects/" in target:
        return "its content is not in this clone: run git annex get"
    return f"is a broken link to {target}"


class SingleImage:
    """One image file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listing = Listing([Entry(path.name)])

    def files(self) -> list[Path]:
        return [self.path]

    def read(self) -> Iterator[tuple[str, bytes]]:
        yield self.path.name, self.path.read_bytes()
