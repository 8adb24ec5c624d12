"""What a bucket says of faults on the way, and of what its caller may not do, through the fault proxy; some 8 seconds."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from job.errors import MachineError, UserError
from job.storage import gs, transfer
from job.storage.bucket import Bucket, Unavailable
from job.storage.opening import open_bucket
from job.storage.s3 import S3Bucket
from tests.buckets import bare
from tests.stores.fixtures import Proxied, Store, gcs_place, proxied, s3_place
from tests.stores.moto import moto
from tests.stores.objects import Objects
from tests.stores.seaweed import PUBLIC, WRITER

CONTENT = bytes(range(256)) * 4096  # 1 MB
LOG_IN_GS = "run gcloud auth application-default login, or bind a service account (Workload Identity)"
LOG_IN_S3 = "run aws sso login, set AWS_PROFILE, or attach a role (IRSA)"

CALLS: dict[str, Callable[[Bucket, Path, str], Any]] = {
    "stat": lambda bucket, path, version: bucket.stat("a"),
    "read": lambda bucket, path, version: bucket.read("a"),
    "part": lambda bucket, path, version: bucket.read("a", 1000, 500_000),
    "fetch": lambda bucket, path, version: bucket.fetch("a", path / "a"),
    "list": lambda bucket, path, version: list(bucket.list()),
    "put": lambda bucket, path, version: bucket.put("new", CONTENT[1:]),
    "replace": lambda bucket, path, version: bucket.replace("a", CONTENT[1:], version),
    "delete": lambda bucket, path, version: bucket.delete("a", version),
}


@pytest.fixture(params=["gcs_store", "s3_store"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxied]:
    with proxied(request.getfixturevalue(request.param)) as place:
        place.use(monkeypatch)
        yield place


@pytest.fixture
def bucket(place: Proxied) -> Bucket:
    return bare(place.url)


def failed(call: Callable[[], Any]) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        call()
    return caught.value


# Faults that pass


@pytest.mark.parametrize(
    ("fault", "kinds", "calls"),
    [
        ("503", {"503 Service Unavailable"}, [*CALLS]),
        ("500", {"500 Internal Server Error"}, [*CALLS]),
        ("408", {"408 Request Timeout"}, ["stat", "put"]),
        ("reset", {"connection reset"}, [*CALLS]),
        ("lost", {"connection reset"}, ["put", "replace", "delete"]),
        ("cut", {transfer.CUT, "connection reset"}, ["read", "part", "fetch"]),
        ("cut", {transfer.CUT, "connection reset", "500 Internal Server Error"}, ["list"]),  # as boto3 calls XML without its end
        ("flip", {transfer.WRONG_HASH}, ["read", "fetch"]),
        ("flip-request", {transfer.WRONG_HASH}, ["put", "replace"]),
        ("cut-request", {"connection reset"}, ["put", "replace"]),
    ],
)
def test_a_fault_that_passes(place: Proxied, bucket: Bucket, tmp_path: Path, fault: str, kinds: set[str], calls: list[str]) -> None:
    version = bucket.put("a", CONTENT)
    for call in calls:
        rule = place.proxy.faults.add(fault)
        assert str(failed(partial(CALLS[call], bucket, tmp_path, version))) in kinds
        assert rule.n == 0
        assert list(tmp_path.iterdir()) == []
        if fault != "lost":
            assert [(found.name, found.version) for found in bucket.list()] == [("a", version)]
        else:
            assert {"put": "new", "replace": "a"}.get(call, "") in [*(found.name for found in bucket.list()), ""]
            if call == "replace":
                assert bucket.read("a") == CONTENT[1:]
                version = next(found.version for found in bucket.list() if found.name == "a")
    if fault == "lost":
        assert bucket.stat("a") is None


@pytest.mark.parametrize("call", [*CALLS])
def test_the_store_says_when_to_come_back(place: Proxied, bucket: Bucket, tmp_path: Path, call: str) -> None:
    version = bucket.put("a", CONTENT)
    place.proxy.faults.add("429", retry_after=7)
    fault = failed(partial(CALLS[call], bucket, tmp_path, version))
    assert (str(fault), fault.wait) == ("429 Too Many Requests", 7)


def test_silence_ends(place: Proxied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "READ_SECONDS", 0.3)
    bucket = bare(place.url)
    version = bucket.put("a", CONTENT)
    for call in ("read", "fetch", "list"):
        place.proxy.faults.add("stall")
        assert str(failed(partial(CALLS[call], bucket, tmp_path, version))) == "timed out"
    place.proxy.faults.add("latency")
    assert str(failed(lambda: bucket.stat("a"))) == "timed out"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["read", "fetch", "put"])
def test_a_drip_ends(place: Proxied, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    version = bucket.put("a", CONTENT)
    monkeypatch.setattr(transfer, "WINDOW", 0.3)
    monkeypatch.setattr(transfer, "SLOWEST", 1_000_000_000)
    monkeypatch.setitem(CALLS, "put", lambda bucket, path, version: bucket.put("new", CONTENT * 64))  # more than sockets hold
    place.proxy.limit(2_000_000)
    assert str(failed(partial(CALLS[call], bucket, tmp_path, version))) == "less than 1000000000 bytes a second"
    place.proxy.limit(0)
    assert list(tmp_path.iterdir()) == []


def test_nobody_listens(place: Proxied, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
    place.at(endpoint).use(monkeypatch)
    assert str(failed(lambda: bare(place.url).stat("a"))) == "connection refused"


def test_a_body_that_ends_in_another_way(place: Proxied, bucket: Bucket, tmp_path: Path) -> None:
    """A file that cannot be read is no fault of the network; one that was there before stays as it was."""
    (tmp_path / "a").write_bytes(b"before")
    bucket.put("a", CONTENT)
    place.proxy.faults.add("flip")
    failed(lambda: bucket.fetch("a", tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == b"before"
    with pytest.raises(FileNotFoundError):
        bucket.put("b", tmp_path / "missing")
    with pytest.raises(OSError, match="Is a directory"):
        bucket.fetch("a", tmp_path)
    with pytest.raises(FileNotFoundError):
        bucket.fetch("a", tmp_path / "missing" / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_disk_that_fails_is_no_fault_of_the_network(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(CONTENT)
    real, sending = transfer.Pace.passed, []

    def passed(self: transfer.Pace, count: int) -> None:
        sending.append(count)
        if len(sending) > 8:
            raise OSError(5, "Input/output error")
        real(self, count)

    monkeypatch.setattr(transfer.Pace, "passed", passed)
    with pytest.raises(OSError, match="Input/output error"):
        bucket.put("a", tmp_path / "a", "0" * 64)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (socket.gaierror(-2, "Name or service not known"), "host name not found"),
        (OSError(101, "Network is unreachable"), "network unreachable"),
        (BrokenPipeError(), "connection reset"),
        (TimeoutError(), "timed out"),
        (ValueError(), "connection failed"),
    ],
)
def test_faults_in_a_few_words(error: Exception, kind: str) -> None:
    assert transfer.fault(RuntimeError("wrapped", error), "gs://a") == kind


def test_retry_after_is_seconds_or_a_date() -> None:
    assert transfer.retry_after({"Retry-After": "2.5"}) == 2.5
    assert transfer.retry_after({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}) == 0
    assert transfer.retry_after({"retry-after": "Fri, 31 Dec 2100 23:59:59 GMT"}) > 1e6
    assert transfer.retry_after({"retry-after": "soon"}) == transfer.retry_after({}) == 0


# What is not allowed


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("call", [*CALLS])
def test_no_such_bucket(place: Proxied, tmp_path: Path, call: str) -> None:
    scheme = place.url[:5]
    if (scheme, call) == ("s3://", "replace"):
        pytest.skip("SeaweedFS says first that there is nothing to replace")
    line = refused(partial(CALLS[call], bare(f"{scheme}not-there/run"), tmp_path, "1"))
    assert line == f"{scheme}not-there: the bucket does not exist; correct the name or create it first"


def test_no_such_bucket_of_another_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with moto() as endpoint:
        s3_place("s3://not-there", endpoint, "any", "any").use(monkeypatch)
        for call in CALLS.values():
            line = refused(partial(call, bare("s3://not-there"), tmp_path, "1"))
            assert line == "s3://not-there: the bucket does not exist; correct the name or create it first"


@pytest.mark.parametrize(
    ("access", "call", "what"),
    [
        ("closed", "read", "read: permission denied; grant roles/storage.objectViewer on gs://BUCKET"),
        ("closed", "list", "list: permission denied; grant roles/storage.objectViewer on gs://BUCKET"),
        ("read-only", "put", "write: permission denied; grant roles/storage.objectUser on gs://BUCKET"),
        ("no-delete", "delete", "delete: permission denied; grant roles/storage.objectUser on gs://BUCKET"),
        ("anonymous", "stat", f"read: no credentials were found; {LOG_IN_GS}"),
        ("public", "put", f"write: no credentials were found; {LOG_IN_GS}"),
    ],
)
def test_rights_on_google(
    gcs_store: Store, gcs_objects: Objects, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, access: str, call: str, what: str
) -> None:
    gcs_store.use(monkeypatch)
    version = bare(gcs_store.url).put("a", CONTENT)
    name = gcs_store.url.split("/")[2]
    gcs_objects.bucket(name).access = access
    line = refused(partial(CALLS[call], bare(gcs_store.url), tmp_path, version))
    assert line == f"{gcs_store.url}: cannot {what.replace('BUCKET', name)}"


@pytest.mark.parametrize(
    ("status", "reason", "what"),
    [
        (401, "InvalidToken", f"write: the credentials were refused (InvalidToken); {LOG_IN_S3}"),
        (403, "ExpiredToken", f"write: the credentials were refused (ExpiredToken); {LOG_IN_S3}"),
        (400, "ExpiredToken", f"write: the credentials were refused (ExpiredToken); {LOG_IN_S3}"),
        (403, "AccessDenied", "write: permission denied; allow s3:PutObject on s3://twofold"),
        (400, "AuthorizationHeaderMalformed", "write: the bucket is in another region; set AWS_REGION to the region of the bucket"),
        (400, "EntityTooLarge", "write: 400 Bad Request (made by the proxy); correct the address or the settings of the bucket"),
    ],
)
def test_refusals_of_s3(s3_store: Store, monkeypatch: pytest.MonkeyPatch, status: int, reason: str, what: str) -> None:
    with proxied(s3_store) as place:
        place.use(monkeypatch)
        place.proxy.faults.add(str(status), reason=reason)
        assert refused(lambda: bare(place.url).put("a", b"x")).removeprefix(place.url).removeprefix("/a") == f": cannot {what}"


@pytest.mark.parametrize(("status", "reason"), [(400, "RequestTimeout"), (409, "ConditionalRequestConflict"), (403, "SlowDown")])
def test_refusals_of_s3_that_pass(s3_store: Store, monkeypatch: pytest.MonkeyPatch, status: int, reason: str) -> None:
    with proxied(s3_store) as place:
        place.use(monkeypatch)
        place.proxy.faults.add(str(status), reason=reason)
        assert str(failed(lambda: bare(place.url).put("a", b"x"))) == reason
        place.proxy.faults.add("403", reason="RequestTimeTooSkewed")
        with pytest.raises(MachineError, match="the clock of this machine is wrong; set it and rerun"):
            bare(place.url).put("a", b"x")


def test_rights_on_s3(s3_store: Store, s3_reader: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_store.use(monkeypatch)
    version = bare(s3_store.url).put("a", b"x")
    s3_reader.use(monkeypatch)
    reader = bare(s3_reader.url)
    assert reader.read("a") == b"x"
    assert (
        refused(lambda: reader.put("b", b"x")) == f"{reader.address}: cannot write: permission denied; allow s3:PutObject on s3://twofold"
    )
    line = refused(lambda: reader.delete("a", version))
    assert line == f"{reader.address}: cannot delete: permission denied; allow s3:DeleteObject on s3://twofold"
    wrong = s3_place(s3_store.url, s3_store.endpoint, WRITER[0], "not-the-secret")
    wrong.use(monkeypatch)
    line = refused(lambda: bare(wrong.url).put("b", b"x"))
    assert line == f"{reader.address}: cannot write: the credentials were refused (SignatureDoesNotMatch); {LOG_IN_S3}"
    assert "not-the-secret" not in line
    replace(wrong, environment={"AWS_PROFILE": "unknown"}).use(monkeypatch)
    assert "unknown" in refused(lambda: bare(wrong.url).stat("b"))


def test_public_buckets_need_no_credentials(
    s3_store: Store, gcs_store: Store, gcs_objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_store.use(monkeypatch)
    version = bare(f"s3://{PUBLIC}/run").put("a", b"x")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    public = bare(f"s3://{PUBLIC}/run")
    assert public.read("a") == b"x"
    assert [found.name for found in public.list()] == ["a"]
    assert refused(lambda: public.put("b", b"x")) == f"s3://{PUBLIC}/run: cannot write: no credentials were found; {LOG_IN_S3}"
    assert refused(lambda: bare(s3_store.url).read("a")) == f"{s3_store.url}: cannot read: no credentials were found; {LOG_IN_S3}"
    s3_store.use(monkeypatch)
    bare(f"s3://{PUBLIC}/run").delete("a", version)

    gcs_store.use(monkeypatch)
    bare(gcs_store.url).put("a", b"x")
    gcs_objects.bucket(gcs_store.url.split("/")[2]).access = "public"
    assert bare(gcs_store.url).read("a") == b"x"
    assert [found.name for found in bare(gcs_store.url).list()] == ["a"]


# Google's credentials, which an emulator never asks for


@pytest.fixture
def elsewhere(gcs_store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The fake as the endpoint of Google itself, without credentials and without a metadata server."""
    gcs_place(gcs_store.url, gcs_store.endpoint).use(monkeypatch)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", gcs_store.endpoint)
    monkeypatch.setenv("CLOUDSDK_CONFIG", "/dev/null")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("google.auth.compute_engine._metadata._NO_GCE_CHECK", True)
    return gcs_store


