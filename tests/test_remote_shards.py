"""A data set in a bucket: its manifest, its indexes, and shards on their way into the cache."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from job.data import manifest, remote_reader
from job.data.remote_reader import RemoteReader
from job.data.remote_shards import RemoteShards
from job.data.shards import Reader
from job.shutdown import Stop
from job.storage.cache import Cache
from job.storage.opening import open_bucket
from tests.memory_bucket import MemoryBucket
from tests.remote import ADDRESS, fill, filled, home_of, line_of, reads
from tests.stores.fixtures import Store


@pytest.fixture
def bucket(shards: Path) -> MemoryBucket:
    return filled(shards)


def test_the_manifest_and_the_sizes(bucket: MemoryBucket, shards: Path, tmp_path: Path) -> None:
    home = home_of(bucket, tmp_path)
    assert manifest.exists(home)
    assert not manifest.unfinished(home)
    assert manifest.read(home) == manifest.read(shards)
    assert manifest.read(home).fingerprint == manifest.read(shards).fingerprint
    assert [call for call, _, _ in bucket.calls].count("read") == 1, "the manifest is read once"
    manifest.verify(home, manifest.read(shards).splits["train"].shards)
    assert not reads(bucket)


def test_what_is_no_data_set(bucket: MemoryBucket, tmp_path: Path) -> None:
    home = home_of(MemoryBucket(), tmp_path)
    wanted = "is not a data set: manifest.json not found; make one with twofold prepare"
    assert line_of(lambda: manifest.read(home)) == f"{ADDRESS}: {wanted}"
    assert not manifest.unfinished(home)
    for name in ("report/train-0.txt", "train-0001.jpg", "validation-00001-of-00002.jpg"):
        home.bucket.put(name, b"")
    assert not manifest.unfinished(home)
    del bucket.objects["manifest.json"]
    home = home_of(bucket, tmp_path)
    assert manifest.unfinished(home)
    assert line_of(lambda: manifest.read(home)) == f"{ADDRESS}: this data set is unfinished; rerun the same twofold prepare to finish it"


@pytest.mark.parametrize("kind", ["file", "index"])
def test_a_missing_shard_or_index(bucket: MemoryBucket, shards: Path, tmp_path: Path, kind: str) -> None:
    name = getattr(manifest.read(shards).splits["validation"].shards[0], kind)
    del bucket.objects[name]
    wanted = f"{ADDRESS}/{name}: is missing from the data set; rerun its twofold prepare, or copy it in full"
    assert line_of(lambda: manifest.read(home_of(bucket, tmp_path))) == wanted


def test_a_shard_cut_short(bucket: MemoryBucket, shards: Path, tmp_path: Path) -> None:
    shard = manifest.read(shards).splits["train"].shards[1]
    content, version, sha256 = bucket.objects[shard.file]
    bucket.objects[shard.file] = (content[:-3], version, sha256)
    wanted = f"{ADDRESS}/{shard.file}: has {shard.bytes - 3:,} of {shard.bytes:,} bytes; rerun its twofold prepare, or copy it in full"
    assert line_of(lambda: manifest.read(home_of(bucket, tmp_path))) == wanted


def test_a_manifest_that_names_files_outside_the_cache(bucket: MemoryBucket, tmp_path: Path) -> None:
    content, version, sha256 = bucket.objects["manifest.json"]
    known = manifest.read(home_of(bucket, tmp_path)).splits["train"].shards[0].sha256
    bucket.objects["manifest.json"] = (content.replace(known.encode(), b"../../../evil"), version, sha256)
    assert "is corrupt (the SHA-256 of train-00000" in line_of(lambda: manifest.read(home_of(bucket, tmp_path)))


def test_the_index_is_fetched_by_all_threads_and_once(bucket: MemoryBucket, shards: Path, tmp_path: Path) -> None:
    made = manifest.read(shards).splits["train"].shards
    gate = threading.Barrier(min(len(made), remote_reader.THREADS))
    bucket.fault = lambda call, name: gate.wait(10) and None if name.endswith(".npy") else None
    RemoteReader(home_of(bucket, tmp_path), made).close()
    assert len(reads(bucket, ".npy")) == len(made)
    bucket.calls.clear()
    with closing(RemoteReader(home_of(bucket, tmp_path), made)) as remote, Reader(shards, made) as local:
        assert not bucket.calls
        assert remote[3] == local[3]
    bucket.fault = lambda call, name: None
    (path,) = tmp_path.glob("*.places")
    for content in (b"", path.read_bytes()[:-16], bytes(len(path.read_bytes()))):
        path.write_bytes(content)
        bucket.calls.clear()
        with closing(RemoteReader(home_of(bucket, tmp_path), made)) as remote, Reader(shards, made) as local:
            assert remote[3] == local[3]
        assert len(reads(bucket, ".npy")) == len(made)


def test_an_index_that_is_corrupt(bucket: MemoryBucket, shards: Path, tmp_path: Path) -> None:
    made = manifest.read(shards).splits["train"].shards
    content, version, sha256 = bucket.objects[made[2].index]
    bucket.objects[made[2].index] = (content[:-1] + b"\x01", version, sha256)
    line = line_of(lambda: RemoteReader(home_of(bucket, tmp_path), made))
    assert (
        line == f"{ADDRESS}/{made[2].index}: is corrupt (its places do not fit the shard); delete that file and rerun its twofold prepare"
    )


def test_a_shard_is_checked_on_arrival_and_tried_twice(bucket: MemoryBucket, shards: Path, tmp_path: Path) -> None:
    home, shard = home_of(bucket, tmp_path), manifest.read(shards).splits["train"].shards[0]
    whole = bucket.objects[shard.file]
    damaged = (whole[0][:50] + bytes([whole[0][50] ^ 1]) + whole[0][51:], *whole[1:])
    bucket.objects[shard.file] = damaged
    what = "its SHA-256 differs from the manifest's, so it is corrupt"
    wanted = f"{ADDRESS}/{shard.file}: {what}; delete that file and rerun its twofold prepare, or copy it again"
    assert line_of(lambda: home.fetch(shard)) == wanted
    assert not any(tmp_path.iterdir())

    def once(call: str, name: str) -> None:
        bucket.objects[shard.file] = whole if len(bucket.calls) > 1 else damaged

    bucket.calls.clear()
    bucket.fault = once
    assert home.fetch(shard)
    assert (tmp_path / shard.sha256).read_bytes() == whole[0]


def test_a_data_set_that_is_replaced_is_an_error_not_a_mixture(bucket: MemoryBucket, shards: Path, tmp_path: Path) -> None:
    home, made = home_of(bucket, tmp_path), manifest.read(shards).splits["train"].shards
    manifest.read(home)
    with closing(RemoteReader(home, made)) as remote:
        content, version, sha256 = bucket.objects[made[0].file]
        bucket.objects[made[0].file] = (content, version + "0", sha256)
        wanted = f"{ADDRESS}/{made[0].file}: was deleted or replaced while it was in use; rerun with the data set there now"
        assert line_of(lambda: remote[0]) == wanted
        assert line_of(lambda: remote.begin([0])[0]) == wanted
        assert line_of(lambda: home.fetch(made[0])) == wanted
        del bucket.objects[made[0].file]
        assert line_of(lambda: remote[0]) == wanted


def test_no_permission_is_one_line(gcs_objects: Any, gcs_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gcs_store.use(monkeypatch)
    bucket = gcs_objects.create("closed-shards", "closed").name
    home = RemoteShards(open_bucket(f"gs://{bucket}/set"), Cache(tmp_path, 10**9), Stop())
    line = line_of(lambda: manifest.read(home))
    assert line == f"gs://{bucket}/set: cannot read: permission denied; grant roles/storage.objectViewer on gs://{bucket}"
    gcs_objects.drop(bucket)


def test_read_rights_are_enough(s3_reader: Store, s3_store: Store, shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    s3_store.use(monkeypatch)
    writer = open_bucket(s3_store.url)
    fill(writer, shards)
    s3_reader.use(monkeypatch)
    home = RemoteShards(open_bucket(s3_reader.url), Cache(tmp_path, 10**9), Stop())
    made = manifest.read(home).splits["test"].shards
    assert home.fetch(made[0])
    with closing(RemoteReader(home, made)) as remote, Reader(shards, made) as local:
        assert [*remote.stream()] == [*local.stream()]
