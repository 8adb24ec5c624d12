"""A large zip in a bucket, read by ranges of one version: its directory, then its members, a few blocks ahead.

A zip has a checksum of each member, so that bytes which came damaged are noticed and asked for again. A tar has none, and
both passes over it need all of it: it is fetched whole, checked by the store's own hash.
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import IO, cast

from job.data.sources.ahead import Threads
from job.data.sources.archive import Archive
from job.data.sources.objects import Objects
from job.data.sources.walk import Member

BLOCK = 4 << 20  # bytes of a request
AHEAD = 4  # blocks asked for beyond the one that is read
KEPT = 2 * AHEAD  # blocks in memory


class RangedZip(Archive):
    """Every image in a zip in a bucket, without fetching what is not read."""

    tries = 3

    def __init__(self, objects: Objects, name: str, scratch: Path, zip_encoding: str) -> None:
        super().__init__(Path(name), scratch, zip_encoding, f"{objects.where}/{name}")
        self._objects, self._name = objects, name

    def below(self, prefix: str) -> Iterator[Member]:
        with Threads(1 + AHEAD, self._objects.stop) as threads:
            self._file = Ranged(partial(self._objects.read, self._name), self._objects.files[self._name].size, threads)
            yield from self._members(cast(IO[bytes], self._file), prefix)

    def refresh(self) -> None:
        self._file.forget()


class Ranged(io.RawIOBase):
    """A file that can be read from anywhere, though what it holds is asked for."""

    def __init__(self, ask: Callable[[int, int], bytes], size: int, threads: Threads) -> None:
        """`ask` gives as many bytes from a place as there are, up to a number."""
        self._ask, self._size, self._threads = ask, size, threads
        self._blocks: OrderedDict[int, Future[bytes]] = OrderedDict()  # the one that was read last comes last
        self._at, self._last = 0, -2

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill the buffer, up to the end of the object: zipfile does not ask twice."""
        wanted, filled = min(len(buffer), self._size - self._at), 0
        while filled < wanted:
            number, start = divmod(self._at, BLOCK)
            part = memoryview(self._block(number))[start : start + wanted - filled]
            buffer[filled : filled + len(part)] = part
            filled += len(part)
            self._at += len(part)
        return filled

    def forget(self) -> None:
        """Ask for everything anew from now on."""
        self._blocks.clear()

    def _block(self, number: int) -> bytes:
        following = number == self._last + 1
        for one in range(number, min(number + 1 + following * AHEAD, -(-self._size // BLOCK))):
            if one not in self._blocks:
                self._blocks[one] = self._threads.submit(partial(self._ask, one * BLOCK, BLOCK))
        self._last = number
        self._blocks.move_to_end(number)
        while len(self._blocks) > KEPT:
            self._blocks.popitem(last=False)[1].cancel()
        return self._threads.result(self._blocks[number])
