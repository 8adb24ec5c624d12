"""The mirror: one thread that keeps a folder of a bucket equal to a local one.

There is no queue. Each pass compares what is on the disk with what was sent, so that a store that was away is caught up with at
once and nothing grows. What says that others are whole goes after them; what is no longer on the disk is deleted at the end of a
pass, when its successors are in the bucket.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from job.console import console
from job.errors import JobError, MachineError
from job.storage import local, parallel
from job.storage.bucket import Bucket, Conflict, Stat
from job.storage.lease import Lease
from job.storage.lock import InUse
from job.storage.sent import Mark, Sent, mark_of

MINUTE = 60.0  # seconds between two sendings of a file that grows, or can be made anew
SECOND = 1.0  # between two of any file: Google Cloud Storage takes no more
UPLOADS = 4  # at once
TRIES = 5  # to write an object that others write too
WHOLE = 4 << 20  # bytes up to which a file is read before it is sent
GLANCE = 0.05  # before a pass that found files gone which it was about to send
WAITS = (1.0, 2.0, 5.0, 10.0, 15.0)  # seconds after a pass that failed
COMMIT = "checkpoint.json"  # says that its folder is whole
PRUNED = ("checkpoints", "tensorboard")  # folders whose files are deleted in the bucket once they are gone here

_RANKS = {"metrics.jsonl": 1, COMMIT: 2, "manifest.json": 3, "config.toml": 3, "summary.json": 4, "sweep.json": 4}
_AT_ONCE = ("starts.json", "model.keras")
_DATA = (".tfrecord", ".npy")


def rank(name: str) -> int:
    """When a file is sent within a pass: after all of a lower rank, which it may speak of."""
    return _RANKS.get(name.rpartition("/")[2], 0)


def _age(checkpoint: str) -> list[tuple[int, str]]:
    """What the newest has most of: the fence in its name, then the step; as numbers, which have zeros before them."""
    return [(len(part), part) for part in reversed(checkpoint.rsplit("-", 2))]


def _is_slow(name: str) -> bool:
    """Whether it is sent once a minute at most: logs, tables, plots. Metrics go with each checkpoint too."""
    base = name.rpartition("/")[2]
    at_once = rank(name) > 1 or base in _AT_ONCE or base.endswith(_DATA) or "checkpoints" in name.split("/")
    return not at_once


@dataclass(frozen=True)
class _File:
    """A file to be sent; `content` where it was read already."""

    name: str
    mark: Mark
    content: bytes | None = None


class Mirror:
    """The folder `root` and its copy in a bucket, which only the holder of `lease` writes.

    `known` are the bucket's objects as they were listed when the lease was taken; `lost` names who has taken the lease over.
    """

    def __init__(self, bucket: Bucket, root: Path, lease: Lease, sent: Sent, known: dict[str, Stat], minute: float = MINUTE) -> None:
        self.bucket, self.root, self.lease, self.trouble = bucket, root, lease, ""
        self._sent, self._known, self._minute = sent, known, minute
        self._times: dict[str, float] = {}
        self._told: set[str] = set()
        self._all = self._closed = self._committed = self._clean = False
        self._changed = threading.Condition()
        self._passes = 0
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._on_lost: Callable[[], None] = lambda: None

    @property
    def lost(self) -> str:
        return self.lease.lost

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in the bucket but the lease."""
        return not self._known

    def start(self, on_lost: Callable[[], None]) -> None:
        """Begin; `on_lost` is called when another process has taken the lease."""
        self._on_lost = on_lost
        self.lease.keep(on_lost)
        self._thread.start()

    def kick(self) -> None:
        """Something new is whole: begin a pass now."""
        with self._changed:
            self._changed.notify_all()

    def flush(self, deadline: float) -> list[str]:
        """Send all that is left, until a moment on the monotonic clock; returns the names of what is not sent then."""
        with self._changed:
            self._all = True
            wanted = self._passes + 2  # the one under way may have begun before the last change
            self._changed.notify_all()
            while self._thread.is_alive() and time.monotonic() < deadline and (self._passes < wanted or not self._clean):
                self._changed.wait(min(0.1, max(0.0, deadline - time.monotonic())))
            self._all = False
        return self.unsent()

    def close(self) -> None:
        """End the thread, without waiting for a call under way."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(0.2)

    def unsent(self) -> list[str]:
        """The files whose present content is not in the bucket."""
        return [name for name, mark in self._walk() if self._sent.mark(name) != mark]

    def _work(self) -> None:
        failed = 0
        while not self._closed:
            began = time.monotonic()
            try:
                self._pass()
                failed, self.trouble, self._clean = 0, "", not self.unsent()
                pause = max(SECOND, 20 * (time.monotonic() - began))
            except InUse:
                self._on_lost()
                return
            except FileNotFoundError:  # replaced or pruned while it was being sent: look again
                self._clean, pause = False, GLANCE
            except Exception as error:  # also what nobody thought of: without this thread nothing would be sent any more
                self._fail(error)
                self._clean, failed = False, failed + 1
                pause = WAITS[min(failed, len(WAITS)) - 1]
            with self._changed:
                self._passes += 1
                self._changed.notify_all()
                if not self._closed:
                    self._changed.wait(min(pause, 0.5) if self._all else pause)

    def _fail(self, error: Exception) -> None:
        self.trouble = str(error) if isinstance(error, (JobError, OSError)) else f"{type(error).__name__}: {error}"
        kind = type(error).__name__ + self.trouble.partition("(")[0]
        if kind not in self._told:
            self._told.add(kind)
            console.log(f"warning: {self.trouble.partition(';')[0]}; work continues, and what is left is sent later")

    def _pass(self) -> None:
        """Send what has changed, in the order of the ranks, then delete what is gone."""
        files, there = self._to_send()
        for number in sorted({rank(file.name) for file in files}):
            now = [file for file in files if rank(file.name) == number]
            parallel.each(self._send, now, UPLOADS)
            self._committed = self._committed or number == _RANKS[COMMIT]
        whole = [name for name, mark in there.items() if rank(name) == _RANKS[COMMIT] and self._sent.mark(name) == mark]
        newest = max((name.rpartition("/")[0] for name in whole), key=_age, default="")
        if newest not in ("", self.lease.document.newest):
            self.lease.renew(newest=newest)
        if all(self._sent.mark(name) == mark for name, mark in there.items() if rank(name) > 1):
            self._delete(there.keys())
        self._sent.save()

    def _to_send(self) -> tuple[list[_File], dict[str, Mark]]:
        """What has changed and is due, and all that is there.

        What speaks of other files is read before those are looked for, the last in rank first.
        """
        documents = [
            _File(name, mark, (self.root / name).read_bytes())
            for name, mark in sorted(self._walk(), key=lambda pair: -rank(pair[0]))
            if rank(name) > 1 and self._sent.mark(name) != mark
        ]
        there = dict(self._walk())
        for document in documents:
            if there.get(document.name) != document.mark:
                raise FileNotFoundError(document.name)
        commit = any(rank(document.name) == _RANKS[COMMIT] for document in documents)
        spoken_of = [
            _File(name, mark) for name, mark in there.items()
            if rank(name) <= 1 and self._sent.mark(name) != mark and (not _is_slow(name) or (commit and rank(name) == 1))
        ]  # fmt: skip
        if not all(self._rested(file.name, SECOND) for file in spoken_of):
            documents = []
        pause = SECOND if self._all else self._minute
        slow = [
            _File(name, mark) for name, mark in there.items()
            if _is_slow(name) and self._sent.mark(name) != mark and self._rested(name, pause)
        ]  # fmt: skip
        now = [file for file in (*spoken_of, *documents) if self._rested(file.name, SECOND)]
        return list({file.name: file for file in (*slow, *now)}.values()), there

    def _rested(self, name: str, pause: float) -> bool:
        """Whether it was not sent for so many seconds."""
        return time.monotonic() - self._times.get(name, -pause) >= pause

    def _walk(self) -> Iterator[tuple[str, Mark]]:
        """Every file but hidden ones, by its name below the folder."""
        for folder, folders, files in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                path = Path(folder) / name
                if not name.startswith("."):
                    try:
                        yield path.relative_to(self.root).as_posix(), mark_of(path)
                    except FileNotFoundError:
                        continue

    def _send(self, file: _File) -> None:
        """Write one object; one that holds the very content already is taken as sent."""
        name, path = file.name, self.root / file.name
        content: bytes | Path = path
        if file.content is not None:
            content = file.content
        elif file.mark.size <= WHOLE or _is_slow(name):
            with path.open("rb") as opened:
                content = opened.read(file.mark.size)
        digest = local.sha256_of(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
        for _ in range(TRIES):
            self.lease.check()
            there = self._known.get(name)
            try:
                if there is None:
                    version = self.bucket.put(name, content, digest)
                elif self._same(name, there, digest):
                    version = there.version
                else:
                    version = self.bucket.replace(name, content, there.version, digest)
                break
            except Conflict:  # a stale writer, or a person: the lease says that it is ours to write
                self.lease.verify()
                self._known.pop(name, None)
                if (found := self.bucket.stat(name)) is not None:
                    self._known[name] = found
        else:
            where = f"{self.bucket.address}/{name}"
            raise MachineError(where, f"changed {TRIES} times while it was written", "look who else writes there, then rerun")
        self._times[name] = time.monotonic()
        self._known[name] = Stat(name, file.mark.size, version, digest)
        self._sent.add(name, file.mark, version)

    def _same(self, name: str, there: Stat, digest: str) -> bool:
        """Whether an object that an earlier start has sent is what would be sent now; a shard that is made again is."""
        if not there.sha256 and (self._sent.mark(name) is None or name.endswith(_DATA)):
            there = self.bucket.stat(name) or there
        return there.sha256 == digest

    def _delete(self, here: Collection[str]) -> None:
        """Delete what was pruned here, what speaks of other files first: below folders that are pruned, and never all of a run's."""
        gone = sorted((name for name in self._known if name not in here and self._is_pruned(name, here)), key=rank, reverse=True)
        if gone:
            self.lease.verify()
        for name in gone:
            self._delete_one(self._known[name])
            self._known.pop(name)
            self._sent.forget(name)

    def _is_pruned(self, name: str, here: Collection[str]) -> bool:
        parts = name.split("/")
        folder = next((at for at, part in enumerate(parts[:-1]) if part in PRUNED), None)
        if folder is None or not (self._sent.mark(name) or self._committed):
            return False
        run = "/".join(parts[:folder])
        return any(other.startswith(f"{run}/checkpoints/".lstrip("/")) and other.endswith(f"/{COMMIT}") for other in here)

    def _delete_one(self, there: Stat) -> None:
        try:
            self.bucket.delete(there.name, there.version)
        except Conflict:
            with suppress(Conflict):  # whoever writes it again and again may keep it
                if found := self.bucket.stat(there.name):
                    self.bucket.delete(there.name, found.version)
