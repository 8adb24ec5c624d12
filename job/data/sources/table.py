"""Images listed in a CSV: a column of paths, one of labels or one for each of two classes, and splits where it has them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from job.config.schema import Reading
from job.console import counted
from job.data.class_names import same_class
from job.data.sources import Entry, Listing, table_columns, table_text
from job.data.sources.address import identity, shown
from job.data.sources.places import Disk, Place
from job.data.sources.table_columns import Columns
from job.data.sources.table_files import Ambiguous, Files
from job.data.sources.table_text import plain
from job.data.splits import split_of
from job.errors import UserError

_NEARLY_ALL = 0.95
_MISSING = "is not found"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class Table:
    """The images that the rows of a CSV name, by their paths within the CSV's folder."""

    def __init__(self, path: Path, reading: Reading, labels: bool, place: Place | None = None) -> None:
        """
        Args:
            labels: whether classes are wanted; without, only the column of paths is.
            place: where the CSV and its images are, if not in the folder of `path`.
        """
        self.path, self.reading, self.labels = path, reading, labels
        self._place = Disk(path.parent) if place is None else place
        self.where = str(path) if place is None else f"{place.where}/{path.name}"

    def files(self) -> list[Path]:
        return [self.path, *(self.path.parent / entry.name for entry in self.listing.entries if not entry.fault)]

    def read(self) -> Iterator[tuple[str, bytes]]:
        yield from self._place.read(entry.name for entry in self.listing.entries if not entry.fault)

    @cached_property
    def listing(self) -> Listing:
        sheet = table_text.read(self.path, self.where, table_columns.KNOWN | {table_text.loose(self.reading.path_column)})
        columns = table_columns.find(sheet, self.reading, self.labels)
        files = Files(self._place, split_of(self.path.stem))
        columns, turned = self._turned(columns, files) if columns.rivals else (columns, "")
        entries = self._entries(columns, files)
        if not entries:
            raise UserError(self.where, "lists no images", "give a CSV with a row for each image")
        if all(entry.fault for entry in entries):
            raise self._nothing_found(entries, files)
        return Listing(
            entries,
            is_table=True,
            labels=columns.described(columns.labels),
            splits=columns.described(columns.splits.places),
            notes=self._notes(columns, files, turned),
        )

    def _turned(self, columns: Columns, files: Files) -> tuple[Columns, str]:
        """Another column of paths where that of the foremost name names no file and the other does in nearly all rows; what was done."""
        first = columns.path
        if any(self._are_there(columns, first, files)):
            return columns, ""
        for at in columns.rivals:
            found = list(self._are_there(columns, at, files))
            if sum(found) >= _NEARLY_ALL * max(1, len(found)):
                one, other = (columns.sheet.called(place) for place in (at, first))
                rest = tuple(rival for rival in columns.rivals if rival != at)
                return replace(columns, path=at, rivals=rest), f"paths are read from column {one}: no file of column {other} is found"
        return columns, ""

    def _are_there(self, columns: Columns, at: int, files: Files) -> Iterator[bool]:
        """Whether each cell of a column names a file, or several."""
        for _, row in columns.sheet.rows():
            try:
                found = bool(row[at]) and files.find(row[at], None) is not None
            except Ambiguous:
                found = True
            files.how.clear()  # nothing is read yet
            yield found

    def _entries(self, columns: Columns, files: Files) -> list[Entry]:
        found: dict[str, Entry] = {}
        missing: dict[str, str] = {}  # the names of addresses
        bare: list[tuple[int, str]] = []  # lines without a label, and what they have instead
        for line, row in columns.sheet.rows():
            path, label, split = row[columns.path], columns.label(row), columns.splits.of(row, line)
            self._require_cells(path, label, line)
            if self.labels and not label and (split is None or split_of(split) != "test"):
                bare.append((line, row[columns.labels[0]] if len(columns.labels) == 1 else ""))
                continue
            name = self._file(path, split, line, files)
            if name is None:
                name, fault = path, _MISSING
                if shown(path) != path:
                    unique = shown(path) if shown(path) not in found else f"{shown(path)} (line {line})"
                    name = missing.setdefault(identity(path), unique)
            else:
                fault = ""
                self._require_one_path(columns, row, name, line, files)
            entry = Entry(name, label or None, split, fault)
            self._require_same(found.setdefault(entry.name, entry), entry, line)
        if bare:
            line, word = bare[0]
            what = f"has {counted(len(bare), 'row')} without a label{f' ({plain(word)})' if word else ''}, the first in line {line}"
            fix = f"; a class of that name must be called otherwise than {plain(word)}" if word else ""
            raise UserError(self.where, what, f"complete or delete them; only rows of the test split may have none{fix}")
        return list(found.values())

    def _require_cells(self, path: str, label: str, line: int) -> None:
        if not path:
            raise UserError(f"{self.where} line {line}", "has no path", "complete or delete it")
        for kind, cell in (("path", path), ("label", label)):
            if "\n" in cell or "\r" in cell:
                raise UserError(f"{self.where} line {line}", f"a {kind} of several lines begins here", "close the quote")

    def _require_one_path(self, columns: Columns, row: Sequence[str], name: str, line: int, files: Files) -> None:
        """Refuse two columns of paths that name two files."""
        for at in columns.rivals:
            other = files.there(row[at])
            if other is not None and not files.are_one(name, other):
                one, another = (columns.sheet.called(place) for place in (columns.path, at))
                same = columns.sheet.header[columns.path] == columns.sheet.header[at]
                what = f"its file could be {plain(name)} of column {one}, or {plain(other)} of column {another}"
                fix = "rename one of them" if same else "name one with --path-column"
                raise UserError(f"{self.where} line {line}", what, fix)

    def _file(self, path: str, split: str | None, line: int, files: Files) -> str | None:
        try:
            return files.find(path, split)
        except Ambiguous as error:
            more = f" and {len(error.names) - 2:,} more" if len(error.names) > 2 else ""
            what = f"{plain(path)} could be {plain(error.names[0])} or {plain(error.names[1])}{more}"
            raise UserError(f"{self.where} line {line}", what, "write the path of one of them, relative to the CSV") from None

    def _require_same(self, before: Entry, entry: Entry, line: int) -> None:
        """Refuse a file that is listed twice and not in the same way."""
        if before != entry and _told(before) != _told(entry):
            other = "label" if _told(before)[0] != _told(entry)[0] else "split"
            raise UserError(f"{self.where} line {line}", f"{plain(entry.name)} is listed a second time with another {other}", "keep one")

    def _nothing_found(self, entries: list[Entry], files: Files) -> UserError:
        example, count = plain(entries[0].name), f"lists {counted(len(entries), 'file')}, none of which is found"
        if _ADDRESS.match(example):
            what = f"{count}, such as {example}: downloads of single images are not read"
            return UserError(self.where, what, "download them into the folder of the CSV")
        what = f"{count}, such as {example}, neither there nor by its name alone below {self._place.where}"
        if files.archives:
            return UserError(self.where, what, f"unpack {plain(files.archives[0])}, or name another column with --path-column")
        return UserError(self.where, what, "paths are relative to the CSV; correct them, or name another column with --path-column")

    def _notes(self, columns: Columns, files: Files, turned: str) -> tuple[str, ...]:
        found = [f"paths found {how}: {count:,}" for how, count in files.how.items()]
        told = (columns.unused(), *columns.splits.notes) if self.labels else ()
        return tuple(note for note in (*told, turned, *found) if note)


def _told(entry: Entry) -> tuple[str, str | None]:
    """What a row says of its image, whatever the spelling."""
    return same_class(entry.label or ""), split_of(entry.split) if entry.split else None
