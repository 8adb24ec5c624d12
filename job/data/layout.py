"""Which class and which split an image belongs to, read off the names in its source; what cannot be known is refused.

A level of folders is the classes' level if exactly two names stand there and they label all images, or nearly all,
outside unlabelled test images. File names (`cat.0.jpg`) count where no level of folders tells classes apart.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from job.data.class_names import in_file_name, is_about_images, is_camera_file, is_no_class, only_numbered, same_class, same_letters
from job.data.folders import Folders, Reading
from job.data.sources import Entry
from job.data.splits import mentions, split_of
from job.errors import UserError

NEARLY_ALL = 0.95  # of the images, or all but one, must have a class
_FIRST_WORD = re.compile(r"[^\W\d_]+")
DEPTH = 16  # levels of folders that are looked at, from the outermost and from the innermost
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


@dataclass(frozen=True)
class Wanted:
    """What the user or a model says of classes; all empty where nobody does.

    `positive` is the positive class; `pair` are the two to take, all others being skipped; `model` are a model's
    [negative, positive], all others being refused.
    """

    positive: str = ""
    pair: tuple[str, ...] = ()
    model: tuple[str, str] | None = None

    @property
    def named(self) -> frozenset[str]:
        """What is sure to be a class, also where it reads like a split or a camera's word."""
        return frozenset(same_class(name) for name in (self.positive, *self.pair, *(self.model or ())) if name)

    @property
    def known(self) -> frozenset[str]:
        """A model's classes."""
        return frozenset(same_class(name) for name in self.model or ())


class _Labels:
    """A way to label the images: a class name for each, or None; `part` numbers the folder that it is, where it is one."""

    def __init__(
        self, classes: Sequence[str | None], reading: Reading, origin: str, parts: Sequence[int | None], known: frozenset[str] = frozenset()
    ) -> None:
        """`known` are classes that an image of the test split may have, whatever the others have."""
        splits = reading.splits
        self.classes, self.origin, self.parts = classes, origin, parts
        self.same = [same_class(name) if name else None for name in classes]
        test = [k for k, split in enumerate(splits) if split == "test"]
        rest = [k for k, split in enumerate(splits) if split != "test"]
        outside = {self.same[k] for k in rest} - {None} | known
        labelled_test = not rest or any(self.same[k] in outside for k in test) or len({self.same[k] for k in test} - {None}) > 1
        self.unlabelled = [] if labelled_test else test
        self.counted = [*rest, *(test if labelled_test else ())]
        self.found = Counter(name for k in self.counted if (name := self.same[k]))
        self.missing = [k for k in self.counted if self.same[k] is None]

    @property
    def left_out(self) -> int:
        """How many images have no class."""
        return len(self.missing) + len(self.unlabelled)

    @property
    def covers(self) -> bool:
        """Whether nearly all images have a class."""
        return len(self.missing) <= max(len(self.counted) >= 10, (1 - NEARLY_ALL) * len(self.counted))

    def spelling(self) -> dict[str, str]:
        """Each class as most of its images spell it."""
        spelled: dict[str, str] = {}
        for name, _ in Counter(self.classes[k] for k in self.counted if self.classes[k]).most_common():
            spelled.setdefault(same_class(name or ""), name or "")
        return spelled


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
        found = _Labels([_of_pair(entry.label, wanted) for entry in entries], reading, labels, [None] * len(entries))
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
        _check_validation(folders, reading, found, where)
    images = [Labelled(entries[k].name, numbers[found.same[k] or ""], reading.splits[k], entries[k].fault) for k in chosen]
    unlabelled, others = ([entries[k].name for k in those] for those in (found.unlabelled, found.missing))
    return Layout(pair, images, unlabelled, others, found.origin, reading.said(), other_folders)


def _check_validation(folders: Folders, reading: Reading, found: _Labels, where: str) -> None:
    """Refuse a validation split without classes: it may be a class called so."""
    without = [k for k in found.missing if reading.splits[k] == "validation"]
    if without and not any(split == "validation" and name for split, name in zip(reading.splits, found.same, strict=True)):
        folder = reading.names[without[0]].removeprefix("folder ")
        what = f"the split validation ({reading.names[without[0]]}) holds {len(without):,} images without a class"
        raise UserError(where, what, f"if it is a class, add --positive {folder}; else sort them into class folders, or move it away")


