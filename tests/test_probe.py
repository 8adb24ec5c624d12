"""The probe before a run in a bucket, and the addresses of buckets; some 3 seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from job.errors import MachineError, UserError
from job.storage.opening import canonical, is_bucket, open_bucket
from job.storage.probe import probe
from job.storage.retrying import Retrying
from job.storage.s3 import S3Bucket
from tests.stores.fixtures import Store, proxied
from tests.stores.objects import Conditions, Objects
from tests.stores.seaweed import PUBLIC


@pytest.fixture(params=["gcs_store", "s3_store"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    place: Store = request.getfixturevalue(request.param)
    place.use(monkeypatch)
    return place


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def test_a_store_that_fits(store: Store) -> None:
    with proxied(store) as place:
        with pytest.MonkeyPatch.context() as patch:
            place.use(patch)
            bucket = open_bucket(place.url)
            probe(bucket)
            probe(bucket)
        assert len(place.proxy.faults.log) < 20
    assert list(open_bucket(store.url).list()) == []


def test_faults_are_no_verdict(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost response to a write makes the next try find an object: its own, and not another's."""
    monkeypatch.setattr("job.storage.retrying.FIRST_WAIT", 0.01)
    writes = "POST" if store.url.startswith("gs") else "PUT"
    with proxied(store) as place:
        place.use(monkeypatch)
        bucket = open_bucket(place.url)
        for skip in range(4):
            for fault in ("lost", "503"):
                place.proxy.faults.add(fault, method=writes, skip=skip)
                probe(bucket)
                place.proxy.faults.clear()
        place.proxy.faults.add("lost", method="DELETE", n=2)
        probe(bucket)
        assert list(bucket.list()) == []
        assert bucket.counts.faults.total() == 10


def ignoring(monkeypatch: pytest.MonkeyPatch, *ignored: str) -> None:
    """Both stores take some writes that they should refuse: `absent`, `version`, `delete`."""
    check, call = Conditions.check, S3Bucket._call

    def checked(self: Conditions, found: Any, reading: bool = False) -> None:
        if not ("absent" in ignored and self.generation == 0) and not ("version" in ignored and self.generation):
            check(self, found, reading)

    def called(self: S3Bucket, verb: str, name: str, operation: str, **arguments: Any) -> Any:
        if operation == "put_object" and "absent" in ignored:
            arguments.pop("IfNoneMatch", None)
        if operation == "put_object" and "version" in ignored:
            arguments.pop("IfMatch", None)
        if operation == "delete_object" and "delete" in ignored:
            arguments.pop("IfMatch", None)
        return call(self, verb, name, operation, **arguments)

    monkeypatch.setattr(Conditions, "check", checked)
    monkeypatch.setattr(S3Bucket, "_call", called)


@pytest.mark.parametrize("ignored", [["absent"], ["version"], ["absent", "version", "delete"]])
def test_a_store_that_takes_what_it_must_refuse(store: Store, monkeypatch: pytest.MonkeyPatch, ignored: list[str]) -> None:
    ignoring(monkeypatch, *ignored)
    bucket = open_bucket(store.url)
    line = refused(lambda: probe(bucket))
    assert line == f"{store.url}: it does not honor conditional writes; use another store"
    assert list(bucket.list()) == []


