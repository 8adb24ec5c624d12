"""What is saved of a run under way: checkpoints, which of them are kept, and the summary. A thread writes them."""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace

from job.config import lengths
from job.console import console, counted
from job.runs import checkpoints, records
from job.runs.checkpoints import Checkpoint, Name
from job.runs.state import State
from job.training import resume
from job.training.build import Run
from job.training.watchdog import Watchdog


class Saver:
    """Writes checkpoints and `summary.json`, one at a time, in a thread of its own; `close` it.

    Training waits while the state is copied, and for a save under way where the next one must not be skipped.
    `saved` is the state that the run can be resumed from: what is reported of a run that failed after it. `made`,
    `skipped` and `waited`, in seconds, are what the log says at the end.
    """

    def __init__(self, run: Run, state: State, watch: Watchdog, fence: int, before: Name | None = None) -> None:
        """
        Args:
            state: where this start begins.
            watch: times each save.
            fence: this start's, higher than that of any before it.
            before: the checkpoint that `state` is from.
        """
        self.run, self.saved, self.watch, self.fence = run, replace(state), watch, fence
        self.folder = run.folder / records.CHECKPOINTS
        self.made, self.skipped, self.waited = 0, 0, 0.0
        self._settings = resume.settings(run.config)
        self._interval = lengths.interval(run.config.run.save_every, "--save-every")
        self._due = (time.monotonic(), state.step)  # when a save was last due
        self._before = before
        self._asked: int | None = None  # the step that was saved last
        self._pool = ThreadPoolExecutor(1, "saver")
        self._writing: Future[None] | None = None

    def due(self, step: int) -> bool:
        """Whether the interval is over, and a save can begin; while another is under way, this one is skipped."""
        now = time.monotonic()
        last, at = self._due
        if now - last < self._interval.seconds and step - at < self._interval.steps:
            return False
        self._due = (now, step)
        if self._writing is None or self._writing.done():
            return True
        self.skipped += 1
        return False

    def save(self, state: State) -> None:
        """Copy the variables and the state, and have them written; what is under way is waited for.

        A step that this start has saved already is not saved again: a stop may come before the next one is taken.
        """
        began = time.monotonic()
        self.wait()
        if state.step == self._asked:
            return
        self._asked = state.step
        checkpoint = Checkpoint(self.run.step.arrays(), replace(state), self.fence, self._settings)
        self._writing = self._pool.submit(self._write, checkpoint)
        now = time.monotonic()
        self._due = (now, state.step)
        self.waited += now - began

    def check(self) -> None:
        """Raise what the last save failed with, where it has."""
        if self._writing is not None and self._writing.done():
            self._writing.result()

    def wait(self) -> None:
        """Wait until what was saved is on the disk, and raise what it failed with."""
        if self._writing is not None:
            while not self._writing.done():  # in short pieces: a signal just before a wait without a limit is not seen
                wait([self._writing], timeout=0.2)
            self._writing.result()

    def _write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and a summary that names the best one; keep it, the one before, and the best.

        The summary comes before anything is deleted: whoever reads it finds the checkpoint that it names. Others than
        these are damaged checkpoints that the run fell back from.
        """
        with self.watch.timed(f"the save of step {checkpoint.state.step:,}"):
            checkpoints.save(self.folder, checkpoint)
            self.saved = checkpoint.state
            self.made += 1
            self.summarise(checkpoint.state, "running")
            best = checkpoints.of_step(self.folder, checkpoint.state.best_step)
            checkpoints.prune(self.folder, {checkpoint.name, self._before, best})
            self._before = checkpoint.name

    def summarise(self, state: State, status: str) -> records.Summary:
        """Write `summary.json`. Outside the saver's thread, only while nothing is under way."""
        config = self.run.config
        summary = records.Summary(
            status=status, steps=state.step, epochs=state.epoch, seconds=round(state.seconds, 3),
            images_per_second=round(state.step * config.schedule.batch / max(state.seconds, 1e-9), 1), best_step=state.best_step,
            parameters=int(self.run.network.model.count_params()), classes=self.run.shards.classes, model=config.model.model,
            precision=config.machine.precision, fingerprint=state.fingerprint, updated=round(time.time(), 3),
            process=f"{os.getpid()} on {socket.gethostname()}", validation=state.best_metrics,
        )  # fmt: skip
        records.write_summary(self.run.folder, summary)
        return summary

    def tell(self) -> None:
        """Log how much was saved, and what it cost."""
        skipped = f" and {self.skipped:,} skipped" if self.skipped else ""
        console.log(f"{counted(self.made, 'checkpoint')} saved{skipped}; training waited {self.waited:.1f} s for them")

    def close(self) -> None:
        """Wait until the thread has ended, whatever came of its last save."""
        self._pool.shutdown()
