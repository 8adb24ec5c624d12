"""What people and collectors read: plain lines, JSON lines, and a stop that is heard."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from job.console import Console, console
from job.shutdown import Stop, signals


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_heard_again_after_a_library_has_taken_it(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    stop, before = Stop(), signal.getsignal(number)
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
