"""A bucket that is asked again where the store fails for a while: within a budget of time, counting, and logging each fault once."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from job.console import console, counted, duration
from job.errors import MachineError
from job.shutdown import Stop
from job.storage.bucket import Bucket, Conflict, Stat, Unavailable
from job.storage.local import size
from job.storage.transfer import PAGE, hash_of

BUDGET = 120.0  # seconds that a store may fail before work gives up
FIRST_WAIT, LONGEST_WAIT = 0.2, 10.0
LONGEST_ASKED = 60.0  # seconds of a store's Retry-After that are taken at its word
_GLANCE = 0.1  # seconds between two looks at the stop

_dice = random.SystemRandom()  # the numbers of `random` are for what must come out the same again

T = TypeVar("T")


class Counts:
    """What was asked of a store and what went over the wire; failed tries count as requests, their bytes do not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = self.sent = self.received = 0
        self.faults: Counter[str] = Counter()

    def add(self, requests: int = 0, sent: int = 0, received: int = 0) -> None:
        with self._lock:
            self.requests += requests
            self.sent += sent
            self.received += received

    def fault(self, kind: str) -> bool:
        """Count a fault; whether it is the first of its kind."""
        with self._lock:
            self.faults[kind] += 1
            return self.faults[kind] == 1

    def summary(self) -> str:
        """One line for the end of a log."""
        with self._lock:
            line = f"{counted(self.requests, 'request')}, {size(self.sent)} sent, {size(self.received)} received"
            if self.faults:
                kinds = ", ".join(f"{kind} {times:,}" for kind, times in self.faults.most_common())
                line += f"; {counted(self.faults.total(), 'fault')} retried ({kinds})"
            return line


class Retrying:
    """Another bucket, whose `Unavailable` never gets out: it passes within the budget, or is a MachineError.

    A fault may hide that the store did as it was told. Where a write is refused after one, and what is there is what was to be
    written, it was written; a write that is refused at once lost against another.
    """

    def __init__(
        self,
        bucket: Bucket,
        stop: Stop | None = None,
        budget: float | None = BUDGET,
        counts: Counts | None = None,
        advice: str = "check the network, then rerun",
    ) -> None:
        """A `stop` ends the waiting with Interrupted; without a budget it lasts as long as the fault does.

        `advice` is what to do where the store cannot be reached.
        """
        self._bucket, self._stop, self._budget, self._advice = bucket, stop, budget, advice
        self.counts = counts or Counts()

    def within(self, budget: float | None, stop: Stop | None = None) -> Retrying:
        """The same bucket and the same counts, with another patience."""
        return Retrying(self._bucket, stop, budget, self.counts, self._advice)

    @property
    def address(self) -> str:
        return self._bucket.address

    def stat(self, name: str) -> Stat | None:
        return self._tried(lambda: self._bucket.stat(name))

    def read(self, name: str, start: int = 0, length: int | None = None, version: str = "") -> bytes:
        content = self._tried(lambda: self._bucket.read(name, start, length, version))
        self.counts.add(received=len(content))
        return content

    def fetch(self, name: str, path: Path, version: str = "") -> Stat:
        found = self._tried(lambda: self._bucket.fetch(name, path, version))
        self.counts.add(received=found.size)
        return found

    def put(self, name: str, content: bytes | Path, sha256: str = "") -> str:
        return self._written(name, content, sha256, lambda noted: self._bucket.put(name, content, noted))

    def replace(self, name: str, content: bytes | Path, version: str, sha256: str = "") -> str:
        return self._written(name, content, sha256, lambda noted: self._bucket.replace(name, content, version, noted))

    def delete(self, name: str, version: str) -> None:
        self._tried(lambda: self._bucket.delete(name, version))

    def list(self, prefix: str = "", after: str = "") -> Iterator[Stat]:
        patience = self._patience()
        while True:
            begun = after
            self.counts.add(requests=1)
            try:
                for number, found in enumerate(self._bucket.list(prefix, after), 1):
                    if number > 1 and number % PAGE == 1:
                        self.counts.add(requests=1)
                    yield found
                    after = found.name
                return
            except Unavailable as fault:
                if after != begun:
                    patience = self._patience()
                patience.endure(fault)

    def _written(self, name: str, content: bytes | Path, sha256: str, write: Callable[[str], str]) -> str:
        length = len(content) if isinstance(content, bytes) else content.stat().st_size
        noted = sha256 or hash_of(content)
        doubtful = False

        def once() -> str:
            nonlocal doubtful
            try:
                return write(noted)
            except Unavailable:
                doubtful = True
                raise
            except Conflict:
                there = self._bucket.stat(name) if doubtful else None
                if there is None or (there.size, there.sha256) != (length, noted):
                    raise
                return there.version

        version = self._tried(once)
        self.counts.add(sent=length)
        return version

    def _tried(self, call: Callable[[], T]) -> T:
        patience = self._patience()
        while True:
            self.counts.add(requests=1)
            try:
                return call()
            except Unavailable as fault:
                patience.endure(fault)

    def _patience(self) -> _Patience:
        return _Patience(self.address, self._stop, self._budget, self.counts, self._advice)


class _Patience:
    """That of one call: how long it has failed, and how long to wait before the next try."""

    def __init__(self, address: str, stop: Stop | None, budget: float | None, counts: Counts, advice: str) -> None:
        self._address, self._stop, self._counts, self._advice = address, stop, counts, advice
        self._budget = math.inf if budget is None else budget
        self._faults = 0
        self._began = 0.0

    def endure(self, fault: Unavailable) -> None:
        """Wait before the next try, at random, so that many who failed at once do not come back at once.

        Raises:
            MachineError: the budget is spent.
            Interrupted: a stop was asked for.
        """
        if self._counts.fault(str(fault)):
            limit = f" for up to {duration(self._budget)}" if self._budget < math.inf else ""
            console.log(f"warning: {self._address}: {fault}; retrying{limit}")
        self._faults += 1
        if self._faults == 1:
            self._began = time.monotonic()
        left = self._began + self._budget - time.monotonic()
        if left <= 0:
            failed = f"unreachable for {duration(self._budget)} ({fault}, {counted(self._faults, 'time')})"
            raise MachineError(self._address, failed, self._advice) from fault
        wait = _dice.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(self._faults - 1, 10)))
        self._pause(min(left, max(wait, min(fault.wait, LONGEST_ASKED))))

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            if self._stop is not None:
                self._stop.check()
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _GLANCE) if self._stop is not None else left)
