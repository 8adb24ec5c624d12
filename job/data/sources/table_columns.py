"""Which columns of a CSV hold paths, labels and splits: by their names, then by what they hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from job.config.options import nearest
from job.config.schema import Reading
from job.data.sources import names, table_splits
from job.data.sources.table_splits import MOST, TRUE, Splits
from job.data.sources.table_text import Sheet, loose
from job.errors import UserError

# in their loose form, the first of a list that a CSV has is used
PATHS = (
    "path", "paths", "filepath", "filepaths", "file", "files", "filename", "filenames", "imagepath", "imagepaths", "imagefilepath",
    "imgpath", "imgpaths", "imagefile", "imagefiles", "imagefilename", "imgfile", "imagename", "imagenames", "imgname", "image", "images",
    "img", "imgs", "imageid", "imageids", "imgid", "id", "ids", "name", "names",
)  # fmt: skip
LABELS = (
    "label", "labels", "class", "classes", "classname", "target", "targets", "category", "categories", "y", "dx", "diagnosis",
)  # fmt: skip
KNOWN = frozenset((*PATHS, *LABELS))
_BITS = frozenset(("0", "1", "0.0", "1.0", "true", "false"))
_WHOLE = re.compile(r"(-?\d+)\.0+")
_SHOWN = 10  # names of columns in a line


@dataclass(frozen=True)
class Columns:
    """The places of the columns that are read. `labels` are two where each class has its own, with 1 in the rows of the class."""

    sheet: Sheet
    path: int
    labels: tuple[int, ...]
    splits: Splits

    def label(self, row: Sequence[str]) -> str:
        """The class of a row; empty where it has none."""
        if len(self.labels) == 2:
            return next((self.sheet.header[at] for at in self.labels if row[at].lower() in TRUE), "")
        return _label(row[self.labels[0]]) if self.labels else ""

    def name_all(self, places: Iterable[int]) -> list[str]:
        return [self.sheet.called(at) for at in places]

    def described(self, places: Sequence[int]) -> str:
        """Columns as a log line names them; empty for none."""
        found = _and(self.name_all(places))
        return f"column{'s' * (len(places) > 1)} {found} of {self.sheet.path.name}" if places else ""

    def unused(self) -> str:
        """The columns that are not read, as a note; empty for none."""
        used = {self.path, *self.labels, *self.splits.places}
        rest = [name for at, name in enumerate(self.sheet.header) if at not in used and name]
        return f"columns not used: {listed(rest)}" if rest else ""


def find(sheet: Sheet, reading: Reading, labels: bool) -> Columns:
    """Find the columns.

    Args:
        reading: the columns that the user named.
        labels: whether classes are wanted.

    Raises:
        UserError: there is no header, a column is not found, or there are two for one thing.
    """
    _require_header(sheet, reading)
    path = _named(sheet, "--path-column", reading.path_column) if reading.path_column else _first(sheet, PATHS)
    if path is None:
        raise UserError(str(sheet.path), f"has no known column of paths {_columns(sheet)}", "name one with --path-column")
    label: tuple[int, ...] = ()
    if labels and reading.label_column:
        label = (_named(sheet, "--label-column", reading.label_column),)
    values = _values(sheet)
    free = [at for at, name in enumerate(sheet.header) if at not in (path, *label) and loose(name) not in LABELS]
    splits = table_splits.find(sheet, values, free, [at for at in free if loose(sheet.header[at]) in PATHS], strict=labels)
    if labels and not label:
        label = _label_column(sheet, values, path) or _one_hot(sheet, values, {path, *splits.places})
    return Columns(sheet, path, label, splits)


def listed(columns: Sequence[str]) -> str:
    """Names of columns, at most ten."""
    more = len(columns) - _SHOWN
    return ", ".join(columns[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _columns(sheet: Sheet) -> str:
    return f"(its columns: {listed([name or '(no name)' for name in sheet.header])})"


def _and(words: Sequence[str]) -> str:
    return " and ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else "".join(words)


def _require_header(sheet: Sheet, reading: Reading) -> None:
    known = {*PATHS, loose(reading.path_column)} - {""}
    if any(loose(name) in known for name in sheet.header):
        return
    if any(names.is_image(name) or (name and (sheet.path.parent / name).is_file()) for name in sheet.header):
        line = (sheet.delimiter if sheet.delimiter.isprintable() else "\t").join(sheet.header)
        shown = f"{line[:80]}..." if len(line) > 80 else line
        raise UserError(str(sheet.path), f"has no header: its first line is {shown!r}", "add one such as path,label")


def _first(sheet: Sheet, known: Sequence[str]) -> int | None:
    """The first column of which the name is the foremost among those known."""
    header = [loose(name) for name in sheet.header]
    return next((header.index(name) for name in known if name in header), None)


def _named(sheet: Sheet, option: str, name: str) -> int:
    if name in sheet.header:
        return sheet.header.index(name)
    place = _first(sheet, (loose(name),))
    if place is None:
        guess = nearest(name, [column for column in sheet.header if column])
        fix = guess if guess.startswith("did you mean") else "name one of them"
        raise UserError(option, f"{name!r} is not a column of {sheet.path} {_columns(sheet)}", fix)
    return place


def _values(sheet: Sheet) -> list[set[str]]:
    """The first different values of each column, the empty one not counted."""
    found: list[set[str]] = [set() for _ in sheet.header]
    open_ = list(enumerate(found))
    for _, row in sheet.rows():
        for at, values in open_:
            values.add(row[at])
        if any(len(values) > MOST for _, values in open_):
            open_ = [(at, values) for at, values in open_ if len(values) <= MOST]
    for values in found:
        values.discard("")
    return found


def _label_column(sheet: Sheet, values: list[set[str]], path: int) -> tuple[int, ...]:
    """The column of labels by its name, none if there is none: one of two values goes before others.

    Raises:
        UserError: two columns could be it, since each has two values and they divide the rows differently.
    """
    header = [loose(name) for name in sheet.header]
    found = sorted((at for at, name in enumerate(header) if name in LABELS and at != path), key=lambda at: LABELS.index(header[at]))
    two = [at for at in found if len({_label(value) for value in values[at]}) == 2]
    for other in two[1:]:
        pairs = {(row[two[0]], row[other]) for _, row in sheet.rows() if row[two[0]] and row[other]}
        if len({(_label(one), _label(another)) for one, another in pairs}) > 2:
            what = f"its labels could be {sheet.header[two[0]]} or {sheet.header[other]}"
            raise UserError(str(sheet.path), what, "name one with --label-column")
    return tuple((two or found)[:1])


def _one_hot(sheet: Sheet, values: list[set[str]], used: set[int]) -> tuple[int, ...]:
    """Two columns, one for each class, exactly one of which is 1 in each row that has any.

    Raises:
        UserError: there are no such columns, or more than two.
    """
    free = [at for at, name in enumerate(sheet.header) if name and at not in used and not table_splits.is_split(name)]
    bits = [at for at in free if values[at] and {value.lower() for value in values[at]} <= _BITS]
    where, found = str(sheet.path), listed([sheet.header[at] for at in bits])
    if len(bits) > 2:
        what = f"has no column of labels, but {len(bits)} columns of 0 and 1 instead of two: {found}"
        raise UserError(where, what, "name one with --label-column, or keep two")
    if len(bits) < 2:
        what = f"has no known column of labels {_columns(sheet)}"
        raise UserError(where, what, "name one with --label-column")
    for line, row in sheet.rows():
        cells = [row[at].lower() for at in bits]
        if any(cells) and sum(cell in TRUE for cell in cells) != 1:
            what = f"has no column of labels, and not exactly one of {_and([sheet.header[at] for at in bits])} is 1 in line {line}"
            raise UserError(where, what, "name one with --label-column")
    return tuple(bits)


def _label(value: str) -> str:
    """A label as it is written; of a whole number with decimals, which pandas makes of one, the number."""
    match = _WHOLE.fullmatch(value)
    return match.group(1) if match else value
