"""What people see while they wait: log lines and progress bars.

Lines go to one stream and, once a run folder is known, to its log file too. Bars are drawn on terminals; elsewhere
a plain line now and then says the same. For log collectors each line can be a JSON object. A reader that leaves (a
closed pipe, a terminal that is gone, a full disk behind a redirection) costs its lines, never the work.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from job.addresses import named
from job.errors import JobError

PLAIN_SECONDS = 10.0  # between two plain progress lines
GONE = (OSError, ValueError)  # what a write raises where nobody reads any more, or the stream is closed


class Console:
    """Where lines go: standard output, or standard error where that holds a result. `quiet` keeps them to the log file.

    `libraries` is the descriptor of a file that takes what TensorFlow prints on descriptor 2, until there is a log file.
    """

    def __init__(self) -> None:
        self.to_stderr = False
        self.quiet = False
        self.json = False
        self.drawing = False
        self.file: IO[str] | None = None
        self.libraries: int | None = None
        self._bar: Any = None

    @property
    def stream(self) -> Any:
        """The stream as it is now; None where the process was started without one."""
        return sys.stderr if self.to_stderr else sys.stdout

    @property
    def live(self) -> bool:
        """Whether what is shown may be drawn over: on a terminal, for people."""
        return not self.quiet and not self.json and getattr(self.stream, "isatty", lambda: False)()

    @contextmanager
    def using(self, **settings: bool) -> Iterator[None]:
        """Set `quiet`, `json` or `to_stderr` while inside."""
        before = {name: getattr(self, name) for name in settings}
        vars(self).update(settings)
        try:
            yield
        finally:
            vars(self).update(before)

    def silenced(self) -> Any:
        """While inside, lines go to the log file alone."""
        return self.using(quiet=True)

    def worded(self, line: str, **fields: Any) -> str:
        """A line as the stream takes it: itself, or the JSON object that Google Cloud's collectors and others read."""
        if not self.json:
            return line
        severity = "WARNING" if line.startswith("warning: ") else "INFO"
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return json.dumps({"time": now, "severity": severity, "message": line, **fields})

    def log(self, line: str, **fields: Any) -> None:
        """Log a line; `fields` are figures that only the JSON form carries."""
        line = named(line)
        if not self.quiet:
            if self._bar is not None:
                self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
            else:
                _Outlet(self.stream).write(self.worded(line, **fields) + "\n")
        self.keep(line)

    def keep(self, line: str) -> None:
        """Write a line to the log file, if there is one. The run does not depend on it."""
        if self.file is None:
            return
        try:
            self.file.write(line + "\n")
            self.file.flush()
        except GONE as error:
            lost, self.file = self.file, None
            self.log(f"warning: {lost.name} cannot be written ({error}); continuing without it")

    @contextmanager
    def copy_to(self, path: Path) -> Iterator[None]:
        """While inside, also write each line to a file, and what TensorFlow prints where `libraries` holds it."""
        file, before, held = path.open("a", encoding="utf-8", errors="backslashreplace"), self.file, self.libraries
        if held is not None:
            _turn(held, file.fileno())
        self.file = file
        try:
            yield
        except JobError as error:
            self.keep(f"twofold: {error}")
            raise
        finally:
            self.file = before
            if held is not None:
                os.dup2(held, 2)
            with suppress(*GONE):
                file.close()

    @contextmanager
    def progress(self, what: str, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
        """Show how far a long piece of work is, with its rate and the time left."""
        if self._bar is not None or not self.live:
            yield Progress(self, what, total, unit, done, None)
            return
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = ("{task.description}", BarColumn(), "{task.completed}/{task.total}", TextColumn("{task.fields[rate]}"))
        with RichProgress(*columns, TimeRemainingColumn(), console=self._rich(), transient=True) as bar:
            self._bar = bar
            try:
                yield Progress(self, what, total, unit, done, bar)
            finally:
                self._bar = None

    @contextmanager
    def drawn(self, what: Any) -> Iterator[None]:
        """Draw something of Rich's over itself, twice a second, with log lines above; only where that is `live`."""
        from rich.live import Live

        with Live(what, console=self._rich(), refresh_per_second=2, transient=True) as bar:
            self._bar, self.drawing = bar, True
            try:
                yield
            finally:
                self._bar, self.drawing = None, False

    def _rich(self) -> Any:
        from rich.console import Console as RichConsole

        return RichConsole(file=_Outlet(self.stream))  # type: ignore[arg-type]


class _Outlet:
    """A stream that may be written to whether somebody reads it or not. Rich draws on it from a thread of its own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if self._stream is not None:
            with suppress(*GONE):
                self._stream.write(text)
                self._stream.flush()

    def flush(self) -> None:
        """`write` has done it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _turn(held: int, log: int) -> None:
    """Turn descriptor 2 to a log file, and move there what was held until now."""
    with suppress(OSError):
        os.write(log, os.pread(held, os.fstat(held).st_size, 0))
        os.ftruncate(held, 0)
        os.lseek(held, 0, os.SEEK_SET)
    os.dup2(log, 2)


class Progress:
    """One piece of work in progress; `advance` it."""

    def __init__(self, console: Console, what: str, total: int, unit: str, done: int, bar: Any) -> None:
        self.console, self.what, self.total, self.unit, self.bar = console, what, total, unit, bar
        self.done = self.first = done
        self.started = self.told = time.monotonic()
        self.task = None if bar is None else bar.add_task(what, total=total, completed=done, rate="")

    @property
    def _words(self) -> str:
        return f"{self.rate:,.{0 if self.rate >= 10 else 1}f} {self.unit}/s"

    @property
    def rate(self) -> float:
        """Units a second since the start."""
        return (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, rate=f"{self._words} {note}")
            return
        now = time.monotonic()
        if now - self.told >= PLAIN_SECONDS and self.done < self.total:
            self.told = now
            left = (self.total - self.done) / max(self.rate, 1e-9)
            share = 100 * self.done / max(self.total, 1)
            line = f"{self.what}: {self.done:,}/{self.total:,} ({share:.0f} %), {self._words}, {duration(left)} left"
            self.console.log(f"{line}, {note}" if note else line)


def counted(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def duration(seconds: float) -> str:
    """Seconds in words that people read at a glance."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


console = Console()
