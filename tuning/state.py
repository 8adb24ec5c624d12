"""The sweep's state: its trials, the point of each, and how each ended. Written by the sweep's own process.

`sweep.json` is written before a trial starts and after it has ended, so that a later start knows what is left to do.
The results of a trial are in its run folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from job.errors import UserError
from job.runs import records
from job.runs.records import Epoch
from job.storage import local
from tuning.plan import Plan
from tuning.space import Point
from tuning.trial import Outcome

NAME = "sweep.json"
FORMAT, VERSION = "twofold-sweep", 2
START = "0001"  # the trial of the starting configuration
UNFINISHED = "unfinished"  # running, or interrupted: it resumes at a later start


@dataclass
class Trial:
    """A trial. `point` is None for a starting configuration that lies outside the space.

    `status` is `unfinished`, `done`, `stopped` (early, by the search) or `failed`, for which there is a `reason`.
    `inherited` are the steps that a promoted trial took over from its parent; `seconds` are this trial's own.
    """

    id: str
    point: Point | None
    parent: str = ""
    status: str = UNFINISHED
    reason: str = ""
    inherited: int = 0
    seconds: float = 0.0
    epochs: list[Epoch] = field(default_factory=list, repr=False)

    def score(self, monitor: str, rising: bool) -> float | None:
        """The monitored metric of the best epoch."""
        found = [score for e in self.epochs if (score := e.monitored(monitor)) is not None]
        return (max(found) if rising else min(found)) if found else None

    @property
    def steps(self) -> int:
        """Steps that this trial took."""
        return self.epochs[-1].step - self.inherited if self.epochs else 0


def first_trial(out: Path) -> Path:
    """The run folder of a sweep's first trial, the starting configuration."""
    return out / "trials" / START


class SweepState:
    """The trials of one sweep, in the order in which they began. The thread that draws the status table reads it too."""

    def __init__(self, plan: Plan, settings: dict[str, Any], changed: Callable[[SweepState], None]) -> None:
        """Open the state in `plan.out`, or begin it.

        Args:
            plan: the sweep.
            settings: what a later start must share.
            changed: called with the state after a trial has ended.

        Raises:
            UserError: the folder holds another sweep.
        """
        self.plan, self._path, self._settings, self._changed = plan, plan.out / NAME, settings, changed
        self.trials: dict[str, Trial] = {}
        self._began: dict[str, float] = {}
        if self._path.exists():
            self._read()
        self._write()

    def _read(self) -> None:
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
            if document["format"] != FORMAT or document["version"] != VERSION:
                raise ValueError(f"version {document['version']} instead of {VERSION}")
            stored = document["settings"]
            self.trials = {row["id"]: Trial(**row) for row in document["trials"]}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(str(self._path), f"is corrupt ({error})", "restore it, or start a new --out") from None
        wanted = json.loads(json.dumps(self._settings))
        for name, value in wanted.items():
            if stored.get(name) != value:
                raise UserError(
                    f"--{name.replace('_', '-')}", f"{_text(value)} differs from the sweep's {_text(stored.get(name))} in {self.plan.out}",
                    "rerun the same command to resume, or start a new --out",
                )  # fmt: skip
        for trial in self.trials.values():
            self._read_epochs(trial)
            summary = records.read_summary(self.plan.folder(trial.id))
            if trial.status == UNFINISHED and summary is not None and summary.status in ("done", "stopped"):
                trial.status = summary.status

    def _write(self) -> None:
        rows = [{k: v for k, v in asdict(trial).items() if k != "epochs"} for trial in self.trials.values()]
        local.write_json(self._path, dict(format=FORMAT, version=VERSION, settings=self._settings, trials=rows))

    def _read_epochs(self, trial: Trial) -> None:
        trial.epochs = records.read_epochs(self.plan.folder(trial.id))

    @property
    def ended(self) -> list[Trial]:
        return [trial for trial in list(self.trials.values()) if trial.status != UNFINISHED]

    @property
    def unfinished(self) -> list[Trial]:
        return [trial for trial in list(self.trials.values()) if trial.status == UNFINISHED]

    @property
    def full(self) -> bool:
        """Whether no further trial may begin."""
        return len(self.trials) >= self.plan.trials

    @property
    def spent(self) -> int:
        """Steps taken by all trials."""
        return sum(trial.steps for trial in self.trials.values())

    def next_id(self) -> str:
        return f"{len(self.trials) + 1:04d}"

    def begin(self, id: str, point: Point | None, parent: str = "") -> Trial:
        """Record a trial before it starts; one that is recorded already resumes."""
        if id not in self.trials:
            inherited = self.trials[parent].epochs[-1].step if parent else 0
            self.trials[id] = Trial(id, point, parent, inherited=inherited)
            self._write()
        self._began[id] = time.monotonic()
        return self.trials[id]

    def end(self, id: str, outcome: Outcome) -> None:
        """Record how a trial ended; one that was interrupted stays unfinished, and resumes at a later start."""
        trial = self.trials[id]
        self._read_epochs(trial)
        trial.seconds += time.monotonic() - self._began.pop(id, time.monotonic())
        if outcome.status in ("done", "stopped", "failed"):
            trial.status, trial.reason = outcome.status, outcome.reason
        self._write()
        self._changed(self)

    def score(self, trial: Trial) -> float | None:
        return trial.score(self.plan.monitor, self.plan.rising)

    @property
    def best(self) -> Trial | None:
        """The best of those that ran to the end; before there is one, of all that have a score."""
        scored = [
            (score, trial) for trial in list(self.trials.values()) if (score := self.score(trial)) is not None and trial.status != "failed"
        ]
        whole = [(score, trial) for score, trial in scored if trial.status == "done" or trial.epochs[-1].epoch >= self.plan.epochs]
        ranked = sorted(whole or scored, key=lambda pair: (-pair[0] if self.plan.rising else pair[0], pair[1].id))
        return ranked[0][1] if ranked else None

    def settle(self) -> None:
        """Make each run folder say how its trial ended, where its process ended before it could."""
        for trial in self.ended:
            folder = self.plan.folder(trial.id)
            summary = records.read_summary(folder)
            if summary is not None and summary.status != trial.status:
                records.write_summary(folder, replace(summary, status=trial.status))


def _text(value: Any) -> str:
    """A setting in words: a space by its fields, the rest as a user writes it."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {' '.join(f'{kind} {ends}' for kind, ends in form.items())}" for name, form in value.items())
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "auto" if value is None else str(value)
