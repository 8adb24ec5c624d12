"""The cache: a bounded folder of what can be fetched again, by content. Least recently used go first; processes share it.

An entry is a file whose name begins with the SHA-256 that it stands for, so that it never changes. One process makes it,
in `NAME.BYTES.part/`, whose lock dies with its maker; the others look for another entry meanwhile. Parts count with
their whole size from the start, so that the bound also holds while several processes fill the cache.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from job.errors import JobError, MachineError, UserError
from job.storage import local, lock

NAME = re.compile(r"[0-9a-f]{64}[a-z.]*")  # nothing else in the folder is ever deleted
_PART = re.compile(rf"{NAME.pattern}\.(?P<bytes>\d+)\.part")


def default_folder(text: str) -> Path:
    """The cache that `--cache` names; by default the user's own."""
    return Path(text).absolute() if text else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twofold"


class Cache:
    """The entries in a folder, at most `size` bytes. `needed` are names that this process has use for: it evicts others."""

    def __init__(self, folder: Path, size: int) -> None:
        """Make the folder, and delete what killed processes left in it.

        Raises:
            UserError: the folder is a file.
            MachineError: it cannot be written.
        """
        self.folder, self.size = folder, size
        self.needed: frozenset[str] = frozenset()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for part in folder.glob("*.part"):
                if _PART.fullmatch(part.name) and lock.holder(part) is None:
                    with suppress(lock.InUse), lock.only_writer(part):
                        local.remove_tree(part)
        except OSError as error:
            raise unusable(folder, error) from None

    def find(self, name: str) -> Path | None:
        """An entry, which counts as used now; None where it is not here."""
        path = self.folder / name
        try:
            os.utime(path)
        except OSError:
            return path if path.exists() else None  # another user's
        return path

    def add(self, name: str, size: int, make: Callable[[Path], object]) -> bool:
        """Make an entry, unless it is here already; others are evicted for it.

        Args:
            make: writes the file.

        Returns:
            Whether it is here now: False where what is needed leaves no room for it.

        Raises:
            InUse: another process makes this one just now.
        """
        path, part = self.folder / name, self.folder / f"{name}.{size}.part"
        if path.exists():
            return True
        with lock.only_writer(part):
            try:
                if path.exists():  # made while this process came to hold the lock
                    return True
                if not self._make_room():
                    return False
                try:
                    make(part / "entry")
                except OSError as error:
                    if not is_full(error) or not self._make_room(more=size):
                        raise
                    make(part / "entry")
                os.replace(part / "entry", path)
                return True
            except OSError as error:
                if is_full(error):
                    error.filename = str(self.folder)  # a write does not say where
                raise
            finally:
                local.remove_tree(part)

    def drop(self, name: str) -> None:
        """Delete an entry that is damaged."""
        (self.folder / name).unlink(missing_ok=True)

    def _make_room(self, more: int = 0) -> bool:
        """Evict until all entries and parts are within the bound, and `more` bytes beyond; nothing where that cannot be."""
        total, others = 0, []
        for entry in os.scandir(self.folder):
            part = _PART.fullmatch(entry.name)
            if part:
                total += int(part["bytes"])
            elif NAME.fullmatch(entry.name):
                with suppress(FileNotFoundError):  # evicted by another process
                    state = entry.stat()
                    total += state.st_size
                    if entry.name not in self.needed:
                        others.append((state.st_mtime_ns, state.st_size, entry.name))
        allowed = min(self.size, total) - more
        if total - sum(size for _, size, _ in others) > allowed:
            return False
        for _, size, name in sorted(others):
            if total <= allowed:
                break
            self.drop(name)
            total -= size
        return True


def is_full(error: OSError) -> bool:
    """Whether the disk is full, or the user's share of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def unusable(folder: Path, error: OSError) -> JobError:
    """What a cache that cannot be written is: the user's mistake where it is a file, this machine's fault else."""
    kind = UserError if isinstance(error, NotADirectoryError | FileExistsError) else MachineError
    return kind(str(folder), f"cannot be used as a cache ({error.strerror or type(error).__name__})", "name another folder with --cache")
