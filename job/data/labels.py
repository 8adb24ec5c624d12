"""Ways to label images by names: a level of their folders, folders of two given names, or their files' names.

A level of folders is the classes' level if exactly two names stand there and they label all images, or nearly all,
outside unlabelled test images. File names (`cat.0.jpg`) count where no level of folders tells classes apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from job.data.class_names import in_file_name, is_about_images, is_no_class, only_numbered, same_class, same_letters
from job.data.folders import Folders, Reading
from job.data.splits import mentions
from job.errors import UserError

NEARLY_ALL = 0.95  # of the images, or all but one, must have a class
DEPTH = 16  # levels of folders that are looked at, from the outermost and from the innermost
FOLDERS, FILES = "the names of folders", "the names of files"


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


class Labels:
    """A way to label the images: a class name for each, or None; `part` numbers the folder that it is, where it is one."""

    def __init__(
        self, classes: Sequence[str | None], reading: Reading, origin: str, parts: Sequence[int | None], known: frozenset[str] = frozenset()
    ) -> None:
        """`known` are classes that an image of the test split may have, whatever the others have."""
        splits, self.split_parts = reading.splits, reading.split_parts
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


def of_pair(name: str | None, wanted: Wanted) -> str | None:
    """A class name, or None where only others are wanted."""
    if name and wanted.pair and same_class(name) not in {same_class(one) for one in wanted.pair}:
        return None
    return name


def differ(some: Labels, others: Labels) -> bool:
    return any(a and b and a != b for a, b in zip(some.same, others.same, strict=True))


def _levels(folders: Folders, reading: Reading, with_sources: bool, known: frozenset[str] = frozenset()) -> Iterator[Labels]:
    """The images labelled by each level of their folders."""
    named = folders.named_parts(reading, with_sources)
    depths = {len(parts) for parts in named}
    outer = range(min(max(depths), DEPTH))
    inner = range(-1, -min(max(depths), DEPTH) - 1, -1) if len(depths) > 1 else ()  # else each is one of the outer ones
    for level in (*outer, *inner):
        least = folders.common if level < 0 else 0  # from the innermost, a folder that all images share is no level of its own
        parts = [at if -len(parts) <= level < len(parts) and (at := parts[level]) >= least else None for parts in named]
        classes = [None if part is None else folders.name(k, part) for k, part in enumerate(parts)]
        yield Labels(classes, reading, FOLDERS, parts, known)


def by_level(folders: Folders, reading: Reading, wanted: Wanted, where: str) -> Labels | None:
    """The one level that holds the classes; names of sources count only where no deeper level serves."""
    for with_sources in (False, True):
        fit = [labels for labels in _levels(folders, reading, with_sources, wanted.known) if _serves(labels, folders, wanted)]
        if wanted.positive:
            fit = [labels for labels in fit if same_class(wanted.positive) in labels.found] or fit
        if fit:
            return _choose(fit, where, wanted)
    return None


def _serves(labels: Labels, folders: Folders, wanted: Wanted) -> bool:
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


def _is_one_level(labels: Labels, folders: Folders) -> bool:
    """Whether none of the names stands above or below another: where `download/cats` is beside `cats`, they are no level."""
    return not any(
        (other := same_class(folders.name(k, at))) in labels.found and other != labels.same[k]
        for k in labels.counted
        if (part := labels.parts[k]) is not None
        for at in folders.others(k, part)
        if at not in labels.split_parts[k]
    )


def _choose(fit: list[Labels], where: str, wanted: Wanted) -> Labels:
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


def by_pair(folders: Folders, reading: Reading, wanted: Wanted, where: str) -> Labels | None:
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
    return Labels(classes, reading, FOLDERS, parts)


def by_file_name(folders: Folders, reading: Reading, wanted: Wanted) -> Labels | None:
    """The classes in file names, unless folders tell classes apart, or the file names tell none."""
    only = {same_class(name) for name in wanted.pair or wanted.model or ()}
    classes = [in_file_name(path.rsplit("/", 1)[-1], wanted.named) for path in folders.paths]
    if wanted.pair:
        classes = [of_pair(name, wanted) for name in classes]
    labels = Labels(classes, reading, FILES, [None] * folders.count, wanted.known)
    if only:
        return labels if labels.found and set(labels.found) <= only and (wanted.pair or labels.covers) else None
    told = any(_tells(level, folders) for with_sources in (False, True) for level in _levels(folders, reading, with_sources))
    return labels if len(labels.found) == 2 and labels.covers and not told and not same_letters(labels.found) else None


def _tells(labels: Labels, folders: Folders) -> bool:
    """Whether a level of folders divides the images into classes, be they two or more."""
    found = {name for name in labels.found if not is_no_class(name)}
    return labels.covers and len(found) > 1 and not only_numbered(found) and _is_one_level(labels, folders)


def closest(folders: Folders, reading: Reading, wanted: Wanted) -> Labels:
    """What comes nearest to classes, for the error that names it."""
    levels = [labels for with_sources in (False, True) for labels in _levels(folders, reading, with_sources)]
    by_file = [in_file_name(path.rsplit("/", 1)[-1], wanted.named) for path in folders.paths]
    levels.append(Labels(by_file, reading, FILES, [None] * folders.count))
    telling = [labels for labels in levels if _tells(labels, folders)]
    if telling:
        return min(telling, key=lambda labels: len(labels.found))
    covering = [labels for labels in levels if labels.covers and labels.found]
    return max(covering or levels, key=lambda labels: (len(labels.counted) - len(labels.missing), -len(labels.found)))
