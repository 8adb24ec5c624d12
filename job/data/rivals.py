"""What else the classes could be: names that were not taken for classes and look like them are a question, not a guess."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from job.data.class_names import in_file_name, is_camera_file, is_no_class, same_class
from job.data.folders import Folders, Reading
from job.data.labels import NEARLY_ALL, Labels
from job.data.splits import split_of
from job.errors import UserError

_SHARED = 0.75  # of the images lie in folders of the same names below both classes: these may be the classes
_FIRST_WORD = re.compile(r"[^\W\d_]+")


def check_rivals(folders: Folders, reading: Reading, found: Labels, where: str) -> None:
    """Refuse folders as classes where other names within them, of files or of folders below, look like classes too."""
    files = [path.rsplit("/", 1)[-1] for path in folders.paths]
    by_file = [None if is_camera_file(file) else in_file_name(file) for file in files]  # `PetImages/cat.0.jpg` beside `more`
    named = {name: Counter(same_class(b) for a, b in zip(found.same, by_file, strict=True) if a == name and b) for name in found.found}
    rivals = [[*names] for names in named.values() if len(set().union(*named.values())) == len(names) == 2 and min(names.values()) > 1]
    below = _below(folders, reading, found)
    shared = set.intersection(*(set().union(*levels) for levels in below.values()))
    images = sum(any(name in shared for name in at) for at in _names_below(folders, reading, found))
    if len(shared) > 1 and images >= _SHARED * len(found.counted):  # `archive/v1/cats` and `more/cats`
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


def _names_below(folders: Folders, reading: Reading, found: Labels) -> Iterator[list[str]]:
    """For each image that counts, the names below its class that may be classes, one for each depth, empty where one may not."""
    named = folders.named_parts(reading, with_sources=True)
    for k in found.counted:
        part = found.parts[k]
        names = [same_class(folders.name(k, at)) for at in named[k] if part is not None and at > part]
        yield ["" if is_no_class(name) else name for name in names]


def _below(folders: Folders, reading: Reading, found: Labels) -> dict[str, list[Counter[str]]]:
    """For each class and each depth below it, how many images have which name there."""
    below: dict[str, list[Counter[str]]] = {name: [] for name in found.found}
    for k, names in zip(found.counted, _names_below(folders, reading, found), strict=True):
        levels = below.get(found.same[k] or "", [])
        for depth, name in enumerate(names):
            if depth == len(levels):
                levels.append(Counter())
            levels[depth].update([name] if name else [])
    return below


def check_file_splits(folders: Folders, where: str) -> None:
    """Refuse files that are named after splits, as `train_0.jpg` and `test_0.jpg`."""
    said = Counter(split_of(match.group(), alone=True) for path in folders.paths if (match := _FIRST_WORD.match(path.rsplit("/", 1)[-1])))
    said.pop(None, None)
    if len(said) > 1 and sum(said.values()) >= NEARLY_ALL * folders.count:
        what = f"the files' names begin with the names of splits ({', '.join(sorted(name or '' for name in said))})"
        raise UserError(where, what, "sort them into folders of these names")