def _of_pair(name: str | None, wanted: Wanted) -> str | None:
    """A class name, or None where only others are wanted."""
    if name and wanted.pair and same_class(name) not in {same_class(one) for one in wanted.pair}:
        return None
    return name


def _from_names(folders: Folders, where: str, wanted: Wanted, tables: Sequence[str]) -> tuple[_Labels, Reading]:
    """The classes by folders, else by file names, under the first reading of split names that finds them."""
    readings = [reading for alone in (False, True) if (reading := folders.read(alone)) is not None]
    for reading in readings:
        found = _by_pair(folders, reading, wanted, where) if wanted.pair else _by_level(folders, reading, wanted, where)
        if found is not None:
            if not wanted.named:
                _check_rivals(folders, reading, found, where)
            _check_file_splits(folders, where)
            if wanted.model and (named := _by_file_name(folders, reading, wanted, where)) and named.covers and _differ(found, named):
                raise UserError(where, "its folders and its files are named after different classes", "sort them by one of the two")
            return found, reading
        found = _by_file_name(folders, reading, wanted, where)
        if found is not None:
            return found, reading
    if not readings:
        raise folders.conflict(alone=True)
    closest = _closest(folders, readings[0], wanted)
    if len(closest.found) == 2 and not wanted.model and not wanted.pair:
        spelling = closest.spelling()
        names = ", ".join(f"{spelling[name]} ({count:,})" for name, count in sorted(closest.found.items()))
        what = f"the classes cannot be told: {names} in {closest.origin} label {len(closest.counted) - len(closest.missing):,} of "
        raise UserError(where, f"{what}{len(closest.counted):,} images, or do not look like classes", "name the two with --classes")
    return closest, readings[0]


def _differ(some: _Labels, others: _Labels) -> bool:
    return any(a and b and a != b for a, b in zip(some.same, others.same, strict=True))


def _levels(folders: Folders, reading: Reading, with_sources: bool, known: frozenset[str] = frozenset()) -> Iterator[_Labels]:
    """The images labelled by each level of their folders."""
    named = folders.named_parts(reading, with_sources)
    depths = {len(parts) for parts in named}
    outer = range(min(max(depths), DEPTH))
    inner = range(-1, -min(max(depths), DEPTH) - 1, -1) if len(depths) > 1 else ()  # else each is one of the outer ones
    for level in (*outer, *inner):
        least = folders.common if level < 0 else 0  # from the innermost, a folder that all images share is no level of its own
        parts = [at if -len(parts) <= level < len(parts) and (at := parts[level]) >= least else None for parts in named]
        classes = [None if part is None else folders.name(k, part) for k, part in enumerate(parts)]
        yield _Labels(classes, reading, "the names of folders", parts, known)


def _by_level(folders: Folders, reading: Reading, wanted: Wanted, where: str) -> _Labels | None:
    """The one level that holds the classes; names of sources count only where no deeper level serves."""
    for with_sources in (False, True):
        fit = [labels for labels in _levels(folders, reading, with_sources, wanted.known) if _serves(labels, folders, wanted)]
        if wanted.positive:
            fit = [labels for labels in fit if same_class(wanted.positive) in labels.found] or fit
        if fit:
            return _choose(fit, where, wanted)
    return None


def _serves(labels: _Labels, folders: Folders, wanted: Wanted) -> bool:
    """Whether a level can be the classes' level."""
    if not labels.covers:
        return False
    if wanted.model is not None:
        return set(labels.found) <= {same_class(name) for name in wanted.model} and _is_one_level(labels, folders)
    if len(labels.found) != 2:
        return False
    if not wanted.named & set(labels.found) and (
        only_numbered(labels.found)
        or same_letters(labels.found)
        or any(map(is_no_class, labels.found))
        or all(map(mentions, labels.found))
        or sum(map(is_about_images, labels.found)) == 1
    ):
        return False
    return _is_one_level(labels, folders)


