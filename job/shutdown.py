"""Graceful shutdown: a stop that work looks for between two steps, and the signals that ask for it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from job.console import console
from job.errors import INTERRUPTED, Interrupted


class Stop:
    """Set by a signal or by a caller; work looks at it between two steps.

    `listen` hears the signals again where a library has put handlers of its own in their place; it does nothing
    where no signals were asked for.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self.listen: Callable[[], None] = lambda: None

    def set(self) -> None:
        self._event.set()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise Interrupted where a stop was asked for."""
        if self:
            raise Interrupted


@contextmanager
def signals(stop: Stop) -> Iterator[None]:
    """While inside, SIGTERM and Ctrl-C set `stop`; a second Ctrl-C leaves at once. For the main thread alone."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop and number == signal.SIGINT:
            os._exit(INTERRUPTED)
        stop.set()
        if console.drawing:  # a line of ours would break the drawing; who draws says that it stops
            return
        with suppress(OSError, ValueError):  # print may be under way in this very thread: it can't be entered again
            os.write(console.stream.fileno(), console.worded("stopping: the step under way is finished and saved").encode() + b"\n")

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}

    def listen() -> None:
        for number in before:
            signal.signal(number, handle)

    stop.listen = listen
    try:
        yield
    finally:
        stop.listen = lambda: None
        for number, handler in before.items():
            signal.signal(number, handler)
