"""Local files that are either whole or absent, and the room left on the disk."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from job.errors import MachineError, UserError


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader, or a crash, meets the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            sync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def sync(descriptor: int) -> None:
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make a rename within the folder last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems do not sync folders
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(str(folder), "is a file, not a folder", "name a folder with --out") from None


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Refuse to start what the disk can't hold."""
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
    os.replace(old, new)


def remove_tree(path: Path) -> None:
    """Delete a folder and all in it, if it is there."""
    shutil.rmtree(path, ignore_errors=True)
