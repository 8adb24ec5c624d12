"""The contract of a bucket, held to by Google Cloud Storage (a fake) and S3 (SeaweedFS); a dozen seconds."""

from __future__ import annotations

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import boto3
import pytest

from job.storage import transfer
from job.storage.bucket import Bucket, Conflict, Missing, Stat, Unavailable
from tests.buckets import bare, race
from tests.stores.fixtures import Store

NAMES = [
    *("plain", "a/b", "a/b c", "a/100%", "a/%20", "a/+", "a/ü", "a/日本.txt", "a/#?&=", "a/'\"<>", "a/~:;,", "z" * 200),
    *("ü", "a-b/c", "a.b", "a b/c"),
]


@pytest.fixture(params=["gcs_store", "s3_store"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    store: Store = request.getfixturevalue(request.param)
    store.use(monkeypatch)
    return store


@pytest.fixture
def bucket(store: Store) -> Bucket:
    return bare(store.url)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def drawn(size: int) -> bytes:
    return random.Random(size).randbytes(size)


# One object


def test_an_object_is_written_once(bucket: Bucket) -> None:
    assert bucket.stat("a") is None
    version = bucket.put("a", b"first")
    assert version
    assert bucket.stat("a") == Stat("a", 5, version, sha256(b"first"))
    for content in (b"second", b"first"):
        with pytest.raises(Conflict):
            bucket.put("a", content)
    assert bucket.read("a") == b"first"


def test_a_version_is_replaced_once(bucket: Bucket) -> None:
    first = bucket.put("a", b"first")
    second = bucket.replace("a", b"second", first)
    assert second != first
    for content in (b"third", b"second"):
        with pytest.raises(Conflict):
            bucket.replace("a", content, first)
    assert bucket.stat("a") == Stat("a", 6, second, sha256(b"second"))


def test_what_is_missing_is_not_replaced(bucket: Bucket) -> None:
    version = bucket.put("a", b"first")
    with pytest.raises(Conflict):
        bucket.replace("b", b"second", version)
    bucket.delete("a", version)
    with pytest.raises(Conflict):
        bucket.replace("a", b"second", version)
    assert list(bucket.list()) == []


def test_a_version_is_deleted_and_no_other(bucket: Bucket) -> None:
    first = bucket.put("a", b"first")
    second = bucket.replace("a", b"second", first)
    with pytest.raises(Conflict):
        bucket.delete("a", first)
    assert bucket.read("a") == b"second"
    bucket.delete("a", second)
    assert bucket.stat("a") is None
    bucket.delete("a", second)
    bucket.put("a", b"again")


def test_reads_are_pinned_to_a_version(bucket: Bucket, tmp_path: Path) -> None:
    first = bucket.put("a", b"first")
    assert bucket.read("a", version=first) == b"first"
    second = bucket.replace("a", b"second", first)
    for read in (
        lambda: bucket.read("a", version=first),
        lambda: bucket.read("a", 1, 2, version=first),
        lambda: bucket.fetch("a", tmp_path / "a", version=first),
        lambda: bucket.read("b"),
        lambda: bucket.read("b", 1, 2),
        lambda: bucket.fetch("b", tmp_path / "a"),
    ):
        with pytest.raises(Missing):
            read()
    assert list(tmp_path.iterdir()) == []
    assert bucket.read("a", 1, 2, version=second) == b"ec"
    assert bucket.fetch("a", tmp_path / "a", version=second).version == second


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        (0, None, b"0123456789"),
        (0, 3, b"012"),
        (4, 3, b"456"),
        (4, None, b"456789"),
        (0, 10, b"0123456789"),
        (9, 1, b"9"),
        (8, 100, b"89"),
        (10, None, b""),
        (10, 5, b""),
        (1000, 5, b""),
        (3, 0, b""),
    ],
)
def test_parts(bucket: Bucket, start: int, length: int | None, expected: bytes) -> None:
    version = bucket.put("a", b"0123456789")
    assert bucket.read("a", start, length) == expected
    assert bucket.read("a", start, length, version) == expected


