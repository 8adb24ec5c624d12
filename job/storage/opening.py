"""Addresses of buckets, and the bucket behind one. Called where a folder may be a bucket too."""

from __future__ import annotations

import os
import re
from pathlib import Path

from job.errors import UserError
from job.shutdown import Stop
from job.storage.bucket import Bucket
from job.storage.gs import GsBucket
from job.storage.retrying import BUDGET, Retrying
from job.storage.s3 import S3Bucket

_SCHEME = re.compile("(gs|s3)://", re.I)
_BUCKET = re.compile("[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_EXTRAS = {"gs": "google-cloud-storage", "s3": "boto3"}
_ENDPOINTS = {"gs": ("STORAGE_EMULATOR_HOST",), "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")}


def is_bucket(text: str) -> bool:
    """Whether it is meant as an address of a bucket, valid or not."""
    return _SCHEME.match(text) is not None


def canonical(text: str) -> str:
    """An address of a bucket in the one form that it is compared and kept in: gs://bucket/prefix.

    Raises:
        UserError: it is none.
    """
    scheme, bucket, prefix = _parts(text)
    return f"{scheme}://{bucket}/{prefix}".rstrip("/")


def open_bucket(text: str, stop: Stop | None = None, budget: float | None = BUDGET) -> Retrying:
    """What lies at an address of a bucket; nothing is asked of the store yet.

    Raises:
        UserError: it is no address, or the client for such stores is not installed.
    """
    scheme, name, prefix = _parts(text)
    try:
        bucket: Bucket = GsBucket(name, prefix) if scheme == "gs" else S3Bucket(name, prefix)
    except ImportError:
        raise UserError(canonical(text), f"{_EXTRAS[scheme]} is not installed", f"pip install 'twofold[{scheme}]'") from None
    return Retrying(bucket, stop, budget, advice=_advice(scheme))


def overwrite(bucket: Bucket, name: str, path: Path) -> None:
    """Write an object, whether there is one of that name or not.

    Raises:
        Conflict: another process writes it just now.
    """
    there = bucket.stat(name)
    if there is None:
        bucket.put(name, path)
    else:
        bucket.replace(name, path, there.version)


def _advice(scheme: str) -> str:
    """What to look at where the store cannot be reached."""
    endpoint = next((f" and {name}={os.environ[name]}" for name in _ENDPOINTS[scheme] if os.environ.get(name)), "")
    if scheme == "s3" and not endpoint:
        endpoint = ", and name the store with AWS_ENDPOINT_URL_S3 where it is not Amazon's"
    return f"check the network{endpoint}, then rerun"


def _parts(text: str) -> tuple[str, str, str]:
    scheme, _, rest = text.partition("://")
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.rstrip("/")
    form = f"write {scheme.lower()}://BUCKET/PREFIX"
    if "?" in rest or "#" in rest:  # a signed address, or one of a console
        raise UserError(text, "an address of a bucket has no ? and no #", form)
    if not _BUCKET.fullmatch(bucket):
        raise UserError(text, f"no valid bucket name: {bucket}" if bucket else "no bucket is named", form)
    if not prefix.isprintable() or any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
        raise UserError(text, "the names between its slashes may not be empty, . or .., and hold no control characters", form)
    return scheme.lower(), bucket, prefix
