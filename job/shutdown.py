"""Graceful shutdown: a stop that work looks for between two steps, and the signals that ask for it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from job.console import console
from job.errors import INTERRUPTED, Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stop:
    """Set by a signal or by a caller, in any thread; work looks at it between two steps.

    A plain attribute, and no event of `threading`: a signal handler may run while this very thread holds an event's
    lock, and would wait for itself.

    `listen` hears the signals again where a library has put handlers of its own in their place; it does nothing
    where no signals were asked for.
    """

    def __init__(self) -> None:
        self._asked, self._when = False, 0.0
        self.listen: Callable[[], None] = lambda: None

    def set(self) -> None:
        if not self._asked:
            self._when = time.monotonic()
        self._asked = True

    def deadline(self, grace: float) -> float:
        """The moment, on the monotonic clock, at which `grace` seconds have passed since a stop was asked for."""
        return self._when + grace

    def __bool__(self) -> bool:
        return self._asked

    def check(self) -> None:
        """Raise Interrupted where a stop was asked for."""
        if self:
            raise Interrupted


@contextmanager
def signals(stop: Stop) -> Iterator[None]:
    """While inside, SIGTERM, SIGHUP and Ctrl-C set `stop`; a second Ctrl-C exits at once. For the main thread alone.

    SIGHUP stays ignored where it was (nohup): the user wants the work to outlive the terminal.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if stop and number == signal.SIGINT:
            os._exit(INTERRUPTED)
        stop.set()
        if console.drawing or console.quiet:  # a line of ours would break the drawing; who draws says that it stops
            return
        line = console.worded("stopping" if console.to_stderr else "stopping: finishing the current step and saving")
        with suppress(OSError, ValueError, AttributeError):  # print may be active in this very thread: it cannot be entered again
            os.write(console.stream.fileno(), line.encode() + b"\n")

    heard = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}

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
