"""One writer at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from job.console import console
from job.errors import UserError

WAIT = 0.2  # seconds between two tries for a lock
TRIES = 2  # more, before a folder counts as in use
_warned: set[int] = set()  # file systems
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class InUse(UserError):
    """Another process holds the folder."""


@contextmanager
def only_writer(folder: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the folder against a second writer. The lock dies with this process, however it ends.

    Args:
        waiting: called with who holds the folder, again and again until it is free; what it raises ends the wait.

    Raises:
        InUse: another process holds the folder, and `waiting` is not given.
    """
    tries = 0
    while True:
        try:
            file = _locked(folder, waiting)
        except InUse:  # perhaps only a reader, who looks for a moment whether the folder is held
            tries += 1
            if tries > TRIES:
                raise
        else:
            if file is not None:
                break
        time.sleep(WAIT)
    with file:
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _locked(folder: Path, waiting: Callable[[str], None] | None) -> IO[str] | None:
    """The lock's file, held; None where the lock is to be tried again."""
    path = folder / ".lock"
    try:
        file = path.open("a+", encoding="utf-8", errors="replace")
    except FileNotFoundError:  # deleted by a start that failed
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8", errors="replace")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            return file
    except FileNotFoundError:  # its last holder deleted it with the folder
        pass
    except OSError as error:
        if error.errno in _NO_LOCKS:
            _warn_without_locks(folder, os.fstat(file.fileno()).st_dev)
            return file
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            file.close()
            raise
        file.seek(0)
        who = file.read().strip() or "another process"
        file.close()
        if waiting is None:
            raise InUse(str(folder), f"is in use by {who}", "wait for it, stop it, or give another --out") from None
        waiting(who)
    file.close()
    return None


def _warn_without_locks(folder: Path, device: int) -> None:
    if device not in _warned:
        _warned.add(device)
        console.log(f"warning: the file system of {folder} has no locks: start no second process on this folder")


def holder(folder: Path) -> str | None:
    """Who holds a folder now; None where nobody does. Where the file system has no locks, whoever held it last."""
    try:
        with (folder / ".lock").open("r", encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "another process"
            except OSError as error:
                return file.read().strip() if error.errno in _NO_LOCKS else None
    except OSError:
        pass
    return None
