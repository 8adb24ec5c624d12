"""What is saved of a run under way, by a thread: what training waits for, what is kept, and what becomes of a fault."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from job.config.options import build
from job.config.resolve import resolve
from job.config.schema import Config
from job.errors import UserError
from job.runs import checkpoints, records
from job.runs.checkpoints import Checkpoint, Name
from job.runs.state import State
from job.shutdown import Stop
from job.train import train
from job.training.saver import Saver
from job.training.watchdog import Watchdog
from tests.conftest import small
from tests.stepping import make_batch, make_step

Make = Callable[..., Saver]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Savers of a run that is nothing but a folder and a variable; `summarise` writes nothing."""
    monkeypatch.setattr(Saver, "summarise", lambda *arguments: None)
    savers = []

    def make(step: int = 0, fence: int = 1, before: Name | None = None, **options: Any) -> Saver:
        run: Any = SimpleNamespace(
            folder=tmp_path, config=resolve(build(Config, options)), step=SimpleNamespace(arrays=lambda: {"weights/a": np.zeros(1)}),
        )  # fmt: skip
        savers.append(Saver(run, State(fingerprint="f", step=step), Watchdog(run.config.run, Stop(), lambda: None), fence, before))
        return savers[-1]

    yield make
    for saver in savers:
        saver.close()


def _save(saver: Saver, *steps: int, best: int | None = None) -> None:
    for step in steps:
        saver.save(State(fingerprint="f", step=step, best_step=best))
    saver.wait()


def _names(saver: Saver) -> list[tuple[int, int]]:
    return [(name.step, name.fence) for name in checkpoints.names(saver.folder)]


class Held:
    """Saves that wait until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        plain = checkpoints.save

        def save(folder: Path, checkpoint: Checkpoint) -> None:
            self.begun.release()
            assert self.go.acquire(timeout=60)
            plain(folder, checkpoint)

        monkeypatch.setattr(checkpoints, "save", save)


def test_the_summary_names_the_new_best_before_the_old_one_is_deleted(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash at any moment leaves a summary whose best checkpoint is there."""
    saver = make()
    seen: list[tuple[int | None, list[int]]] = []

    def summarise(self: Saver, state: State, status: str) -> None:
        seen.append((state.best_step, [name.step for name in checkpoints.names(self.folder)]))

    monkeypatch.setattr(Saver, "summarise", summarise)
    for step in (1, 2, 3, 4):
        _save(saver, step, best=step)
    assert [best in there and (best - 1 in there or best == 1) for best, there in seen if best is not None] == [True] * 4
    assert _names(saver) == [(4, 1), (3, 1)]
    _save(saver, 5, 6, 7, best=4)
    assert _names(saver) == [(7, 1), (6, 1), (4, 1)], "the best is kept, however old"


def test_a_checkpoint_just_written_outlives_the_damaged_ones_beyond_it(make: Make) -> None:
    _save(make(), 200, 300, 400, best=200)
    saver = make(200, 2, Name(200, 1))  # resumed from 200, since 300 and 400 were damaged
    _save(saver, 250, best=200)
    assert _names(saver) == [(250, 2), (200, 1)]
    assert saver.saved.step == 250
    _save(saver, 300, 350, best=300)
    assert _names(saver) == [(350, 2), (300, 2)]


