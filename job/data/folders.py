"""The folders above the images of a source, and which of them are splits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from job.data.class_names import is_about_images, same_class
from job.data.sources import Entry, names
from job.data.splits import mentions, split_of
from job.errors import UserError


@dataclass(frozen=True)
class Reading:
    """Each image's split, or None, and the name that says so; `split_parts` numbers the folders that are splits."""

    splits: list[str | None]
    names: list[str]
    split_parts: list[tuple[int, ...]]

    def said(self) -> dict[str, str]:
        """Where each split was read from: `folder train`, `folders seg_train, train2`."""
        found: dict[str, list[str]] = {}
        for split, name in Counter(zip(self.splits, self.names, strict=True)):
            if split:
                found.setdefault(split, []).append(name)
        return {split: ", ".join(sorted(where)[:4]) + ", ..." * (len(where) > 4) for split, where in sorted(found.items())}


class Folders:
    """The folders of each image, numbered from the outermost; an archive counts as a folder of its name.

    What is found out about folders is found out once for all images in the same one.
    """

    def __init__(self, paths: Sequence[str], where: str, prefixed: bool, classes: frozenset[str]) -> None:
        """`classes` are names that are sure to be classes, also where they read like splits."""
        self.paths, self.where, self.count = paths, where, len(paths)
        self._classes = classes
        above = [path.rpartition("/")[0] for path in paths]
        numbers = {folder: number for number, folder in enumerate(dict.fromkeys(above))}
        self._places = [numbers[folder] for folder in above]
        self._folders = [[names.stem(part) for part in folder.split("/")] if folder else [] for folder in numbers]
        self._sources = [_sources(folder, prefixed) for folder in numbers]
        self._common = _common(self._folders)

    @property
    def common(self) -> int:
        """How many outer folders all images share."""
        return self._common

    def name(self, image: int, part: int) -> str:
        return self._parts(image)[part]

    def others(self, image: int, part: int) -> list[int]:
        """The folders of an image but one, and but those that all images share."""
        return [k for k in range(self._common, len(self._parts(image))) if k != part]

    def named_parts(self, reading: Reading, with_sources: bool) -> list[list[int]]:
        """For each image its folders that are no splits; without those that are sources if so wanted."""
        known: dict[int, list[int]] = {}
        for image, place in enumerate(self._places):
            if place not in known:
                left_out = {*reading.split_parts[image], *(() if with_sources else self._sources[place])}
                known[place] = [k for k in range(len(self._folders[place])) if k not in left_out]
        return [known[place] for place in self._places]

    def read(self, alone: bool) -> Reading | None:
        """Read the names of splits, the words `alone` or among others; None where an image would be in two splits."""
        found = [self._split_parts(folder, alone) for folder in self._folders]
        if any(len(set(splits.values())) > 1 for splits in found):
            return None
        if len({split for splits in found for split in splits.values()}) == 1 and found != [
            self._split_parts(folder, alone=True) for folder in self._folders
        ]:
            return None  # `test_tube` alone is no split; beside `train` it would be one
        if not any(found):  # all images share their outer folders: these are a split if they say nothing else, or train
            found = [self._split_parts(folder, alone=True, common=True) for folder in self._folders]
            loose = [self._split_parts(folder, alone=False, common=True) for folder in self._folders]
            if all(set(splits.values()) == {"train"} for splits in loose):
                found = loose
            if any(len(set(splits.values())) > 1 for splits in found):
                found = [{} for _ in found]
        splits = [next(iter(splits.values()), None) for splits in found]
        said = [f"folder {folder[next(iter(splits))]}" if splits else "" for folder, splits in zip(self._folders, found, strict=True)]
        parts = [tuple(splits) for splits in found]
        return Reading([splits[k] for k in self._places], [said[k] for k in self._places], [parts[k] for k in self._places])

    def conflict(self, alone: bool) -> UserError:
        """The error for the first image that would be in two splits."""
        for path, place in zip(self.paths, self._places, strict=True):
            splits = self._split_parts(self._folders[place], alone)
            if len(set(splits.values())) > 1:
                inner = self._folders[place][max(splits)]
                what = f"{path} would be in two splits, {' and '.join(dict.fromkeys(splits.values()))}"
                return UserError(self.where, what, f"rename a folder; if {inner} is a class, add --positive {inner}")
        raise AssertionError("no image is in two splits")

    def _parts(self, image: int) -> list[str]:
        return self._folders[self._places[image]]

    def _split_parts(self, parts: list[str], alone: bool, common: bool = False) -> dict[int, str]:
        """The folders of an image that are splits; those that all images share count only if `common`."""
        found = {k: split for k, part in enumerate(parts) if (k >= self._common or common) and (split := split_of(part, alone))}
        named = [k for k, part in enumerate(parts) if same_class(part) in self._classes]
        if named and (named[-1] == len(parts) - 1 or len(self._classes) > 1):  # the innermost is a class, others above it are splits
            found.pop(named[-1], None)
        return found

    def with_splits_of(self, entries: Sequence[Entry], origin: str) -> Reading:
        """The splits that the source itself names, else those of its own name, else those of the folders.

        Raises:
            UserError: a split that means nothing, or an image in two splits.
        """
        by_folder = self.read(alone=False) or self.read(alone=True)
        splits: list[str | None] = []
        said: list[str] = []
        for k, entry in enumerate(entries):
            own = self._parts(k)[0] if 0 in self._sources[self._places[k]] else ""
            if entry.split:
                splits.append(split_of(entry.split))
                said.append(origin)
                if splits[-1] is None:
                    raise UserError(self.where, f"{entry.name} has the unknown split {entry.split!r}", "use train, validation or test")
            elif split_of(own):
                splits.append(split_of(own))
                said.append(f"source {own}")
            elif by_folder is None:
                raise self.conflict(alone=True)
            else:
                splits.append(by_folder.splits[k])
                said.append(by_folder.names[k])
        return Reading(splits, said, [() for _ in entries])

    def check(self, reading: Reading, class_parts: Mapping[int, int | None]) -> None:
        """Refuse folders that may be splits and cannot be read as one, and those of masks.

        Args:
            class_parts: for each image that has a class, the number of the folder that says so; None where none does.

        Raises:
            UserError: an image is in a folder of masks; an image without a split is in a folder beside a split, or in one
                that has a split's word in its name.
        """
        splits_in: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for image, split_parts in enumerate(reading.split_parts):
            for k in split_parts:
                splits_in[tuple(self._parts(image)[:k])].add(self._parts(image)[k])
        for image, class_part in class_parts.items():
            parts = self._parts(image)
            for k in range(self._common, len(parts)):
                if k != class_part and is_about_images(parts[k]):
                    what = f"the folder {parts[k]} does not look like one of photographs ({self.paths[image]})"
                    raise UserError(self.where, what, "move it away, or rename it if it is one")
                if k == class_part or k in reading.split_parts[image] or reading.splits[image]:
                    continue
                beside = sorted(splits_in.get(tuple(parts[:k]), ()))
                if beside:
                    what = f"the folder {parts[k]} stands beside the split {beside[0]} and cannot be read as a split"
                    raise UserError(self.where, what, "rename it to train, validation or test, or move it away")
                if mentions(parts[k]):
                    what = f"the folder {parts[k]} looks like a split and cannot be read as one"
                    raise UserError(self.where, what, "rename it to train, validation or test, or to something else")

    def others_said(self, reading: Reading, class_parts: Mapping[int, int | None]) -> str:
        """The folders that mean neither a class nor a split, with their counts of images; empty where there are none."""
        counts: Counter[str] = Counter()
        for image, class_part in class_parts.items():
            left = {class_part, *reading.split_parts[image]}
            counts.update({part for k, part in enumerate(self._parts(image)) if k >= self._common and k not in left})
        shown = ", ".join(f"{name} ({count:,})" for name, count in counts.most_common(6))
        return shown + (", ..." if len(counts) > 6 else "")

    def innermost_split(self) -> str:
        """A folder that is read as a split, and may be a class for all that one can see; empty if there is none."""
        inner = (folder[-1] for folder in self._folders if len(folder) > self._common)
        return next((name for name in inner if split_of(name, alone=True)), "")


def _sources(folder: str, prefixed: bool) -> set[int]:
    """Which parts of a path are sources: the archives, and the first where it is the name of one of several sources."""
    return {k for k, part in enumerate(folder.split("/") if folder else ()) if names.is_archive(part) or (prefixed and k == 0)}


def _common(folders: list[list[str]]) -> int:
    """How many outer folders all images share."""
    first, last = min(folders), max(folders)
    return next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
