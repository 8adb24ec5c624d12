"""Read-ahead: threads that fetch whole shards into the cache, in the order in which they will be needed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

from job.console import console
from job.data.manifest import Shard
from job.errors import Interrupted
from job.storage.cache import is_full
from job.storage.lock import InUse

THREADS = 4
FULL_WAIT = 60.0  # seconds before another try where the disk is full, or the cache has no room
ROOM_WAIT = 1.0  # the same, the first time: what is over may be on its way still


class ReadAhead:
    """Shards on their way into the cache. `fault` is what ended the fetching: training raises it where it lacks a shard.

    A cache without room, or a full disk, ends nothing: records come from the bucket one by one then, slowly. A disk that
    another program fills for an hour should not cost a run.
    """

    def __init__(self, fetch: Callable[[Shard], bool]) -> None:
        """`fetch` brings one shard into the cache, and says whether there was room for it."""
        self.fault: Exception | None = None
        self._fetch = fetch
        self._changed = threading.Condition()
        self._queue: deque[Shard] = deque()
        self._threads: list[threading.Thread] = []
        self._closed, self._asked = False, 0
        self._refused: set[Shard] = set()
        self._told: set[str] = set()

    def need(self, shards: Iterable[Shard]) -> None:
        """Fetch these, in this order, in place of what was needed before."""
        with self._changed:
            self._queue = deque(shards)
            self._asked += 1
            self._refused.clear()
            self._wake()

    def again(self, shard: Shard) -> None:
        """Fetch a shard anew, first of all."""
        with self._changed:
            if shard not in self._queue:
                self._queue.appendleft(shard)
            self._wake()

    def close(self) -> None:
        """End the threads; a fetch under way is not waited for."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wake(self) -> None:
        if not self._threads:
            self._threads = [threading.Thread(target=self._work, name="read-ahead", daemon=True) for _ in range(THREADS)]
            for thread in self._threads:
                thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        while (shard := self._taken()) is not None:
            try:
                if not self._fetch(shard):
                    if shard in self._refused:
                        self._tell("the cache has no room for all shards in use; give a larger --cache-size")
                    self._put_back(shard, FULL_WAIT if shard in self._refused else ROOM_WAIT)
                    self._refused.add(shard)
            except InUse:  # another process fetches it: look again when the others are here
                self._put_back(shard, 0)
            except OSError as error:
                if not is_full(error):
                    self.fault = error
                    return
                self._tell(f"the disk of the cache, {error.filename}, is full; free some space")
                self._put_back(shard, FULL_WAIT)
            except Interrupted:  # training sees the same stop
                return
            except Exception as error:
                self.fault = error
                return

    def _taken(self) -> Shard | None:
        """The next shard to fetch; None when it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            return None if self._closed else self._queue.popleft()

    def _put_back(self, shard: Shard, wait: float) -> None:
        with self._changed:
            self._queue.append(shard)
            asked = self._asked
            self._changed.wait_for(lambda: self._closed or self._asked != asked, wait)

    def _tell(self, what: str) -> None:
        """Warn, once for each kind."""
        if what not in self._told:
            self._told.add(what)
            console.log(f"warning: {what}. Until then records are read from the bucket one by one")
