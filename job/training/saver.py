"""What is saved of a run under way: checkpoints, which of them are kept, and the summary."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace

from job.runs import checkpoints, records
from job.runs.state import State
from job.training.build import Run


class Saver:
    """Writes checkpoints and `summary.json`. `due` says when the next checkpoint should be.

    `saved` is the state that the run can be resumed from: what is reported of a run that failed after it.
    """

    def __init__(self, run: Run, state: State) -> None:
        """`state` is where this start begins."""
        self.run, self.saved = run, replace(state)
        self.folder = run.folder / records.CHECKPOINTS
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._saved > 60 * self.run.config.run.save_every

    def save(self, state: State, status: str = "running") -> records.Summary:
        """Write a checkpoint and a summary that names the best one; keep it, the one before, and the best.

        The summary comes before anything is deleted: whoever reads it finds the checkpoint that it names. Steps beyond
        this one are damaged checkpoints that the run fell back from.
        """
        checkpoints.save(self.folder, checkpoints.Checkpoint(self.run.step.arrays(), state))
        self.saved = replace(state)
        summary = self.summarise(state, status)
        newest = [step for step in checkpoints.steps(self.folder) if step <= state.step][:2]
        checkpoints.prune(self.folder, {*newest, state.best_step})
        self._saved = time.monotonic()
        return summary

    def summarise(self, state: State, status: str) -> records.Summary:
        """Write `summary.json`."""
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
