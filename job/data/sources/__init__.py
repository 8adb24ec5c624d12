"""Sources of photographs: a folder, an archive, a CSV, Kaggle, the web. Each yields (name, bytes).

`open_source` reads the kind off the text that the user gave and imports that kind alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from job.data.pixels import EXTENSIONS
from job.errors import UserError

KINDS = "a folder, a zip, tar or tar.gz, a CSV, kaggle:owner/dataset, kaggle:competition/NAME or https://..."
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class Entry:
    """One image of a source. `label` and `split` are set only where the source itself names them (a CSV)."""

    name: str
    label: str | None = None
    split: str | None = None


class Source(Protocol):
    """Photographs somewhere. `entries` lists them before `read` streams them, each once, in the source's order."""

    def entries(self) -> list[Entry]: ...

    def read(self) -> Iterator[tuple[str, bytes]]: ...


def open_source(text: str, scratch: Path) -> Source:
    """Open what the user named.

    Args:
        text: a folder, an archive, a CSV, `kaggle:...` or `https://...`.
        scratch: a folder for downloads and nested archives; nothing is written elsewhere.

    Raises:
        UserError: there is no such thing, or it is of no known kind.
    """
    if text.startswith("kaggle:"):
        from job.data.sources import kaggle_hub

        return open_source(str(kaggle_hub.download(text, scratch)), scratch)
    if text.startswith(("https://", "http://")):
        from job.data.sources import web

        return open_source(str(web.download(text, scratch)), scratch)
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


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVES)


def is_image(name: str) -> bool:
    """Whether a path within a source is an image's, by its ending; the directories' own files are none."""
    parts = name.split("/")
    return name.lower().endswith(EXTENSIONS) and not parts[-1].startswith("._") and "__MACOSX" not in parts
