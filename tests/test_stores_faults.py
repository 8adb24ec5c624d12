"""Each fault of the proxy before the stores happens, and happens as often as it was asked for."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError
from google.api_core.exceptions import PreconditionFailed
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY

from tests.stores.fake_gcs import FakeGcs
from tests.stores.faults import CHAOS
from tests.stores.fixtures import Proxied, Store, proxied
from tests.stores.moto import moto
from tests.stores.proxy import Proxy, control
from tests.stores.seaweed import WRITER, s3_client

SOON = DEFAULT_RETRY.with_delay(initial=0.02, maximum=0.05).with_timeout(20)
KB, MB = 1 << 10, 1 << 20
BROKEN = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)
DATA = os.urandom(300 * KB)


@pytest.fixture
def gcs(gcs_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Proxied, Any]]:
    """A bucket behind a proxy, with the object `a` in it."""
    with proxied(gcs_store) as behind:
        behind.use(monkeypatch)
        client = storage.Client(project="p")
        bucket = client.bucket(gcs_store.url.split("/")[2])
        bucket.blob("a").upload_from_string(DATA)
        yield behind, bucket
        client.close()


def _media(behind: Proxied, name: str = "a", **options: Any) -> requests.Response:
    bucket = behind.url.split("/")[2]
    return requests.get(f"{behind.endpoint}/download/storage/v1/b/{bucket}/o/{name}?alt=media", timeout=10, **options)


def test_statuses_come_as_often_as_asked_for_and_are_retried(gcs: tuple[Proxied, Any]) -> None:
    behind, bucket = gcs
    behind.proxy.faults.add("503", method="GET", n=2, skip=1)
    assert _media(behind).status_code == 200
    behind.proxy.faults.add("429", method="GET", path=r"/o/a\?", retry_after=7)
    assert bucket.blob("a").download_as_bytes(retry=SOON) == DATA
    counts = behind.proxy.faults.counts()
    assert counts["faults"] == {"503": 2, "429": 1}
    assert counts["methods"] == {"POST": 1, "GET": 5}
    assert [entry.status for entry in behind.proxy.faults.log] == [200, 200, 503, 503, 429, 200]
    behind.proxy.faults.add("429", retry_after=7, n=5)
    answer = _media(behind)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    behind.proxy.faults.clear()
    assert _media(behind).status_code == 200


def test_connections_stay_in_order(gcs: tuple[Proxied, Any], gcs_server: FakeGcs) -> None:
    behind, bucket = gcs
    behind.proxy.faults.add("503", method="POST")
    with requests.Session() as session:
        where = f"{behind.endpoint}/upload/storage/v1/b/{bucket.name}/o?uploadType=media&name=b"
        assert session.post(where, data=DATA, timeout=10).status_code == 503
        assert session.post(where, data=DATA, timeout=10).status_code == 200
        gcs_server.hang_up()  # as stores do with connections that are idle
        assert session.post(where, data=DATA, timeout=10).status_code == 200
    assert [entry.sent for entry in behind.proxy.faults.log[1:]] == [0, len(DATA), len(DATA)]


def test_resets_and_cuts(gcs: tuple[Proxied, Any]) -> None:
    behind, bucket = gcs
    behind.proxy.faults.add("reset")
    with pytest.raises(requests.ConnectionError, match="reset by peer"):
        _media(behind)
    behind.proxy.faults.add("cut")
    with _media(behind, stream=True) as answer:
        assert int(answer.headers["Content-Length"]) == len(DATA)
        with pytest.raises(BROKEN):
            _ = answer.content
    behind.proxy.faults.add("cut")
    assert bucket.blob("a").download_as_bytes(retry=SOON) == DATA
    ranged = [entry for entry in behind.proxy.faults.log if entry.status == 206]
    assert [entry.received < len(DATA) * 3 / 5 for entry in ranged] == [True], "the rest alone was fetched"
    blob = bucket.blob("b", chunk_size=MB)
    behind.proxy.faults.add("cut-request", method="PUT")
    with blob.open("wb", retry=SOON, if_generation_match=0) as file:
        file.write(DATA * 2)
    assert bucket.blob("b").download_as_bytes() == DATA * 2
    assert behind.proxy.faults.counts()["faults"] == {"reset": 1, "cut": 2, "cut-request": 1}


def test_flipped_bits_are_of_the_content(gcs: tuple[Proxied, Any]) -> None:
    behind, bucket = gcs
    behind.proxy.faults.add("flip", n=2)
    got = _media(behind).content
    assert [at for at in range(len(DATA)) if got[at] != DATA[at]] == [len(DATA) // 2]
    with pytest.raises(DataCorruption):
        bucket.blob("a").download_as_bytes()
    for size in (1, 300, 300 * KB):
        behind.proxy.faults.add("flip-request")
        blob = bucket.blob("sent")
        blob.metadata = {"writer": "me"}
        blob.upload_from_string(DATA[:size], checksum=None)
        got, stored = _media(behind, "sent").content, bucket.get_blob("sent")
        assert [at for at in range(size) if got[at] != DATA[at]] == [size // 2 if size > 1 else 0]
        assert stored.metadata == {"writer": "me"}
    behind.proxy.faults.add("flip")
    assert list(bucket.list_blobs()), "a list is no content"
    assert _media(behind).content != DATA, "and uses up no rule"
    behind.proxy.faults.chaos(seed=0, probability=1, total=1, kinds=["flip"])
    assert list(bucket.list_blobs())
    assert _media(behind).content != DATA
    assert _media(behind).content == DATA
    assert behind.proxy.faults.counts()["faults"] == {"flip": 4, "flip-request": 3}


def test_a_lost_response_is_of_a_write_that_was_done(gcs: tuple[Proxied, Any]) -> None:
    behind, bucket = gcs
    behind.proxy.faults.add("lost", method="POST")
    blob = bucket.blob("b")
    with pytest.raises(PreconditionFailed):
        blob.upload_from_string(b"mine", if_generation_match=0, retry=SOON)
    assert bucket.blob("b").download_as_bytes() == b"mine"
    behind.proxy.faults.add("lost", method="PUT")
    with bucket.blob("c", chunk_size=MB).open("wb", retry=SOON, if_generation_match=0) as file:
        file.write(DATA)
    assert bucket.blob("c").download_as_bytes() == DATA
    assert behind.proxy.faults.counts()["faults"] == {"lost": 2}


def test_stalls_and_latency(gcs: tuple[Proxied, Any]) -> None:
    behind, bucket = gcs
    behind.proxy.faults.add("stall")
    with pytest.raises(BROKEN):
        requests.get(f"{behind.endpoint}/download/storage/v1/b/{bucket.name}/o/a?alt=media", timeout=0.3)
    behind.proxy.faults.add("stall", seconds=0.1)
    assert _media(behind).content == DATA
    behind.proxy.faults.add("latency", seconds=0.2)
    behind.proxy.latency_ms = 100
    begun = time.monotonic()
    _media(behind)
    _media(behind)
    assert time.monotonic() - begun >= 0.4
    assert behind.proxy.faults.counts()["faults"] == {"stall": 2, "latency": 1}


def test_bandwidth_is_shared_by_all_connections(gcs: tuple[Proxied, Any]) -> None:
    behind, _ = gcs
    behind.proxy.limit(2e6)
    begun = time.monotonic()
    threads = [threading.Thread(target=_media, args=(behind,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begun >= (4 * len(DATA) - 2 * 64 * KB) / 2e6 - 0.05


def test_a_store_that_is_away_and_comes_back(gcs: tuple[Proxied, Any]) -> None:
    behind, _ = gcs
    behind.proxy.faults.add("stall", seconds=20)
    ended: list[Exception] = []

    def read() -> None:
        try:
            _media(behind)
        except BROKEN as error:
            ended.append(error)

    reading = threading.Thread(target=read)
    reading.start()
    while behind.proxy.faults.log[-1].fault != "stall" or behind.proxy.faults.log[-1].received == 0:
        time.sleep(0.01)
    behind.proxy.away(60)
    reading.join()
    assert len(ended) == 1
    assert "timed out" not in str(ended[0]), "what is under way ends too"
    for _ in range(3):
        with pytest.raises(requests.ConnectionError):
            _media(behind)
    assert control(behind.endpoint, "counts")["faults"] == {"stall": 1, "away": 3}, "it can be asked meanwhile"
    behind.proxy.away(0.2)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(requests.ConnectionError):
            assert _media(behind).content == DATA
            return
    pytest.fail("the store stays away")


def test_chaos_makes_each_kind_and_no_more_than_asked_for(gcs: tuple[Proxied, Any]) -> None:
    behind, bucket = gcs
    kinds = [kind for kind in CHAOS if not kind.startswith("flip")]
    behind.proxy.faults.chaos(seed=1, probability=0.7, total=40, kinds=kinds, seconds=0.01)
    for number in range(200):
        blob = bucket.blob(f"c/{number}")
        with contextlib.suppress(PreconditionFailed):
            blob.upload_from_string(DATA[: 1 + number], if_generation_match=0, retry=SOON)
        assert blob.download_as_bytes(retry=SOON) == DATA[: 1 + number]
        if behind.proxy.faults.counts()["chaos_left"] == 0:
            break
    counts = behind.proxy.faults.counts()
    assert sum(counts["faults"].values()) == 40
    assert set(counts["faults"]) == set(kinds)
    assert max(counts["faults"].values()) - min(counts["faults"].values()) <= 2


def test_s3_through_the_proxy(s3_store: Store) -> None:
    bucket, _, prefix = s3_store.url.removeprefix("s3://").partition("/")
    at = dict(Bucket=bucket, Key=f"{prefix}/a")
    with proxied(s3_store) as behind, contextlib.closing(s3_client(behind.endpoint, *WRITER)) as client:
        client.put_object(**at, Body=DATA, IfNoneMatch="*")
        with pytest.raises(ClientError, match="PreconditionFailed"):  # answered before the body has come
            client.put_object(**at, Body=DATA * 20, IfNoneMatch="*")
        assert client.get_object(**at)["Body"].read() == DATA, "the signature is valid behind the proxy too"
        faults = behind.proxy.faults
        faults.add("flip-request")
        with pytest.raises(ClientError, match=r"BadDigest|XAmzContentSHA256Mismatch|checksum|hash"):
            client.put_object(Bucket=bucket, Key=f"{prefix}/b", Body=DATA)
        faults.add("503")
        with pytest.raises(ClientError, match="SlowDown"):
            client.get_object(**at)
        faults.add("403", reason="ExpiredToken")
        with pytest.raises(ClientError, match="ExpiredToken"):
            client.put_object(**at, Body=b"2")
        faults.add("503")
        with pytest.raises(ClientError, match="503"):
            client.head_object(**at)
        faults.add("flip")
        client.list_objects_v2(Bucket=bucket, Prefix=prefix)
        got = client.get_object(**at, Range="bytes=0-9")["Body"].read()
        assert [one for one in range(10) if got[one] != DATA[one]] == [5]
        faults.add("lost", method="PUT")
        with pytest.raises(Exception, match=r"closed|reset"):
            client.put_object(Bucket=bucket, Key=f"{prefix}/c", Body=b"done", IfNoneMatch="*")
        assert client.get_object(Bucket=bucket, Key=f"{prefix}/c")["Body"].read() == b"done"
        assert client.head_object(**at)["ContentLength"] == len(DATA)
        chunked = client.generate_presigned_url("put_object", Params=dict(Bucket=bucket, Key=f"{prefix}/d"))
        assert requests.put(chunked, data=iter([DATA, b"x", DATA]), timeout=10).status_code == 200
        assert client.get_object(Bucket=bucket, Key=f"{prefix}/d")["Body"].read() == DATA + b"x" + DATA
        client.delete_object(**at)
        assert faults.counts()["faults"] == {"flip-request": 1, "503": 2, "403": 1, "flip": 1, "lost": 1}


def test_moto_through_the_proxy() -> None:
    with moto("a-bucket") as endpoint, Proxy(endpoint) as proxy, contextlib.closing(s3_client(proxy.endpoint, "any", "any")) as client:
        client.put_object(Bucket="a-bucket", Key="a", Body=DATA)
        assert client.get_object(Bucket="a-bucket", Key="a")["Body"].read() == DATA
        with pytest.raises(ClientError, match="NoSuchBucket"):
            client.put_object(Bucket="no-such-bucket", Key="a", Body=DATA)


def test_programs(tmp_path: Path) -> None:
    """The fake and the proxy as processes of their own, the proxy set over HTTP."""
    root = Path(__file__).parents[1]
    ended: list[int] = []
    with contextlib.ExitStack() as stack:

        def begin(*words: str) -> str:
            command = [sys.executable, "-m", *words]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root))
            stack.callback(lambda: ended.append(process.wait(20)))
            stack.callback(process.terminate)
            return process.stdout.readline().strip() if process.stdout else ""

        store = begin("tests.stores.fake_gcs", "--port", "0")
        proxy = begin("tests.stores.proxy", "--to", store)
        made = requests.post(f"{proxy}/storage/v1/b", json={"name": "made", "access": "read-only"}, timeout=10)
        assert made.json()["name"] == "made"
        control(proxy, "rules", fault="503", path="/b/made", n=2)
        control(proxy, "set", latency_ms=1, bytes_per_second=5e7)
        listed = f"{proxy}/storage/v1/b/made/o"
        assert [requests.get(listed, timeout=10).status_code for _ in range(3)] == [503, 503, 200]
        control(proxy, "chaos", seed=1, probability=1, total=1, kinds=["500"])
        assert control(proxy, "counts")["chaos_left"] == 1
        assert requests.get(listed, timeout=10).status_code == 500
        control(proxy, "rules", fault="503")
        control(proxy, "rules", method="DELETE")
        assert requests.get(listed, timeout=10).status_code == 200
        assert control(proxy, "counts")["faults"] == {"503": 2, "500": 1}
        assert [entry["status"] for entry in control(proxy, "log")] == [200, 503, 503, 200, 500, 200]
        control(proxy, "set", away=30)
        with pytest.raises(requests.ConnectionError):
            requests.get(listed, timeout=10)
        control(proxy, "set", away=0)
        assert requests.get(listed, timeout=10).status_code == 200
    assert ended == [0, 0]


def test_what_runs_ends_with_its_server() -> None:

    def ask(url: str) -> None:
        with contextlib.suppress(*BROKEN):
            requests.get(url, timeout=30)

    before = set(threading.enumerate())
    with FakeGcs() as server, Proxy(server.endpoint) as proxy:
        idle = [socket.create_connection(("127.0.0.1", int(each.rpartition(":")[2]))) for each in (server.endpoint, proxy.endpoint)]
        proxy.faults.add("latency", seconds=60)
        asking = threading.Thread(target=ask, args=(f"{proxy.endpoint}/storage/v1/b",))
        asking.start()
        while not proxy.faults.log:
            time.sleep(0.01)
    asking.join()
    for each in idle:
        each.close()
    assert set(threading.enumerate()) <= before
