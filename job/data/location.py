"""Where a data set lies: a local folder, or a bucket behind the cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from job.config import schema
from job.config.resolve import bytes_of
from job.data.manifest import Manifest, Shard
from job.data.remote_reader import RemoteReader
from job.data.remote_shards import RemoteShards
from job.data.requests import Requests
from job.data.shards import Reader, Records
from job.shutdown import Stop
from job.storage.cache import Cache, default_folder
from job.storage.opening import canonical, is_bucket, open_bucket

Location = Path | RemoteShards

SHARDS = "shards"  # in the cache
PLACE = 16  # bytes of the index for each record
IN_USE = 0.45  # share of the cache that a window may take: the next one arrives beside it


def locate(text: str, feed: schema.Cache, stop: Stop) -> Location:
    """Where the data set is, or would be, that the user names.

    Raises:
        UserError: there is no such bucket, or it may not be read.
        MachineError: it cannot be reached, or the cache cannot be written.
    """
    if not is_bucket(text):
        return Path(text)
    if (found := _begun.get(canonical(text))) is not None:
        return found.location
    return RemoteShards(open_bucket(text, stop), open_cache(feed), stop)


def open_cache(feed: schema.Cache) -> Cache:
    """The cache of shards.

    Raises:
        MachineError: it cannot be written.
    """
    return Cache(default_folder(feed.cache) / SHARDS, bytes_of(feed.cache_size))


def open_records(location: Location, shards: Sequence[Shard]) -> Records:
    """The records of some shards of a data set."""
    if isinstance(location, Path):
        return Reader(location, shards)
    begun = _begun.get(str(location))
    if begun is not None and begun.location is location and begun.shards == shards and not begun.taken:
        begun.taken = True
        return begun.requests.result(begun.reader)
    return RemoteReader(location, shards)


@contextmanager
def begun(location: Location, shards: Sequence[Shard], first: Iterable[int]) -> Iterator[None]:
    """While inside, the index of a bucket's shards and some records are being read: what training needs first.

    It takes as long as the import of TensorFlow, so that neither waits for the other. Whoever locates the data set goes on with it.
    """
    if isinstance(location, Path):
        yield
        return

    def read() -> RemoteReader:
        reader = RemoteReader(location, shards)
        reader.ask(first)
        return reader

    requests = Requests(1, location.stop)
    made = _begun[str(location)] = _Begun(location, shards, requests, requests.submit(read))
    try:
        yield
    finally:
        del _begun[str(location)]
        requests.close()
        if not made.taken:
            made.reader.add_done_callback(_close)


def _close(reader: Future[RemoteReader]) -> None:
    if not reader.cancelled() and reader.exception() is None:
        reader.result().close()


@dataclass
class _Begun:
    location: RemoteShards
    shards: Sequence[Shard]
    requests: Requests
    reader: Future[RemoteReader]
    taken: bool = False


_begun: dict[str, _Begun] = {}  # by the address


def auto_window(location: Location, manifest: Manifest) -> int:
    """What `--window` is by default: 0, which is all shards, but for a bucket's that exceed the cache.

    Two windows and validation fit into it then, where validation takes less than a quarter.
    """
    if isinstance(location, Path):
        return 0
    train, validation = (sum(shard.bytes for shard in manifest.split(name, location).shards) for name in ("train", "validation"))
    index = PLACE * sum(split.records for split in manifest.splits.values())
    bound = location.cache.size - index
    if train + validation <= bound:
        return 0
    largest = max(shard.bytes for shard in manifest.splits["train"].shards)
    return max(1, int(IN_USE * (bound - min(validation, bound // 4))) // largest)
