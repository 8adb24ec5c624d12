"""Fixtures of stores: a fake Cloud Storage and a real S3 server for the session, an empty place in them for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from tests.stores.fake_gcs import FakeGcs
from tests.stores.objects import Objects
from tests.stores.proxy import Proxy
from tests.stores.seaweed import READER, WRITER, seaweed

BUCKET = "twofold"  # of the S3 server
_numbers = itertools.count(1)

# So that no test meets what the machine has of credentials, configuration or proxies.
_BARE = {
    "no_proxy": "127.0.0.1",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class Store:
    """An empty place in a store: `url`, and the variables of the environment by which a process reaches it."""

    url: str
    endpoint: str
    environment: dict[str, str]

    def at(self, endpoint: str) -> Store:
        """The same place, reached by another endpoint."""
        moved = {name: endpoint if value == self.endpoint else value for name, value in self.environment.items()}
        return replace(self, endpoint=endpoint, environment=moved)

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let this process reach it, for a test."""
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)


def gcs_place(url: str, endpoint: str) -> Store:
    return Store(url, endpoint, {**_BARE, "STORAGE_EMULATOR_HOST": endpoint})


def s3_place(url: str, endpoint: str, key: str, secret: str) -> Store:
    secrets = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    return Store(url, endpoint, {**_BARE, "AWS_ENDPOINT_URL_S3": endpoint, "AWS_REGION": "us-east-1", **secrets})


@dataclass(frozen=True)
class Proxied(Store):
    """A store behind a proxy of its own."""

    proxy: Proxy


@contextmanager
def proxied(store: Store) -> Iterator[Proxied]:
    """The same place, reached through a new proxy."""
    with Proxy(store.endpoint) as proxy:
        moved = store.at(proxy.endpoint)
        yield Proxied(moved.url, moved.endpoint, moved.environment, proxy)


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[FakeGcs]:
    with FakeGcs() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    with seaweed(BUCKET) as endpoint:
        yield endpoint


@pytest.fixture
def gcs_objects(gcs_server: FakeGcs) -> Objects:
    """What the fake keeps: for buckets of other rights (`create(name, access)`), and to look without a client."""
    return gcs_server.objects


@pytest.fixture
def gcs_store(gcs_server: FakeGcs) -> Iterator[Store]:
    """A bucket of its own, with the rights of the role storage.objectUser, and a prefix in it."""
    bucket = gcs_server.objects.create(f"bucket-{next(_numbers)}", "user").name
    yield gcs_place(f"gs://{bucket}/some/prefix", gcs_server.endpoint)
    gcs_server.objects.drop(bucket)


@pytest.fixture
def s3_store(s3_server: str) -> Store:
    """A prefix of its own, for a caller with all rights."""
    return s3_place(f"s3://{BUCKET}/prefix-{next(_numbers)}", s3_server, *WRITER)


@pytest.fixture
def s3_reader(s3_store: Store) -> Store:
    """The prefix of `s3_store`, for a caller who may only read."""
    return s3_place(s3_store.url, s3_store.endpoint, *READER)
