"""Requests to a store, many at once. Their threads hold up nobody: neither a stop nor the end of the process waits for a stalled one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from job.shutdown import Stop

GLANCE = 0.1  # seconds between two looks at the stop

_T = TypeVar("_T")


class Requests:
    """Threads that carry out calls in their order. Python waits for those of its own pools when a process ends."""

    def __init__(self, threads: int, stop: Stop) -> None:
        self._stop, self._count = stop, threads
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        future: Future[_T] = Future()
        self._queue.put((future, call))
        if len(self._threads) < self._count:
            self._threads.append(threading.Thread(target=self._work, name="request", daemon=True))
            self._threads[-1].start()
        return future

    def map(self, calls: Iterable[Callable[[], _T]]) -> Iterator[_T]:
        """The results of all calls, in their order."""
        futures = [self.submit(call) for call in calls]
        return (self.result(future) for future in futures)

    def result(self, future: Future[_T]) -> _T:
        """What a call gave; whatever it raised is raised here.

        Raises:
            Interrupted: a stop was asked for.
        """
        while not future.done():
            try:
                return future.result(GLANCE)
            except TimeoutError:
                self._stop.check()
        return future.result()

    def close(self) -> None:
        """End the threads; what has not begun is not carried out."""
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            future, call = task
            if self._closed or not future.set_running_or_notify_cancel():
                future.cancel()
                continue
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
