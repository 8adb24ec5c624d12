"""Which class and which split an image belongs to, read off the layout of its source.

Class folders at any depth, Kaggle's file names (`cat.0.jpg`), and split names are found; the user configures
nothing. Names of classes match ignoring case and a final s.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from job.data.sources import Entry
from job.data.sources.names import ARCHIVES
from job.errors import UserError

_SPLITS = {
    "train": re.compile(r"train(ing)?([_-]?set)?$"),
    "validation": re.compile(r"val(id(ation)?)?([_-]?set)?$"),
    "test": re.compile(r"test(ing)?([_-]?set)?\d?$"),
}
_KAGGLE_NAME = re.compile(r"([^\W\d_]+(?:[ _-][^\W\d_]+)*)[._ -]*\(?\d+\)?$")


@dataclass(frozen=True)
class Labelled:
    """An image with its class (0 negative, 1 positive) and, where the source names one, its split."""

    name: str
    label: int
    split: str | None


@dataclass(frozen=True)
class Layout:
    """`classes` are [negative, positive]; `unlabelled` are images of which the layout says no class."""

    classes: tuple[str, str]
    images: list[Labelled]
    unlabelled: list[str]


def same_class(name: str) -> str:
    """The form in which class names are compared."""
    folded = name.strip().lower()
    return folded[:-1] if len(folded) > 1 and folded.endswith("s") else folded


def split_of(name: str) -> str | None:
    """The split that a folder's name means, if it means one."""
    return next((split for split, pattern in _SPLITS.items() if pattern.match(name.strip().lower())), None)


def find(entries: Sequence[Entry], where: str, positive: str = "", classes: tuple[str, str] | None = None) -> Layout:
    """Label each image.

    Args:
        entries: the images of a source.
        where: the source's name, for errors.
        positive: the positive class; empty takes the second in alphabetical order.
        classes: the classes to match, [negative, positive], where they are given (a model's).

    Raises:
        UserError: no image, more or fewer than two classes, or others than those given.
    """
    if not entries:
        raise UserError(where, "no image found", "give folders, one for each class, with JPEG, PNG or WebP files")
    names = _names(entries, where, positive, classes)
    counts = Counter(name for name in names if name)
    spelling: dict[str, str] = {}
    for spelled, _ in counts.most_common():
        spelling.setdefault(same_class(spelled), spelled)
    pair = _pair(spelling, counts, where, positive, classes)
    numbers = {same_class(name): number for number, name in enumerate(pair)}
    images, unlabelled = [], []
    for entry, name in zip(entries, names, strict=True):
        split = split_of(entry.split) if entry.split else _split_in_path(entry.name)
        if entry.split and split is None:
            raise UserError(where, f"{entry.name} has the unknown split {entry.split!r}", "use train, validation or test")
        if name:
            images.append(Labelled(entry.name, numbers[same_class(name)], split))
        else:
            unlabelled.append(entry.name)
    return Layout(pair, images, unlabelled)


def _pair(spelling: dict[str, str], counts: Counter[str], where: str, positive: str, classes: tuple[str, str] | None) -> tuple[str, str]:
    found = ", ".join(f"{name} ({count:,})" for name, count in sorted(counts.items())[:8])
    if classes is not None:
        strange = spelling.keys() - {same_class(c) for c in classes}
        if strange or not spelling:
            what = f"its classes are {found or 'not to be seen'}, the model knows {classes[0]} and {classes[1]}"
            raise UserError(where, what, "give images of these two classes")
        return classes
    if len(spelling) != 2:
        more = ", ..." if len(counts) > 8 else ""
        what = f"{len(spelling) or 'no'} class{'es' * (len(spelling) != 1)} found instead of two" + (f": {found}{more}" if found else "")
        raise UserError(where, what, "put each class's images in a folder of its own, two in all")
    names = sorted(spelling.values(), key=lambda name: (same_class(name), name))
    if positive:
        if same_class(positive) not in spelling:
            raise UserError("--positive", f"{positive!r} is not among the classes {found}", "name one of them")
        names.sort(key=lambda name: same_class(name) == same_class(positive))
    return names[0], names[1]


def _names(entries: Sequence[Entry], where: str, positive: str, classes: tuple[str, str] | None) -> list[str | None]:
    """The class name of each image: from the source itself, from a level of its folders, or from its file name."""
    if any(entry.label for entry in entries):
        return [entry.label for entry in entries]
    folders = [_folders(entry.name) for entry in entries]
    levels = [level for level in range(-3, 6) if _classes_at(folders, level)]
    known = {same_class(name) for name in classes or ()}
    ours = [level for level in levels if _classes_at(folders, level) <= known]
    if ours:
        return _named_at(folders, ours)
    two = {} if known else {level: _classes_at(folders, level) for level in levels if len(_classes_at(folders, level)) == 2}
    if positive:
        two = {level: found for level, found in two.items() if same_class(positive) in found} or two
    if len(set(two.values())) > 1:
        choices = " or ".join(" and ".join(sorted(found)) for found in dict.fromkeys(two.values()))
        raise UserError(where, f"the classes could be {choices}", "name one of them with --positive")
    if two:
        return _named_at(folders, list(two))
    stems = [_KAGGLE_NAME.match(entry.name.rsplit("/", 1)[-1].rsplit(".", 1)[0]) for entry in entries]
    from_names = [match.group(1) if match else None for match in stems]
    said = {same_class(n) for n in from_names if n}
    if len(said) == 2 or (said and said <= known) or not any(folders):
        return from_names
    common = _common(folders)
    outermost = [parts[common] if len(parts) > common else None for parts in folders]
    if any(outermost):
        return outermost
    return [parts[-1] if parts else None for parts in folders]


def _folders(name: str) -> list[str]:
    """The folders above an image, without split names; a nested archive counts as a folder of its name."""
    parts = []
    for part in name.split("/")[:-1]:
        ending = next((e for e in ARCHIVES if part.lower().endswith(e)), "")
        part = part[: len(part) - len(ending)]
        if part not in ("", ".") and split_of(part) is None:
            parts.append(part)
    return parts


def _named_at(folders: list[list[str]], levels: list[int]) -> list[str | None]:
    """The folders' names at one of the levels that hold the classes: at the one that labels most images."""
    level = max(levels, key=lambda at: sum(_at(parts, at) is not None for parts in folders))
    return [_at(parts, level) for parts in folders]


def _at(parts: list[str], level: int) -> str | None:
    """The folder at a level: 0 is the outermost, -1 the innermost."""
    return parts[level] if -len(parts) <= level < len(parts) else None


def _classes_at(folders: list[list[str]], level: int) -> frozenset[str]:
    return frozenset(same_class(n) for n in (_at(parts, level) for parts in folders) if n is not None)


def _common(folders: list[list[str]]) -> int:
    """How many outer folders all images share."""
    shortest = min(len(parts) for parts in folders)
    return next((k for k in range(shortest) if len({parts[k] for parts in folders}) > 1), shortest)


def _split_in_path(name: str) -> str | None:
    for part in name.split("/")[:-1]:
        ending = next((e for e in ARCHIVES if part.lower().endswith(e)), "")
        split = split_of(part[: len(part) - len(ending)])
        if split:
            return split
    return None