def test_another_part_than_was_asked_for_is_noticed(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put("a", b"0123456789")
    for sent in ("bytes=1-3", "bytes=2-3", "bytes=2-5"):
        monkeypatch.setattr(transfer, "range_header", lambda start, length, sent=sent: {"Range": sent})
        with pytest.raises(Unavailable, match=transfer.CUT):
            bucket.read("a", 2, 3)
    monkeypatch.setattr(transfer, "range_header", lambda start, length: {"Range": "nothing"})
    with pytest.raises(Unavailable, match="range ignored"):
        bucket.read("a", 2, 3)


def test_an_empty_object(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "from").write_bytes(b"")
    version = bucket.put("a", tmp_path / "from")
    assert bucket.stat("a") == Stat("a", 0, version, sha256(b""))
    assert bucket.read("a") == bucket.read("a", 0, 5) == bucket.read("a", 0, 0) == b""
    assert bucket.fetch("a", tmp_path / "to").size == 0
    assert (tmp_path / "to").read_bytes() == b""
    assert [found.size for found in bucket.list()] == [0]


def test_large_objects_from_files_and_into_files(bucket: Bucket, tmp_path: Path) -> None:
    content = drawn(20_000_003)
    (tmp_path / "from").write_bytes(content)
    first = bucket.put("a", tmp_path / "from", sha256(content))
    (tmp_path / "to").write_bytes(b"what was there")
    found = bucket.fetch("a", tmp_path / "to")
    assert (found.size, found.version) == (len(content), first)
    assert (tmp_path / "to").read_bytes() == content
    assert bucket.read("a", 9_999_999, 7) == content[9_999_999:10_000_006]
    with pytest.raises(Conflict):
        bucket.put("a", tmp_path / "from")
    second = bucket.replace("a", content[::-1], first)
    assert bucket.stat("a") == Stat("a", len(content), second, sha256(content[::-1]))
    with pytest.raises(Conflict):
        bucket.replace("a", tmp_path / "from", first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["from", "to"]


# Many objects


def test_names_come_back_as_they_were_given(bucket: Bucket, tmp_path: Path) -> None:
    versions = {name: bucket.put(name, name.encode()) for name in NAMES}
    assert {found.name: found.version for found in bucket.list()} == versions
    assert len(list(bucket.list())) == len(NAMES)
    for name, version in versions.items():
        assert bucket.read(name) == name.encode()
        assert bucket.stat(name) == Stat(name, len(name.encode()), version, sha256(name.encode()))
        bucket.fetch(name, tmp_path / "to")
        assert (tmp_path / "to").read_bytes() == name.encode()
        bucket.delete(name, version)
    assert list(bucket.list()) == []


@pytest.mark.parametrize("page", [1, 3, 1000])
def test_listings(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(transfer, "PAGE", page)
    names = [f"a/{number:02d}" for number in range(7)] + ["a0", "b/0", "b0"]
    with ThreadPoolExecutor(8) as pool:
        versions = dict(zip(names, pool.map(lambda name: bucket.put(name, name.encode()), names), strict=True))
    ordered = sorted(names)
    assert list(bucket.list()) == [Stat(name, len(name), versions[name]) for name in ordered]
    assert [found.name for found in bucket.list("a/")] == names[:7]
    assert [found.name for found in bucket.list("a/", after="a/04")] == ["a/05", "a/06"]
    assert [found.name for found in bucket.list("a/", after="a/041")] == ["a/05", "a/06"]
    assert [found.name for found in bucket.list(after="a/05")] == ["a/06", "a0", "b/0", "b0"]
    assert [found.name for found in bucket.list("a")] == ordered[:8]
    assert list(bucket.list("a/", after="a/06")) == list(bucket.list("c")) == []


def test_other_prefixes_are_not_touched(store: Store) -> None:
    bucket, beside, above = bare(store.url), bare(store.url + "2"), bare(store.url.rpartition("/")[0])
    bucket.put("a", b"here")
    beside.put("a", b"beside")
    assert [found.name for found in bucket.list()] == ["a"]
    assert bucket.read("a") == b"here"
    assert above.read(f"{store.url.rpartition('/')[2]}/a") == b"here"
    assert bucket.address == store.url


def test_a_bucket_without_a_prefix(store: Store) -> None:
    whole = bare("/".join(store.url.split("/")[:3]))
    version = whole.put("a-name-without-slash", b"x")
    assert "a-name-without-slash" in [found.name for found in whole.list()]
    whole.delete("a-name-without-slash", version)
    assert whole.address == "/".join(store.url.split("/")[:3])


# Several writers


def test_one_of_many_writers_wins(bucket: Bucket) -> None:
    for turn in range(5):
        contents = [f"{turn} {writer}".encode() for writer in range(8)]
        won = race([partial(bucket.put, f"{turn}", content) for content in contents])
        versions = [version for version in won if isinstance(version, str)]
        assert len(versions) == 1
        assert bucket.read(f"{turn}", version=versions[0]) == contents[won.index(versions[0])]


def test_one_of_many_replacements_wins(bucket: Bucket) -> None:
    version = bucket.put("a", b"start")
    for turn in range(5):
        contents = [f"{turn} {writer}".encode() for writer in range(8)]
        won = race([partial(bucket.replace, "a", content, version) for content in contents])
        versions = [version for version in won if isinstance(version, str)]
        assert len(versions) == 1
        version = versions[0]
        assert bucket.read("a", version=version) == contents[won.index(version)]


def test_a_replacement_races_a_deletion(bucket: Bucket) -> None:
    for turn in range(5):
        version = bucket.put(f"{turn}", b"start")
        race([partial(bucket.replace, f"{turn}", b"new", version), partial(bucket.delete, f"{turn}", version)])
        found = bucket.stat(f"{turn}")
        assert found is None or found.version != version


def test_a_counter_and_a_token_make_each_version_one_of_its_own(bucket: Bucket) -> None:
    """What is compared and swapped comes back to no earlier version, whatever else it says again."""
    first = bucket.put("a", b'{"held": true, "counter": 1, "token": "x"}')
    second = bucket.replace("a", b'{"held": false, "counter": 2, "token": "x"}', first)
    third = bucket.replace("a", b'{"held": true, "counter": 3, "token": "x"}', second)
    assert len({first, second, third}) == 3
    for stale in (first, second):
        with pytest.raises(Conflict):
            bucket.replace("a", b"late", stale)
        with pytest.raises(Conflict):
            bucket.delete("a", stale)
        with pytest.raises(Missing):
            bucket.read("a", version=stale)


def test_equal_bytes_may_be_equal_versions(bucket: Bucket) -> None:
    """The reason for counter and token: S3 cannot tell that there was something else in between. Google's generations can."""
    first = bucket.put("a", b"same")
    again = bucket.replace("a", b"same", bucket.replace("a", b"other", first))
    if bucket.address.startswith("s3://"):
        assert again == first
    else:
        assert again != first
        with pytest.raises(Conflict):
            bucket.replace("a", b"late", first)


def test_32_threads_share_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    content = drawn(300_000)

    def work(number: int) -> None:
        name = f"{number:03d}"
        version = bucket.put(name, content[number:])
        assert bucket.read(name, 5, 100) == content[number + 5 : number + 105]
        assert bucket.fetch(name, tmp_path / name).size == len(content) - number
        assert (tmp_path / name).read_bytes() == content[number:]
        version = bucket.replace(name, content[: number + 1], version)
        found = bucket.stat(name)
        assert found is not None
        assert found.version == version

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(work, range(96)))
    assert [found.size for found in bucket.list()] == [number + 1 for number in range(96)]


def test_threads_fetch_one_object_into_one_file(bucket: Bucket, tmp_path: Path) -> None:
    content = drawn(1_000_000)
    bucket.put("a", content)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: bucket.fetch("a", tmp_path / "a"), range(16)))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == content


