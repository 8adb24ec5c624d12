"""Records of a data set in a bucket: from shards in the cache, and by ranges from those that are not here yet."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import cast

from job.console import console, counted
from job.data.manifest import Shard
from job.data.remote_shards import RemoteShards
from job.data.requests import Requests
from job.data.shards import FOOTER, Record, Records, intact, parse
from job.storage import local

THREADS = 48  # requests at once: of 50 ms each, they make some 800 records a second
TRIES = 3  # of a range whose checksum fails
GAP, MERGED = 2**16, 2**22  # bytes: records this near to each other are one request, of at most so many bytes
HELD = 400  # descriptors at once; a process may have 1,024 where nobody raised that
STREAMED = 256  # records that are asked for together where all are read in their order


class RemoteReader(Records):
    """The records of shards in a bucket. It holds descriptors of shards in the cache, so that others may evict them."""

    def __init__(self, home: RemoteShards, shards: Sequence[Shard]) -> None:
        self._home, self._shards = home, tuple(shards)
        self._requests = Requests(THREADS, home.stop)
        self._files: dict[int, _File] = {}
        self._asked: dict[int, tuple[Future[bytes], int]] = {}
        self._lock = threading.Lock()
        self._window, self._closed = -1, False
        home.opened()
        try:
            super().__init__([f"{home}/{shard.file}" for shard in shards], home.places(shards, self._requests))
        except BaseException:
            self.close()
            raise

    def __getitem__(self, number: int) -> Record:
        """Read one record, its CRC checked; from the bucket where its shard is not here, or damaged in the cache.

        Raises:
            UserError: the record is corrupt in the bucket.
        """
        shard, offset, length = self._place(number)
        file = self._file(shard)
        if file is not None:
            data = intact(os.pread(file.descriptor, length + FOOTER, offset), length)
            if data is not None:
                return parse(data)
            self._drop(shard)
        for _ in range(TRIES):
            data = intact(self._requests.result(self._ask(shard, offset, length + FOOTER)), length)
            if data is not None:
                return parse(data)
        raise self._corrupt(number)

    def begin(self, numbers: Iterable[int]) -> Mapping[int, Record]:
        """Ask the bucket for those records whose shards are not here, by all threads."""
        numbers = {int(number) for number in numbers}
        asked = {number: self._asked.pop(number) for number in numbers & self._asked.keys()}
        return cast(Mapping[int, Record], _Asked(self, asked | self._requested(numbers - asked.keys())))

    def ask(self, numbers: Iterable[int]) -> None:
        """Ask for records before their turn; each is kept until `begin` names it."""
        self._asked |= self._requested({int(number) for number in numbers})

    def _requested(self, numbers: Iterable[int]) -> dict[int, tuple[Future[bytes], int]]:
        """Requests for those records whose shards are not here: for each, the request and where in its answer the record is.

        Raises:
            UserError, MachineError: why shards do not arrive.
        """
        places = [(*self._place(number), number) for number in numbers]
        missing = sorted(place for place in places if self._file(place[0]) is None)
        if missing and self._home.ahead.fault is not None:
            raise self._home.ahead.fault
        asked: dict[int, tuple[Future[bytes], int]] = {}
        for shard, start, end, within in _ranges(missing):
            future = self._ask(shard, start, end - start)
            asked.update({number: (future, offset - start) for number, offset in within})
        return asked

    def _ask(self, shard: int, start: int, length: int) -> Future[bytes]:
        return self._requests.submit(partial(self._home.read, self._shards[shard], start, length))

    def arrived(self, number: int, future: Future[bytes], at: int) -> Record:
        """A record within what a request brings; asked for anew, alone, where that is damaged."""
        content, length = self._requests.result(future), self._place(number)[2]
        data = intact(content[at : at + length + FOOTER], length)
        return self[number] if data is None else parse(data)

    def need(self, window: int, shards_of: Callable[[int], Sequence[int]], others: Sequence[Shard] = ()) -> None:
        """Fetch the shards of this window, then others, then those of the next window; keep the cache for these."""
        if window == self._window:
            return
        now, then = shards_of(window), shards_of(window + 1)
        wanted = list(dict.fromkeys((*(self._shards[k] for k in now), *others, *(self._shards[k] for k in then))))
        if self._window < 0:
            size = local.size(sum(shard.bytes for shard in wanted))
            here = sum(self._home.cache.find(shard.sha256) is not None for shard in wanted)
            console.log(
                f"data: {counted(len(wanted), 'shard')} of {self._home} ({size}), {here:,} of them in the cache {self._home.cache.folder}"
            )
        self._window = window
        self._home.cache.needed = frozenset(shard.sha256 for shard in wanted)
        with self._lock:
            self._files = {shard: file for shard, file in self._files.items() if shard in {*now, *then}}
        self._home.ahead.need(wanted)

    def stream(self) -> Iterator[Record]:
        """All records in their order, a few hundred asked for together."""
        for first in range(0, len(self), STREAMED):
            numbers = range(first, min(first + STREAMED, len(self)))
            records = self.begin(numbers)
            yield from (records[number] for number in numbers)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._home.closed()
            self._requests.close()
            self._files.clear()

    def _file(self, shard: int) -> _File | None:
        """A shard in the cache, opened; None where it is not here."""
        file = self._files.get(shard)
        if file is not None:
            return file
        wanted = self._shards[shard]
        path = self._home.cache.find(wanted.sha256)
        try:
            file = _File(os.open(path, os.O_RDONLY)) if path is not None else None
        except FileNotFoundError:  # evicted just now
            return None
        if file is not None and os.fstat(file.descriptor).st_size != wanted.bytes:
            self._drop(shard)
            return None
        if file is not None:
            with self._lock:
                if len(self._files) >= HELD:
                    del self._files[next(iter(self._files))]
                self._files[shard] = file
        return file

    def _drop(self, shard: int) -> None:
        """Forget a shard that is damaged in the cache, and fetch it again."""
        wanted = self._shards[shard]
        with self._lock:
            self._files.pop(shard, None)
        if self._home.cache.find(wanted.sha256) is not None:
            console.log(f"warning: {self._names[shard]} is damaged in the cache; fetching it again")
        self._home.cache.drop(wanted.sha256)
        self._home.ahead.again(wanted)


def _ranges(places: Iterable[tuple[int, int, int, int]]) -> Iterator[tuple[int, int, int, list[tuple[int, int]]]]:
    """Requests for records by their sorted (shard, offset, length, number): shard, start, end, and (number, offset) of each within."""
    begun: tuple[int, int, int, list[tuple[int, int]]] | None = None
    for shard, offset, length, number in places:
        end = offset + length + FOOTER
        if begun is not None and shard == begun[0] and offset - begun[2] <= GAP and end - begun[1] <= MERGED:
            begun = (shard, begun[1], end, [*begun[3], (number, offset)])
            continue
        if begun is not None:
            yield begun
        begun = (shard, offset, end, [(number, offset)])
    if begun is not None:
        yield begun


class _Asked:
    """Records that were asked for: those on their way, each in a request's answer; the others are in the cache."""

    def __init__(self, reader: RemoteReader, asked: dict[int, tuple[Future[bytes], int]]) -> None:
        self._reader, self._asked = reader, asked

    def __getitem__(self, number: int) -> Record:
        if number not in self._asked:
            return self._reader[number]
        future, at = self._asked[number]
        return self._reader.arrived(number, future, at)


class _File:
    """A descriptor that is closed when the last thread that reads from it lets it go."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)
