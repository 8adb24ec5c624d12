"""Which class and which split an image belongs to, read off the names in its source; what cannot be known is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from job.console import counted
from job.data.class_names import same_class
from job.data.folders import Folders, Reading
from job.data.labels import Labels, Wanted, by_file_name, by_level, by_pair, closest, differ, of_pair
from job.data.rivals import check_file_splits, check_rivals
from job.data.sources import Entry
from job.errors import UserError

SOURCE = "the source"


@dataclass(frozen=True)
class Labelled:
    """An image with its class (0 negative, 1 positive) and, where the source names one, its split.

    `fault` is why it cannot be read, where that is known already.
    """

    name: str
    label: int
    split: str | None
    fault: str = ""


@dataclass(frozen=True)
class Layout:
    """`classes` are [negative, positive]; `origin` says where they were read, and `splits` the same of each split.

    `unlabelled` are the images of a test split without classes, `others` those of no class or of a third; `folders` are
    those that mean neither, in words.
    """

    classes: tuple[str, str]
    images: list[Labelled]
    unlabelled: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    origin: str = ""
    splits: dict[str, str] = field(default_factory=dict)
    folders: str = ""


def find(
    entries: Sequence[Entry],
    where: str,
    wanted: Wanted | None = None,
    *,
    prefixed: bool = False,
    tables: Sequence[str] = (),
    labels: str = SOURCE,
    splits: str = SOURCE,
    skipped: Sequence[str] = (),
) -> Layout:
    """Label each image.

    Args:
        entries: the images of a source, or of several.
        where: the source's name, for errors.
        wanted: the classes, as far as they are known.
        prefixed: whether the names begin with the name of their source, there being several.
        tables: CSV files among the images, to point at where no class is found.
        labels, splits: where the source itself reads classes and splits from.
        skipped: what was passed over, to say where no image is left.

    Raises:
        UserError: no image, more or fewer than two classes, others than those wanted, or what cannot be known.
    """
    wanted = wanted or Wanted()
    if not entries:
        passed = f" (skipped: {'; '.join(skipped)})" if skipped else ""
        raise UserError(where, f"no image found{passed}", "give folders, one for each class, with JPEG, PNG or WebP files")
    folders = Folders([entry.name for entry in entries], where, prefixed, wanted.named)
    if any(entry.label for entry in entries):
        reading = folders.with_splits_of(entries, splits)
        found = Labels([of_pair(entry.label, wanted) for entry in entries], reading, labels, [None] * len(entries))
    else:
        found, reading = _from_names(folders, where, wanted, tables)
    pair = _pair(found, where, wanted, folders, tables)
    if not (found.covers or wanted.pair):
        example = entries[found.missing[0]].name
        what = f"{len(found.missing):,} of {len(found.counted):,} images have no class, such as {example}"
        raise UserError(where, what, _fix(folders, found, wanted, tables))
    left_out = {*found.unlabelled, *found.missing}
    numbers = {same_class(name): number for number, name in enumerate(pair)}
    chosen = [k for k in range(len(entries)) if k not in left_out]
    other_folders = ""
    if not any(entry.label for entry in entries):
        class_parts = {k: found.parts[k] for k in chosen}
        folders.check(reading, class_parts)
        other_folders = folders.others_said(reading, class_parts)
        _check_validation(reading, found, where)
    images = [Labelled(entries[k].name, numbers[found.same[k] or ""], reading.splits[k], entries[k].fault) for k in chosen]
    unlabelled, others = ([entries[k].name for k in those] for those in (found.unlabelled, found.missing))
    return Layout(pair, images, unlabelled, others, found.origin, reading.said(), other_folders)


def _check_validation(reading: Reading, found: Labels, where: str) -> None:
    """Refuse a validation split without classes: it may be a class called so."""
    without = [k for k in found.missing if reading.splits[k] == "validation"]
    if without and not any(split == "validation" and name for split, name in zip(reading.splits, found.same, strict=True)):
        folder = reading.names[without[0]].removeprefix("folder ")
        what = f"the split validation ({reading.names[without[0]]}) holds {counted(len(without), 'image')} without a class"
        raise UserError(where, what, f"if it is a class, add --positive {folder}; else sort them into class folders, or move it away")


def _from_names(folders: Folders, where: str, wanted: Wanted, tables: Sequence[str]) -> tuple[Labels, Reading]:
    """The classes by folders, else by file names, under the first reading of split names that finds them."""
    check_file_splits(folders, where)
    readings = [reading for alone in (False, True) if (reading := folders.read(alone)) is not None]
    for reading in readings:
        found = by_pair(folders, reading, wanted, where) if wanted.pair else by_level(folders, reading, wanted, where)
        if found is not None:
            if not wanted.named:
                check_rivals(folders, reading, found, where)
            if wanted.model and (named := by_file_name(folders, reading, wanted)) and named.covers and differ(found, named):
                raise UserError(where, "its folders and its files are named after different classes", "sort them by one of the two")
            return found, reading
        found = by_file_name(folders, reading, wanted)
        if found is not None:
            return found, reading
    if not readings:
        raise folders.conflict(alone=True)
    nearest = closest(folders, readings[0], wanted)
    if len(nearest.found) == 2 and not wanted.model and not wanted.pair:
        spelling = nearest.spelling()
        names = ", ".join(f"{spelling[name]} ({count:,})" for name, count in sorted(nearest.found.items()))
        what = f"the classes cannot be told: {names} in {nearest.origin} label {len(nearest.counted) - len(nearest.missing):,} of "
        raise UserError(where, f"{what}{len(nearest.counted):,} images, or do not look like classes", "name the two with --classes")
    return nearest, readings[0]


def _pair(found: Labels, where: str, wanted: Wanted, folders: Folders, tables: Sequence[str]) -> tuple[str, str]:
    """[negative, positive], or the error that says what was found instead."""
    spelling = found.spelling()
    counts = {spelling[name]: count for name, count in found.found.items()}
    shown = ", ".join(f"{name} ({count:,})" for name, count in sorted(counts.items())[:8]) + (", ..." if len(counts) > 8 else "")
    if wanted.model is not None:
        if not counts or set(found.found) - {same_class(name) for name in wanted.model}:
            what = f"its classes are {shown or 'not to be seen'}, the model knows {wanted.model[0]} and {wanted.model[1]}"
            raise UserError(where, what, "give images of these two classes")
        return wanted.model
    lacking = [name for name in wanted.pair if same_class(name) not in found.found]
    if lacking:
        what = f"no image of {' or '.join(lacking)} is found in {where}" + (f", only of {shown}" if shown else "")
        raise UserError("--classes", what, "name two of its classes, as twofold prepare --dry-run without --classes shows them")
    if len(counts) != 2:
        what = f"{len(counts) or 'no'} class{'es' * (len(counts) != 1)} found instead of two" + (f": {shown}" if shown else "")
        raise UserError(where, what, _fix(folders, found, wanted, tables))
    pair = sorted(spelling.values(), key=lambda name: (same_class(name), name))
    if wanted.positive:
        if same_class(wanted.positive) not in spelling:
            raise UserError("--positive", f"{wanted.positive!r} is not among the classes {shown}", "name one of them")
        pair.sort(key=lambda name: same_class(name) == same_class(wanted.positive))
    if any(name.encode("utf-8", "replace").decode() != name for name in pair):
        raise UserError(where, f"the name {next(n for n in pair if not n.isprintable())!r} is not valid UTF-8", "rename that folder")
    return pair[0], pair[1]


def _fix(folders: Folders, found: Labels, wanted: Wanted, tables: Sequence[str]) -> str:
    """What to do where two classes are not to be seen."""
    if tables and len(found.found) < 2:
        return f"if {tables[0]} lists the classes, give that file as the source, unpacked and beside its images"
    if len(found.found) == 1 and not wanted.named and (as_split := folders.innermost_split()):
        return f"the folder {as_split} is read as a split; if it is a class, add --positive {as_split}"
    if len(found.found) > 2:
        return "name the two that you want with --classes A,B, or put each class's images in a folder of its own, two in all"
    return "put each class's images in a folder of its own, two in all"
