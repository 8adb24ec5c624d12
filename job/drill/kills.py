"""Where a job is killed: points drawn beforehand, and the watch for the moment when a process has come to one."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from job.drill.run import Run, Start, saved
from job.runs import records

# Each point, and for how many seconds after its beginning the kill may come: about as long as it lasts.
POINTS = {
    "during a restore": 3.0,
    "during a save": 0.005,
    "during an upload": 2.5,
    "during a retention sweep": 0.0,  # in a bucket as long as an upload: the same pass deletes
    "between two saves": 0.3,
    "after the last step": 1.5,
}
RESTORE, SAVE, UPLOAD, SWEEP, BETWEEN, END = POINTS
MOST_IN_A_ROW = 3  # kills before a new checkpoint: five starts without one are refused

T = TypeVar("T")


@dataclass(frozen=True)
class Kill:
    """A signal at a point, once `step` is taken; `share` of the time that the point may last has passed then.

    The start after it is as on a fresh machine where `fresh`.
    """

    signal: signal.Signals
    point: str
    step: int
    share: float
    fresh: bool


def plan(count: int, steps: int, seed: int, in_bucket: bool) -> list[Kill]:
    """Kills spread over the steps of a job: half of them by SIGKILL, half of the starts after them on a fresh machine.

    Args:
        in_bucket: whether the run lives in a bucket; else there are no uploads, and a fresh machine is the same folder.
    """
    dice = random.Random(seed)

    def dealt(*choices: T) -> list[T]:
        """As many of each, in random order."""
        found = [choices[number % len(choices)] for number in range(count)]
        dice.shuffle(found)
        return found

    points = dealt(SAVE, RESTORE, SWEEP, BETWEEN, *([UPLOAD] if in_bucket else []))
    signals = dealt(signal.SIGKILL, signal.SIGTERM)
    if count >= len(POINTS):
        points[-1], at = END, signals.index(signal.SIGKILL)  # after its last step a job heeds no SIGTERM: it ends
        signals[at], signals[-1] = signals[-1], signals[at]
    found = []
    for number, (kind, point, fresh) in enumerate(zip(signals, points, dealt(True, False), strict=True)):
        step = steps if point == END else round(0.9 * steps * (number + dice.random()) / count)
        found.append(Kill(kind, point, step, dice.random(), fresh and in_bucket))
    return found


def reach(start: Start, kill: Kill) -> bool:
    """Wait until a process has come to where it is to be killed; whether it has, before it ended.

    Most of the short things happen at the beginning of a point that lasts, so that is where most kills fall.
    """
    lasts = POINTS[UPLOAD if kill.point == SWEEP and start.run.in_bucket else kill.point] * kill.share**2
    if kill.point == RESTORE:
        return start.until(lambda: start.restoring) and start.lasts(lasts)
    if not start.until(lambda: start.step >= kill.step, 0.005):
        return False
    before = saved(start.run.folder)
    if kill.point == SAVE:
        return start.until(lambda: start.saving) and start.lasts(lasts)
    if kill.point == UPLOAD:
        return start.until(lambda: not saved(start.run.folder) <= before) and start.lasts(lasts)
    if kill.point == SWEEP:
        return start.until(lambda: _sweeping(start.run, before), 0.0) and start.lasts(lasts)
    return start.lasts(lasts)


def _sweeping(run: Run, seen: set[str]) -> bool:
    """Whether one of the checkpoints that were seen is being deleted, or has been."""
    seen |= saved(run.folder)
    return any(_files(run.folder / records.CHECKPOINTS / name) < 2 for name in seen)


def _files(folder: Path) -> int:
    try:
        return len(os.listdir(folder))
    except FileNotFoundError:
        return 0
