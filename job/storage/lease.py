"""The lease: one writer at a time in a folder of a bucket, by compare-and-swap on one small object.

Its holder renews it; who finds that it has not changed for its whole life, on his own clock, takes it over. No store can
fence other objects, so the lease says which count: checkpoints carry its `fence` in their names, and of those with a lower one
only the `kept` ones count. What a holder that lost the lease still writes is read by nobody.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, fields, replace
from typing import Any
from uuid import uuid4

from job.console import console
from job.errors import JobError, MachineError
from job.shutdown import Stop
from job.storage.bucket import Bucket, Conflict, Missing
from job.storage.lock import InUse

NAME = "lease.json"
FORMAT = "twofold-lease"
LIFE = 60.0  # seconds
RENEWALS = 4  # in a life
TRIES = 20
PATIENCE = 15.0  # seconds that giving it up may take


@dataclass(frozen=True)
class Document:
    """What the lease says.

    `counter` and `token` make each version's bytes differ from all others. `kept` are the checkpoints of earlier holders that
    count; `newest` is the one that was committed last, by this holder or one before, empty where none ever was.
    """

    holder: str
    token: str
    fence: int
    kept: tuple[str, ...] = ()
    newest: str = ""
    counter: int = 0
    life: float = LIFE
    released: bool = False

    def content(self) -> bytes:
        fields = asdict(self)
        own = hashlib.sha256(json.dumps(fields).encode()).hexdigest()
        return (json.dumps({"format": FORMAT, **fields, "content_sha256": own}, indent=1) + "\n").encode()

    @classmethod
    def read(cls, content: bytes) -> Document:
        """The lease in an object.

        Raises:
            ValueError: it is corrupt.
        """
        document = json.loads(content)
        if not isinstance(document, dict) or document.pop("format", None) != FORMAT or not document.pop("content_sha256", None):
            raise ValueError("is not a lease")
        kinds: dict[str, Any] = dict(holder=str, token=str, fence=int, kept=list, newest=str, counter=int, life=(int, float), released=bool)
        if document.keys() != {field.name for field in fields(cls)} or not all(isinstance(document[n], k) for n, k in kinds.items()):
            raise ValueError("holds other fields")
        if document["fence"] < 0 or not 0 < document["life"] < 3600 or not all(isinstance(name, str) for name in document["kept"]):
            raise ValueError("holds values that cannot be")
        found = cls(**{**document, "kept": tuple(document["kept"])})
        if found.content() != content:
            raise ValueError("differs from its own hash")
        return found


@dataclass(frozen=True)
class Standing:
    """The lease as it lies in the bucket; `document` is None where it is corrupt."""

    version: str
    document: Document | None

    @property
    def holder(self) -> str:
        return self.document.holder if self.document else "another process"


def read(bucket: Bucket) -> Standing | None:
    """The lease as it is now; None where there is none."""
    for _ in range(TRIES):
        if (found := bucket.stat(NAME)) is None:
            return None
        try:
            content = bucket.read(NAME, version=found.version)
        except Missing:  # renewed meanwhile
            continue
        try:
            return Standing(found.version, Document.read(content))
        except ValueError:
            return Standing(found.version, None)
    raise _unsteady(bucket, "read")


def _unsteady(bucket: Bucket, verb: str) -> MachineError:
    return MachineError(bucket.address, f"{NAME} changed {TRIES} times while it was {verb}", "look who else writes there, then rerun")


class Lease:
    """A lease that this process took. `lost` names who holds it, once it was taken over."""

    def __init__(self, bucket: Bucket, document: Document, version: str, first: bool = False) -> None:
        """`first` says that there was none before it, so that it has no history to keep."""
        self.bucket, self.document, self.lost, self._first = bucket, document, "", first
        self._version, self._renewed = version, time.monotonic()
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._on_lost: Callable[[], None] = lambda: None

    @property
    def address(self) -> str:
        return self.bucket.address

    @property
    def sure(self) -> bool:
        """Whether nobody can have taken it over yet."""
        return not self.lost and time.monotonic() - self._renewed < self.document.life * 3 / 4

    def keep(self, on_lost: Callable[[], None]) -> None:
        """Renew it from now on, in a thread; `on_lost` is called when another process has taken it."""
        self._on_lost = on_lost
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="lease", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        warned = False
        while not self._ended.wait(self.document.life / RENEWALS) and not self.lost:
            try:
                self.renew()
                warned = False
            except InUse:
                return
            except Exception as error:  # the store is away, or what nobody thought of: whoever commits waits until it is sure again
                if not warned:
                    said = error if isinstance(error, JobError) else f"{type(error).__name__}: {error}"
                    console.log(f"warning: the lease could not be renewed: {said}")
                warned = True

    def renew(self, newest: str = "") -> None:
        """Write it anew; `newest` is a checkpoint that is committed now.

        Raises:
            InUse: another process has taken it over.
            JobError: the store cannot be reached.
        """
        with self._lock:
            self._write(newest=newest or self.document.newest)

    def _write(self, **changes: object) -> None:
        """Compare and swap; a lease that somebody deleted or broke is written anew, one that another process holds is lost."""
        for _ in range(TRIES):
            self._require()
            began = time.monotonic()
            document = replace(self.document, counter=self.document.counter + 1, **changes)  # type: ignore[arg-type]
            try:
                if self._version:
                    self._version = self.bucket.replace(NAME, document.content(), self._version)
                else:
                    self._version = self.bucket.put(NAME, document.content())
                self.document, self._renewed = document, began
                return
            except Conflict:
                self._adopt(read(self.bucket))
        raise _unsteady(self.bucket, "written")

    def _adopt(self, found: Standing | None) -> None:
        """Go on from what is there, unless it is another process's."""
        there = found.document if found else None
        if there is not None and there.token != self.document.token:
            self.lost = there.holder
            self._on_lost()
            self._require()
        self._version = found.version if found else ""
        if there is not None:
            self.document = replace(self.document, counter=max(there.counter, self.document.counter))

    def _require(self) -> None:
        if self.lost:
            raise InUse(self.address, f"was taken over by {self.lost}", "leave it to that process, or stop it and rerun")

    def check(self) -> None:
        """Make sure of it before something is committed.

        Raises:
            InUse, JobError: as `renew` does.
        """
        self._require()
        if not self.sure:
            self.renew()

    def verify(self) -> None:
        """Read it, before something is deleted.

        Raises:
            InUse: another process has taken it over.
        """
        with self._lock:
            self._adopt(read(self.bucket))

    def release(self, seconds: float = PATIENCE, forget: bool = False) -> None:
        """Give it up, so that the next holder need not wait; what takes longer is left, and the lease ends by itself.

        Args:
            forget: nothing came of it; delete it where there was none before.
        """
        self._ended.set()
        if self.lost:
            return
        troubles = ["the time was up"]
        giving = threading.Thread(target=self._release, args=(troubles, forget and self._first), name="lease", daemon=True)
        giving.start()
        giving.join(max(0.0, seconds))
        if troubles:
            console.log(f"warning: the lease could not be given up, and ends in {self.document.life:.0f} s by itself: {troubles[-1]}")

    def _release(self, troubles: list[str], forget: bool) -> None:
        try:
            with self._lock:
                if forget:
                    self.bucket.delete(NAME, self._version)
                else:
                    self._write(released=True)
            troubles.clear()
        except (JobError, Conflict) as error:
            troubles.append(str(error))

    def stop(self) -> None:
        """Renew it no more."""
        self._ended.set()


