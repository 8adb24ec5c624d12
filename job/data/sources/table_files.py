"""The files that a CSV names: by their path as it stands, else by what comes nearest to it.

Lists are made on other machines: with backslashes, without endings, in another case, with paths that were right there.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import takewhile

from job.data.sources import names
from job.data.sources.places import Place
from job.data.sources.walk import nfc
from job.data.splits import split_of

_Names = dict[str, list[str]]  # by the form in which names are compared


class Ambiguous(Exception):
    """Two files or more fit a path; `names` are theirs."""

    def __init__(self, found: Sequence[str]) -> None:
        super().__init__()
        self.names = found


class Files:
    """The files that the paths of a CSV name. `how` counts those that are not found as they stand.

    `archives` are those below the CSV's folder, where it was searched.
    """

    def __init__(self, place: Place, split: str | None) -> None:
        """`split` decides where two files of one name lie in folders of two splits, if the row's own does not."""
        self.how: Counter[str] = Counter()
        self._place, self._split = place, split
        self._listed: dict[str, tuple[_Names, _Names]] = {}
        self._spelled: dict[str, list[str]] = {}
        self._tree: _Tree | None = None

    @property
    def archives(self) -> list[str]:
        return self._tree.archives if self._tree else []

    def find(self, text: str, split: str | None) -> str | None:
        """The file that a path of the CSV names, by its path within the folder; outside of it, as given.

        Raises:
            Ambiguous: two files or more fit equally well.
        """
        if self._place.is_file(text):
            return self._key(text)
        clean = text.replace("\\", "/")
        if clean != text and self._place.is_file(clean):
            return self._found("with backslashes read as slashes", clean)
        here = self._nearby(clean)
        if here:
            same = _fold(_base(here[0])) == _fold(_base(clean))
            how = "by another spelling (upper and lower case, accents)" if same else "with an ending added"
            return self._found(how, self._one(here, split))
        if self._is_elsewhere(clean):
            return None
        if self._tree is None:
            self._tree = _Tree(self._place)
        below = self._below(self._tree, clean)
        return self._found("by file name alone", self._one(below, split)) if below else None

    def there(self, text: str) -> str | None:
        """The file of a path, as it stands or nearly so, but not by its name alone; None for none, and where two fit."""
        clean = text.replace("\\", "/")
        here = self._nearby(clean) if clean else []  # from lists of folders: nothing is asked of the disk for each
        here = [one for one in here if _base(one) == _base(clean)] or here
        return self._key(here[0]) if len(here) == 1 else None

    def are_one(self, name: str, other: str) -> bool:
        """Whether two names are of one file."""
        return name == other or self._place.same(name) == self._place.same(other)

    def _below(self, tree: _Tree, name: str) -> list[str]:
        """The files of this name anywhere.

        Where there is a folder called as the path says, a file elsewhere is another one: if `train/cats/1.jpg` is missing,
        it is neither `train/dogs/1.jpg` nor `test/cats/1.jpg`.
        """
        *parts, file = [part for part in name.split("/") if part not in ("", ".", "..")] or [""]
        folders, is_whole = tree.called(parts)
        direct = [one for folder in folders for one in self._nearby(os.path.join(folder, file))]
        return direct or ([one for folder in folders for one in tree.files(folder, file)] if is_whole else [])

    def _found(self, how: str, name: str) -> str:
        self.how[how] += 1
        return self._key(name)

    def _key(self, name: str) -> str:
        """One name for one file, however it is written."""
        inside = self._place.inside(name)
        return name if inside is None else inside

    def _is_elsewhere(self, name: str) -> bool:
        """Whether the path leads to another folder, which exists: its file is missing there, and not to be found here."""
        folder = name.rpartition("/")[0]
        return bool(folder) and self._place.inside(name) is None and bool(self._folders(folder))

    def _one(self, found: Sequence[str], split: str | None) -> str:
        """The only file, or the only one in a folder of the split that the row or else the CSV is of."""
        for wanted in (split and split_of(split), self._split):
            if len(found) > 1 and wanted:
                fitting = [name for name in found if wanted in map(split_of, name.split("/")[:-1])]
                found = fitting if len(fitting) == 1 else found
        if len(set(map(self._place.same, found))) > 1:
            raise Ambiguous(found)
        return found[0]  # other names of it are links

    def _nearby(self, name: str) -> list[str]:
        """The files of this path, but for case, the form of accents, and a missing ending."""
        folder, slash, file = name.rpartition("/")
        return [
            os.path.join(inner, one)
            for inner in self._folders(folder or slash)
            for one in _fitting(self._names(inner)[0].get(_stem(file), ()), file)
        ]

    def _folders(self, folder: str) -> list[str]:
        """The folder of this path; where there is none, those that differ in case or the form of accents."""
        if folder not in self._spelled:
            exact = self._place.is_folder(folder)
            self._spelled[folder] = [folder] if exact else self._respelled(folder)
        return self._spelled[folder]

    def _respelled(self, folder: str) -> list[str]:
        found = ["/" if folder.startswith("/") else ""]
        for part in filter(None, folder.split("/")):
            if part in (".", ".."):
                found = [os.path.join(outer, part) for outer in found]
            else:
                found = [os.path.join(outer, name) for outer in found for name in self._names(outer)[1].get(_fold(part), ())]
        return found

    def _names(self, folder: str) -> tuple[_Names, _Names]:
        """The files and the folders in a folder."""
        if folder not in self._listed:
            files, folders = self._place.entries(folder)
            self._listed[folder] = _grouped(files, _stem), _grouped(folders, _fold)
        return self._listed[folder]