def test_a_store_that_deletes_any_version(s3_store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    s3_store.use(monkeypatch)
    ignoring(monkeypatch, "delete")
    bucket = open_bucket(s3_store.url)
    probe(bucket)
    assert "the store does not honor conditional deletes" in capsys.readouterr().out
    assert list(bucket.list()) == []


def test_a_store_that_shows_something_else(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Retrying, "read", lambda self, name, version: b"something else")
    line = refused(lambda: probe(open_bucket(store.url)))
    assert line == f"{store.url}: what is read is not what was written; use another store"


@pytest.mark.parametrize(
    ("access", "what"),
    [
        ("read-only", "cannot write: permission denied; grant roles/storage.objectUser on gs://BUCKET"),
        ("no-delete", "cannot write: permission denied; grant roles/storage.objectUser on gs://BUCKET"),
        ("public", "cannot write: no credentials were found; run gcloud auth application-default login, or bind a service account"),
    ],
)
def test_rights_on_google(gcs_store: Store, gcs_objects: Objects, monkeypatch: pytest.MonkeyPatch, access: str, what: str) -> None:
    gcs_store.use(monkeypatch)
    name = gcs_store.url.split("/")[2]
    gcs_objects.bucket(name).access = access
    assert refused(lambda: probe(open_bucket(gcs_store.url))).startswith(f"{gcs_store.url}: {what.replace('BUCKET', name)}")


def test_rights_on_s3(s3_reader: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_reader.use(monkeypatch)
    line = refused(lambda: probe(open_bucket(s3_reader.url)))
    assert line == f"{s3_reader.url}: cannot write: permission denied; allow s3:PutObject on s3://twofold"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    line = refused(lambda: probe(open_bucket(f"s3://{PUBLIC}/run")))
    assert line.startswith(f"s3://{PUBLIC}/run: cannot write: ")
    assert line.endswith("; run aws sso login, set AWS_PROFILE, or attach a role (IRSA)")


def test_a_store_out_of_reach(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxied(store) as place:
        place.use(monkeypatch)
        place.proxy.away(60)
        with pytest.raises(
            MachineError,
            match=r"unreachable for 0 s \(connection reset, \d+ times?\); check the network and [A-Z0-9_]+=http:.*, then rerun",
        ):
            probe(open_bucket(place.url, budget=0.2))


def test_a_store_out_of_reach_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def away(self: Retrying, name: str, *rest: object) -> None:
        asked.append(name)
        raise MachineError("gs://b", "unreachable for 2 min", "")

    for call in ("stat", "read", "put", "replace", "delete"):
        monkeypatch.setattr(Retrying, call, away)
    with pytest.raises(MachineError):
        probe(open_bucket("gs://some-bucket"))
    assert len(asked) == 1, "cleaning up would wait as long again"


# Addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gs://bucket", "gs://bucket"),
        ("GS://bucket/", "gs://bucket"),
        ("s3://my.bucket_1/a/b c/ü/", "s3://my.bucket_1/a/b c/ü"),
        ("S3://bucket/a//", "s3://bucket/a"),
        ("gs://bucket/a/.../b", "gs://bucket/a/.../b"),
    ],
)
def test_addresses(text: str, expected: str) -> None:
    assert is_bucket(text)
    assert canonical(text) == open_bucket(text).address == expected


@pytest.mark.parametrize("text", ["bucket/a", "/gs://bucket", "http://bucket", "gs:/bucket", "gs", "./s3://a", "file://a", ""])
def test_what_is_no_address_of_a_bucket(text: str) -> None:
    assert not is_bucket(text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("gs://", "no bucket is named"),
        ("s3:///a", "no bucket is named"),
        ("gs://Bucket/a", "no valid bucket name: Bucket"),
        ("gs://a/b", "no valid bucket name: a"),
        ("s3://bucket/a//b", "the names between its slashes may not be empty, . or .., and hold no control characters"),
        ("s3://bucket//a", "the names between its slashes may not be empty, . or .., and hold no control characters"),
        ("s3://bucket/a/../b", "the names between its slashes may not be empty, . or .., and hold no control characters"),
        ("s3://bucket/a/.", "the names between its slashes may not be empty, . or .., and hold no control characters"),
        ("s3://bucket/a\nb", "the names between its slashes may not be empty, . or .., and hold no control characters"),
        ("s3://bucket/a#1", "an address of a bucket has no ? and no #"),
    ],
)
def test_addresses_that_are_refused(text: str, what: str) -> None:
    assert is_bucket(text)
    for use in (canonical, open_bucket):
        line = refused(lambda use=use: use(text))  # type: ignore[misc]
        assert f": {what}; write {text[:2]}://" in line


@pytest.mark.parametrize(
    "text", ["gs://bucket/a?X-Goog-Signature=secret", "s3://key:secret@bucket/a", "s3://bucket/a?X-Amz-Signature=secret"]
)
def test_secrets_of_addresses_are_not_told(text: str) -> None:
    assert "secret" not in refused(lambda: canonical(text))


@pytest.mark.parametrize(
    ("text", "module", "line"),
    [
        ("gs://bucket/a/", "google.cloud.storage", "gs://bucket/a: google-cloud-storage is not installed; pip install 'twofold[gs]'"),
        ("s3://bucket", "boto3", "s3://bucket: boto3 is not installed; pip install 'twofold[s3]'"),
    ],
)
def test_an_extra_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, text: str, module: str, line: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert refused(lambda: open_bucket(text)) == line