Inherit = Callable[[Document | None], tuple[int, tuple[str, ...]]]


def acquire(bucket: Bucket, inherit: Inherit, stop: Stop, own: Collection[str] = (), life: float = LIFE, token: str = "") -> Lease:
    """Take the lease: at once where nobody holds it, else once it has not changed for its whole life.

    Args:
        inherit: given what the lease said before (None where nothing can be read), the least fence for the new holder and the
            checkpoints that count.
        own: the tokens of holders that are known to be dead: this machine's own, whose local lock is ours now.
        life: seconds, for tests.
        token: the new holder's; by default a new one.

    Raises:
        InUse: its holder is alive.
        Interrupted: `stop` was set.
    """
    token, seen, since = token or uuid4().hex, "", 0.0
    while True:
        stop.check()
        found = read(bucket)
        before = found.document if found else None
        if found is None or (before is not None and (before.released or before.token in own)) or _over(found, before, seen, since, life):
            fence, kept = inherit(before)
            fence, newest = (max(fence, before.fence + 1), before.newest) if before else (max(fence, 1), "")
            document = Document(f"process {os.getpid()} on {socket.gethostname()}", token, fence, kept, newest, life=life)
            try:
                content = document.content()
                version = bucket.put(NAME, content) if found is None else bucket.replace(NAME, content, found.version)
                return Lease(bucket, document, version, first=found is None)
            except Conflict:  # somebody was quicker, or has given it up in this moment
                found = read(bucket)
                if found is None or (found.document is not None and found.document.released):
                    continue
                _refuse(bucket, found)
        if seen and found.version != seen:
            _refuse(bucket, found)
        if not seen:
            seen, since = found.version, time.monotonic()
            wait = before.life if before else life
            console.log(f"{bucket.address} was held by {found.holder}: waiting up to {wait:.0f} s to see whether it is alive")
        time.sleep(min(1.0, life / 10))


def _over(found: Standing, before: Document | None, seen: str, since: float, life: float) -> bool:
    """Whether it has not changed for its whole life."""
    return found.version == seen and time.monotonic() - since > (before.life if before else life)


def _refuse(bucket: Bucket, found: Standing) -> None:
    raise InUse(bucket.address, f"is in use by {found.holder}", "wait for it, stop it, or give another --out")
