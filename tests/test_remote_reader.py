"""Records of a data set in a bucket: those of the folder, whatever is here, on its way, cut off, damaged or replaced."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.console import console
from job.data import manifest, remote_reader
from job.data.manifest import Shard
from job.data.remote_reader import RemoteReader
from job.data.remote_shards import RemoteShards
from job.data.shards import Reader
from job.errors import Interrupted, MachineError
from job.shutdown import Stop
from job.storage import lock
from job.storage.cache import Cache
from job.storage.lock import InUse
from job.storage.opening import open_bucket
from tests.memory_bucket import MemoryBucket
from tests.remote import ADDRESS, all_here, fill, filled, home_of, line_of, reads, until
from tests.stores.fixtures import Store
from tests.stores.proxy import Proxy

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def bucket(shards: Path) -> MemoryBucket:
    return filled(shards)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(console, "log", lambda line, **fields: lines.append(line))
    return lines


@pytest.mark.parametrize("seed", range(3))
def test_records_are_the_same_before_while_and_after_shards_arrive(bucket: MemoryBucket, shards: Path, tmp_path: Path, seed: int) -> None:
    home, made = home_of(bucket, tmp_path), manifest.read(shards).splits["train"].shards
    assert manifest.read(home)
    with Reader(shards, made) as local, closing(RemoteReader(home, made)) as remote:
        wanted = [local[number] for number in range(len(local))]
        assert len(remote) == len(wanted)
        order = np.random.default_rng(seed).permutation(len(wanted))

        def check() -> None:
            for first in range(0, len(order), 16):
                begun = remote.begin(order[first : first + 16])
                assert [begun[int(number)] for number in order[first : first + 16]] == [
                    wanted[number] for number in order[first : first + 16]
                ]
            assert [remote[int(number)] for number in order[:5]] == [wanted[number] for number in order[:5]]

        check()
        assert reads(bucket)
        remote.need(0, lambda window: range(len(made)))
        check()
        all_here(home, made)
        bucket.calls.clear()
        check()
        assert not bucket.calls, "a warm cache asks the bucket for nothing"
        assert list(remote.stream()) == wanted
        assert list(remote.hashes()) == list(local.hashes())


def test_neighbours_are_one_request(bucket: MemoryBucket, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = manifest.read(shards).splits["train"].shards
    with closing(RemoteReader(home_of(bucket, tmp_path), made)) as remote, Reader(shards, made) as local:
        assert list(remote.stream()) == [local[number] for number in range(len(local))]
        assert sorted(reads(bucket)) == sorted(shard.file for shard in made)
        bucket.calls.clear()
        monkeypatch.setattr(remote_reader, "MERGED", 1)
        assert list(remote.stream()) == [local[number] for number in range(len(local))]
        assert len(reads(bucket)) == len(remote)
        bucket.calls.clear()
        monkeypatch.setattr(remote_reader, "MERGED", 10**9)
        monkeypatch.setattr(remote_reader, "GAP", 0)
        first = made[0].records
        asked = remote.begin([0, 2, first - 1, first])
        assert [asked[number] for number in (first, 2, first - 1, 0)] == [local[number] for number in (first, 2, first - 1, 0)]
        assert sorted(reads(bucket)) == sorted([made[0].file] * 3 + [made[1].file])


def test_bytes_that_are_corrupt_in_the_bucket_end_training(bucket: MemoryBucket, shards: Path, tmp_path: Path) -> None:
    home, made = home_of(bucket, tmp_path), manifest.read(shards).splits["train"].shards
    content, version, sha256 = bucket.objects[made[0].file]
    bucket.objects[made[0].file] = (content[:40] + bytes([content[40] ^ 1]) + content[41:], version, sha256)
    with closing(RemoteReader(home, made)) as remote:
        wanted = f"{ADDRESS}/{made[0].file}: record 0 fails its checksum; delete that file and rerun its twofold prepare, or copy it again"
        assert line_of(lambda: remote[0]) == wanted
        assert line_of(lambda: remote.begin([0])[0]) == wanted
        assert reads(bucket) == [made[0].file] * (3 + 1 + 3), "a range is tried three times"
        assert remote[1] is not None
        remote.need(0, lambda window: range(len(made)))
        until(lambda: home.ahead.fault is not None)
        assert "its SHA-256 differs" in line_of(lambda: remote.begin([1]))


def test_a_shard_that_is_damaged_in_the_cache_is_fetched_again(bucket: MemoryBucket, shards: Path, tmp_path: Path, told: list[str]) -> None:
    home, made = home_of(bucket, tmp_path), manifest.read(shards).splits["train"].shards
    for shard in made:
        home.fetch(shard)
    path = tmp_path / made[1].sha256
    whole, first = path.read_bytes(), made[0].records
    bucket.calls.clear()
    with Reader(shards, made) as local:
        for content in (whole[:40] + bytes([whole[40] ^ 1]) + whole[41:], whole[:-9], b""):
            path.write_bytes(content)
            told.clear()
            with closing(RemoteReader(home, made)) as remote:
                begun = remote.begin([0, first, first + 1])
                assert [begun[number] for number in (0, first, first + 1)] == [local[number] for number in (0, first, first + 1)]
                until(lambda: path.exists() and path.read_bytes() == whole)
                bucket.calls.clear()
                assert remote[first] == local[first]
                assert not bucket.calls
            assert told == [f"warning: {ADDRESS}/{made[1].file} is damaged in the cache; fetching it again"]


def test_windows_are_fetched_in_their_order_and_only_they_are_kept(bucket: MemoryBucket, shards: Path, tmp_path: Path) -> None:
    splits = manifest.read(shards).splits
    made, others = splits["train"].shards, splits["validation"].shards
    size = max(shard.bytes for shard in made)
    index = 16 * splits["train"].records + 128
    home = home_of(bucket, tmp_path, 4 * size + sum(shard.bytes for shard in others) + index)
    windows = {0: (5, 1), 1: (0, 3), 2: (2, 4), 3: (1, 0)}
    with closing(RemoteReader(home, made)) as remote, Reader(shards, made) as local:
        for window in range(3):
            remote.need(window, lambda number: windows[number], others)
            wanted = [*(made[k] for k in windows[window]), *others, *(made[k] for k in windows[window + 1])]
            all_here(home, tuple(wanted))
            assert home.cache.needed == {shard.sha256 for shard in wanted}
            for k in windows[window]:
                first = sum(shard.records for shard in made[:k])
                assert remote[first] == local[first]
        fetched = [name for call, name, _ in bucket.calls if call == "fetch"]
        assert set(fetched[:2]) <= {made[k].file for k in (5, 1, 0, 3)} | {shard.file for shard in others}
        assert sum(name == others[0].file for name in fetched) == 1, "validation stays"
        assert not (tmp_path / made[5].sha256).exists(), "the window that is over went"
        assert sum(path.stat().st_size for path in tmp_path.iterdir() if path.is_file()) <= home.cache.size
        before = len(bucket.calls)
        remote.need(2, lambda number: pytest.fail("asked again for the same window"))
        assert len(bucket.calls) == before


def test_a_cache_without_room_and_a_full_disk_cost_time_alone(bucket: MemoryBucket, shards: Path, tmp_path: Path, told: list[str]) -> None:
    made = manifest.read(shards).splits["train"].shards
    with Reader(shards, made) as local:
        wanted = [local[number] for number in range(len(local))]
    with closing(RemoteReader(home_of(bucket, tmp_path / "small", 5), made)) as remote:
        remote.need(0, lambda window: range(len(made)))
        until(lambda: len(told) > 1)
        assert list(remote.stream()) == wanted

    def full(call: str, name: str) -> None:
        if call == "fetch":
            raise OSError(28, "No space left on device")

    bucket.fault = full
    with closing(RemoteReader(home_of(bucket, tmp_path / "full"), made)) as remote:
        remote.need(0, lambda window: range(len(made)))
        until(lambda: len(told) > 3)
        assert list(remote.stream()) == wanted
    ending = "Until then records are read from the bucket one by one"
    assert told[1::2] == [
        f"warning: the cache has no room for all shards in use; give a larger --cache-size. {ending}",
        f"warning: the disk of the cache, {tmp_path / 'full'}, is full; free some space. {ending}",
    ]


def test_a_store_that_fails_ends_training_only_where_a_shard_is_lacking(bucket: MemoryBucket, shards: Path, tmp_path: Path) -> None:
    home, made = home_of(bucket, tmp_path), manifest.read(shards).splits["train"].shards
    home.fetch(made[0])

    def away(call: str, name: str) -> None:
        if call == "fetch":
            raise MachineError(ADDRESS, "unreachable", "rerun")

    bucket.fault = away
    with closing(RemoteReader(home, made)) as remote:
        remote.need(0, lambda window: range(len(made)))
        until(lambda: home.ahead.fault is not None)
        assert remote.begin([0])[0] is not None
        with pytest.raises(MachineError, match="unreachable"):
            remote.begin([0, len(remote) - 1])


def test_a_shard_that_another_job_fetches_is_waited_for(
    bucket: MemoryBucket, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, made = home_of(bucket, tmp_path), manifest.read(shards).splits["train"].shards
    refused: list[Shard] = []

    def fetch(shard: Shard) -> bool:
        try:
            return RemoteShards.fetch(home, shard)
        except InUse:
            refused.append(shard)
            raise

    monkeypatch.setattr(home, "fetch", fetch)
    monkeypatch.setattr(lock, "WAIT", 0.01)
    begun, go_on = threading.Event(), threading.Event()

    def slow(path: Path) -> None:
        begun.set()
        go_on.wait(20)
        path.write_bytes((shards / made[0].file).read_bytes())

    other = threading.Thread(target=Cache(tmp_path, 10**9).add, args=(made[0].sha256, made[0].bytes, slow))
    other.start()
    begun.wait(20)
    with closing(RemoteReader(home, made)) as remote:
        remote.need(0, lambda window: range(len(made)))
        all_here(home, made[1:])
        until(lambda: len(refused) > 2)
        go_on.set()
        all_here(home, made)
        until(lambda: not home.ahead._queue)
        assert home.ahead.fault is None
    other.join()
    assert made[0].file not in [name for call, name, _ in bucket.calls if call == "fetch"]


def test_a_reader_gives_its_descriptors_back(bucket: MemoryBucket, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, made = home_of(bucket, tmp_path), manifest.read(shards).splits["train"].shards
    for shard in made:
        home.fetch(shard)
    before = len(os.listdir("/proc/self/fd"))
    for held in (400, 5):
        monkeypatch.setattr(remote_reader, "HELD", held)
        with closing(RemoteReader(home, made)) as remote:
            assert len([*remote.stream()]) == len(remote)
            assert len(os.listdir("/proc/self/fd")) == before + min(held, len(made))
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_stop_waits_for_no_request(bucket: MemoryBucket, shards: Path, tmp_path: Path) -> None:
    stop, made, go_on = Stop(), manifest.read(shards).splits["train"].shards, threading.Event()
    with closing(RemoteReader(home_of(bucket, tmp_path, stop=stop), made)) as remote:
        assert remote[0] is not None
        bucket.fault = lambda call, name: go_on.wait(20) and None
        remote.need(0, lambda window: range(len(made)))
        begun = remote.begin([0, 1, len(remote) - 1])
        stop.set()
        for ask in (lambda: begun[0], lambda: remote[1], lambda: RemoteReader(home_of(bucket, tmp_path / "other", stop=stop), made)):
            with pytest.raises(Interrupted):
                ask()
    go_on.set()
    until(lambda: not any(thread.name in ("request", "read-ahead") for thread in threading.enumerate()))


def test_readers_of_one_data_set_one_after_another(bucket: MemoryBucket, shards: Path, tmp_path: Path) -> None:
    home, splits = home_of(bucket, tmp_path), manifest.read(shards).splits
    for name in ("train", "validation"):
        made = splits[name].shards
        remote = RemoteReader(home, made)
        remote.need(0, lambda window: range(len(made)))  # noqa: B023
        all_here(home, made)
        remote.close()
        remote.close()
    until(lambda: not any(thread.name in ("request", "read-ahead") for thread in threading.enumerate()))


# Through real clients and servers


@pytest.fixture(params=["gcs_store", "s3_store"])
def store(request: pytest.FixtureRequest) -> Store:
    found: Store = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def proxied(store: Store, shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, Proxy]]:
    store.use(monkeypatch)
    bucket = open_bucket(store.url)
    fill(bucket, shards)
    with Proxy(store.endpoint) as proxy:
        store.at(proxy.endpoint).use(monkeypatch)
        yield store, proxy


def test_faults_of_the_network_change_nothing(proxied: tuple[Store, Proxy], shards: Path, tmp_path: Path) -> None:
    store, proxy = proxied
    proxy.faults.chaos(7, 0.5, 20, kinds=("503", "reset", "cut", "flip", "latency"), seconds=0.05)
    home, splits = RemoteShards(open_bucket(store.url, Stop()), Cache(tmp_path, 10**9), Stop()), manifest.read(shards).splits
    assert manifest.read(home) == manifest.read(shards)
    for name in ("train", "test"):
        made = splits[name].shards
        with Reader(shards, made) as local, closing(RemoteReader(home, made)) as remote:
            wanted = [local[number] for number in range(len(local))]
            begun = remote.begin(range(0, len(wanted), 2))
            assert [begun[number] for number in range(0, len(wanted), 2)] == wanted[::2]
            remote.need(0, lambda window: range(len(made)))  # noqa: B023
            assert list(remote.stream()) == wanted
            all_here(home, made)
            assert list(remote.stream()) == wanted
    made_faults = proxy.faults.counts()["faults"]
    assert len(made_faults) >= 5, made_faults
    for split in ("train", "test"):
        for shard in splits[split].shards:
            assert (tmp_path / shard.sha256).read_bytes() == (shards / shard.file).read_bytes()


SCRIPT = """
import hashlib, sys
from pathlib import Path
from job.data import manifest
from job.data.remote_reader import RemoteReader
from job.data.remote_shards import RemoteShards
from job.shutdown import Stop
from job.storage.cache import Cache
from job.storage.opening import open_bucket
home = RemoteShards(open_bucket(sys.argv[1]), Cache(Path(sys.argv[2]), 10**9), Stop())
shards = manifest.read(home).splits["train"].shards
with RemoteReader(home, shards) as reader:
    print("ready", flush=True)
    input()
    reader.need(0, lambda window: range(len(shards)))
    while not all((Path(sys.argv[2]) / shard.sha256).exists() for shard in shards):
        pass
    print(hashlib.sha256("".join(reader.hashes()).encode()).hexdigest())
"""


def test_two_jobs_on_a_machine_fetch_a_shard_once(proxied: tuple[Store, Proxy], shards: Path, tmp_path: Path) -> None:
    store, proxy = proxied
    made = manifest.read(shards).splits["train"].shards
    with ExitStack() as stack:
        command = [sys.executable, "-c", SCRIPT, store.url, str(tmp_path)]
        pipes: Any = dict(cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        jobs = [stack.enter_context(subprocess.Popen(command, **pipes)) for _ in range(2)]
        assert [job.stdout.readline() for job in jobs if job.stdout] == ["ready\n"] * 2
        proxy.latency_ms = 30
        for job in jobs:
            assert job.stdin
            job.stdin.write("\n")
            job.stdin.flush()
        found = {job.stdout.read().splitlines()[-1] for job in jobs if job.stdout}
    with Reader(shards, made) as local:
        assert found == {hashlib.sha256("".join(local.hashes()).encode()).hexdigest()}
    fetched = [entry.path for entry in proxy.faults.log if ".tfrecord" in entry.path]
    assert len(fetched) == len(made)
