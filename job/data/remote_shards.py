"""A data set in a bucket: its manifest, whole shards into the cache, and ranges of those that are not here yet.

All is of the versions that the manifest and the listing had when they were read: a data set that is replaced under a run
is an error, never a mixture.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from job.data import manifest
from job.data.manifest import Shard
from job.data.read_ahead import ReadAhead
from job.data.requests import Requests
from job.data.shards import read_index, require_fit
from job.errors import UserError
from job.shutdown import Stop
from job.storage import local
from job.storage.bucket import Bucket, Missing, Stat
from job.storage.cache import Cache
from job.storage.lock import InUse

_T = TypeVar("_T")
_A_SHARD = re.compile(r"[a-z]+-\d{5}-of-\d{5}\.(?:tfrecord|index\.npy)")  # and no image of that name


class RemoteShards:
    """A data set in a bucket, and the cache for its shards. As text it is its address."""

    def __init__(self, bucket: Bucket, cache: Cache, stop: Stop) -> None:
        self.bucket, self.cache, self.stop = bucket, cache, stop
        self.ahead, self._readers = ReadAhead(self.fetch), 0
        self._document: bytes | None = None
        self._listed: dict[str, Stat] | None = None

    def __str__(self) -> str:
        return self.bucket.address

    def document(self) -> bytes | None:
        """The manifest, read once; None where there is none."""
        if self._document is None and (found := self.bucket.stat(manifest.NAME)) is not None:
            self._document = self._pinned(manifest.NAME, lambda name: self.bucket.read(name, version=found.version))
        return self._document

    def has_shards(self) -> bool:
        """Whether a shard is there, of a data set that is finished or not."""
        first = (next(iter(self.bucket.list(f"{split}-0")), None) for split in manifest.SPLITS)
        return any(stat is not None and _A_SHARD.fullmatch(stat.name) for stat in first)

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """The bytes of those of its files that are there, listed once; their versions are what is read from then on."""
        wanted = set(names)
        if self._listed is None:
            starts = sorted({name.partition("-")[0] for name in wanted})
            self._listed = {stat.name: stat for start in starts for stat in self.bucket.list(start)}
        return {name: stat.size for name, stat in self._listed.items() if name in wanted}

    def opened(self) -> None:
        """A reader begins; `closed` says that it has ended. The read-ahead ends with the last one."""
        if self._readers == 0:
            self.ahead = ReadAhead(self.fetch)
        self._readers += 1

    def closed(self) -> None:
        self._readers -= 1
        if self._readers == 0:
            self.ahead.close()

    def fetch(self, shard: Shard) -> bool:
        """Bring a shard into the cache, its SHA-256 checked; returns whether there was room for it.

        Raises:
            UserError: the bucket's own bytes are corrupt, or another data set is there now.
            InUse: another process fetches it just now.
        """

        def make(path: Path) -> None:
            for _ in range(2):  # what differs once may have been damaged on its way
                self._pinned(shard.file, lambda name: self.bucket.fetch(name, path, self._version(name)))
                if local.sha256_of(path) == shard.sha256:
                    return
            raise manifest.differs(self, shard)

        return self.cache.find(shard.sha256) is not None or self.cache.add(shard.sha256, shard.bytes, make)

    def read(self, shard: Shard, start: int, length: int) -> bytes:
        """Bytes of a shard, by a request of their own."""
        return self._pinned(shard.file, lambda name: self.bucket.read(name, start, length, self._version(name)))

    def places(self, shards: Sequence[Shard], requests: Requests) -> list[Any]:
        """The index of each shard: from the cache, which holds those of a split together, or all asked for at once."""
        key = hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest() + ".places"
        path = self.cache.find(key)
        if path is not None:
            with suppress(ValueError, OSError):
                kept = np.fromfile(path, "<i8").reshape(-1, 2)
                places = np.split(kept, np.cumsum([shard.records for shard in shards])[:-1])
                for index, shard in zip(places, shards, strict=True):
                    require_fit(index, shard)
                return places
            self.cache.drop(key)
        places = list(requests.map([partial(self._index, shard) for shard in shards]))
        content = np.concatenate(places).astype("<i8").tobytes()
        with suppress(InUse, OSError):  # whoever comes next will try again
            self.cache.add(key, len(content), lambda path: path.write_bytes(content))
        return places

    def _index(self, shard: Shard) -> Any:
        content = self._pinned(shard.index, lambda name: self.bucket.read(name, version=self._version(name)))
        return read_index(content, shard, f"{self}/{shard.index}")

    def _version(self, name: str) -> str:
        stat = (self._listed or {}).get(name)
        return "" if stat is None else stat.version

    def _pinned(self, name: str, read: Callable[[str], _T]) -> _T:
        try:
            return read(name)
        except Missing:
            raise UserError(f"{self}/{name}", "was deleted or replaced while it was in use", "rerun with the data set there now") from None
