"""Requests made ahead by threads that nobody waits for: a stop or an error ends the work at once, whatever is under way."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from typing import Self, TypeVar

from job.shutdown import Stop

LOOK = 0.2  # seconds between two looks at the stop
MOST, MOST_BYTES = 256, 128 << 20  # done and not taken yet, or under way; one thing may be larger

In = TypeVar("In")
Out = TypeVar("Out")


class Threads:
    """Up to `count` threads that do what is submitted; leaving drops what has not begun, and waits for nothing.

    They are no threads of concurrent.futures, since Python waits for those at its end: a request on a silent network would
    hold up the exit for as long as it may take.
    """

    def __init__(self, count: int, stop: Stop) -> None:
        self._count, self._stop, self._started, self._closed = count, stop, 0, False
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._closed = True
        for _ in range(self._started):
            self._work.put(None)

    def submit(self, work: Callable[[], Out]) -> Future[Out]:
        made: Future[Out] = Future()
        self._work.put(partial(self._do, work, made))
        if self._started < self._count:
            self._started += 1
            threading.Thread(target=self._run, name="requests", daemon=True).start()
        return made

    def result(self, future: Future[Out]) -> Out:
        """What was submitted, once it is done.

        Raises:
            Interrupted: the stop was set.
        """
        while not future.done():
            self._stop.check()
            wait([future], LOOK)
        return future.result()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def _do(self, work: Callable[[], Out], made: Future[Out]) -> None:
        if self._closed or not made.set_running_or_notify_cancel():
            return
        try:
            made.set_result(work())
        except BaseException as error:
            made.set_exception(error)


def in_order(threads: Threads, work: Callable[[In], Out], items: Iterable[In], size: Callable[[In], int]) -> Iterator[tuple[In, Out]]:
    """Each item with what `work` makes of it, a bounded way ahead.

    Args:
        size: the bytes that the work on an item will give.
    """
    pending: deque[tuple[In, Future[Out]]] = deque()
    ahead = 0
    for item in items:
        while pending and (len(pending) == MOST or ahead + size(item) > MOST_BYTES):
            done, future = pending.popleft()
            yield done, threads.result(future)
            ahead -= size(done)
        pending.append((item, threads.submit(partial(work, item))))
        ahead += size(item)
    for done, future in pending:
        yield done, threads.result(future)
