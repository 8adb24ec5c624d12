"""The objects below a prefix of a bucket, listed once: whatever is read of them later is of the version that was listed then."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from job.console import console
from job.data import signatures
from job.data.sources.ahead import Threads, in_order
from job.errors import UserError
from job.shutdown import Stop
from job.storage import local
from job.storage.bucket import Bucket, Missing, Stat

THREADS = 32  # each with a request under way: what a far store gives grows with them
_MARKERS = ("/", "_$folder$")  # empty objects that consoles and other programs leave in place of folders

T = TypeVar("T")
Contents = Generator[tuple[str, bytes], None, None]


class Objects:
    """The objects whose names begin with `below`, which is empty or ends in a slash; names are without it."""

    def __init__(self, bucket: Bucket, below: str, stop: Stop, one: Stat | None = None) -> None:
        """`one` is the only one of them that matters: nothing is listed."""
        self._bucket, self.where, self._below, self.stop = bucket, f"{bucket.address}/{below}".rstrip("/"), below, stop
        if one is not None:
            self.files = {one.name[len(below) :]: one}

    @cached_property
    def files(self) -> dict[str, Stat]:
        """The objects by their names, without markers of folders."""
        found = {}
        for stat in self._bucket.list(self._below):
            self.stop.check()
            if stat.size or not stat.name.endswith(_MARKERS):
                found[stat.name[len(self._below) :]] = stat
        return found

    def beside(self) -> Objects:
        """All of the prefix, where it was one that mattered."""
        return Objects(self._bucket, self._below, self.stop)

    def contents(self, names: Iterable[str]) -> Contents:
        """Objects with their bytes, in this order, many requests at a time."""
        return self._read(names, None)

    def firsts(self, names: Iterable[str]) -> Contents:
        """The same with their first bytes."""
        return self._read(names, signatures.FIRST)

    def _read(self, names: Iterable[str], most: int | None) -> Contents:
        def size(name: str) -> int:
            return self.files[name].size if most is None else most

        with Threads(THREADS, self.stop) as threads:
            yield from in_order(threads, lambda name: self.read(name, 0, most), names, size)

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of an object, all by default; fewer at its end.

        Raises:
            UserError: it is no longer what was listed.
        """
        stat = self.files[name]
        length = None if length is None else min(length, stat.size - start)
        if length == 0 or not stat.size:
            return b""
        return self._pinned(name, partial(self._bucket.read, stat.name, start, length, stat.version))

    def fetch(self, name: str, scratch: Path) -> Path:
        """An object as a file of its name in a folder of its own, checked by the store's hash; or find it there."""
        stat, address = self.files[name], f"{self.where}/{name}"
        folder = scratch / "buckets" / hashlib.sha256(f"{address}\n{stat.version}".encode()).hexdigest()[:12]
        path = folder / name.rpartition("/")[2]
        if not path.exists() or path.stat().st_size != stat.size:
            local.make_folder(folder)
            local.require_space(folder, stat.size, f"a copy of {address}")
            console.log(f"fetching {address}: {local.size(stat.size)}")
            with Threads(1, self.stop) as thread:
                work = partial(self._bucket.fetch, stat.name, path, stat.version)
                thread.result(thread.submit(partial(self._pinned, name, work)))
        return path

    def _pinned(self, name: str, work: Callable[[], T]) -> T:
        try:
            return work()
        except Missing:
            raise UserError(f"{self.where}/{name}", "was changed or deleted since it was listed", "rerun") from None