def _is_one_level(labels: _Labels, folders: Folders) -> bool:
    """Whether none of the names stands above or below another: where `download/cats` is beside `cats`, they are no level."""
    return not any(
        (other := same_class(folders.name(k, at))) in labels.found and other != labels.same[k]
        for k in labels.counted
        if (part := labels.parts[k]) is not None
        for at in folders.others(k, part)
    )


def _choose(fit: list[_Labels], where: str, wanted: Wanted) -> _Labels:
    """The level that labels most; one that divides the images otherwise, or as well under other names, is a question."""
    best = min(fit, key=lambda labels: (-len(labels.found), labels.left_out))
    for other in fit:
        if other.same == best.same or len(other.found) < len(best.found):
            continue
        both = Counter((a, b) for a, b in zip(best.same, other.same, strict=True) if a and b)
        differ = any(a != b for a, b in both) if wanted.model else len(both) > 2 or other.left_out == best.left_out
        if differ:
            choices = " or ".join(" and ".join(sorted(labels.spelling().values())) for labels in (best, other))
            raise UserError(where, f"the classes could be {choices}", "name the two with --classes")
    return best


def _by_pair(folders: Folders, reading: Reading, wanted: Wanted, where: str) -> _Labels | None:
    """The images below a folder of one of the two classes, at whatever depth."""
    pair = {same_class(name) for name in wanted.pair}
    parts: list[int | None] = []
    for k, named in enumerate(folders.named_parts(reading, with_sources=True)):
        fit = [part for part in named if part >= folders.common and same_class(folders.name(k, part)) in pair]
        if len({same_class(folders.name(k, part)) for part in fit}) > 1:
            raise UserError(where, f"{folders.paths[k]} is below both {' and '.join(wanted.pair)}", "move it, or give other --classes")
        parts.append(fit[-1] if fit else None)
    if not any(part is not None for part in parts):
        return None
    classes = [None if part is None else folders.name(k, part) for k, part in enumerate(parts)]
    return _Labels(classes, reading, "the names of folders", parts)


def _by_file_name(folders: Folders, reading: Reading, wanted: Wanted, where: str) -> _Labels | None:
    """The classes in file names, unless folders tell classes apart, or the file names tell none."""
    only = {same_class(name) for name in wanted.pair or wanted.model or ()}
    classes = [in_file_name(path.rsplit("/", 1)[-1], wanted.named) for path in folders.paths]
    if wanted.pair:
        classes = [_of_pair(name, wanted) for name in classes]
    labels = _Labels(classes, reading, "the names of files", [None] * folders.count, wanted.known)
    _check_file_splits(folders, where)
    if only:
        return labels if labels.found and set(labels.found) <= only and (wanted.pair or labels.covers) else None
    told = any(_tells(level, folders) for with_sources in (False, True) for level in _levels(folders, reading, with_sources))
    return labels if len(labels.found) == 2 and labels.covers and not told and not same_letters(labels.found) else None


def _check_rivals(folders: Folders, reading: Reading, found: _Labels, where: str) -> None:
    """Refuse folders as classes where other names within them, of files or of folders below, look like classes too."""
    files = [path.rsplit("/", 1)[-1] for path in folders.paths]
    by_file = [None if is_camera_file(file) else in_file_name(file) for file in files]  # `PetImages/cat.0.jpg` beside `more`
    named = {name: Counter(same_class(b) for a, b in zip(found.same, by_file, strict=True) if a == name and b) for name in found.found}
    rivals = [[*names] for names in named.values() if len(set().union(*named.values())) == len(names) == 2 and min(names.values()) > 1]
    below = _below(folders, reading, found)
    shared = set.intersection(*(set().union(*levels) for levels in below.values()))
    images = sum(any(name in shared for name in at) for at in _names_below(folders, reading, found))
    if len(shared) > 1 and images >= 0.75 * len(found.counted):  # `archive/v1/cats` and `more/cats`
        rivals.append(sorted(shared))
    for name, levels in below.items():  # `pets/cats` and `pets/dogs` beside `more`
        flat = all(len(level) < 2 for other, others in below.items() if other != name for level in others)
        whole = [
            level for level in levels if len(level) == 2 and min(level.values()) > 1 and level.total() >= NEARLY_ALL * found.found[name]
        ]
        rivals += [[*level] for level in whole if flat]
    if rivals:
        choices = f"{' and '.join(sorted(found.spelling().values()))} or {' and '.join(sorted(rivals[0])[:3])}"
        raise UserError(where, f"the classes could be {choices}", "name the two with --classes")


