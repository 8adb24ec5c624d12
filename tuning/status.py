"""The status of a running sweep: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from job.config.options import leaves
from job.console import console, counted, duration
from tuning.state import START, UNFINISHED, SweepState, Trial

PLAIN_SECONDS = 60.0  # between two plain lines where no trial ends
SHOWN = 8  # of the best trials, in the table


class StatusTable:
    """The trials that run and the best that ended. `until` is when the time budget ends, on the monotonic clock."""

    def __init__(self, state: SweepState, until: float) -> None:
        self.state, self.until = state, until
        self._running: dict[str, tuple[int, float | None]] = {}
        self._started = self._logged = time.monotonic()
        self._ended_before = len(state.ended)

    @contextmanager
    def shown(self) -> Iterator[None]:
        if console.live:
            with console.drawn(self):
                yield
        else:
            yield

    def begin(self, id: str) -> None:
        epochs = self.state.trials[id].epochs
        self._running[id] = (epochs[-1].epoch, epochs[-1].monitored(self.state.plan.monitor)) if epochs else (0, None)

    def epoch(self, id: str, epoch: int, score: float | None) -> None:
        self._running[id] = (epoch, score)

    def end(self, id: str) -> None:
        """Log how a trial ended."""
        self._running.pop(id, None)
        trial = self.state.trials[id]
        score = self.state.score(trial)
        at = f" at epoch {trial.epochs[-1].epoch}" if trial.epochs else ""
        how = {UNFINISHED: "interrupted", "failed": f"failed: {trial.reason};"}.get(trial.status, trial.status)
        scored = "" if score is None else f", {self._monitor} {score:.4f}"
        which = " (starting configuration)" if id == START else f" (promoted from {trial.parent})" if trial.parent else ""
        console.log(f"trial {id}{which}: {how}{at}{scored}; {self._summary()}", trial=id, status=trial.status, score=score)
        self._logged = time.monotonic()

    def tick(self) -> None:
        """Log the progress now and then."""
        if not console.live and time.monotonic() - self._logged >= PLAIN_SECONDS:
            self._logged = time.monotonic()
            running = ", ".join(f"{id} at epoch {epoch}" for id, (epoch, _) in self._running.items())
            console.log(f"running: {running or 'no trial yet'}; {self._summary()}")

    @property
    def _monitor(self) -> str:
        return self.state.plan.monitor.replace("_", " ")

    def _summary(self) -> str:
        best = self.state.best
        found = "" if best is None else f", best {self._monitor} {self.state.score(best):.4f} (trial {best.id})"
        left = self._left()
        time_left = "" if left is None else f", about {duration(left)} left"
        return f"{len(self.state.ended)} of {self.state.plan.trials} ended{found}{time_left}"

    def _left(self) -> float | None:
        """Seconds that the remaining trials will take, by those that have ended in this start."""
        now, ended = time.monotonic(), len(self.state.ended) - self._ended_before
        if not ended or len(self.state.ended) >= self.state.plan.trials:
            return None
        left = (now - self._started) / ended * (self.state.plan.trials - len(self.state.ended))
        return max(0.0, min(left, self.until - now))

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        state = self.state
        fields = [d.name for d in state.plan.space.dimensions]
        table = Table("trial", "status", "epoch", self._monitor, *fields, box=None, pad_edge=False)
        best = state.best
        scored = [t for t in state.ended if state.score(t) is not None and t.status != "failed"]
        sign = -1 if state.plan.rising else 1
        for trial in sorted(scored, key=lambda t: sign * (state.score(t) or 0.0))[:SHOWN]:
            epoch, score = trial.epochs[-1].epoch, state.score(trial)
            table.add_row(*self._row(trial, trial.status, epoch, score), style="bold" if best and trial.id == best.id else "")
        for id, (epoch, score) in list(self._running.items()):
            table.add_row(*self._row(state.trials[id], "running", epoch, score), style="dim")
        counts = [f"{counted(len(self._running), 'trial')} running"]
        counts += [f"{n} {status}" for status in ("done", "stopped", "failed") if (n := sum(t.status == status for t in state.ended))]
        return Group(table, Text(f"{self._summary()}; {', '.join(counts)}"))

    def _row(self, trial: Trial, status: str, epoch: int, score: float | None) -> list[str]:
        values = leaves(self.state.plan.searched(trial.point))
        shown = [_shown(values[d.name]) for d in self.state.plan.space.dimensions]
        return [trial.id, status, f"{epoch}/{self.state.plan.epochs}", "" if score is None else f"{score:.4f}", *shown]


def _shown(value: Any) -> str:
    if value is None:
        return "auto"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
