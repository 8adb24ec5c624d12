"""Work spread over threads, its results in the order of the input. OpenCV and hashlib let go of Python's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

AHEAD = 8  # items in flight for each worker; bounds the memory


def in_order(work: Callable[[In], Out], items: Iterable[In], workers: int) -> Iterator[Out]:
    """Like `map`, by `workers` threads, reading only a little ahead of what is taken."""
    with ThreadPoolExecutor(workers, thread_name_prefix="images") as executor:
        pending: deque[Future[Out]] = deque()
        try:
            for item in items:
                pending.append(executor.submit(work, item))
                if len(pending) >= workers * AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
