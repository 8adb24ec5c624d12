"""Where a data set lies: a local folder, or a bucket behind the cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from job.config import schema
from job.config.resolve import bytes_of
from job.data.manifest import Manifest, Shard
from job.data.remote_reader import RemoteReader
from job.data.remote_shards import RemoteShards
from job.data.shards import Reader, Records
from job.shutdown import Stop
from job.storage.cache import Cache, default_folder
from job.storage.opening import is_bucket, open_bucket

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
    return RemoteShards(open_bucket(text, stop), open_cache(feed), stop)


def open_cache(feed: schema.Cache) -> Cache:
    """The cache of shards.

    Raises:
        MachineError: it cannot be written.
    """
    return Cache(default_folder(feed.cache) / SHARDS, bytes_of(feed.cache_size))


def open_records(location: Location, shards: Sequence[Shard]) -> Records:
    """The records of some shards of a data set."""
    return Reader(location, shards) if isinstance(location, Path) else RemoteReader(location, shards)


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
