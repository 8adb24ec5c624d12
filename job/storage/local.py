"""Local files that are either whole or absent, and the space left on the disk. Faults of network file systems are retried."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from job.console import console
from job.errors import MachineError, UserError

_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM)
_TRANSIENT = (errno.EIO, errno.ESTALE, errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT)  # as network file systems fail for a moment
RETRY_WAITS = (0.1, 0.5, 2.0)  # seconds before each further try


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader, or a crash, finds the old content or the new, never a part.

    Raises:
        OSError: the file cannot be written.
        MachineError: it cannot be put in place, in several tries.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            sync(file.fileno())
        rename(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # the first fault is the one to report
            temporary.unlink()
        if isinstance(error, OSError) and error.filename is None:  # of a write
            error.filename = str(path)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def sync(descriptor: int) -> None:
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make a rename within the folder last through a power cut, where the file system can.

    The files are in place all the same, so what fails here stops nothing.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in _TRANSIENT:
            console.log(f"warning: {folder} could not be synced ({error.strerror}): a power cut now may lose its newest files")
        elif error.errno not in _NO_FOLDER_SYNC:
            raise


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(str(folder), "is a file, not a folder", "name another folder") from None
    except FileNotFoundError as error:  # a file system that makes none, as /proc
        raise UserError(str(folder), f"no folder can be made there ({error.strerror})", "name another folder") from None


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Refuse to start what the disk cannot hold."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise MachineError(
            str(folder),
            f"{purpose} would take about {size(needed)}, the disk has {size(free)} free",
            "free some space or name another --out",
        )


def size(count: float) -> str:
    """Bytes in words."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def rename(old: Path, new: Path) -> None:
    """Put a file or folder in place of another, trying again where the file system fails for a moment.

    Raises:
        MachineError: it failed each time.
        OSError: it fails in a way that does not pass.
    """
    for wait in (*RETRY_WAITS, None):
        try:
            os.replace(old, new)
            return
        except FileNotFoundError:
            if wait == RETRY_WAITS[0] or os.path.lexists(old) or not os.path.lexists(new):
                raise
            return  # the try before was carried out, and only its answer was lost
        except OSError as error:
            if error.errno not in _TRANSIENT:
                raise
            if wait is None:
                raise MachineError(
                    str(new), f"could not be renamed from {old.name} in {len(RETRY_WAITS) + 1} tries ({error.strerror})",
                    "check the disk or the network mount, then rerun",
                ) from None  # fmt: skip
            time.sleep(wait)


def remove_tree(path: Path) -> None:
    """Delete a folder and all in it, if it is there. What cannot be deleted, also in a second try, is left with a warning."""
    for wait in (RETRY_WAITS[0], None):
        try:
            shutil.rmtree(path)
            return
        except FileNotFoundError:
            if not os.path.lexists(path):
                return
            reason = "it changed meanwhile"
        except OSError as error:
            reason = error.strerror or type(error).__name__
        if wait is not None:
            time.sleep(wait)
    console.log(f"warning: {path} could not be deleted ({reason}): delete it later")