class _Tree:
    """All files of a place, to be found by their names alone."""

    def __init__(self, place: Place) -> None:
        self.archives: list[str] = []
        self._folders: _Names = {}  # by each end of their paths
        self._files: _Names = {}  # by their names without ending, each list sorted
        found = [*place.walk()]
        for folder, _ in found:
            parts = _fold(folder).split("/") if folder else []
            for at in range(len(parts)):
                self._folders.setdefault("/".join(parts[at:]), []).append(folder)
        for name in sorted(os.path.join(folder, file) for folder, files in found for file in files):
            what = names.what(name, bytes)
            if what in (names.IMAGE, names.OTHER):
                self._files.setdefault(_stem(_base(name)), []).append(name)
            elif what == names.ARCHIVE:
                self.archives.append(name)

    def called(self, parts: Sequence[str]) -> tuple[list[str], bool]:
        """The folders of a path's last parts, as far as there are any, and whether its very last is among these.

        Paths from elsewhere begin with folders that are not here; if none of them is, any file may be meant.
        """
        folded = [_fold(part) for part in parts]
        for end in range(len(folded), 0, -1):
            for start in range(end):
                found = self._folders.get("/".join(folded[start:end]))
                if found:
                    return found, end == len(folded)
        return [""], True

    def files(self, folder: str, name: str) -> list[str]:
        """The files of this name below a folder."""
        same = self._files.get(_stem(name), [])
        start = f"{folder}/" if folder else ""
        places = range(bisect_left(same, start), len(same))
        return _fitting(list(takewhile(lambda one: one.startswith(start), map(same.__getitem__, places))), name)


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _fold(name: str) -> str:
    return name.lower() if name.isascii() else nfc(nfc(name).casefold())


def _stem(name: str) -> str:
    """A file's name as it is compared, without an image's ending."""
    return _fold(os.path.splitext(name)[0] if names.is_image(name) else name)


def _grouped(listed: Sequence[str], form: Callable[[str], str]) -> _Names:
    found = _Names()
    for name in listed:
        found.setdefault(form(name), []).append(name)
    return found


def _fitting(same: Sequence[str], file: str) -> list[str]:
    """Of files with one stem those of this name; where it has no image's ending, all of them."""
    return [name for name in same if not names.is_image(file) or _fold(_base(name)) == _fold(file)]
