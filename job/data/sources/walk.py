"""A source whose files are found by walking through it: what a folder and an archive have in common."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from job.data.sources import Entry, Listing, Skipped, names
from job.errors import UserError


@dataclass(frozen=True)
class Member:
    """A file met on the walk. Its content can be read until the walk goes on.

    `first` gives its first bytes, `content` all of them; `identity` is equal for equal contents where that can be told
    without reading; `fault` says why it cannot be read, `special` what it is where it is no file of bytes.
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

    def members(self) -> Iterator[Member]:
        raise NotImplementedError

    @cached_property
    def listing(self) -> Listing:
        return self._found[0]

    def read(self) -> Iterator[tuple[str, bytes]]:
        """Each image of the listing with its bytes; of a name that stands twice, the last."""
        seen: Counter[str] = Counter()
        times = self._found[1]
        for member in self.members():
            if member.name in times:
                seen[member.name] += 1
                if seen[member.name] == times[member.name]:
                    yield member.name, member.content()

    @cached_property
    def _found(self) -> tuple[Listing, Counter[str]]:
        return sort(self.members(), self.where)


def sort(members: Iterable[Member], where: str) -> tuple[Listing, Counter[str]]:
    """What the files of a source are, and how often the name of each readable image stands.

    Raises:
        UserError: it holds an archive that cannot be read.
    """
    skipped, images, tables, marks = Skipped(), dict[str, Member](), list[str](), list[str]()
    times: Counter[str] = Counter()
    twice: dict[str, str] = {}
    for member in members:
        what = member.special or names.what(member.name, member.first)
        if what == names.IMAGE:
            before = images.get(member.name)
            if before is not None and (before.identity is None or before.identity != member.identity):
                twice[member.name] = member.name
            images[member.name] = member
            times[member.name] += not member.fault
        elif what == names.CLOSED:
            raise UserError(where, f"holds {member.name}, an archive that cannot be read", "unpack it and give the folder")
        elif what == names.TABLE:
            tables.append(member.name)
            skipped.add(names.OTHER, member.name)
        else:
            marks.append(member.name)
            skipped.add(what, member.name)
    ours = tuple(names.our_folders(marks))
    for name in [name for name in images if ours and name.startswith(ours)]:
        skipped.add("images of twofold's own runs", name)
        del images[name]
        times.pop(name, None)
    for name in twice:
        skipped.add("members that stand twice (the last of a name is used)", name)
    return Listing([Entry(name, fault=image.fault) for name, image in images.items()], skipped, tuple(tables)), times


def nfc(name: str) -> str:
    """A name as it is compared: a Mac writes é as two characters, others as one."""
    return unicodedata.normalize("NFC", name)
