"""A run to be read: a local folder, or what is needed of one in a bucket, fetched for as long as it is read.

No lease is taken and no right to write is needed. What is fetched is kept in the cache by its content, so that a second look at
the same run fetches the summary alone. A report that is written beside a run in a bucket is sent there, where that is allowed.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from job import addresses
from job.config import folders, schema
from job.config.resolve import bytes_of
from job.console import console
from job.errors import JobError, UserError
from job.runs.place import CHECKPOINT, FETCHES, committed, listed
from job.shutdown import Stop
from job.storage import lease, local, parallel
from job.storage.bucket import Bucket, Conflict, Missing, Stat
from job.storage.cache import Cache, default_folder
from job.storage.lock import InUse
from job.storage.opening import is_bucket, open_bucket, overwrite

FILES = "runs-read"  # in the cache
REPORT = "report"
TRIES = 5  # a run that is being trained replaces its checkpoints meanwhile


@contextmanager
def opened(text: str, options: schema.Cache, stop: Stop, more: tuple[str, ...] = ()) -> Iterator[Path]:
    """The folder of a run, with its configuration, its summary and a checkpoint.

    Args:
        text: a path, or an address of a bucket.
        more: other files of the run that are wanted where they are there.

    Raises:
        UserError, MachineError: no such address, no access, no such bucket, unreachable.
    """
    folders.folder_or_bucket(text, "RUN")
    if not is_bucket(text):
        yield Path(text)
        return
    bucket = open_bucket(text, stop)
    cache = Cache(default_folder(options.cache) / FILES, bytes_of(options.cache_size))
    with tempfile.TemporaryDirectory(prefix="twofold-") as temporary, addresses.standing_for(temporary, bucket.address):
        folder = Path(temporary)
        for left in reversed(range(TRIES)):
            try:
                _fetch(bucket, folder, cache, more, stop, final=not left)
                break
            except Missing:
                if not left:
                    raise UserError(bucket.address, f"its files change as fast as they are fetched, {TRIES} times", "try again") from None
                local.remove_tree(folder)
                folder.mkdir()
        before = _reports(folder)
        yield folder
        _send(bucket, folder, [name for name, mark in _reports(folder).items() if before.get(name) != mark])


def _fetch(bucket: Bucket, folder: Path, cache: Cache, more: tuple[str, ...], stop: Stop, final: bool) -> None:
    """The run's documents, and the checkpoint that its summary names; others only where that one is damaged.

    Raises:
        Missing: something was replaced since it was listed, and this is not the final try.
    """
    listing = listed(bucket)
    documents = [listing[name] for name in ("config.toml", "summary.json", *more) if name in listing]
    _get(bucket, folder, cache, documents, stop)
    held = lease.read(bucket) if lease.NAME in listing else None
    if held is not None and held.document is not None:
        (folder / lease.NAME).write_bytes(held.document.content())
    checkpoints: dict[str, list[Stat]] = {name: [] for name in committed(listing, held.document if held else None)}
    for name, found in listing.items():
        if (match := CHECKPOINT.fullmatch(name)) and match[1] in checkpoints:
            checkpoints[match[1]].append(found)
    best = _best(folder)
    named = sorted(name for name in checkpoints if int(name.rpartition("step-")[2].split("-")[0]) == best)
    if best is not None and not named and not final:  # the summary may be newer than the listing
        raise Missing(f"the checkpoint of step {best}")
    if named:
        _get(bucket, folder, cache, checkpoints[named[-1]], stop)
    if not named or not _is_whole(folder / named[-1]):
        _get(bucket, folder, cache, [found for name in checkpoints for found in checkpoints[name] if name not in named[-1:]], stop)


def _best(folder: Path) -> int | None:
    try:
        best = json.loads((folder / "summary.json").read_bytes())["best_step"]
        return best if isinstance(best, int) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_whole(checkpoint: Path) -> bool:
    try:
        return bool(json.loads((checkpoint / "checkpoint.json").read_bytes())["sha256"] == local.sha256_of(checkpoint / "state.npz"))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _get(bucket: Bucket, folder: Path, cache: Cache, wanted: list[Stat], stop: Stop) -> None:
    """Files into the folder, from the cache where their content is there."""

    def get(listed: Stat) -> None:
        found = bucket.stat(listed.name)
        if found is None:
            raise Missing(listed.name)
        path = folder / found.name
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = None
        if found.sha256:
            with suppress(InUse, JobError):  # another process fetches it just now, or the cache is full
                cache.add(found.sha256, found.size, lambda entry: _fetched(bucket, found, entry))
            kept = cache.find(found.sha256)
        if kept is None or not _linked(kept, path):
            _fetched(bucket, found, path)

    parallel.each(get, wanted, FETCHES, stop)


def _fetched(bucket: Bucket, found: Stat, path: Path) -> None:
    bucket.fetch(found.name, path, found.version)


def _linked(kept: Path, path: Path) -> bool:
    """A file of the cache in another place; whether it was there still."""
    try:
        try:
            os.link(kept, path)
        except OSError:  # another file system
            shutil.copyfile(kept, path)
        return True
    except FileNotFoundError:
        return False


def _reports(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns) for path in (folder / REPORT).glob("*")}


def _send(bucket: Bucket, folder: Path, names: list[str]) -> None:
    """Reports go beside the run; what reads it may have no right to write there."""
    for name in names:
        try:
            overwrite(bucket, name, folder / name)
            console.log(f"wrote {bucket.address}/{name}")
        except (JobError, Conflict) as error:
            why = str(error).partition(";")[0] if isinstance(error, JobError) else "another process writes it"
            console.log(f"warning: {bucket.address}/{name} could not be written: {why}")
