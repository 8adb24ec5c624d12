"""What the tests of a data set in a bucket share: the bucket, its home beside a cache, and what to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from job.data.manifest import Shard
from job.data.remote_shards import RemoteShards
from job.errors import JobError
from job.shutdown import Stop
from job.storage.bucket import Bucket
from job.storage.cache import Cache
from tests.memory_bucket import MemoryBucket

ADDRESS = MemoryBucket.address


def fill(bucket: Bucket, shards: Path) -> None:
    """Put a data set into a bucket."""
    for path in sorted(shards.glob("*.*")):
        bucket.put(path.name, path)


def filled(shards: Path) -> MemoryBucket:
    made = MemoryBucket()
    fill(made, shards)
    made.calls.clear()
    return made


def home_of(bucket: Any, folder: Path, size: int = 10**9, stop: Stop | None = None) -> RemoteShards:
    return RemoteShards(bucket, Cache(folder, size), Stop() if stop is None else stop)


def until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until, "nothing came of it"
        time.sleep(0.01)


def all_here(home: RemoteShards, shards: tuple[Shard, ...]) -> None:
    until(lambda: all((home.cache.folder / shard.sha256).exists() for shard in shards))


def line_of(act: Callable[[], object]) -> str:
    with pytest.raises(JobError) as caught:
        act()
    assert caught.value.code == 2
    return str(caught.value)


def reads(bucket: MemoryBucket, ending: str = ".tfrecord") -> list[str]:
    return [name for call, name, _ in bucket.calls if call == "read" and name.endswith(ending)]
