"""Batches made by a thread, a few steps ahead of the training that takes them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from queue import Full, Queue
from typing import Any


def ahead(make: Callable[[int], Any], first: int, last: int, depth: int = 3) -> Generator[Any, None, None]:
    """`make(step)` for each step from `first` to before `last`, made by a thread up to `depth` steps ahead."""
    queue: Queue[Any] = Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: Any) -> None:
        while not stopped.is_set():
            try:
                queue.put(item, timeout=0.1)
                return
            except Full:  # look whether the taker has left
                continue

    def work() -> None:
        try:
            for step in range(first, last):
                if stopped.is_set():
                    return
                put(make(step))
        except BaseException as error:  # handed to the taker, who raises it
            put(error)

    thread = threading.Thread(target=work, name="feed", daemon=True)
    thread.start()
    try:
        for _ in range(first, last):
            item = queue.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
