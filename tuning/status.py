"""What people see of a sweep while they wait: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from job.console import console, counted, duration
from tuning.state import START, SweepState, Trial

PLAIN_SECONDS = 60.0  # between two plain lines where no trial ends
SHOWN = 8  # of the best trials, in the table


class StatusTable:
    """The state of a sweep in words. `until` is when the time budget ends, on the monotonic clock."""

    def __init__(self, state: SweepState, until: float) -> None:
        self.state, self.until = state, until
        self._running: dict[str, tuple[int, float | None]] = {}
        self._started = self._told = time.monotonic()
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
        """Say how a trial ended."""
        self._running.pop(id, None)
        trial = self.state.trials[id]
        score = self.state.score(trial)
        at = f" at epoch {trial.epochs[-1].epoch}" if trial.epochs else ""
        how = {"open": "interrupted", "done": "done", "stopped": "stopped"}.get(trial.status, f"failed: {trial.reason};")
        figure = "" if score is None else f", {self._monitor} {score:.4f}"
        who = ", the starting configuration" if id == START else f", from {trial.parent}" if trial.parent else ""
        console.log(f"trial {id}{who}: {how}{at}{figure}; {self._summary()}", trial=id, status=trial.status, score=score)
        self._told = time.monotonic()

    def tick(self) -> None:
        """Say now and then how far it is."""
        if not console.live and time.monotonic() - self._told >= PLAIN_SECONDS:
            self._told = time.monotonic()
            running = ", ".join(f"{id} at epoch {epoch}" for id, (epoch, _) in self._running.items())
            console.log(f"running: {running or 'nothing yet'}; {self._summary()}")

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
        """Seconds that the trials to come will take, by those that have ended in this start."""
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
        values = self.state.plan.space.values(trial.point or {})
        shown = [_shown(values.get(d.name, "as started")) for d in self.state.plan.space.dimensions]
        return [trial.id, status, f"{epoch}/{self.state.plan.epochs}", "" if score is None else f"{score:.4f}", *shown]


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
