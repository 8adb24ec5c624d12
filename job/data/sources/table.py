"""Images listed in a CSV: a column of paths, one of labels or one for each of two classes, and splits where it has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from job.config.schema import Reading
from job.console import counted
from job.data.class_names import same_class
from job.data.sources import Entry, Listing, table_columns, table_text
from job.data.sources.table_columns import Columns
from job.data.sources.table_files import Ambiguous, Files
from job.data.splits import split_of
from job.errors import UserError

_MISSING = "is not found"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class Table:
    """The images that the rows of a CSV name, by their paths within the CSV's folder."""

    def __init__(self, path: Path, reading: Reading, labels: bool) -> None:
        """`labels` says whether classes are wanted; without, only the column of paths is."""
        self.path, self.reading, self.labels = path, reading, labels
        self._folder = path.parent

    def files(self) -> list[Path]:
        return [self.path, *(self._folder / entry.name for entry in self.listing.entries if not entry.fault)]

    def read(self) -> Iterator[tuple[str, bytes]]:
        for entry in self.listing.entries:
            if not entry.fault:
                yield entry.name, self._content(entry.name)

    def _content(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            raise UserError(str(self._folder / name), "was just deleted", "rerun") from None

    @cached_property
    def listing(self) -> Listing:
        sheet = table_text.read(self.path, table_columns.KNOWN | {table_text.loose(self.reading.path_column)})
        columns = table_columns.find(sheet, self.reading, self.labels)
        files = Files(self._folder, split_of(self.path.stem))
        entries = self._entries(columns, files)
        if not entries:
            raise UserError(str(self.path), "lists no images", "give a CSV with a row for each image")
        if all(entry.fault for entry in entries):
            raise self._nothing_found(entries, files)
        return Listing(
            entries,
            labels=columns.described(columns.labels),
            splits=columns.described(columns.splits.places),
            notes=self._notes(columns, files),
        )

    def _entries(self, columns: Columns, files: Files) -> list[Entry]:
        found: dict[str, Entry] = {}
        bare: list[tuple[int, str]] = []  # lines without a label, and what they have instead
        for line, row in columns.sheet.rows():
            path, label, split = row[columns.path], columns.label(row), columns.splits.of(row, line)
            self._require_path(path, line)
            if self.labels and not label and (split is None or split_of(split) != "test"):
                bare.append((line, row[columns.labels[0]] if len(columns.labels) == 1 else ""))
                continue
            name = self._file(path, split, line, files)
            entry = Entry(name or path, label or None, split, "" if name else _MISSING)
            self._require_same(found.setdefault(entry.name, entry), entry, line)
        if bare:
            line, word = bare[0]
            what = f"has {counted(len(bare), 'row')} without a label{f' ({word})' if word else ''}, the first in line {line}"
            fix = f"; a class of that name must be called otherwise than {word}" if word else ""
            raise UserError(str(self.path), what, f"complete or delete them; only rows of the test split may have none{fix}")
        return list(found.values())

    def _require_path(self, path: str, line: int) -> None:
        if not path:
            raise UserError(f"{self.path} line {line}", "has no path", "complete or delete it")
        if "\n" in path or "\r" in path:
            raise UserError(f"{self.path} line {line}", "a path of several lines begins here", "close the quote")

    def _file(self, path: str, split: str | None, line: int, files: Files) -> str | None:
        try:
            return files.find(path, split)
        except Ambiguous as error:
            more = f" and {len(error.names) - 2:,} more" if len(error.names) > 2 else ""
            what = f"{path} could be {error.names[0]} or {error.names[1]}{more}"
            raise UserError(f"{self.path} line {line}", what, "write the path of one of them, relative to the CSV") from None

    def _require_same(self, before: Entry, entry: Entry, line: int) -> None:
        """Refuse a file that is listed twice and not in the same way."""
        if before != entry and _told(before) != _told(entry):
            other = "label" if _told(before)[0] != _told(entry)[0] else "split"
            raise UserError(f"{self.path} line {line}", f"{entry.name} is listed a second time with another {other}", "keep one")

    def _nothing_found(self, entries: list[Entry], files: Files) -> UserError:
        example, count = entries[0].name, f"lists {counted(len(entries), 'file')}, none of which is found"
        if _ADDRESS.match(example):
            what = f"{count}, such as {example}: downloads of single images are not read"
            return UserError(str(self.path), what, "download them into the folder of the CSV")
        what = f"{count}, such as {example}, neither there nor by its name alone below {self._folder}"
        if files.archives:
            return UserError(str(self.path), what, f"unpack {files.archives[0]}, or name another column with --path-column")
        return UserError(str(self.path), what, "paths are relative to the CSV; correct them, or name another column with --path-column")

    def _notes(self, columns: Columns, files: Files) -> tuple[str, ...]:
        found = [f"paths found {how}: {count:,}" for how, count in files.how.items()]
        told = (columns.unused(), *columns.splits.notes) if self.labels else ()
        return tuple(note for note in (*told, *found) if note)


def _told(entry: Entry) -> tuple[str, str | None]:
    """What a row says of its image, whatever the spelling."""
    return same_class(entry.label or ""), split_of(entry.split) if entry.split else None