# Objects of other programs


def test_objects_of_other_programs(bucket: Bucket, store: Store, tmp_path: Path) -> None:
    scheme, name = store.url[:2], store.url.split("/")[2]
    key = store.url.split("/", 3)[3] + "/a"
    if scheme == "gs":
        from google.cloud.storage import Client

        Client(project="any").bucket(name).blob(key).upload_from_string(b"content")
    else:
        boto3.client("s3").put_object(Bucket=name, Key=key, Body=b"content")
    found = bucket.stat("a")
    assert found is not None
    assert (found.size, found.sha256) == (7, "")
    assert bucket.read("a") == b"content"
    assert bucket.fetch("a", tmp_path / "a").size == 7
    assert bucket.replace("a", b"other", found.version) != found.version


def test_what_is_stored_otherwise_than_meant_arrives(s3_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No fault of the way, which would be tried again in vain: whoever knows what it should be refuses it."""
    s3_store.use(monkeypatch)
    bucket, key = bare(s3_store.url), s3_store.url.split("/", 3)[3]
    meant = {"sha256": sha256(b"meant")}
    boto3.client("s3").put_object(Bucket="twofold", Key=f"{key}/a", Body=b"found", Metadata=meant)
    assert bucket.read("a") == b"found"
    assert bucket.fetch("a", tmp_path / "a").sha256 == meant["sha256"]
    assert (tmp_path / "a").read_bytes() == b"found"


def test_objects_of_many_parts(s3_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Their ETag is no hash of the content."""
    s3_store.use(monkeypatch)
    bucket, key = bare(s3_store.url), s3_store.url.split("/", 3)[3]
    content = drawn(9_000_000)
    (tmp_path / "from").write_bytes(content)
    boto3.client("s3").upload_file(str(tmp_path / "from"), "twofold", f"{key}/a")
    found = bucket.fetch("a", tmp_path / "to")
    assert found.version.endswith("-2")
    assert (tmp_path / "to").read_bytes() == content == bucket.read("a", version=found.version)
    assert bucket.read("a", 8_388_600, 20, found.version) == content[8_388_600:8_388_620]
    assert [listed.version for listed in bucket.list()] == [found.version]
    bucket.delete("a", found.version)
