"""The same call for many things, by threads that the end of the process does not wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import TypeVar

from job.shutdown import Stop

GLANCE = 0.2  # seconds between two looks at the stop

T = TypeVar("T")


def each(call: Callable[[T], object], items: Collection[T], threads: int, stop: Stop | None = None) -> None:
    """Make the call for each item, and return when all are made, or those under way when one has failed.

    Python waits at its end for the threads of concurrent.futures: a call on a silent network would hold it up.

    Raises:
        Exception: what the first call raised that failed.
        Interrupted: `stop` was set; calls under way are left to themselves.
    """
    left, next_one, errors = iter(items), threading.Lock(), list[BaseException]()

    def work() -> None:
        while not errors:
            with next_one:
                item = next(left, _NONE)
            if item is _NONE:
                return
            try:
                call(item)  # type: ignore[arg-type]
            except BaseException as error:
                errors.append(error)

    started = [threading.Thread(target=work, daemon=True) for _ in range(min(threads, len(items)))]
    for thread in started:
        thread.start()
    for thread in started:
        while thread.is_alive():
            thread.join(GLANCE)
            if stop is not None:
                stop.check()
    if errors:
        raise errors[0]


_NONE = object()
