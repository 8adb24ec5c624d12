"""What people and collectors read: plain lines, JSON lines, and a stop that is heard."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO

import pytest

from job.console import Console, console
from job.errors import UserError
from job.shutdown import SIGNALS, Stop, signals


@pytest.fixture
def in_json() -> Iterator[None]:
    console.json = True
    yield
    console.json = False


def test_a_json_line_has_time_severity_message_and_figures(capsys: pytest.CaptureFixture[str], in_json: None, tmp_path: Path) -> None:
    with console.copy_to(tmp_path / "log.txt"):
        console.log('epoch 1: "ä"', loss=0.5)
        console.log("warning: careful")
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert first == {"severity": "INFO", "message": 'epoch 1: "ä"', "loss": 0.5}
    assert (second["severity"], second["message"]) == ("WARNING", "warning: careful")
    assert (tmp_path / "log.txt").read_text() == 'epoch 1: "ä"\nwarning: careful\n'


def test_a_plain_line_carries_no_figures(capsys: pytest.CaptureFixture[str]) -> None:
    console.log("epoch 1", loss=0.5)
    assert capsys.readouterr().out == "epoch 1\n"


def test_a_terminal_is_drawn_on_only_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Console()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert own.live
    own.json = True
    assert not own.live
    own.json, own.quiet = False, True
    assert not own.live


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_heard_again_after_a_library_has_taken_it(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    stop, before = Stop(), signal.default_int_handler
    outer = signal.signal(number, before)  # the tests themselves may run under nohup
    try:
        with signals(stop):
            signal.signal(number, signal.SIG_IGN)  # as TensorFlow and Ray do
            os.kill(os.getpid(), number)
            assert not stop
            stop.listen()
            os.kill(os.getpid(), number)
            assert stop
        assert signal.getsignal(number) is before
        stop.listen()  # nothing is left to hear
        assert signal.getsignal(number) is before
    finally:
        signal.signal(number, outer)


def test_sighup_stays_ignored_where_nohup_ignored_it() -> None:
    stop, before = Stop(), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals(stop):
            os.kill(os.getpid(), signal.SIGHUP)
            stop.listen()
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


STORM = """
import os, signal
from job.shutdown import Stop
stops = [Stop()]
signal.signal(signal.SIGALRM, lambda *_: stops[0].set())  # as the handler of `signals` does
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
for _ in range(300_000):
    stops[0] = Stop()
    stops[0].set()
signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_a_signal_may_come_while_a_stop_is_being_set() -> None:
    subprocess.run([sys.executable, "-c", STORM], check=True, timeout=30)  # a lock in there would wait for itself


@pytest.fixture(params=["pipe", "terminal", "disk", "closed"])
def unread(request: pytest.FixtureRequest) -> Iterator[IO[str]]:
    """A stream that nobody reads any more."""
    if request.param == "disk":
        stream = open("/dev/full", "w")  # noqa: SIM115 (closed below)
    else:
        read, write = pty.openpty() if request.param == "terminal" else os.pipe()
        os.close(read)
        stream = os.fdopen(write, "w")
    if request.param == "closed":
        stream.close()
    yield stream
    _close(stream)


def _close(stream: IO[str]) -> None:
    with suppress(OSError):
        stream.close()


def test_a_reader_that_leaves_costs_its_lines_alone(unread: IO[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stdout", unread)
    with console.copy_to(tmp_path / "log.txt"):
        for number in range(3000):  # more than a buffer holds
            console.log(f"line {number}")
    assert (tmp_path / "log.txt").read_text().splitlines() == [f"line {number}" for number in range(3000)]


def test_a_terminal_that_vanishes_under_a_progress_bar_costs_the_bar_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read, write = pty.openpty()
    stream = os.fdopen(write, "w")
    monkeypatch.setattr(sys, "stdout", stream)
    assert console.live
    with console.copy_to(tmp_path / "log.txt"), console.progress("training", 20, "steps") as bar:
        os.close(read)
        for number in range(20):
            bar.advance()
            console.log(f"line {number}")
    _close(stream)
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 20


def test_a_log_file_that_cannot_be_written_is_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    with console.copy_to(Path("/dev/full")):
        console.log("one")
        console.log("two")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["one", "warning: /dev/full cannot be written ([Errno 28] No space left on device); continuing without it", "two"]


def test_a_process_without_standard_output_logs_to_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with console.copy_to(tmp_path / "log.txt"), console.progress("reading", 1, "images") as bar:
        bar.advance()
        console.log("line")
    assert (tmp_path / "log.txt").read_text() == "line\n"


def test_the_log_file_names_the_error_that_ended_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError), console.copy_to(tmp_path / "log.txt"):
        raise UserError("--batch", "too large", "use less")
    assert (tmp_path / "log.txt").read_text() == "twofold: --batch: too large; use less\n"


def test_silenced_keeps_lines_to_the_file_and_ends(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with console.copy_to(tmp_path / "log.txt"):
        with suppress(KeyError), console.silenced():
            console.log("inside")
            raise KeyError
        console.log("outside")
    assert capsys.readouterr().out == "outside\n"
    assert (tmp_path / "log.txt").read_text() == "inside\noutside\n"
