"""The training loop: steps up to an epoch's end, validation, and so on to the end or to a stop.

Everything that a resumed run needs is in the checkpoint; the order of images and all randomness follow from
(seed, step).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from typing import Any

from job.config.schema import RISING
from job.console import Progress, console
from job.errors import Interrupted, UserError
from job.feeds import prefetch
from job.inference.forward import validate
from job.runs import checkpoints
from job.runs.checkpoints import inference_weights
from job.runs.records import Epoch
from job.runs.state import State
from job.shutdown import Stop
from job.training import reporter, schedules
from job.training.build import Run
from job.training.runlog import RunLog
from job.training.saver import Saver
from job.training.watchdog import Watchdog

OVERFLOWS = 20  # batches in a row that float16 may overflow in before the loss counts as not finite


class Loop:
    """A run under way, and its state. `started` is when this start began, on the monotonic clock."""

    def __init__(self, run: Run, state: State, log: RunLog, saver: Saver, watch: Watchdog, stop: Stop, started: float) -> None:
        self.run, self.state, self.log, self.saver, self.watch, self.stop = run, state, log, saver, watch, stop
        self._began = started - state.seconds
        self._pending: deque[tuple[int, float, Any]] = deque()
        self._overflows = 0
        self._sizes: set[int] = set()  # training resolutions that are compiled
        self._rated = (state.step, time.monotonic())

    def go(self, on_epoch: Callable[[Epoch], Any] | None) -> str:
        """Take steps, and do what comes at each epoch's end; returns the status that the run ends with."""
        schedule, state = self.run.config.schedule, self.state
        batches = prefetch.ahead(self.run.batch, state.step, self.run.steps)
        with closing(batches), console.progress("training", self.run.steps, "steps", state.step) as bar:
            wanted = False
            while state.epoch < schedule.epochs:
                if schedule.patience and state.stale >= schedule.patience:
                    console.log(f"no better {schedule.monitor} for {state.stale} epochs: stopping early")
                    break
                if wanted or 0 < schedule.stop_after <= state.epoch:
                    return "stopped"
                if state.step == self.run.epoch_end(state.epoch + 1):
                    try:
                        epoch = self._end_epoch()
                    except Interrupted:  # in validation: a later start begins with it
                        self._save()
                        return "interrupted"
                    if on_epoch is not None:
                        self.saver.wait()  # whoever hears of an epoch may rely on its checkpoint
                        wanted = bool(on_epoch(epoch))
                    continue
                self.watch.on(f"reading the batch of step {state.step + 1:,}")
                try:
                    batch = next(batches)
                except Interrupted:  # while it waited for the data's store
                    self._save()
                    return "interrupted"
                self._take_step(batch, bar)
                self.saver.check()
                if self.stop or (state.step != self.run.epoch_end(state.epoch + 1) and self.saver.due(state.step)):
                    self._save()
                if self.stop:
                    return "interrupted"
        return "done"

    def _save(self) -> None:
        self._settle()
        self.watch.on(f"the save of step {self.state.step:,}")
        self.saver.save(self.state)

    def _take_step(self, batch: tuple[Any, Any, Any], bar: Progress) -> None:
        config, state, steps = self.run.config, self.state, self.run.steps
        lr, size = schedules.learning_rate(config, state.step, steps), schedules.train_size(config, state.step, steps)
        self.watch.on(f"step {state.step + 1:,}")
        if size not in self._sizes:  # it is compiled, which may take any time
            self.watch.off()
            self._sizes.add(size)
        outcome = self.run.step.run(*batch, lr, state.step, size)
        self._pending.append((state.step, lr, outcome))
        state.step += 1
        if state.step % config.run.log_every == 0:
            self._settle()
        bar.advance(note=f"loss {state.loss / state.seen:.3f}" if state.seen else "")

    def _settle(self) -> None:
        """Read the outcomes of the steps taken since the last time, and log the last of them.

        A device computes ahead of Python until somebody reads a result; this is the one place that does.
        """
        state, batch = self.state, self.run.config.schedule.batch
        while self._pending:
            step, lr, outcome = self._pending.popleft()
            loss, right, finite = float(outcome.loss), float(outcome.right), bool(outcome.finite)
            self._check_finite(step, loss, finite)
            if finite:
                state.loss += loss * batch
                state.right += right
                state.seen += batch
            if (step + 1) % self.run.config.run.log_every == 0:
                figures = dict(
                    epoch=step * batch // self.run.images + 1, loss=loss, accuracy=right / batch, learning_rate=lr,
                    resolution=schedules.train_size(self.run.config, step, self.run.steps), gradient_norm=float(outcome.norm),
                    images_per_second=round(self._rate(step + 1), 1), seconds=round(self._seconds(), 3),
                )  # fmt: skip
                self.log.add_step(step + 1, {name: value for name, value in figures.items() if math.isfinite(value)})
        self._seconds()

    def _seconds(self) -> float:
        """Seconds of the run in all its starts; the state has them too."""
        self.state.seconds = time.monotonic() - self._began
        return self.state.seconds

    def _rate(self, step: int) -> float:
        """Images a second since the last logged step of this start."""
        now = time.monotonic()
        last_step, last_time = self._rated
        self._rated = (step, now)
        return (step - last_step) * self.run.config.schedule.batch / max(now - last_time, 1e-9)

    def _check_finite(self, step: int, loss: float, finite: bool) -> None:
        self._overflows = 0 if finite else self._overflows + 1
        allowed = OVERFLOWS if self.run.config.machine.precision == "float16" else 0
        if self._overflows > allowed:
            self.saver.wait()
            kept = checkpoints.names(self.saver.folder)
            where = f"the checkpoint of step {kept[0].step:,} is kept" if kept else "there is no checkpoint yet"
            raise UserError(
                f"step {step + 1:,}", f"the loss or its gradient is not finite (loss {loss}); {where}",
                "lower --lr, raise --warmup, or set --clip 1, in a new --out",
            )  # fmt: skip

    def _end_epoch(self) -> Epoch:
        """Validate, log, keep the best, save.

        Raises:
            Interrupted: a stop was asked for before validation had ended; nothing has changed.
        """
        self._settle()
        self.watch.on("the first batch of validation", compiles=True)
        run, state = self.run, self.state
        run.inference.load(inference_weights(run.step.arrays(), state.logit_shift))
        validation = validate(run.inference, run.validation, self._validated)
        self.watch.on(f"the end of epoch {state.epoch + 1:,}")
        seen, seconds = max(1, state.seen), self._seconds()
        epoch = Epoch(
            epoch=state.epoch + 1, step=state.step, train_loss=state.loss / seen, train_accuracy=state.right / seen,
            learning_rate=schedules.learning_rate(run.config, max(0, state.step - 1), run.steps),
            images_per_second=round(run.images / max(seconds - state.epoch_began, 1e-9), 1), seconds=round(seconds, 3),
            validation=validation,
        )  # fmt: skip
        self.log.add_epoch(epoch)
        better = self._compare(epoch)
        state.epoch, state.epoch_began, state.loss, state.right, state.seen = epoch.epoch, seconds, 0.0, 0.0, 0
        self.saver.save(state)
        self.log.draw()
        reporter.epoch_ended(run, epoch, better)
        self.watch.off()
        return epoch

    def _validated(self, images: int) -> None:
        """After each batch of validation."""
        self.watch.on("a batch of validation")
        self.stop.check()

    def _compare(self, epoch: Epoch) -> bool:
        """Take the epoch over as the best where it is; one without a score is the best only until one has a score."""
        state, monitor = self.state, self.run.config.schedule.monitor
        score = epoch.monitored(monitor)
        score = -math.inf if score is None else score * (1 if monitor in RISING else -1)
        better = state.best is None or score > state.best
        state.stale = 0 if better else state.stale + 1
        if better:
            state.best, state.best_step, state.best_metrics = score, epoch.step, epoch.validation
        return better
