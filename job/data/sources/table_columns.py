"""Which columns of a CSV hold paths, labels and splits: by their names, then by what they hold."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from job.config.options import nearest
from job.config.schema import Reading
from job.console import counted
from job.data.class_names import same_class
from job.data.sources import names, table_splits
from job.data.sources.table_splits import MOST, TRUE, Splits
from job.data.sources.table_text import Sheet, loose, plain
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
_NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?", re.IGNORECASE)
_NO_LABEL = ("nan", "na", "n/a", "null", "none", "<na>", "#n/a")  # what programs write for an empty cell
_FEW = 10  # different words of a column that may be labels
_SHOWN = 10  # names of columns in a line


@dataclass(frozen=True)
class Columns:
    """The places of the columns that are read. `labels` are two where each class has its own, with 1 in the rows of the class."""

    sheet: Sheet
    path: int
    labels: tuple[int, ...]
    splits: Splits
    rivals: tuple[int, ...] = ()  # columns that might have been meant as that of paths

    def label(self, row: Sequence[str]) -> str:
        """The class of a row; empty where it has none."""
        if len(self.labels) == 2:
            return next((self.sheet.header[at] for at in self.labels if row[at].lower() in TRUE), "")
        return _label(row[self.labels[0]]) if self.labels else ""

    def described(self, places: Sequence[int]) -> str:
        """Columns as a log line names them; empty for none."""
        found = _and(self.sheet, places)
        return f"column{'s' * (len(places) > 1)} {found} of {self.sheet.path.name}" if places else ""

    def unused(self) -> str:
        """The columns that are not read, as a note; empty for none."""
        used = {self.path, *self.labels, *self.splits.places}
        rest = [at for at, name in enumerate(self.sheet.header) if at not in used and name]
        return f"columns not used: {listed(self.sheet, rest)}" if rest else ""


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
        raise UserError(sheet.where, f"has no known column of paths {_columns(sheet)}", "name one with --path-column")
    label: tuple[int, ...] = ()
    if labels and reading.label_column:
        label = (_named(sheet, "--label-column", reading.label_column),)
    values = _values(sheet)
    free = [at for at, name in enumerate(sheet.header) if at not in (path, *label) and loose(name) not in LABELS]
    splits = table_splits.find(sheet, values, free, [at for at in free if loose(sheet.header[at]) in PATHS], strict=labels)
    if labels and not label:
        label = _label_column(sheet, values, path) or _one_hot(sheet, values, {path, *splits.places})
    used = {path, *label, *splits.places}
    others = [] if reading.path_column else [at for at in free if values[at] and at not in used and loose(sheet.header[at]) in PATHS]
    return Columns(sheet, path, label, splits, tuple(sorted(others, key=lambda at: PATHS.index(loose(sheet.header[at])))))


def listed(sheet: Sheet, places: Sequence[int]) -> str:
    """Names of columns, at most ten."""
    more = len(places) - _SHOWN
    return ", ".join(sheet.called(at) for at in places[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _columns(sheet: Sheet) -> str:
    return f"(its columns: {listed(sheet, range(len(sheet.header)))})"


def _and(sheet: Sheet, places: Sequence[int]) -> str:
    words = [sheet.called(at) for at in places]
    return " and ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else "".join(words)


def _require_header(sheet: Sheet, reading: Reading) -> None:
    known = {*PATHS, loose(reading.path_column)} - {""}
    if any(loose(name) in known for name in sheet.header):
        return
    if any(names.is_image(name) or (name and os.path.isfile(sheet.path.parent / name)) for name in sheet.header):
        line = (sheet.delimiter if sheet.delimiter.isprintable() else "\t").join(map(plain, sheet.header))
        shown = f"{line[:80]}..." if len(line) > 80 else line
        raise UserError(sheet.where, f"has no header: its first line is {shown!r}", "add one such as path,label")


def _first(sheet: Sheet, known: Sequence[str]) -> int | None:
    """The first column of which the name is the foremost among those known."""
    header = [loose(name) for name in sheet.header]
    return next((header.index(name) for name in known if name in header), None)


def _named(sheet: Sheet, option: str, name: str) -> int:
    same = [at for at, column in enumerate(sheet.header) if column == name]
    same = same or [at for at, column in enumerate(sheet.header) if loose(column) == loose(name)]
    if not same:
        guess = nearest(name, [column for column in sheet.header if column])
        fix = guess if guess.startswith("did you mean") else "name one of them"
        raise UserError(option, f"{name!r} is not a column of {sheet.where} {_columns(sheet)}", plain(fix))
    if len(same) > 1:
        what = f"{name!r} could be the columns {_and(sheet, same)} of {sheet.where}"
        raise UserError(
            option, what, "rename one of them" if len({sheet.header[at] for at in same}) == 1 else "write it as it stands there"
        )
    return same[0]


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
    """The column of labels by its name, none if there is none: the first of those that hold any.

    Raises:
        UserError: two could be it: the second has two values or the same name, and the first not so many, or divides the rows differently.
    """
    header = [loose(name) for name in sheet.header]
    held = [_classes(one) for one in values]
    known = [at for at, name in enumerate(header) if name in LABELS and at != path]
    found = sorted((at for at in known if held[at]), key=lambda at: LABELS.index(header[at])) or known
    for other in found[1:]:
        may_be = len(held[other]) == 2 or header[other] == header[found[0]]
        if may_be and (len(held[found[0]]) != len(held[other]) or _divide_differently(sheet, found[0], other)):
            first, second = (f"{sheet.called(at)} ({_told(held[at])})" for at in (found[0], other))
            fix = "rename one of them" if sheet.header[found[0]] == sheet.header[other] else "name one with --label-column"
            raise UserError(sheet.where, f"its labels could be {first} or {second}", fix)
    return tuple(found[:1])


def _classes(values: Iterable[str]) -> set[str]:
    """The different labels among values, in the form in which classes are compared."""
    return {same_class(label) for value in values if (label := _label(value))}


def _told(classes: set[str]) -> str:
    shown = ", ".join(plain(name) for name in sorted(classes)[:3])
    count = f"more than {MOST}" if len(classes) > MOST else counted(len(classes), "value")
    return f"{count}: {shown}{', ...' if len(classes) > 3 else ''}"


def _divide_differently(sheet: Sheet, one: int, other: int) -> bool:
    """Whether two columns of labels are not one division in two words, in the rows where both say something."""
    pairs = {(same_class(_label(row[one])), same_class(_label(row[other]))) for _, row in sheet.rows()}
    pairs = {pair for pair in pairs if all(pair)}
    here, there = ({pair[side] for pair in pairs} for side in (0, 1))
    return min(len(here), len(there)) < len(pairs) or (here == there and any(first != second for first, second in pairs))


def _one_hot(sheet: Sheet, values: list[set[str]], used: set[int]) -> tuple[int, ...]:
    """Two columns, one for each class, exactly one of which is 1 in each row that has any.

    Raises:
        UserError: there are no such columns, or more than two, or a column that may be the labels instead.
    """
    free = [at for at, name in enumerate(sheet.header) if name and at not in used and not table_splits.is_split(name)]
    bits = [at for at in free if values[at] and {value.lower() for value in values[at]} <= _BITS]
    where, found = sheet.where, listed(sheet, bits)
    if len(bits) > 2:
        what = f"has no column of labels, but {len(bits)} columns of 0 and 1 instead of two: {found}"
        raise UserError(where, what, "name one with --label-column, or keep two")
    if len(bits) < 2:
        what = f"has no known column of labels {_columns(sheet)}"
        raise UserError(where, what, "name one with --label-column")
    others = [at for at in free if at not in bits and loose(sheet.header[at]) not in PATHS and _may_be_labels(values[at])]
    pairs: dict[int, set[tuple[bool, str]]] = {at: set() for at in others}
    for line, row in sheet.rows():
        cells = [row[at].lower() for at in bits]
        if any(cells) and sum(cell in TRUE for cell in cells) != 1:
            what = f"has no column of labels, and not exactly one of {_and(sheet, bits)} is 1 in line {line}"
            raise UserError(where, what, "name one with --label-column")
        for at in others:
            if any(cells) and _label(row[at]):
                pairs[at].add((cells[0] in TRUE, same_class(_label(row[at]))))
    for at in others:
        classes = {name for _, name in pairs[at]}
        if len(pairs[at]) > len(classes):  # some of its values are of both classes
            what = f"its labels could be the columns {_and(sheet, bits)}, or {sheet.called(at)} ({_told(classes)})"
            raise UserError(where, what, "name one with --label-column, or delete what is none")
    return tuple(bits)


def _may_be_labels(values: set[str]) -> bool:
    """Whether a column's values are two, or a few that are words."""
    classes = _classes(values)
    return len(classes) == 2 or (2 < len(classes) <= _FEW and not all(_NUMBER.fullmatch(value) for value in values))


def _label(value: str) -> str:
    """A label as it is written; of a whole number with decimals, which pandas makes of one, the number; empty for none."""
    match = _WHOLE.fullmatch(value)
    return match.group(1) if match else "" if value.lower() in _NO_LABEL else value
