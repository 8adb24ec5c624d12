"""The training that is measured: its settings, its images, and windows with and without saving, in which steps are timed."""

from __future__ import annotations

import itertools
import statistics
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from job.config.options import build
from job.config.schema import PrepareConfig
from job.prepare import prepare
from job.shutdown import Stop
from job.smoke import draw

OFF, ONE, MANY = "none", "one save", "every 10 steps"
EVERY = 10
IMAGES = 800  # of each class
WARM = 5.0  # seconds before the first window
SETTINGS: dict[str, Any] = dict(size=48, train_sizes=(40,), batch=64, save_every=f"{EVERY}steps")


def draw_data(folder: Path) -> None:
    """Draw images, and prepare them: `data` in that folder."""
    draw(folder / "images", IMAGES, SETTINGS["size"])
    prepare([str(folder / "images")], build(PrepareConfig, dict(out=str(folder / "data"), side=SETTINGS["size"])), Stop())


class Meter:
    """Windows of time, one after the other; in each, steps are timed, and saving is allowed or not.

    A window with one save lasts until that save is where it should be, and as many steps again: what the steps until then took longer
    than the others of the window is its cost. So a machine that is slower in one minute than in the next does not matter. Between two
    windows what was saved in the first is waited for, uncounted.
    """

    def __init__(self, window: float, rounds: int) -> None:
        kinds = (OFF, ONE, MANY)
        self.left = deque((number, kind) for number in range(1, rounds + 1) for kind in (kinds if number % 2 else kinds[::-1]))
        self.rows: list[dict[str, Any]] = []
        self.settled: Callable[[], bool] = lambda: True
        self._window, self._ready, self._open = window, time.monotonic() + 10**6, False
        self._saves, self._saved, self._sent = 0, 0, 0
        self._began: list[float] = []
        self._ended: list[float] = []

    @property
    def done(self) -> bool:
        return not self.left

    def begin(self) -> None:
        """A step begins."""
        now = time.monotonic()
        if self._open and now - self._began[0] >= self._window and (self.left[0][1] != ONE or self._is_told()):
            self._close(now)
        elif not self._open and self.left and now >= self._ready and self.settled():
            self._open, self._saves, self._began, self._ended = True, 0, [], []
        elif self._open and self.left[0][1] == ONE and self._saves and not self._sent and self.settled():
            self._sent = len(self._began)
        self._began.append(now)

    def _is_told(self) -> bool:
        """Whether the save is where it should be, and as many steps as it took were taken without it."""
        during = self._sent - self._saved
        return self._sent > 0 and len(self._began) - during >= during

    def end(self) -> None:
        """A step has ended."""
        now = time.monotonic()
        self._ended.append(now)
        self._ready = min(self._ready, now + WARM)

    def allows(self) -> bool:
        """Whether a save may begin now."""
        return self._open and (self.left[0][1] == MANY or (self.left[0][1] == ONE and not self._saves))

    def saves(self) -> None:
        if not self._saves:  # it follows the last step that began
            self._saved, self._sent = len(self._began) - 1, 0
        self._saves += 1

    def _close(self, now: float) -> None:
        number, kind = self.left.popleft()
        began = [*self._began, now]
        steps = [after - before for before, after in itertools.pairwise(began)]
        pauses = [after - before for before, after in zip(self._ended, began[1:], strict=True)]
        cost = dict(cost=0.0, during=0)  # seconds, and the steps in which they fell
        if kind == ONE:
            during, others = steps[self._saved : self._sent], [*steps[: self._saved], *steps[self._sent :]]
            cost = dict(cost=round(sum(during) - len(during) * statistics.mean(others), 4), during=len(during))
        self.rows.append(
            dict(
                round=number, saving=kind, seconds=round(now - began[0], 4), steps=len(steps), saves=self._saves,
                longest_pause=round(max(pauses), 5), median_step=round(statistics.median(steps), 5), longest_step=round(max(steps), 5),
                **cost,
            )
        )  # fmt: skip
        self._open = False
