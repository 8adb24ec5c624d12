"""How a run goes: stops within their grace, work that hangs, starts that come to nothing, and clocks that jump."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.config import schema
from job.errors import StuckError
from job.feeds.memory import MemoryFeed
from job.inference.forward import Inference
from job.runs import checkpoints, records, starts
from job.shutdown import Stop, signals
from job.train import train
from job.training import watchdog
from job.training.step import Step
from job.training.watchdog import Watchdog
from tests.conftest import SMALL, small


def _same_end(ours: Path, theirs: Path) -> None:
    one, other = (checkpoints.newest(folder / records.CHECKPOINTS) for folder in (ours, theirs))
    assert one is not None
    assert other is not None
    for name, array in other.arrays.items():
        np.testing.assert_array_equal(one.arrays[name], array, err_msg=name)


def _waits_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_a_stop_keeps_when_it_was_first_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()
    assert stop.deadline(12) == float("inf")
    for now in (100.0, 105.0):
        monkeypatch.setattr("time.monotonic", lambda now=now: now)
        stop.set()
    assert stop.deadline(12) == 112
    assert stop


class Watched:
    """A watchdog over a stop whose process is not really ended; `ended` says that it would have been."""

    def __init__(self, ours: bool = True, **options: str) -> None:
        self.stop, self.ended, self.left = Stop(), threading.Event(), threading.Event()
        if ours:
            self.stop.end = self.ended.set
        self.dog = Watchdog(schema.Run(**options), self.stop, self.left.set)


def test_a_stop_that_outlasts_its_grace_ends_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    watched = Watched(grace="0.05s")
    with watched.dog:
        watched.stop.set()
        assert watched.ended.wait(60)
        assert watched.left.is_set()
    line = "stopping took longer than --grace 0.05s: what is not saved is lost; rerun to resume\n"
    assert capsys.readouterr().out.startswith(line)


def test_work_that_hangs_ends_the_process_and_names_itself(capsys: pytest.CaptureFixture[str]) -> None:
    watched = Watched(step_timeout="0.05s")
    with watched.dog, watched.dog.timed("step 7"):
        assert watched.ended.wait(60)
    assert not watched.left.is_set()
    assert capsys.readouterr().out == "step 7 took longer than --step-timeout 0.05s; rerun to resume\n"


def test_inside_another_program_nothing_is_ended(capsys: pytest.CaptureFixture[str]) -> None:
    watched = Watched(ours=False, step_timeout="0.05s", grace="0.01s")
    with watched.dog:
        watched.dog.on("step 7")
        assert _waits_for(lambda: bool(watched.stop))
        time.sleep(3 * watchdog.POLL)  # the grace is over too
    assert capsys.readouterr().out == "warning: step 7 took longer than --step-timeout 0.05s; rerun to resume\n"


@pytest.mark.parametrize("options", [dict(step_timeout="0"), dict(step_timeout="0.05s")])
def test_what_has_ended_or_compiles_or_is_not_timed_may_take_longer(options: dict[str, str]) -> None:
    watched = Watched(**options)
    with watched.dog:
        watched.dog.on("the export", compiles=True)
        time.sleep(3 * watchdog.POLL)
        watched.dog.on("step 1")
        watched.dog.off()
        time.sleep(3 * watchdog.POLL)
    assert not watched.ended.is_set()


def test_a_last_line_that_cannot_be_written_does_not_hold_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LAST_WORDS", 0.05)
    never = threading.Event()
    monkeypatch.setattr(watchdog.console, "log", lambda line: never.wait(60))
    watched = Watched(step_timeout="0.01s")
    with watched.dog, watched.dog.timed("step 7"):
        assert watched.ended.wait(30)
    never.set()


def test_only_a_commands_own_process_can_be_ended() -> None:
    stop = Stop()
    assert stop.end is None
    with signals(stop):
        assert stop.end is not None
    assert stop.end is None


def test_a_stop_abandons_validation_and_the_next_start_begins_with_it(
    shards: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, stop, passes = tmp_path / "run", Stop(), []
    logits = Inference.logits

    def counted(self: Inference, images: Any) -> Any:
        passes.append(len(images))
        stop.set()
        return logits(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Inference, "logits", counted)
        assert train(small(shards, out), stop=stop).status == "interrupted"
    assert len(passes) == 1
    saved = checkpoints.newest(out / records.CHECKPOINTS)
    assert saved is not None
    assert (saved.state.epoch, saved.state.step) == (0, records.read_epochs(run)[0].step)
    assert records.read_epochs(out) == []
    assert train(small(shards, out)).status == "done"
    assert [epoch.validation for epoch in records.read_epochs(out)] == [epoch.validation for epoch in records.read_epochs(run)]
    _same_end(out, run)


HUNG = """
import sys, threading
from job.training.step import Step
plain, calls = Step.run, []
def hang(self, *arguments):
    calls.append(1)
    if len(calls) == 3:
        print("hangs", flush=True)
        threading.Event().wait()
    return plain(self, *arguments)