def test_without_credentials_google_is_asked_without(elsewhere: Store, gcs_objects: Objects) -> None:
    bucket = bare(elsewhere.url)
    assert bucket.stat("a") is None
    gcs_objects.bucket(elsewhere.url.split("/")[2]).access = "anonymous"
    assert refused(lambda: bucket.stat("a")) == f"{elsewhere.url}: cannot read: no credentials were found; {LOG_IN_GS}"


def test_a_metadata_server_may_be_late(elsewhere: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    bucket = bare(elsewhere.url)
    for _ in range(2):
        assert str(failed(lambda: bucket.stat("a"))) == "no credentials yet: the metadata server does not answer"
    monkeypatch.setattr(gs, "LATE_SECONDS", 0)
    assert bucket.stat("a") is None


@pytest.mark.parametrize("content", [None, "{", '{"type": "service_account", "private_key": "not-a-key"}'])
def test_credentials_that_cannot_be_read(elsewhere: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "key.json").write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    line = refused(lambda: bare(elsewhere.url).stat("a"))
    assert line.startswith(f"{elsewhere.url}: the credentials cannot be read (")
    assert line.endswith(f"; {LOG_IN_GS}")
    assert "not-a-key" not in line


@pytest.mark.parametrize("answer", ["refused", "invalid_grant"])
def test_credentials_that_expired(elsewhere: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str) -> None:
    """Of a user who logged in long ago: the token endpoint refuses, or cannot be reached."""
    from google.auth import exceptions
    from google.oauth2 import credentials

    def refresh(self: Any, request: Any) -> None:
        if answer == "refused":
            raise exceptions.TransportError(ConnectionRefusedError())
        raise exceptions.RefreshError("invalid_grant: Token has been expired or revoked.", {"token": "secret"})

    monkeypatch.setattr(credentials.Credentials, "refresh", refresh)
    key = tmp_path / "key.json"
    key.write_text('{"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}')
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    bucket = bare(elsewhere.url)
    if answer == "refused":
        assert str(failed(lambda: bucket.stat("a"))) == "no access token (connection refused)"
    else:
        assert refused(lambda: bucket.stat("a")) == f"{elsewhere.url}: cannot read: the credentials are expired or revoked; {LOG_IN_GS}"


def test_an_endpoint_without_its_scheme(gcs_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gcs_store.use(monkeypatch)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:1")
    line = refused(lambda: bare(gcs_store.url).stat("a"))
    assert line == f"{gcs_store.url}: invalid endpoint 127.0.0.1:1; begin STORAGE_EMULATOR_HOST with http://"


def test_an_answer_of_s3_without_a_version_is_asked_for_again(s3_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen after a process had slept for two minutes: the connections are given up with it."""
    s3_store.use(monkeypatch)
    real, made = S3Bucket._connect, []

    def connect(self: S3Bucket) -> Any:
        client = real(self)
        if not made:
            client.get_object = lambda **asked: {"Metadata": {"sha256": "0"}, "Body": None}
        made.append(client)
        return client

    monkeypatch.setattr(S3Bucket, "_connect", connect)
    bucket = open_bucket(s3_store.url)
    bucket.put("a", CONTENT)
    assert bucket.read("a") == CONTENT
    assert len(made) == 2
    assert bucket.counts.faults == {"unreadable answer": 1}
