"""Where a data set lies: a head start on one in a bucket, and the window that fits the cache."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest

from job.config import schema
from job.config.options import build
from job.config.schema import Config
from job.data import manifest
from job.data.location import auto_window, begun, locate, open_records
from job.data.manifest import Manifest, Shard, Split
from job.data.shards import Reader
from job.shutdown import Stop
from job.storage.opening import open_bucket
from tests.remote import fill, until
from tests.stores.fixtures import Store
from tests.stores.proxy import Proxy


def test_a_head_start_is_gone_on_with(gcs_store: Store, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gcs_store.use(monkeypatch)
    bucket = open_bucket(gcs_store.url)
    fill(bucket, shards)
    feed, made = schema.Cache(cache=str(tmp_path)), manifest.read(shards).splits["train"].shards
    with Reader(shards, made) as local:
        wanted = {number: local[number] for number in (3, 1, 40)}
    with Proxy(gcs_store.endpoint) as proxy:
        gcs_store.at(proxy.endpoint).use(monkeypatch)
        first = locate(gcs_store.url, feed, Stop())
        manifest.read(first)
        with begun(first, made, [3, 1, 40]):
            assert locate(gcs_store.url + "/", feed, Stop()) is first
            until(lambda: sum(".tfrecord" in entry.path and entry.received > 0 for entry in proxy.faults.log) == 2)  # 1 and 3 are neighbors
            requests = len(proxy.faults.log)
            with closing(open_records(first, made)) as records:
                found = records.begin([1, 40, 3])
                assert {number: found[number] for number in wanted} == wanted
                assert len(proxy.faults.log) == requests
                with closing(open_records(first, made)) as others:
                    assert others is not records
        assert locate(gcs_store.url, feed, Stop()) is not first
        with begun(first, made, [3]):
            pass  # nobody came for it
        with begun(shards, made, [3]):
            assert locate(str(shards), feed, Stop()) == shards
        until(lambda: not any(thread.name in ("request", "read-ahead") for thread in threading.enumerate()))


def _manifest(train: list[int], validation: list[int]) -> Manifest:
    splits = {
        name: Split(len(sizes), (0, len(sizes)), tuple(Shard(f"{name}-{k}", 1, size, f"{k:064x}", "") for k, size in enumerate(sizes)))
        for name, sizes in (("train", train), ("validation", validation))
    }
    return Manifest(("a", "b"), splits, {})


@pytest.mark.parametrize(
    ("train", "validation", "size", "wanted"),
    [
        ([100] * 80, [100] * 10, "9200B", 0),
        ([100] * 80, [100] * 10, "8999B", 35),  # and validation: 0.45 of 7999
        ([100] * 80, [100] * 60, "9kB", 30),  # no more than a quarter is left to validation
        ([100] * 70 + [1000] * 3, [], "5kB", 2),  # by the largest shard
        ([100] * 80, [], "150B", 1),
    ],
)
def test_the_window_that_fits_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: list[int], validation: list[int], size: str, wanted: int
) -> None:
    data = _manifest(train, validation)
    feed = build(Config, dict(cache=str(tmp_path), cache_size=size)).feed
    monkeypatch.setattr("job.data.location.PLACE", 0)
    assert auto_window(locate("gs://bucket/set", feed, Stop()), data) == wanted
    assert auto_window(locate("elsewhere", feed, Stop()), data) == 0