Step.run = hang
from job.cli import main
main(sys.argv[1:])
"""


@contextmanager
def _hung(shards: Path, out: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command, as a process in which the third step never comes back."""
    options = [f"--{name.replace('_', '-')}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in SMALL.items()]
    command = [sys.executable, "-c", HUNG, "train", f"--data={shards}", f"--out={out}", *options, "--save-every=1steps", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_step_that_hangs_and_a_stop_that_is_never_seen_end_with_75_and_the_run_resumes(shards: Path, run: Path, tmp_path: Path) -> None:
    hangs, stopped = tmp_path / "hangs", tmp_path / "stopped"
    with _hung(shards, hangs, "--step-timeout=3s") as first, _hung(shards, stopped, "--grace=0.5s") as second:
        assert second.stdout is not None
        while "hangs" not in second.stdout.readline():
            assert second.poll() is None
        second.send_signal(signal.SIGTERM)
        for process, out, line in (
            (second, stopped, "stopping took longer than --grace 0.5s: what is not saved is lost; rerun to resume\n"),
            (first, hangs, "step 3 took longer than --step-timeout 3s; rerun to resume\n"),
        ):
            stdout, stderr = process.communicate(timeout=120)
            assert (process.returncode, "Traceback" in stderr) == (75, False)
            assert stdout.endswith(line)
            assert (out / records.LOG).read_text().endswith(line)
            assert checkpoints.names(out / records.CHECKPOINTS)[0].step in (1, 2)
            assert starts.counted(out, _newest(out)) == 0
    assert train(small(shards, hangs)).status == "done"
    _same_end(hangs, run)


def test_a_feed_that_hangs_is_named_from_python_too(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is ended: the run stops as soon as the batch has come."""
    stop, gather = Stop(), MemoryFeed.gather

    def slow(self: MemoryFeed, numbers: Any) -> Any:
        if len(numbers) == 16 and not stop:  # of training
            assert _waits_for(lambda: bool(stop))
        return gather(self, numbers)

    monkeypatch.setattr(MemoryFeed, "gather", slow)
    assert train(small(shards, tmp_path / "run", step_timeout="0.2s"), stop=stop).status == "interrupted"
    line = "warning: reading the batch of step 1 took longer than --step-timeout 0.2s; rerun to resume\n"
    assert line in capsys.readouterr().out


def test_starts_without_a_new_checkpoint_are_counted_until_one_is_refused(tmp_path: Path) -> None:
    for _ in range(5):
        starts.begin(tmp_path)
    line = rf"{tmp_path}: 5 starts in a row ended without a new checkpoint, .*; look at the end of .*log.txt, mend the cause, and rerun"
    with pytest.raises(StuckError, match=line) as error:
        starts.begin(tmp_path)
    assert error.value.code == 1
    starts.begin(tmp_path)
    starts.clear(tmp_path)
    assert starts.counted(tmp_path) == 0
    for _ in range(7):  # each from another checkpoint
        starts.begin(tmp_path, f"step-{_:08d}-0001")
        assert starts.counted(tmp_path, f"step-{_:08d}-0001") == 1
    for garbage in (b"\xff", b"[]", b"{}", b'{"starts_without_a_new_checkpoint": "9", "newest_checkpoint": ""}', b"[" * 100_000):
        (tmp_path / starts.NAME).write_bytes(garbage)
        starts.begin(tmp_path)
        assert starts.counted(tmp_path) == 1


def test_a_run_that_dies_again_and_again_ends_with_1_and_one_that_saves_does_not(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    run = Step.run

    def dies(self: Step, *arguments: Any) -> Any:
        outcome = run(self, *arguments)
        if arguments[4] + 1 == fatal:
            raise KeyboardInterrupt
        return outcome

    monkeypatch.setattr(Step, "run", dies)
    for fatal, counted in ((1, 1), (3, 0)):  # in the second start step 2 is saved
        with pytest.raises(KeyboardInterrupt):
            train(small(shards, out, save_every="2steps"))
        assert starts.counted(out, _newest(out)) == counted, fatal
    for _ in range(starts.MOST):
        starts.begin(out, _newest(out))
    with pytest.raises(StuckError):
        train(small(shards, out))
    fatal = 0
    assert train(small(shards, out, stop_after=1)).status == "stopped"
    assert train(small(shards, out, stop_after=1)).status == "stopped"  # nothing new is saved, and nothing is wrong
    assert starts.counted(out, _newest(out)) == 0


def _newest(out: Path) -> str:
    newest = checkpoints.newest(out / records.CHECKPOINTS)
    return "" if newest is None else str(newest.name)


def test_clocks_that_jump_change_nothing(shards: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of day goes back a year, and forward two, with each look."""
    year, looks = 3.2e7, iter(range(10**9))
    plain = time.time
    monkeypatch.setattr(time, "time", lambda: plain() + (2 * year if next(looks) % 2 else -year))
    out = tmp_path / "run"
    assert train(small(shards, out, stop_after=1, save_every="60s", grace="1s", step_timeout="30s")).status == "stopped"
    assert train(small(shards, out, save_every="60s", grace="1s", step_timeout="30s")).status == "done"
    assert starts.counted(out, _newest(out)) == 0
    _same_end(out, run)
    seconds = [epoch.seconds for epoch in records.read_epochs(out)]
    assert 0 < seconds[0] < seconds[1] < 600
