"""Images in a bucket: a prefix, or one object, which is an archive, a CSV or an image.

What names say is read off the listing; first bytes are asked for only where they do not. An archive is fetched whole, once for
both passes over it, and so that the store's hash is checked; zips beyond `WHOLE` bytes in sum are read by ranges.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import groupby
from pathlib import Path

from job.config.schema import Reading
from job.console import counted
from job.data import signatures
from job.data.sources import Source, kind_of, names, places
from job.data.sources.archive import Archive
from job.data.sources.folder import SingleImage
from job.data.sources.objects import Objects
from job.data.sources.ranged import RangedZip
from job.data.sources.table import Table
from job.data.sources.walk import Member, Walk
from job.errors import UserError
from job.shutdown import Stop
from job.storage.bucket import Stat
from job.storage.opening import open_bucket

WHOLE = 1 << 30  # bytes of archives that are fetched whole where they could be read by ranges


def open_objects(address: str, scratch: Path, stop: Stop, reading: Reading, labels: bool) -> Source:
    """Open what is at an address in its canonical form.

    Raises:
        UserError: nothing is there, it may not be read, or it is of no known kind.
        MachineError: the store cannot be reached.
    """
    objects, name = _find(address, stop)
    if not name:
        if not objects.files:
            tool = "gcloud storage ls" if address.startswith("gs:") else "aws s3 ls"
            raise UserError(address, "no such object, and nothing below that name", f"see what is there with {tool}")
        return Prefix(objects, scratch, reading.zip_encoding)
    kind = kind_of(address, objects.read(name, 0, signatures.FIRST))
    if kind == names.ARCHIVE:
        return _Archives(objects, scratch, reading.zip_encoding).open(name)
    if kind == names.IMAGE:
        return SingleImage(objects.fetch(name, scratch))
    return Table(objects.fetch(name, scratch), reading, labels, places.Prefix(objects.beside()))


def contents(address: str, stop: Stop, reading: Reading) -> str:
    """What is there, in words that differ where objects were added, removed or replaced; empty where nothing is.

    Names, sizes and versions count. Of a prefix they are those of images and archives, and of objects whose names have no
    ending: no first bytes are asked for.
    """
    objects, name = _find(address, stop)
    if not objects.files:
        return ""
    if not name:
        ours = tuple(names.our_folders(objects.files))
        counting = [name for name in objects.files if not name.startswith(ours) and _counts(name)]
    elif kind_of(address, objects.read(name, 0, signatures.FIRST)) == names.TABLE:
        with tempfile.TemporaryDirectory(prefix="twofold-") as scratch:
            path, objects = objects.fetch(name, Path(scratch)), objects.beside()
            table = Table(path, reading, False, places.Prefix(objects))
            counting = [name, *(entry.name for entry in table.listing.entries if not entry.fault)]
    else:
        counting = [name]
    return _state((name, objects.files[name]) for name in counting)


def _counts(name: str) -> bool:
    what = names.what(name, bytes)
    return what in (names.IMAGE, names.ARCHIVE) or (what == names.OTHER and "." not in name.rpartition("/")[2])


def _state(objects: Iterable[tuple[str, Stat]]) -> str:
    digest, count, total = hashlib.sha256(), 0, 0
    for name, stat in objects:
        digest.update(b"%s\0%d %s\n" % (name.encode(), stat.size, stat.version.encode()))
        count += 1
        total += stat.size
    return f"{counted(count, 'file')}, {total:,} bytes, state {digest.hexdigest()[:12]}"


def _find(address: str, stop: Stop) -> tuple[Objects, str]:
    """The objects of a prefix, or those beside one object and its name.

    An empty object may be a marker of a folder: what lies below it counts first.
    """
    above, _, last = address.rpartition("/")
    if above.endswith(":/"):
        return Objects(open_bucket(address, stop), "", stop), ""
    bucket = open_bucket(above, stop)
    stat = bucket.stat(last)
    below = Objects(bucket, f"{last}/", stop)
    if stat is None or (not stat.size and below.files):
        return below, ""
    return Objects(bucket, "", stop, stat), last


class Prefix(Walk):
    """Every image below a prefix, by its name below it."""

    has_archives = False

    def __init__(self, objects: Objects, scratch: Path, zip_encoding: str) -> None:
        self.where, self._objects = objects.where, objects
        self._archives = _Archives(objects, scratch, zip_encoding)

    def files(self) -> list[Path]:
        return []

    def members(self) -> Iterator[Member]:
        ours = tuple(names.our_folders(self._objects.files))
        asked = dict.fromkeys(name for name in self._objects.files if not (names.is_told(name) or name.startswith(ours)))
        with closing(self._objects.firsts(asked)) as firsts:
            for name in self._objects.files:
                if _is_archive(name):
                    self.has_archives = True
                    yield from self._archives.open(name).below(f"{name}/")
                else:
                    first = next(firsts)[1] if name in asked else b""
                    yield Member(name, partial(bytes, first), partial(self._objects.read, name))

    def read(self) -> Iterator[tuple[str, bytes]]:
        wanted = self.wanted()
        for are_archives, found in groupby(self._objects.files, _is_archive):
            if not are_archives:
                with closing(self._objects.contents(filter(wanted, found))) as contents:
                    yield from contents
                continue
            for name in found:
                for member in self._archives.open(name).below(f"{name}/"):
                    if wanted(member.name):
                        yield member.name, member.content()


def _is_archive(name: str) -> bool:
    return names.is_archive(name) and names.what(name, bytes) == names.ARCHIVE


class _Archives:
    """The archives among some objects, each as it is best read."""

    def __init__(self, objects: Objects, scratch: Path, zip_encoding: str) -> None:
        self._objects, self._scratch, self._encoding = objects, scratch, zip_encoding
        self._opened: dict[str, Archive] = {}
        self._left = WHOLE

    def open(self, name: str) -> Archive:
        if name not in self._opened:
            self._left -= self._objects.files[name].size
            by_ranges = self._left < 0 and signatures.archive_kind(self._objects.read(name, 0, signatures.FIRST)) == "zip"
            self._opened[name] = self._by_ranges(name) if by_ranges else self._whole(name)
        return self._opened[name]

    def _by_ranges(self, name: str) -> Archive:
        return RangedZip(self._objects, name, self._scratch, self._encoding)

    def _whole(self, name: str) -> Archive:
        return Archive(self._objects.fetch(name, self._scratch), self._scratch, self._encoding, f"{self._objects.where}/{name}")
