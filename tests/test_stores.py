"""The stores of the tests do what real ones do, asked by google-cloud-storage and boto3 themselves; each fault of the proxy happens."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import google.api_core.exceptions as gcs_errors
import pytest
import requests
from botocore.exceptions import ClientError
from google.api_core.retry import Retry
from google.auth.exceptions import InvalidOperation
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from tests.stores.fixtures import Store
from tests.stores.moto import moto
from tests.stores.objects import Objects
from tests.stores.seaweed import PUBLIC, READER, WRITER, s3_client

SOON: Retry = DEFAULT_RETRY.with_delay(initial=0.02, maximum=0.05).with_timeout(20)
KB, MB = 1 << 10, 1 << 20


@pytest.fixture
def bucket(gcs_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with _bucket(gcs_store, monkeypatch) as found:
        yield found


@contextlib.contextmanager
def _bucket(store: Store, monkeypatch: pytest.MonkeyPatch, name: str = "") -> Iterator[Any]:
    store.use(monkeypatch)
    client = storage.Client(project="p")
    yield client.bucket(name or store.url.split("/")[2])
    client.close()


@contextlib.contextmanager
def _s3(endpoint: str, key: str = WRITER[0], secret: str = WRITER[1]) -> Iterator[Any]:
    with contextlib.closing(s3_client(endpoint, key, secret)) as client:
        yield client


def _place(store: Store) -> tuple[str, str]:
    bucket, _, prefix = store.url.removeprefix("s3://").partition("/")
    return bucket, prefix


def _winners(attempt: Callable[[int], object], *lost: type[Exception], racers: int = 8) -> int:
    """How many of those who try at once get through; `lost` is how the others end."""
    barrier = threading.Barrier(racers)

    def one(number: int) -> int:
        barrier.wait()
        try:
            attempt(number)
        except lost:
            return 0
        return 1

    with ThreadPoolExecutor(racers) as pool:
        return sum(pool.map(one, range(racers)))


def _status(error: ClientError) -> tuple[int, str]:
    return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]


# The fake Cloud Storage


def test_generations_rise_and_preconditions_of_a_put_bite(bucket: Any) -> None:
    blob = bucket.blob("folder/a b")
    blob.metadata = {"writer": "one"}
    blob.upload_from_string(b"1", content_type="text/plain", if_generation_match=0)
    first = blob.generation
    with pytest.raises(gcs_errors.PreconditionFailed):
        bucket.blob("folder/a b").upload_from_string(b"2", if_generation_match=0)
    with pytest.raises(gcs_errors.PreconditionFailed):
        bucket.blob("folder/a b").upload_from_string(b"2", if_generation_match=first + 1)
    with pytest.raises(gcs_errors.PreconditionFailed):
        bucket.blob("absent").upload_from_string(b"2", if_generation_match=first)
    with pytest.raises(gcs_errors.PreconditionFailed):
        bucket.blob("folder/a b").upload_from_string(b"2", if_generation_not_match=first)
    with pytest.raises(gcs_errors.PreconditionFailed):
        bucket.blob("absent").upload_from_string(b"2", if_generation_not_match=0)
    assert bucket.get_blob("folder/a b").metadata == {"writer": "one"}
    assert bucket.get_blob("folder/a b").content_type == "text/plain"
    bucket.blob("folder/a b").upload_from_string(b"1", if_generation_match=first)
    assert bucket.get_blob("folder/a b").generation > first, "equal bytes are another version"
    assert bucket.get_blob("folder/a b").metadata is None, "what is written anew keeps nothing"


def test_preconditions_of_a_get_bite(bucket: Any) -> None:
    blob = bucket.blob("a")
    blob.upload_from_string(b"1")
    with pytest.raises(gcs_errors.PreconditionFailed):
        bucket.blob("a").download_as_bytes(if_generation_match=blob.generation + 1)
    with pytest.raises(gcs_errors.PreconditionFailed):
        bucket.blob("a").reload(if_metageneration_match=2)
    with pytest.raises(gcs_errors.NotModified):
        bucket.blob("a").reload(if_generation_not_match=blob.generation)
    assert bucket.blob("a").download_as_bytes(if_generation_match=blob.generation) == b"1"
    with pytest.raises(gcs_errors.NotFound):
        bucket.blob("b").download_as_bytes(if_generation_match=1)
    with pytest.raises(gcs_errors.NotFound):
        bucket.blob("a", generation=blob.generation - 1).download_as_bytes()
    assert bucket.blob("a", generation=blob.generation).exists()
    assert not bucket.blob("b").exists()


def test_preconditions_of_delete_patch_compose_and_rewrite_bite(bucket: Any) -> None:
    one, two = bucket.blob("one"), bucket.blob("two")
    one.upload_from_string(b"1")
    two.upload_from_string(b"22")
    wrong = one.generation + 1
    one.metadata = {"a": "b"}
    refused: list[Callable[[], object]] = [
        lambda: bucket.blob("one").delete(if_generation_match=wrong),
        lambda: one.patch(if_metageneration_match=7),
        lambda: bucket.blob("one").compose([one, two], if_generation_match=0),
        lambda: bucket.blob("three").compose([one, two], if_source_generation_match=[wrong, two.generation]),
        lambda: bucket.blob("two").rewrite(one, if_generation_match=0),
        lambda: bucket.blob("three").rewrite(one, if_source_generation_match=wrong),
        lambda: bucket.copy_blob(one, bucket, "two", if_generation_match=0),
    ]
    for call in refused:
        with pytest.raises(gcs_errors.PreconditionFailed):
            call()
    with pytest.raises(gcs_errors.NotFound):
        bucket.delete_blob("one", generation=wrong)
    with pytest.raises(gcs_errors.NotFound):
        bucket.delete_blob("three")
    one.patch(if_metageneration_match=1)
    assert (bucket.get_blob("one").metageneration, bucket.get_blob("one").metadata) == (2, {"a": "b"})
    three = bucket.blob("three")
    three.compose([one, two], if_generation_match=0, if_source_generation_match=[one.generation, two.generation])
    assert (three.download_as_bytes(), three.md5_hash, three.component_count) == (b"122", None, 2)
    assert three.rewrite(one, if_generation_match=three.generation)[0] is None
    assert three.download_as_bytes() == b"1"
    bucket.delete_blob("one", if_generation_match=one.generation)
    assert bucket.get_blob("one") is None


def test_a_race_has_one_winner(bucket: Any) -> None:
    lost = gcs_errors.PreconditionFailed
    assert _winners(lambda number: bucket.blob("a").upload_from_string(bytes([number]), if_generation_match=0), lost) == 1
    now = bucket.get_blob("a").generation
    assert _winners(lambda number: bucket.blob("a").upload_from_string(bytes([number]), if_generation_match=now), lost) == 1
    now = bucket.get_blob("a").generation
    assert _winners(lambda _: bucket.blob("a").delete(if_generation_match=now), lost, gcs_errors.NotFound) == 1

    def resumable(number: int) -> None:
        bucket.blob("big", chunk_size=256 * KB).upload_from_file(io.BytesIO(bytes(600 * KB)), if_generation_match=0)

    assert _winners(resumable, lost) == 1


def test_hashes_are_given_and_held_to(bucket: Any) -> None:
    data = os.urandom(300 * KB)
    blob = bucket.blob("a")
    blob.upload_from_string(data, checksum="md5")
    assert blob.download_as_bytes(checksum="md5") == blob.download_as_bytes(checksum="crc32c") == data
    for field in ("md5_hash", "crc32c"):
        wrong = bucket.blob("b")
        setattr(wrong, field, "AAAAAA==")
        with pytest.raises(gcs_errors.BadRequest, match="doesn't match calculated"):
            wrong.upload_from_string(data, checksum=None)
    where = f"{bucket.client.api_endpoint}/upload/storage/v1/b/{bucket.name}/o?uploadType=media&name=b"
    for headers in ({"X-Goog-Hash": "crc32c=AAAAAA=="}, {"Content-MD5": "AAAAAA=="}):
        assert requests.post(where, data=data, headers=headers, timeout=10).status_code == 400
    assert bucket.get_blob("b") is None
    assert requests.post(where, data=data, headers={"X-Goog-Hash": f"crc32c={blob.crc32c}"}, timeout=10).json()["md5Hash"] == blob.md5_hash


def test_ranges(bucket: Any, gcs_store: Store) -> None:
    data = bytes(range(100))
    blob = bucket.blob("a")
    blob.upload_from_string(data)
    bucket.blob("empty").upload_from_string(b"")
    assert blob.download_as_bytes(start=10, end=19) == data[10:20]
    assert blob.download_as_bytes(start=90) == data[90:]
    assert blob.download_as_bytes(start=-5) == data[-5:]
    assert blob.download_as_bytes(start=90, end=500) == data[90:]
    assert bucket.blob("empty").download_as_bytes() == b""
    with pytest.raises(gcs_errors.RequestRangeNotSatisfiable):
        blob.download_as_bytes(start=100)
    with blob.open("rb", chunk_size=16) as file:
        file.seek(50)
        assert file.read(20) == data[50:70]
    answer = requests.get(f"{gcs_store.endpoint}/storage/v1/b/{bucket.name}/o/a?alt=media", headers={"Range": "bytes=0-"}, timeout=10)
    assert (answer.status_code, answer.headers["Content-Range"]) == (206, "bytes 0-99/100")
    assert answer.headers["X-Goog-Generation"] == str(blob.generation)


def test_lists_come_in_order_and_in_pages(bucket: Any) -> None:
    names = ["a/1", "a/2", "a/3/x", "a/3/y", "a/4", "b", "é", "zz"]
    for name in reversed(names):
        bucket.blob(name).upload_from_string(b"")
    assert [blob.name for blob in bucket.list_blobs()] == sorted(names, key=str.encode)
    pages = [[blob.name for blob in page] for page in bucket.list_blobs(page_size=3).pages]
    assert pages == [["a/1", "a/2", "a/3/x"], ["a/3/y", "a/4", "b"], ["zz", "é"]]
    assert [blob.name for blob in bucket.list_blobs(prefix="a/", start_offset="a/2", end_offset="a/4")] == ["a/2", "a/3/x", "a/3/y"]
    for size in (1, 2, 3, 10):
        folders = bucket.list_blobs(prefix="a/", delimiter="/", page_size=size)
        assert [blob.name for blob in folders] == ["a/1", "a/2", "a/4"]
        assert folders.prefixes == {"a/3/"}
        pages = bucket.list_blobs(prefix="a/", delimiter="/", page_size=size).pages
        assert len(list(pages)) == -(-4 // size), "a folder counts once"
    with pytest.raises(gcs_errors.MethodNotImplemented):  # never ignored in silence
        list(bucket.list_blobs(match_glob="a*"))


def test_resumable_uploads(bucket: Any, gcs_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(600 * KB)
    blob = bucket.blob("a", chunk_size=256 * KB)
    blob.metadata = {"writer": "one"}
    blob.upload_from_file(io.BytesIO(data), content_type="x/y", if_generation_match=0)
    assert (blob.download_as_bytes(), blob.metadata, blob.content_type) == (data, {"writer": "one"}, "x/y")
    with pytest.raises(gcs_errors.PreconditionFailed):
        bucket.blob("a", chunk_size=256 * KB).upload_from_file(io.BytesIO(data), if_generation_match=0)
    with pytest.raises(gcs_errors.PreconditionFailed):
        bucket.blob("a").create_resumable_upload_session(if_generation_match=0)
    # by hand: what is known is asked for, half a quantum is not kept, and the precondition is looked at in the end too
    where = bucket.blob("b").create_resumable_upload_session(if_generation_match=0)

    def put(part: bytes, range: str) -> requests.Response:
        return requests.put(where, data=part, headers={"Content-Range": range}, timeout=10)

    asked = put(b"", "bytes */*")
    assert (asked.status_code, asked.headers.get("Range")) == (308, None)
    kept = put(data[: 300 * KB], f"bytes 0-{300 * KB - 1}/*")
    assert (kept.status_code, kept.headers["Range"]) == (308, f"bytes=0-{256 * KB - 1}")
    assert put(data[300 * KB :], f"bytes {300 * KB}-{len(data) - 1}/{len(data)}").status_code == 400, "there is a gap"
    assert put(b"", f"bytes */{len(data)}").headers["Range"] == f"bytes=0-{256 * KB - 1}"
    assert _cut_off(where, data, 300 * KB) == b"308"
    assert put(b"", "bytes */*").headers["Range"] == f"bytes=0-{256 * KB - 1}"
    bucket.blob("b").upload_from_string(b"another writer")
    last = data[200 * KB :], f"bytes {200 * KB}-{len(data) - 1}/{len(data)}"
    assert put(*last).status_code == 412
    where = bucket.blob("c").create_resumable_upload_session(if_generation_match=0)
    done = put(data, f"bytes 0-{len(data) - 1}/{len(data)}")
    again = put(data, f"bytes 0-{len(data) - 1}/{len(data)}")
    assert done.status_code == again.status_code == put(b"", f"bytes */{len(data)}").status_code == 200
    assert done.json()["generation"] == again.json()["generation"]
    assert bucket.blob("c").download_as_bytes() == data


def _cut_off(where: str, data: bytes, length: int) -> bytes:
    """Send a body whose end does not come; the status of the answer."""
    url = urlsplit(where)
    with socket.create_connection((url.hostname, url.port)) as connection:
        head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {len(data)}\r\n"
        connection.sendall(f"{head}Content-Range: bytes 0-{len(data) - 1}/{len(data)}\r\n\r\n".encode() + data[:length])
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(64 * KB).split(b" ")[1]


def test_rights_of_buckets(gcs_objects: Objects, gcs_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = gcs_objects.create("rights")
    with _bucket(gcs_store, monkeypatch, "rights") as bucket:
        blob = bucket.blob("a")
        blob.upload_from_string(b"1")
        calls: dict[str, Callable[[], object]] = {
            "get": lambda: bucket.blob("a").download_as_bytes(),
            "stat": lambda: bucket.get_blob("a"),
            "list": lambda: list(bucket.list_blobs()),
            "create": lambda: bucket.blob(f"new-{len(made.objects)}").upload_from_string(b"2"),
            "replace": lambda: bucket.blob("a").upload_from_string(b"2"),
            "delete": lambda: bucket.blob(sorted(made.objects)[-1]).delete(),
            "bucket": lambda: bucket.reload(),
        }

        def statuses() -> dict[str, int]:
            found = {}
            for name, call in calls.items():
                try:
                    call()
                except gcs_errors.Forbidden as error:
                    found[name] = int(error.code)
                except InvalidOperation:  # what the client makes of 401 where it has no credentials to renew
                    found[name] = 401
            return found

        reads, writes = ("get", "stat", "list"), ("create", "replace", "delete")
        assert statuses() == {}
        for access, refused in {
            "user": {"bucket": 403},
            "read-only": dict.fromkeys((*writes, "bucket"), 403),
            "public": dict.fromkeys((*writes, "bucket"), 401),
            "no-delete": dict.fromkeys(("replace", "delete", "bucket"), 403),
            "closed": dict.fromkeys((*reads, *writes, "bucket"), 403),
            "anonymous": dict.fromkeys((*reads, *writes, "bucket"), 401),
        }.items():
            made.access = access
            assert statuses() == refused, access
    gcs_objects.drop("rights")
    with _bucket(gcs_store, monkeypatch, "rights") as bucket:
        with pytest.raises(gcs_errors.NotFound, match="bucket does not exist"):
            bucket.blob("a").upload_from_string(b"1")
        with pytest.raises(gcs_errors.NotFound, match="bucket does not exist"):
            list(bucket.list_blobs())


# S3


@pytest.fixture(params=["seaweed", "moto"])
def s3(request: pytest.FixtureRequest) -> Iterator[tuple[Any, str, str]]:
    """A client, a bucket and the beginning of names in it, on either server."""
    if request.param == "moto":
        with moto("a-bucket") as endpoint, _s3(endpoint) as client:
            yield client, "a-bucket", ""
    else:
        store: Store = request.getfixturevalue("s3_store")
        with _s3(store.endpoint) as client:
            yield client, *_place(store)


def test_s3_preconditions_bite_and_races_have_one_winner(s3: tuple[Any, str, str]) -> None:
    client, bucket, prefix = s3
    at = dict(Bucket=bucket, Key=f"{prefix}/a b+c")
    tag = client.put_object(**at, Body=b"1", IfNoneMatch="*")["ETag"]
    refused: list[Callable[[], object]] = [
        lambda: client.put_object(**at, Body=b"2", IfNoneMatch="*"),
        lambda: client.put_object(**at, Body=b"2", IfMatch='"0"'),
        lambda: client.get_object(**at, IfMatch='"0"'),
        lambda: client.delete_object(**at, IfMatch='"0"'),
    ]
    for call in refused:
        with pytest.raises(ClientError) as caught:
            call()
        assert _status(caught.value) == (412, "PreconditionFailed")
    second = client.put_object(**at, Body=b"2", IfMatch=tag, Metadata={"sha256": "f00"})["ETag"]
    assert client.get_object(**at)["Metadata"] == {"sha256": "f00"}

    def replace(number: int) -> None:
        client.put_object(**at, Body=f"by {number}".encode(), IfMatch=second)

    assert _winners(replace, ClientError) == 1
    client.delete_object(**at, IfMatch=client.head_object(**at)["ETag"])
    assert _winners(lambda number: client.put_object(**at, Body=bytes([number]), IfNoneMatch="*"), ClientError, racers=2) == 1
    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket=bucket, Key=f"{prefix}/absent")
    assert _status(caught.value) == (404, "NoSuchKey")


def test_s3_server_tells_missing_buckets_rights_and_hashes(s3_store: Store) -> None:
    bucket, prefix = _place(s3_store)
    key, endpoint = f"{prefix}/a", s3_store.endpoint
    with (
        _s3(endpoint) as writer,
        _s3(endpoint, *READER) as reader,
        _s3(endpoint, WRITER[0], "wrong") as wrong,
        _s3(endpoint, "who", "?") as who,
    ):
        writer.put_object(Bucket=bucket, Key=key, Body=b"1")
        writer.put_object(Bucket=PUBLIC, Key=key, Body=b"for all")
        assert reader.get_object(Bucket=bucket, Key=key)["Body"].read() == b"1"
        assert reader.list_objects_v2(Bucket=bucket, Prefix=prefix)["KeyCount"] == 1
        refused: dict[Callable[[], object], tuple[int, str]] = {
            lambda: writer.put_object(Bucket="no-such-bucket", Key=key, Body=b"1"): (404, "NoSuchBucket"),
            lambda: writer.list_objects_v2(Bucket="no-such-bucket"): (404, "NoSuchBucket"),
            lambda: writer.get_object(Bucket=bucket, Key=key, Range="bytes=5-"): (416, "InvalidRange"),
            lambda: writer.put_object(Bucket=bucket, Key=key, Body=b"2", ContentMD5="AAAAAAAAAAAAAAAAAAAAAA=="): (400, "BadDigest"),
            lambda: reader.put_object(Bucket=bucket, Key=key, Body=b"2"): (403, "AccessDenied"),
            lambda: reader.delete_object(Bucket=bucket, Key=key): (403, "AccessDenied"),
            lambda: wrong.get_object(Bucket=bucket, Key=key): (403, "SignatureDoesNotMatch"),
            lambda: who.get_object(Bucket=bucket, Key=key): (403, "InvalidAccessKeyId"),
        }
        for call, expected in refused.items():
            with pytest.raises(ClientError) as caught:
                call()
            assert _status(caught.value) == expected
        assert writer.get_object(Bucket=bucket, Key=key)["Body"].read() == b"1"
    assert requests.get(f"{endpoint}/{PUBLIC}/{key}", timeout=10).text == "for all"
    assert requests.get(f"{endpoint}/{bucket}/{key}", timeout=10).status_code == 403


def test_s3_lists_in_pages(s3_store: Store) -> None:
    bucket, prefix = _place(s3_store)
    names = [f"{prefix}/{name}" for name in ("a", "b/1", "b/2", "c")]
    with _s3(s3_store.endpoint) as client:
        for name in reversed(names):
            client.put_object(Bucket=bucket, Key=name, Body=b"")
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/", PaginationConfig={"PageSize": 3})
        assert [[found["Key"] for found in page["Contents"]] for page in pages] == [names[:3], names[3:]]
        after = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/", StartAfter=names[1])
        assert [found["Key"] for found in after["Contents"]] == names[2:]
