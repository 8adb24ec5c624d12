"""Buckets as the tests of storage take them: the class behind an address, without the one that retries."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from job.storage.bucket import Bucket, Conflict
from job.storage.gs import GsBucket
from job.storage.s3 import S3Bucket

T = TypeVar("T")


def bare(url: str) -> Bucket:
    scheme, _, rest = url.partition("://")
    name, _, prefix = rest.partition("/")
    return GsBucket(name, prefix) if scheme == "gs" else S3Bucket(name, prefix)


def race(calls: list[Callable[[], T]]) -> list[T | Conflict]:
    """All at once, each in a thread of its own; what each returns, or the conflict that it met."""

    def outcome(call: Callable[[], T]) -> T | Conflict:
        try:
            return call()
        except Conflict as conflict:
            return conflict

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(outcome, calls))
