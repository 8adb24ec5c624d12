"""The text of a CSV: its encoding, its delimiter, its header, and its rows."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from job.data.sources.address import shown
from job.data.sources.walk import nfc
from job.errors import UserError

_DELIMITERS = (",", ";", "\t")
_NONE = "\x1f"  # of a file of one column: a character that no path holds, for the csv module wants one
_SAMPLE = 1 << 16  # characters that the delimiter is found by
_ROWS = 100  # the same, rows
_LINES = 5  # of a cell: more is a quote that was never closed
_LONGEST = 120  # characters of a name or a value in a message
_BREAK = re.compile(r"\r\n?|\n")
_SEP = re.compile(r'"?sep=(.)"? *(\r\n?|\n|$)', re.IGNORECASE)  # the first line of a CSV made for Excel


def loose(name: str) -> str:
    """A column's name as it is compared: `Image_Path`, `image path` and `"imagepath"` are one."""
    return re.sub(r"[\s_\-\"'`]", "", nfc(nfc(name).casefold()))


def plain(text: str) -> str:
    """A name or a value as a message may hold it: in one line, not too long, without the secrets of an address."""
    line = " ".join(shown(text).split())
    return f"{line[:_LONGEST]}..." if len(line) > _LONGEST else line


class _Broken(csv.Error):
    """What is wrong with the row that begins in a line, and what to do."""

    def __init__(self, line: int, what: str, fix: str) -> None:
        super().__init__()
        self.line, self.what, self.fix = line, what, fix


@dataclass(frozen=True)
class Sheet:
    """A CSV that can be gone through any number of times, one row in memory at a time."""

    path: Path
    where: str  # in messages
    encoding: str
    delimiter: str
    skipped: int  # characters before the header
    header: tuple[str, ...]

    def called(self, at: int) -> str:
        """A column as messages name it: with its number where its name is empty or another's too."""
        name = self.header[at]
        if not name:
            return f"column {at + 1}"
        return plain(name) + (f" (column {at + 1})" if self.header.count(name) > 1 else "")

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """The rows below the header that are not blank, stripped and as wide as the header, each after its first line's number.

        Raises:
            UserError: a row is wider than the header, a quote is not closed, or the file is not a CSV in its encoding.
        """
        width = len(self.header)
        with _explained(self.where), self.path.open(newline="", encoding=self.encoding) as file:
            before = 1 if file.read(self.skipped) else 0
            for line, row in _rows(file, self.delimiter, before, header=True):
                if len(row) != width:
                    if any(row[width:]):
                        what = f"has {len(row)} columns, the header {width}"
                        raise UserError(f"{self.where} line {line}", what, 'write values that hold a delimiter in quotes: "a,b"')
                    row = row[:width] + [""] * (width - len(row))
                yield line, row


def read(path: Path, where: str, known: frozenset[str]) -> Sheet:
    """Find out how a CSV is written.

    Args:
        known: names of columns, in their loose form, that tell a header.

    Raises:
        UserError: it is empty, or neither UTF-8 nor UTF-16.
    """
    with path.open("rb") as raw:
        encoding = _encoding(raw.read(4))
    with _explained(where), path.open(newline="", encoding=encoding) as file:
        sample = file.read(_SAMPLE)
        if "\0" in sample:
            raise UserError(where, "is not text in UTF-8, or in UTF-16 with a byte order mark", "save it as CSV UTF-8")
        sep = _SEP.match(sample)
        skipped = sep.end() if sep else 0
        delimiter = sep.group(1) if sep else _delimiter(sample, known)
        file.seek(0)
        file.read(skipped)
        header = next((row for _, row in _rows(file, delimiter)), [])
    if not any(name.strip("".join(_DELIMITERS)) for name in header):
        raise UserError(where, "is empty", "give a CSV with a header and a row for each image")
    return Sheet(path, where, encoding, delimiter, skipped, tuple(header))


def _encoding(first: bytes) -> str:
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig"


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """What Python says of a file that is not what it seems, in our words."""
    try:
        yield
    except UnicodeError as error:
        raise UserError(where, f"is not UTF-8 ({error})", "save it as CSV UTF-8") from None
    except _Broken as error:
        raise UserError(f"{where} line {error.line}", error.what, error.fix) from None
    except csv.Error as error:
        raise UserError(where, f"cannot be read as CSV ({error})", "check its quotes, or save it anew as CSV UTF-8") from None


def _rows(file: TextIO, delimiter: str, before: int = 0, header: bool = False, strict: bool = True) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, stripped, without the first if that is the `header`; `before` lines are read already.

    Raises:
        csv.Error: a quote is not closed (`strict`), or a cell is too long.
    """
    reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=strict)
    while True:
        line = before + reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _Broken(line, f"the row that begins here cannot be read as CSV ({error})", "check its quotes") from None
        if strict and before + reader.line_num > line:
            _require_few_lines(row, delimiter, line)
        values = [value.strip() for value in row]
        if any(values) and not header:
            yield line, values
        header = header and not any(values)


def _require_few_lines(row: list[str], delimiter: str, line: int) -> None:
    """Refuse a cell that seems to hold rows, for its quote was not closed."""
    for cell in row:
        breaks = len(_BREAK.findall(cell))
        if breaks and (delimiter in cell or breaks >= _LINES):
            what = f"a quoted cell of {breaks + 1} lines begins here" + (" and holds delimiters" if delimiter in cell else "")
            raise _Broken(line, what, "close the quote; a text that is meant so must be written in one line")
        line += breaks


def _delimiter(sample: str, known: frozenset[str]) -> str:
    """The delimiter that makes columns with known names, and as many in each row as in the header."""
    best, best_score = _NONE, (False, 0.0, 0)
    for delimiter in _DELIMITERS:
        try:
            rows = [row for _, row in zip(range(_ROWS), _rows(io.StringIO(sample, newline=""), delimiter, strict=False), strict=False)]
        except csv.Error:
            continue
        widths = [len(row) for _, row in rows[: -1 if len(sample) == _SAMPLE else None]]
        if not widths or widths[0] < 2:
            continue
        names = any(loose(name) in known for name in rows[0][1])
        score = (names, sum(width == widths[0] for width in widths) / len(widths), widths[0])
        if score > best_score:
            best, best_score = delimiter, score
    return best
