"""Images listed in a CSV: a column of paths, one of labels, and if there is one, one of splits."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from job.config.schema import Reading
from job.data.sources import Entry, Listing
from job.errors import UserError

PATHS = ("path", "file", "filename", "image", "image_path")
LABELS = ("label", "class", "category", "target")


class Table:
    """The rows of a CSV with a header. Paths are relative to the CSV's folder."""

    def __init__(self, path: Path, reading: Reading, labels: bool) -> None:
        self.path, self.reading, self.labels = path, reading, labels

    def files(self) -> list[Path]:
        return [self.path, *(self.path.parent / entry.name for entry in self.listing.entries)]

    @cached_property
    def listing(self) -> Listing:
        try:
            return Listing(self._entries(), labels=f"column label of {self.path.name}")
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(str(self.path), f"is not a CSV in UTF-8 ({error})", "save it as CSV UTF-8") from None

    def _entries(self) -> list[Entry]:
        with self.path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            header = {name.strip().lower(): name for name in rows.fieldnames or []}
            path_column, label_column = self._column(header, PATHS), self._column(header, LABELS)
            split_column = header.get("split")
            found: dict[str, Entry] = {}
            for number, row in enumerate(rows, 2):
                name, label = (row[path_column] or "").strip(), (row[label_column] or "").strip()
                if not name or not label:
                    raise UserError(f"{self.path} line {number}", "has no path or no label", "complete or delete it")
                entry = Entry(name, label, (row[split_column] or "").strip() or None if split_column else None)
                before = found.setdefault(name, entry)
                if before != entry:
                    what = "label" if before.label != label else "split"
                    raise UserError(f"{self.path} line {number}", f"{name} is listed a second time with another {what}", "keep one")
        return list(found.values())

    def _column(self, header: dict[str, str], known: tuple[str, ...]) -> str:
        for name in known:
            if name in header:
                return header[name]
        raise UserError(
            str(self.path), f"has no column {known[0]} (its columns: {', '.join(header) or 'none'})",
            f"name one of them {' or '.join(known)}",
        )  # fmt: skip

    def read(self) -> Iterator[tuple[str, bytes]]:
        for entry in self.listing.entries:
            try:
                yield entry.name, (self.path.parent / entry.name).read_bytes()
            except (FileNotFoundError, IsADirectoryError):
                raise UserError(str(self.path), f"lists {entry.name}, which is not found", "paths are relative to the CSV") from None
