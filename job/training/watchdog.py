"""The watchdog: work that hangs, and a stop that takes longer than its grace, end the process rather than go on for ever.

Only the process of a command is ended. Inside another program, work that hangs sets the stop, and a warning says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from job.config import lengths, schema
from job.console import console
from job.shutdown import Stop

POLL = 0.1  # seconds between two looks
COMPILING = 900.0  # seconds that work which compiles has at least
LAST_WORDS = 1.0  # seconds for the last line: what it is written to may hang too


@dataclass(frozen=True)
class _Work:
    """What a thread does, and when it must have ended, on the monotonic clock."""

    what: str
    until: float


class Watchdog:
    """Looks at the clock in a thread of its own, while inside `with`. Each thread may have one piece of work timed."""

    def __init__(self, options: schema.Run, stop: Stop, leaving: Callable[[], None]) -> None:
        """
        Args:
            leaving: called when a stop has taken too long, before the process ends.
        """
        self._options, self._stop, self._leaving = options, stop, leaving
        self._grace = lengths.seconds(options.grace, "--grace")
        self._limit = lengths.limit(options.step_timeout, "--step-timeout")
        self._work: dict[int, _Work] = {}  # by thread
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def on(self, what: str, compiles: bool = False) -> None:
        """This thread begins a piece of work, and the one before has ended."""
        limit = max(self._limit, COMPILING) if compiles else self._limit
        self._work[threading.get_ident()] = _Work(what, time.monotonic() + limit)

    def off(self) -> None:
        """What this thread does now may take as long as it likes."""
        self._work.pop(threading.get_ident(), None)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """While inside, this thread does a piece of work."""
        self.on(what)
        try:
            yield
        finally:
            self.off()

    def _look(self) -> None:
        while not self._ended.wait(POLL):
            now = time.monotonic()
            if self._stop.end is not None and now > self._stop.deadline(self._grace):
                line = f"stopping took longer than --grace {self._options.grace}: what is not saved is lost; rerun to resume"
                self._end(line, self._leaving)
            for thread, work in self._work.copy().items():
                if now > work.until:
                    self._work.pop(thread, None)  # it is said once
                    self._end(f"{work.what} took longer than --step-timeout {self._options.step_timeout}; rerun to resume")

    def _end(self, line: str, first: Callable[[], None] = lambda: None) -> None:
        """End the process, with a line, if it is ours; else ask for a stop."""
        if self._stop.end is None:
            console.log(f"warning: {line}")
            self._stop.set()
            return

        def last_words() -> None:
            console.log(line)
            first()

        speaker = threading.Thread(target=last_words, daemon=True)
        speaker.start()
        speaker.join(LAST_WORDS)
        self._stop.end()