def test_training_goes_on_while_a_save_is_written_and_the_next_is_skipped(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    held, saver = Held(monkeypatch), make(save_every="2steps")
    state = State(fingerprint="f")
    saved = []
    for step in range(1, 10):
        state.step = step
        saver.check()
        if saver.due(step):
            saver.save(state)
            saved.append(step)
            assert held.begun.acquire(timeout=60)
        if step == 7:
            held.go.release()
            saver.wait()
    assert saved == [2, 8], "those of steps 4 and 6 are skipped"
    assert (saver.made, saver.skipped, saver.saved.step) == (1, 2, 2)
    held.go.release()
    saver.wait()
    assert (saver.made, saver.saved.step) == (2, 8)


def test_a_save_that_must_not_be_skipped_waits_and_holds_the_state_as_it_was(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    held, saver = Held(monkeypatch), make()
    state = State(fingerprint="f", step=3)
    saver.save(state)
    assert held.begun.acquire(timeout=60)
    state.step = 4  # while the thread has not begun to write
    threading.Timer(0.05, held.go.release).start()
    saver.save(state)
    assert _names(saver) == [(3, 1)]
    held.go.release()
    saver.wait()
    assert _names(saver) == [(4, 1), (3, 1)]
    assert saver.waited > 0


def test_a_step_is_saved_once_by_a_start(make: Make) -> None:
    """A stop may come after a save and before the next step, while its images are waited for."""
    saver = make(3, 2, Name(3, 1))
    _save(saver, 3, 3, 4, 4)
    assert _names(saver) == [(4, 2), (3, 2)]
    assert saver.made == 2


def test_intervals_are_of_time_of_steps_or_none(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    by_time, by_steps, never = make(save_every="10s"), make(5, save_every="3steps"), make(save_every="1epoch")
    for seconds, step in ((9.9, 7), (10.0, 8), (19.9, 10), (20.1, 11)):
        now[0] = 1000 + seconds
        assert by_time.due(step) == by_steps.due(step) == (seconds in (10.0, 20.1)), seconds
        assert not never.due(step)


def test_a_fault_in_the_thread_reaches_training(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = make()
    _save(saver, 1)

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "there")

    monkeypatch.setattr(checkpoints, "save", full)
    saver.save(State(fingerprint="f", step=2))
    for meets in (saver.wait, saver.check, lambda: saver.save(State(fingerprint="f", step=3))):
        with pytest.raises(OSError, match="No space left"):
            meets()
    assert saver.saved.step == 1


def test_what_is_copied_does_not_change_with_the_next_step() -> None:
    step = make_step()
    before = step.arrays()
    kept = {name: array.tobytes() for name, array in before.items()}
    step.run(*make_batch(step), 0.1, 0, 24)
    assert {name: array.tobytes() for name, array in before.items()} == kept
    assert any(array.tobytes() != kept[name] for name, array in step.arrays().items())


@pytest.mark.parametrize("every", ["soon", "0", "0s", "0steps", "2epochs", "-1", "1.5steps", "infm", "nan"])
def test_other_intervals_are_refused_before_anything_is_made(every: str, shards: Path, tmp_path: Path) -> None:
    line = "is not an interval between checkpoints; give a time, steps or 1epoch, as 60s, 10m, 500steps"
    with pytest.raises(UserError, match=f"^--save-every: '{every}' {line}"):
        train(small(shards, tmp_path / "run", save_every=every))
    assert not (tmp_path / "run").exists()


def test_a_run_that_saves_after_each_step_has_the_same_bits_and_says_what_it_saved(
    shards: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No checkpoint comes between an epoch's last step and its end, which saves too."""
    seen = []
    plain = Saver._write

    def write(self: Saver, checkpoint: Checkpoint) -> None:
        seen.append((checkpoint.state.step, checkpoint.state.epoch))
        plain(self, checkpoint)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saver, "_write", write)
        summary = train(small(shards, tmp_path / "run", save_every="1steps"))
    ends = [epoch.step for epoch in records.read_epochs(tmp_path / "run")]
    assert [seen.count((end, epoch)) for epoch, end in enumerate(ends, 1)] == [1, 1]
    assert [step for step, epoch in seen if step in ends] == ends
    assert summary.status == "done"
    assert f"{len(seen)} checkpoints saved" in capsys.readouterr().out
    ours, theirs = (checkpoints.newest(folder / records.CHECKPOINTS) for folder in (tmp_path / "run", run))
    assert ours is not None
    assert theirs is not None
    for name, array in theirs.arrays.items():
        np.testing.assert_array_equal(ours.arrays[name], array, err_msg=name)
