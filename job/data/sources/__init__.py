"""Sources of images: a folder, an archive, a CSV, a bucket, Kaggle, the web. Each lists its images, then reads them.

`open_source` reads the kind off the text that the user gave and off a file's first bytes, and imports that kind alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from job.config.schema import Reading
from job.console import counted
from job.data import signatures
from job.data.sources import names
from job.data.sources.address import canonical, shown
from job.errors import UserError
from job.shutdown import Stop
from job.storage.opening import is_bucket

AUTO = Reading()
KINDS = "a folder, a zip or tar (gz, xz, bz2), a CSV, gs://... or s3://..., kaggle:owner/dataset, kaggle:competition/NAME or https://..."


@dataclass(frozen=True)
class Entry:
    """One image of a source. `label` and `split` are set only where the source itself names them (a CSV).

    `fault` is why its bytes cannot be had (a broken link, a file that a CSV lists and nobody finds); empty if they can.
    """

    name: str
    label: str | None = None
    split: str | None = None
    fault: str = ""


class Skipped:
    """What is passed over: for each reason how many and of what, and the first as an example."""

    def __init__(self) -> None:
        self.reasons: dict[tuple[str, str], tuple[int, str]] = {}

    def add(self, reason: str, name: str, count: int = 1, unit: str = "file") -> None:
        before, example = self.reasons.get((reason, unit), (0, name))
        self.reasons[reason, unit] = (before + count, example)

    def lines(self) -> list[str]:
        return [f"{counted(count, unit)} ({reason}), such as {example}" for (reason, unit), (count, example) in self.reasons.items()]


@dataclass(frozen=True)
class Listing:
    """What a source holds. `tables` are the CSV files beside its images, which may list their classes.

    `labels` says where the source itself reads classes from (`column label of list.csv`), `splits` the same of splits;
    `notes` are lines to be said before anything is read; `is_table` and `has_archives` say which options it heeds.
    """

    entries: list[Entry]
    skipped: Skipped = field(default_factory=Skipped)
    tables: tuple[str, ...] = ()
    labels: str = ""
    splits: str = ""
    notes: tuple[str, ...] = ()
    is_table: bool = False
    has_archives: bool = False


class Source(Protocol):
    """Images somewhere. `listing` names them before `read` streams those that have no fault, each once.

    `files` are those on this machine that it consists of.
    """

    @property
    def listing(self) -> Listing: ...

    def files(self) -> list[Path]: ...

    def read(self) -> Iterator[tuple[str, bytes]]: ...


def is_remote(text: str) -> bool:
    """Whether a source is elsewhere than on this machine."""
    return is_downloaded(text) or is_bucket(canonical(text))


def is_downloaded(text: str) -> bool:
    """Whether a source is fetched whole before it is opened, from Kaggle or the web."""
    return canonical(text).startswith(("kaggle:", "https://", "http://"))


def open_source(text: str, scratch: Path, stop: Stop | None = None, reading: Reading = AUTO, *, labels: bool = True) -> Source:
    """Open what the user named, downloaded first where it is remote.

    Args:
        text: a folder, an archive, a CSV, `gs://...`, `s3://...`, `kaggle:...` or `https://...`.
        scratch: a folder for downloads and nested archives; nothing is written elsewhere.
        stop: ends a download, and the reading of a bucket.
        labels: whether classes are wanted: without, a CSV needs no column of labels.

    Raises:
        UserError: it is not found, or it is of no known kind.
        Interrupted: `stop` was set; the same call resumes the download.
    """
    stop = Stop() if stop is None else stop
    text = canonical(text)
    if text.startswith("kaggle:"):
        from job.data.sources import kaggle_hub

        return open_source(str(kaggle_hub.download(text, scratch, stop)), scratch, stop, reading, labels=labels)
    if is_bucket(text):
        from job.data.sources import bucket

        return bucket.open_objects(text, scratch, stop, reading, labels)
    if is_downloaded(text):
        from job.data.sources import web

        came = web.download(text, scratch, stop)
        return web.Downloaded(text, came, open_source(str(came), scratch, stop, reading, labels=labels))
    require_there(text)
    path = Path(text)
    if path.is_dir():
        from job.data.sources.folder import Folder

        return Folder(path, scratch, reading.zip_encoding)
    if not path.is_file():
        raise UserError(text, "is neither a file nor a folder", f"give {KINDS}")
    with path.open("rb") as file:
        kind = kind_of(text, file.read(signatures.FIRST))
    if kind == names.ARCHIVE:
        from job.data.sources.archive import Archive

        return Archive(path, scratch, reading.zip_encoding)
    if kind == names.IMAGE:
        from job.data.sources.folder import SingleImage

        return SingleImage(path)
    from job.data.sources.table import Table

    return Table(path, reading, labels)


def require_there(text: str) -> None:
    """Refuse a path of this machine that does not exist."""
    if not is_remote(text) and not Path(canonical(text)).exists():
        raise UserError(shown(text), "no such file or folder", f"give {KINDS}")


def kind_of(text: str, first: bytes) -> str:
    """What a single file that the user named is, by its name and its first bytes: an archive, an image or a table.

    Raises:
        UserError: it is none of them, or cannot be read.
    """
    _refuse(text, first)
    if signatures.archive_kind(first) or (names.is_archive(text) and not signatures.is_image(first)):
        return names.ARCHIVE
    if signatures.is_image(first) or names.is_image(text):
        return names.IMAGE
    if text.lower().endswith((*names.TABLES, ".txt", ".lst")):
        return names.TABLE
    raise UserError(shown(text), "is neither images nor an archive of them", f"give {KINDS}")


def _refuse(text: str, first: bytes) -> None:
    """Refuse files of which we know that they cannot be read, by name and reason."""
    kind = signatures.archive_kind(first)
    if names.is_part(text):
        raise UserError(text, "is one part of an archive that was cut", "join the parts or unpack them, and give the result")
    if kind in ("7z", "rar"):
        raise UserError(text, f"is a {kind} archive, which cannot be read", "unpack it and give the folder")
    if signatures.is_lfs_pointer(first):
        raise UserError(text, "is a Git LFS pointer, not the file", "run git lfs pull")
    if text.lower().endswith((".xlsx", ".xls", ".ods", ".parquet", ".json", ".jsonl")):
        raise UserError(text, "is a table of a kind that is not read", "save it as CSV")


def contents(text: str, reading: Reading = AUTO, stop: Stop | None = None) -> str:
    """What a source holds, in words that differ where files were added, removed or replaced.

    Names within the source, sizes and times of change count, of an archive its size and directory, not the bytes: those
    of a data set take minutes to read. In a bucket versions tell. Empty for what is downloaded, or is not there.
    """
    text = canonical(text)
    if is_bucket(text):
        from job.data.sources import bucket

        return bucket.contents(text, Stop() if stop is None else stop, reading)
    if is_downloaded(text) or not Path(text).exists():
        return ""
    digest, count, total = hashlib.sha256(), 0, 0
    for file in open_source(text, Path(), reading=reading, labels=False).files():
        try:
            is_archive = names.is_archive(file.name) or file == Path(text)
            size, state = file.stat().st_size, (is_archive and _archive_state(file)) or str(file.stat().st_mtime_ns)
        except OSError:  # reading it will say what is wrong
            continue
        digest.update(b"%s\0%d %s\n" % (os.fsencode(os.path.relpath(file, text)), size, state.encode()))
        count += 1
        total += size
    return f"{count:,} file{'s' * (count != 1)}, {total:,} bytes, state {digest.hexdigest()[:12]}"


def _archive_state(file: Path) -> str:
    from job.data.sources import archive

    return archive.state(file)
