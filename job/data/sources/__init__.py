"""Sources of images: a folder, an archive, a CSV, Kaggle, the web. Each yields (name, bytes).

`open_source` reads the kind off the text that the user gave and imports that kind alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from job.data.pixels import EXTENSIONS
from job.errors import UserError
from job.shutdown import Stop

KINDS = "a folder, a zip, tar or tar.gz, a CSV, kaggle:owner/dataset, kaggle:competition/NAME or https://..."
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class Entry:
    """One image of a source. `label` and `split` are set only where the source itself names them (a CSV)."""

    name: str
    label: str | None = None
    split: str | None = None


class Source(Protocol):
    """Images somewhere. `entries` lists them before `read` streams them, each once, in the source's order.

    `files` are those on this machine that it consists of.
    """

    def files(self) -> list[Path]: ...

    def entries(self) -> list[Entry]: ...

    def read(self) -> Iterator[tuple[str, bytes]]: ...


def is_remote(text: str) -> bool:
    """Whether a source is downloaded."""
    return text.startswith(("kaggle:", "https://", "http://"))


def open_source(text: str, scratch: Path, stop: Stop | None = None) -> Source:
    """Open what the user named, downloaded first where it is remote.

    Args:
        text: a folder, an archive, a CSV, `kaggle:...` or `https://...`.
        scratch: a folder for downloads and nested archives; nothing is written elsewhere.
        stop: ends a download.

    Raises:
        UserError: it is not found, or it is of no known kind.
        Interrupted: `stop` was set; the same call resumes the download.
    """
    stop = Stop() if stop is None else stop
    if text.startswith("kaggle:"):
        from job.data.sources import kaggle_hub

        return open_source(str(kaggle_hub.download(text, scratch, stop)), scratch)
    if is_remote(text):
        from job.data.sources import web

        return open_source(str(web.download(text, scratch, stop)), scratch)
    path = Path(text)
    if path.is_dir():
        from job.data.sources.folder import Folder

        return Folder(path)
    if not path.exists():
        raise UserError(text, "no such file or folder", f"give {KINDS}")
    if is_archive(text):
        from job.data.sources.archive import Archive

        return Archive(path, scratch)
    if path.suffix.lower() == ".csv":
        from job.data.sources.table import Table

        return Table(path)
    if is_image(text):
        from job.data.sources.folder import SingleImage

        return SingleImage(path)
    raise UserError(text, "is neither images nor an archive of them", f"give {KINDS}")


def contents(text: str) -> str:
    """What a source holds, in words that differ where files were added, removed or replaced.

    Names within the source, sizes and times of change count, not the bytes: those of a data set take minutes to read.
    Empty for what is downloaded, or is not there.
    """
    if is_remote(text) or not Path(text).exists():
        return ""
    digest, count, total = hashlib.sha256(), 0, 0
    for file in open_source(text, Path()).files():
        try:
            status = file.stat()
        except OSError:  # reading it will say what is wrong
            continue
        name = os.fsencode(os.path.relpath(file, text))
        digest.update(b"%s\0%d %d\n" % (name, status.st_size, status.st_mtime_ns))
        count += 1
        total += status.st_size
    return f"{count:,} file{'s' * (count != 1)}, {total:,} bytes, state {digest.hexdigest()[:12]}"


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVES)


def is_image(name: str) -> bool:
    """Whether a path within a source is an image's, by its ending; the directories' own files are none."""
    parts = name.split("/")
    return name.lower().endswith(EXTENSIONS) and not parts[-1].startswith("._") and "__MACOSX" not in parts
