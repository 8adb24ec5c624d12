"""Which columns of a CSV tell splits: one that names them, or flags, one for each split; and what they say of a row.

A column counts by what it holds more than by its name: rows of a test split must never be taken for others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from job.data.sources import names
from job.data.sources.table_text import Sheet, loose, plain
from job.data.splits import mentions, split_of
from job.errors import UserError

TRUE, FALSE = ("1", "1.0", "true", "t", "yes", "y"), ("0", "0.0", "false", "f", "no", "n", "")
MOST = 64  # different values of a column that are looked at
_SURE = ("split", "splits")
_PERHAPS = ("set", "sets", "subset", "subsets", "dataset", "datasets", "partition", "partitions", "phase", "usage")
_ABOUT = ("is", "in", "for", "as", "flag")  # words of a flag's name that say nothing of its split
_VALID = ("valid", "isvalid")  # may say too that an image is sound
_WORD = re.compile(r"[^\W\d_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True)
class Splits:
    """The columns that tell splits: those that `name` them, the foremost first, and `flags`, each with the split that it means.

    `notes` are of columns that might have been meant so. Contradictions are errors where `strict`.
    """

    sheet: Sheet
    named: tuple[int, ...] = ()
    flags: tuple[tuple[int, str], ...] = ()
    notes: tuple[str, ...] = ()
    strict: bool = True

    @property
    def places(self) -> tuple[int, ...]:
        return (*self.named, *(at for at, _ in self.flags))

    def of(self, row: Sequence[str], line: int) -> str | None:
        """The split of a row, None where it has none.

        Raises:
            UserError: its columns contradict each other.
        """
        said = [(at, row[at]) for at in self.named if row[at]]
        true = [(at, split) for at, split in self.flags if row[at].lower() in TRUE]
        if self.strict and len(self.places) > 1:
            self._require_agreement(row, line, said, true)
        if said and self.strict and split_of(said[0][1]) is None:  # beyond the values that were looked at
            raise _unknown(f"{self.sheet.where} line {line}", self.sheet.called(said[0][0]), said[0][1])
        if said or true:
            return (said or true)[0][1]
        rest = [split for split in ("train", "test", "validation") if split not in {flag for _, flag in self.flags}]
        if not rest and self.strict:
            raise UserError(f"{self.sheet.where} line {line}", f"{self._flags()} say no split", "set exactly one of them to true")
        return rest[0] if rest and self.flags else None

    def _require_agreement(self, row: Sequence[str], line: int, said: list[tuple[int, str]], true: list[tuple[int, str]]) -> None:
        if not said and len({split for _, split in true}) > 1:
            raise UserError(
                f"{self.sheet.where} line {line}", f"{self._flags()} say more than one split", "set exactly one of them to true"
            )
        first, word = (said or true or [(-1, "")])[0]
        wanted = split_of(word)
        other = next((at for at, value in said[1:] if split_of(value) != wanted), None)
        if other is None and wanted:
            other = next((at for at, split in self.flags if row[at] and (row[at].lower() in TRUE) != (split == wanted)), None)
        if other is not None:
            one, another = (f"{self.sheet.called(at)} ({plain(row[at])})" for at in (first, other))
            what = f"columns {one} and {another} contradict each other on the split"
            raise UserError(f"{self.sheet.where} line {line}", what, "correct the row, or delete one of the columns")

    def _flags(self) -> str:
        *before, last = [self.sheet.called(at) for at, _ in self.flags]
        return f"{', '.join(before)} and {last}" if before else last


def find(sheet: Sheet, values: Sequence[set[str]], free: Collection[int], sparing: Collection[int], strict: bool) -> Splits:
    """Find the columns of splits.

    Args:
        values: the different values of each column.
        free: the columns that may be it.
        sparing: those of them that are called as paths are, which may hold names such as `train_17`.
        strict: whether a value that cannot be read is an error; else its column is passed over.

    Raises:
        UserError: a column is called as one of splits is, and holds something else too.
    """
    named, flags, notes = [], [], []
    for at in free:
        name, held = sheet.header[at], values[at]
        unread = sorted(value for value in held if split_of(value) is None or names.is_image(value))
        flag = flag_of(name)
        if flag and held and {value.lower() for value in held} <= {*TRUE, *FALSE}:
            flags.append((at, flag))
        elif held and not unread and (_is_called_so(name) or _divides(held, 10 if at in sparing else MOST)):
            named.append(at)
        elif _refused(name, held, unread):
            if strict and flag:
                strange = plain(min(value for value in held if value.lower() not in (*TRUE, *FALSE)))
                raise UserError(sheet.where, f"column {sheet.called(at)} has the value {strange!r}", "use true or false")
            if strict:
                raise _unknown(sheet.where, sheet.called(at), unread[0])
        elif len(held) <= MOST and at not in sparing:
            read = sorted(value for value in held if split_of(value, alone=True))
            if read and unread:
                end = f"{plain(read[0])} reads as a split, {plain(unread[0])} does not"
                notes.append(f"column {sheet.called(at)} is not taken for splits: {end}")
    if strict:
        _require_few_valid(sheet, [at for at, _ in flags if loose(sheet.header[at]) in _VALID])
    named.sort(key=lambda at: _rank(sheet.header[at]))
    return Splits(sheet, tuple(named), tuple(flags), tuple(notes), strict)


def _unknown(where: str, column: str, value: str) -> UserError:
    fix = "use train, validation or test, or call the column otherwise"
    return UserError(where, f"column {column} has the unknown split {plain(value)!r}", fix)


def _require_few_valid(sheet: Sheet, flags: Sequence[int]) -> None:
    """Refuse a column that more likely says which images are sound than which are for validation."""
    for at in flags:
        told = [row[at].lower() in TRUE for _, row in sheet.rows()]
        if 2 * sum(told) > len(told):
            what = f"column {sheet.called(at)} is true in {sum(told):,} of {len(told):,} rows, many for a validation split"
            raise UserError(sheet.where, what, "call it is_validation if it is meant so, else delete it")


def is_split(name: str) -> bool:
    """Whether a column is called as one of splits or a flag of one is."""
    return _is_called_so(name) or flag_of(name) is not None


def flag_of(name: str) -> str | None:
    """The split that a column of true and false means by its name: `is_test`, `in_train`, `holdout`; None where it means none."""
    words = _words(name)
    if "label" in words or "labels" in words:
        return None
    split = split_of(" ".join(word for word in words if word not in _ABOUT), alone=True)
    key = loose(name)
    return split or (split_of(key[2:], alone=True) if key.startswith("is") else None)


def _refused(name: str, held: set[str], unread: list[str]) -> bool:
    """Whether a column that cannot be read is surely meant as one of splits."""
    if not unread:
        return False
    if flag_of(name) and not _is_called_so(name):
        return _words(name)[0] in _ABOUT or loose(name).startswith("is")
    return loose(name) in _SURE or (_is_called_so(name) and len(unread) < len(held))


def _divides(held: set[str], most: int) -> bool:
    return len(held) <= most and len({split_of(value) for value in held}) > 1


def _is_called_so(name: str) -> bool:
    """Whether a name says that splits are told: `data_split`, `subset`, `train_test`."""
    return "split" in loose(name) or _rank(name) < 2 or any(word in _PERHAPS for word in _words(name)) or _is_of_several(name)


def _is_of_several(name: str) -> bool:
    return mentions(name) and split_of(name) is None


def _rank(name: str) -> int:
    key = loose(name)
    return 0 if key in _SURE else 1 if key in _PERHAPS else 2


def _words(name: str) -> list[str]:
    return _WORD.findall(_CAMEL.sub(" ", name).lower())