def _names_below(folders: Folders, reading: Reading, found: _Labels) -> Iterator[list[str]]:
    """For each image that counts, the names below its class that may be classes, one for each depth, empty where one may not."""
    named = folders.named_parts(reading, with_sources=True)
    for k in found.counted:
        part = found.parts[k]
        names = [same_class(folders.name(k, at)) for at in named[k] if part is not None and at > part]
        yield ["" if is_no_class(name) else name for name in names]


def _below(folders: Folders, reading: Reading, found: _Labels) -> dict[str, list[Counter[str]]]:
    """For each class and each depth below it, how many images have which name there."""
    below: dict[str, list[Counter[str]]] = {name: [] for name in found.found}
    for k, names in zip(found.counted, _names_below(folders, reading, found), strict=True):
        levels = below.get(found.same[k] or "", [])
        for depth, name in enumerate(names):
            if depth == len(levels):
                levels.append(Counter())
            levels[depth].update([name] if name else [])
    return below


def _check_file_splits(folders: Folders, where: str) -> None:
    """Refuse files that are named after splits, as `train_0.jpg` and `test_0.jpg`."""
    said = Counter(split_of(match.group(), alone=True) for path in folders.paths if (match := _FIRST_WORD.match(path.rsplit("/", 1)[-1])))
    said.pop(None, None)
    if len(said) > 1 and sum(said.values()) >= NEARLY_ALL * folders.count:
        what = f"the files' names begin with the names of splits ({', '.join(sorted(name or '' for name in said))})"
        raise UserError(where, what, "sort them into folders of these names")


def _tells(labels: _Labels, folders: Folders) -> bool:
    """Whether a level of folders divides the images into classes, be they two or more."""
    found = {name for name in labels.found if not is_no_class(name)}
    return labels.covers and len(found) > 1 and not only_numbered(found) and _is_one_level(labels, folders)


def _closest(folders: Folders, reading: Reading, wanted: Wanted) -> _Labels:
    """What comes nearest to classes, for the error that names it."""
    levels = [labels for with_sources in (False, True) for labels in _levels(folders, reading, with_sources)]
    by_file = [in_file_name(path.rsplit("/", 1)[-1], wanted.named) for path in folders.paths]
    levels.append(_Labels(by_file, reading, "the names of files", [None] * folders.count))
    telling = [labels for labels in levels if _tells(labels, folders)]
    if telling:
        return min(telling, key=lambda labels: len(labels.found))
    covering = [labels for labels in levels if labels.covers and labels.found]
    return max(covering or levels, key=lambda labels: (len(labels.counted) - len(labels.missing), -len(labels.found)))


def _pair(found: _Labels, where: str, wanted: Wanted, folders: Folders, tables: Sequence[str]) -> tuple[str, str]:
    """[negative, positive], or the error that says what was found instead."""
    spelling = found.spelling()
    counts = {spelling[name]: count for name, count in found.found.items()}
    shown = ", ".join(f"{name} ({count:,})" for name, count in sorted(counts.items())[:8]) + (", ..." if len(counts) > 8 else "")
    if wanted.model is not None:
        if not counts or set(found.found) - {same_class(name) for name in wanted.model}:
            what = f"its classes are {shown or 'not to be seen'}, the model knows {wanted.model[0]} and {wanted.model[1]}"
            raise UserError(where, what, "give images of these two classes")
        return wanted.model
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


def _fix(folders: Folders, found: _Labels, wanted: Wanted, tables: Sequence[str]) -> str:
    """What to do where two classes are not to be seen."""
    if tables and not found.found:
        return f"if {tables[0]} lists the classes, give that file as the source, unpacked and beside its images"
    if len(found.found) == 1 and not wanted.named and (as_split := folders.innermost_split()):
        return f"the folder {as_split} is read as a split; if it is a class, add --positive {as_split}"
    if len(found.found) > 2:
        return "name the two that you want with --classes A,B, or put each class's images in a folder of its own, two in all"
    return "put each class's images in a folder of its own, two in all"
