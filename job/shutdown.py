"""Graceful shutdown: a stop that work looks for between two steps, and the signals that ask for it."""

from __future__ import annotations

import math
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
    where no signals were asked for. `end` leaves at once, as interrupted, where the process is a command's own; it is
    None where it is somebody else's program.
    """

    def __init__(self) -> None:
        self._asked: float | None = None
        self.listen: Callable[[], None] = lambda: None
        self.end: Callable[[], None] | None = None

    def set(self) -> None:
        if self._asked is None:
            self._asked = time.monotonic()

    def __bool__(self) -> bool:
        return self._asked is not None

    def deadline(self, grace: float) -> float:
        """When so many seconds after the stop was asked for are over, on the monotonic clock; infinity where it was not."""
        return math.inf if self._asked is None else self._asked + grace

    def check(self) -> None:
        """Raise Interrupted where a stop was asked for."""
        if self:
            raise Interrupted


@contextmanager
def signals(stop: Stop, saves: bool = False) -> Iterator[None]:
    """While inside, SIGTERM, SIGHUP and Ctrl-C set `stop`; a second Ctrl-C exits at once. For the main thread alone.

    SIGHUP stays ignored where it was (nohup): the user wants the work to outlive the terminal.
    `saves` says that the step under way is finished and saved then.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if stop and number == signal.SIGINT:
            os._exit(INTERRUPTED)
        stop.set()
        if console.drawing or console.quiet:  # a line of ours would break the drawing; who draws says that it stops
            return
        line = console.worded("stopping: finishing the current step and saving" if saves else "stopping")
        with suppress(OSError, ValueError, AttributeError):  # print may be active in this very thread: it cannot be entered again
            os.write(console.stream.fileno(), line.encode() + b"\n")

    heard = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}

    def listen() -> None:
        for number in before:
            signal.signal(number, handle)

    stop.listen, stop.end = listen, lambda: os._exit(INTERRUPTED)
    try:
        yield
    finally:
        stop.listen, stop.end = lambda: None, None
        for number, handler in before.items():
            signal.signal(number, handler)
