"""Where a run, a sweep or a data set is written: a local folder, or a folder of a bucket, by way of a local copy.

The copy lies in the cache. It is made equal to the bucket when the lease is taken, and the mirror keeps the bucket equal to it
from then on. A machine that wrote last finds its own copy and fetches nothing that it has.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from job import addresses
from job.console import console, counted
from job.errors import JobError, Unsent, UserError
from job.runs import copies
from job.runs.checkpoints import ARRAYS
from job.shutdown import Stop
from job.storage import lease, local, lock, parallel
from job.storage.bucket import Bucket, Missing, Stat
from job.storage.cache import unusable
from job.storage.lease import Document
from job.storage.mirror import COMMIT, Mirror
from job.storage.opening import is_bucket, open_bucket
from job.storage.probe import probe
from job.storage.retrying import Counts, Retrying
from job.storage.sent import Sent, mark_of

FINISH = 120.0  # seconds for what is left to be sent, where no signal asked to stop
MARGIN = 0.5  # seconds of the grace that are kept to say what could not be sent
PATIENCE = 20.0  # seconds that a call of the mirror is tried again: its next pass begins where this one failed
FETCHES = 8  # at once

MANIFEST = "manifest.json"  # of a data set
CHECKPOINT = re.compile(r"((?:.*/)?checkpoints/step-\d+(?:-(\d+))?)/[^/]+")
_NOT_FETCHED = re.compile(r"(?:.*/)?(?:data|tensorboard|report)/.*|.*\.(?:png|keras|tfrecord|npy)|lease\.json")


@dataclass(frozen=True)
class Place:
    """A folder to write in: `address` as the user writes it, `path` where it lies on this machine.

    `fence` is None where it is local: then a run counts its starts itself.
    """

    path: Path
    address: str
    fence: int | None = None
    mirror: Mirror | None = None

    def settle(self, seconds: float = FINISH) -> None:
        """Send what is written so far before going on; what cannot be sent now is sent later."""
        if self.mirror is not None:
            self.mirror.flush(time.monotonic() + seconds)


@contextmanager
def opened(
    text: str,
    cache: Path,
    stop: Stop,
    grace: float,
    life: float | None = None,
    bound: int | None = None,
    accept: Callable[[set[str]], None] = lambda names: None,
    check: Callable[[Path], None] = lambda folder: None,
) -> Iterator[Place]:
    """Open a folder to write in, and send what is left at the end.

    Args:
        text: a path, or an address of a bucket.
        cache: where the local copy of a bucket's folder goes.
        stop: set it, and what is left is sent within `grace` seconds of that moment.
        life: of the lease, seconds; by default `lease.LIFE`.
        bound: bytes that all local copies may take, where those of other folders can go.
        accept: given the names of the files and folders in it, before anything is fetched or written; it refuses by raising.
        check: given the folder where all of it is there but the arrays of its checkpoints, which are large; it refuses by raising.

    Raises:
        InUse: another process writes there, or has taken the lease over meanwhile.
        Unsent: something could not be sent in time; it lies in the local copy.
        UserError, MachineError: no access, no such bucket, unreachable.
    """
    if not is_bucket(text):
        accept({path.name for path in Path(text).iterdir()} if Path(text).is_dir() else set())
        check(Path(text))
        yield Place(Path(text), text)
        return
    bucket = open_bucket(text, stop)
    home = cache / "runs" / hashlib.sha256(bucket.address.encode()).hexdigest()[:16]
    copy = home / copies.COPY
    with ExitStack() as held:
        try:
            copy.mkdir(parents=True, exist_ok=True)
            with addresses.standing_for(str(home), bucket.address):
                held.enter_context(lock.only_writer(home))
        except OSError as error:
            raise unusable(cache, error) from None
        if bound is not None:
            copies.evict(home.parent, bound, home)
        with addresses.standing_for(str(copy), bucket.address):
            probe(bucket)
            mirror = _take(bucket, copy, Sent(home / copies.TABLE), stop, life or lease.LIFE, accept, check)
        held.callback(_tell, bucket.address, bucket.counts)
        mirror.start(stop.set)
        try:
            with addresses.standing_for(str(copy), bucket.address):
                yield Place(copy, bucket.address, mirror.lease.document.fence, mirror)
        except BaseException:
            with suppress(JobError):  # the first fault is the one to tell
                _finish(mirror, stop, grace)
            raise
        _finish(mirror, stop, grace)


def _tell(address: str, counts: Counts) -> None:
    """Log what a folder in a bucket has cost, however it came to its end."""
    console.log(f"{address}: {counts.summary()}", requests=counts.requests, sent=counts.sent, received=counts.received)


def _take(
    bucket: Retrying, copy: Path, sent: Sent, stop: Stop, life: float, accept: Callable[[set[str]], None], check: Callable[[Path], None]
) -> Mirror:
    """Take the lease, and make the local copy equal to the bucket."""
    listing: dict[str, Stat] = {}
    mine, token = False, uuid4().hex

    def inherit(before: Document | None) -> tuple[int, tuple[str, ...]]:
        nonlocal listing, mine
        listing = listed(bucket)
        accept({name.partition("/")[0] for name in listing if name != lease.NAME})
        own = before is not None and before.token in sent.tokens
        mine = own and sent.whole
        sent.tokens, sent.whole = [before.token, token] if before is not None and own else [token], mine
        sent.save()  # now: this process may end at any moment
        names = {*listing, *(_names(copy) if mine else ())}
        kept = committed(names, before)
        if before is not None and before.newest and before.newest not in kept:
            what = f"its lease says that {before.newest} was written"
            if not kept:
                raise UserError(bucket.address, f"{what}, and no checkpoint is listed", "restore it, or give a new --out")
            console.log(f"warning: {bucket.address}: {what}, and it is not listed; falling back to the checkpoint before")
        fences = [int(match[2] or 0) for name in names if (match := CHECKPOINT.fullmatch(name))]
        return 1 + max(fences, default=0), tuple(sorted(kept))

    taken = lease.acquire(bucket, inherit, stop, sent.tokens, life, token)
    taken.bucket = bucket.within(life / 4)
    taken.keep(stop.set)
    try:
        _fetch(bucket, copy, sent, listing, set(taken.document.kept), mine, stop, check)
        sent.tokens, sent.whole = [token], True
        sent.save()
    except BaseException:
        if taken.lost:
            taken.check()  # says so
        taken.release(life / 4)
        raise
    return Mirror(bucket.within(PATIENCE), copy, taken, sent, {name: found for name, found in listing.items() if name != lease.NAME})


def listed(bucket: Bucket) -> dict[str, Stat]:
    """The objects that can be files of a folder of ours: none that is hidden, or stands for a folder, or lies outside of it."""
    found = {one.name: one for one in bucket.list() if not any(part.startswith(".") or not part for part in one.name.split("/"))}
    folders = {name[: match.start()] for name in found for match in re.finditer("/", name)}
    return {name: one for name, one in found.items() if name not in folders}


def committed(names: Iterable[str], document: Document | None) -> set[str]:
    """The checkpoints that count: those that are whole by the names of their files, and of the lease's history.

    That is, written by its holder or inherited by it; all, where no lease can be read.
    """
    found = {match[1]: int(match[2] or 0) for name in names if name.endswith(f"/{COMMIT}") and (match := CHECKPOINT.fullmatch(name))}
    return {name for name, fence in found.items() if document is None or fence >= document.fence or name in document.kept}


def _names(copy: Path) -> list[str]:
    return [path.relative_to(copy).as_posix() for path in copy.rglob(f"*/{COMMIT}")]


def _fetch(
    bucket: Bucket, copy: Path, sent: Sent, listing: dict[str, Stat], kept: set[str], mine: bool, stop: Stop, check: Callable[[Path], None]
) -> None:
    """Make the local copy what the bucket is.

    Args:
        kept: the checkpoints that count.
        mine: whether this copy was the last to be written to the bucket: then what was not sent is newer, and is kept.
        check: may refuse when all is there but arrays.
    """
    here, same, wanted = set[str](), set[str](), list[Stat]()
    if mine and MANIFEST not in listing and sent.version(MANIFEST):  # the data set was deleted there, its shards too, or some
        (copy / MANIFEST).unlink(missing_ok=True)
    for name, found in listing.items():
        path, match = copy / name, CHECKPOINT.fullmatch(name)
        if match and match[1] not in kept:
            continue
        there = path.is_file()
        unchanged = there and sent.mark(name) == mark_of(path)
        if sent.version(name) == found.version or (mine and _NOT_FETCHED.fullmatch(name)):
            same.add(name)
        if there and ((unchanged and name in same) or (mine and (match or not unchanged))):
            here.add(name)
        elif not _NOT_FETCHED.fullmatch(name):
            wanted.append(found)
    if not mine:
        _remove_others(copy, here)
    sent.keep(same)
    if wanted:
        local.require_space(copy, sum(found.size for found in wanted), "the local copy")

    def fetch(found: Stat) -> None:
        path = copy / found.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(Missing):  # it was deleted since it was listed: whoever needs it says so
            there = bucket.fetch(found.name, path)
            sent.add(found.name, mark_of(path), there.version)

    arrays = [found for found in wanted if found.name.endswith(f"/{ARRAYS}")]
    parallel.each(fetch, [found for found in wanted if found not in arrays], FETCHES, stop)
    check(copy)
    if arrays:
        size = sum(found.size for found in arrays)
        console.log(f"fetching {counted(len(arrays), 'checkpoint')} ({local.size(size)}) of {bucket.address}")
        parallel.each(fetch, arrays, FETCHES, stop)


def _remove_others(copy: Path, here: set[str]) -> None:
    """Delete all other files, and the folders that are empty then: a checkpoint's would look like a damaged one."""
    for folder, _, files in os.walk(copy, topdown=False):
        for name in files:
            path = Path(folder, name)
            if path.relative_to(copy).as_posix() not in here:
                path.unlink()
        if Path(folder) != copy:
            with suppress(OSError):  # it is not empty
                os.rmdir(folder)


def _finish(mirror: Mirror, stop: Stop, grace: float) -> None:
    """Send what is left, and give the lease up."""
    now = time.monotonic()
    deadline = stop.deadline(grace) - MARGIN if stop else now + FINISH
    left = [] if mirror.lost else mirror.flush(min(deadline, now + 2))
    if left and not mirror.lost and deadline > now + 2:
        console.log(f"sending {counted(len(left), 'file')} to {mirror.bucket.address}")
        left = mirror.flush(deadline)
    mirror.close()
    if mirror.lost:
        raise lock.InUse(mirror.bucket.address, f"was taken over by {mirror.lost}", "leave it to that process, or stop it and rerun")
    if not left:
        mirror.lease.release(max(MARGIN, deadline - time.monotonic()) if stop else lease.PATIENCE, forget=mirror.is_empty)
        return
    mirror.lease.stop()
    size = local.size(sum((mirror.root / name).stat().st_size for name in left))
    why = mirror.trouble.partition(";")[0] or "the time was up"
    raise Unsent(
        mirror.bucket.address, f"{counted(len(left), 'file')} ({size}) could not be sent: {why}; all lies in {mirror.root}",
        "rerun the same command on this machine to send it",
    )  # fmt: skip
