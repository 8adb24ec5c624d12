"""Whether a bucket lets a run live in it: tried with one small object before the first step."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress

from job.console import console
from job.errors import JobError, MachineError, UserError
from job.storage.bucket import Bucket, Conflict, Missing

UNFIT = "use another store"


def probe(bucket: Bucket) -> None:
    """Write, read, replace and delete an object of its own, in eight requests; each write that a store must refuse too.

    Raises:
        UserError: a right is missing, or the store takes what it must refuse.
        MachineError: it is unreachable.
    """
    name, first, second = f".probe-{secrets.token_hex(8)}", secrets.token_bytes(16), secrets.token_bytes(16)
    try:
        old = bucket.put(name, first)
        if bucket.read(name, version=old) != first:
            raise UserError(bucket.address, "what is read is not what was written", UNFIT)
        _refused(bucket, lambda: bucket.put(name, second))
        new = bucket.replace(name, second, old)
        _refused(bucket, lambda: bucket.replace(name, first, old))
        with suppress(Conflict):
            bucket.delete(name, old)
            console.log(f"warning: {bucket.address}: the store does not honor conditional deletes; let one machine at a time write here")
        bucket.delete(name, new)
    except (JobError, Missing, Conflict) as error:
        if isinstance(error, MachineError):  # cleaning up would wait as long again
            raise
        _clean(bucket, name)
        if isinstance(error, JobError):
            raise
        raise UserError(bucket.address, "what was just written is missing or another", UNFIT) from error


def _refused(bucket: Bucket, write: Callable[[], object]) -> None:
    with suppress(Conflict):
        write()
        raise UserError(bucket.address, "it does not honor conditional writes", UNFIT)


def _clean(bucket: Bucket, name: str) -> None:
    """Where it may be deleted."""
    with suppress(JobError, Conflict):
        if there := bucket.stat(name):
            bucket.delete(name, there.version)
