"""One writer at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from job.errors import UserError


class InUse(UserError):
    """Another process holds the folder."""


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder against a second writer. The lock dies with this process, however it ends."""
    path = folder / ".lock"
    file = path.open("a+", encoding="utf-8")
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise InUse(str(folder), f"is in use by {holder}", "wait for it, stop it, or name another --out") from None
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
    finally:
        file.close()


def holder(folder: Path) -> str | None:
    """Who holds a folder now; None where nobody does, or where the file system has no locks."""
    try:
        with (folder / ".lock").open("r", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "another process"
    except OSError:
        pass
    return None
