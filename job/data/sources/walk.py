"""A source whose files are found by walking through it: what a folder and an archive have in common."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from job.data.sources import Entry, Listing, Skipped, names
from job.errors import UserError


class Member(NamedTuple):
    """A file met on the walk. Its content can be read until the walk goes on.

    `first` gives its first bytes, `content` all of them; `identity` is equal for equal contents where that can be told
    without reading; `fault` says why it cannot be read, `special` what it is where the walk knows it already.
    """

    name: str
    first: Callable[[], bytes]
    content: Callable[[], bytes]
    identity: Hashable = None
    fault: str = ""
    special: str = ""


class Walk:
    """Lists and reads what `members` meets, which must be the same each time."""

    where: str
    has_archives: bool

    def members(self) -> Iterator[Member]:
        raise NotImplementedError

    @cached_property
    def listing(self) -> Listing:
        found = self._found[0]
        return replace(found, has_archives=self.has_archives)  # known once all members were met

    def read(self) -> Iterator[tuple[str, bytes]]:
        """Each image of the listing with its bytes; of a name that stands twice, the last."""
        wanted = self.wanted()
        for member in self.members():
            if wanted(member.name):
                yield member.name, member.content()

    def wanted(self) -> Callable[[str], bool]:
        """Whether the next file of a name is to be read, for a pass over all files; it is asked once of each."""
        seen: Counter[str] = Counter()
        times = self._found[1]

        def is_wanted(name: str) -> bool:
            if name not in times:
                return False
            seen[name] += 1
            return seen[name] == times[name]

        return is_wanted

    @cached_property
    def _found(self) -> tuple[Listing, Counter[str]]:
        return sort(self.members(), self.where)


def sort(members: Iterable[Member], where: str) -> tuple[Listing, Counter[str]]:
    """What the files of a source are, and how often the name of each readable image stands.

    Raises:
        UserError: it holds an archive that cannot be read.
    """
    found: dict[str, tuple[str, str, Hashable]] = {}  # by name: what it is, its fault, its identity
    times, twice = Counter[str](), list[str]()
    for member in members:
        what = member.special or names.what(member.name, member.first)
        if what == names.CLOSED:
            raise UserError(where, f"holds {member.name}, an archive that cannot be read", "unpack it and give the folder")
        if what == names.IMAGE:
            before = found.get(member.name)
            if before is not None and (member.identity is None or before[2] != member.identity):
                twice.append(member.name)
            times[member.name] += not member.fault
        found[member.name] = (what, member.fault, member.identity)
    skipped = Skipped()
    ours = names.our_folders(found)
    for folder in ours:
        skipped.add("a run or data set of twofold", folder or where, unit="folder")
    images, tables = list[Entry](), list[str]()
    for name, (what, fault, _) in found.items():
        if ours and name.startswith(tuple(ours)):
            times.pop(name, None)
        elif what == names.IMAGE and (base := names.of_mask(name)) and any(base + ending in found for ending in names.IMAGES):
            times.pop(name, None)
            skipped.add("the mask of another image", name)
        elif what == names.IMAGE:
            images.append(Entry(name, fault=fault))
        elif what:
            if what == names.TABLE:
                tables.append(name)
            skipped.add(names.OTHER if what == names.TABLE else what, name)
    for name in twice:
        skipped.add("stands twice in its archive; the last is used", name)
    return Listing(images, skipped, tuple(tables)), times


def nfc(name: str) -> str:
    """A name as it is compared: a Mac writes é as two characters, others as one."""
    return unicodedata.normalize("NFC", name)
