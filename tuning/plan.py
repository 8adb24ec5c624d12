"""What a sweep is: its space, its starting configuration, and what each trial may use. Passed whole to Ray's workers."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from job.config.options import replace
from job.config.schema import RISING, Config
from job.machine import devices
from job.runs.place import Place
from job.shutdown import Stop
from tuning.space import Point, Space

HALT = ".halt"  # in the sweep's folder, while running trials are asked to save and end


@dataclass(frozen=True)
class Plan:
    """A sweep.

    `base` is the starting configuration with `source.data` the shards, absolute; `start` is its point, None where it
    lies outside the space. `gpus` and `cpus` are a trial's; `concurrent` trials run at once, over all machines.
    `address` is that of `out` where it is the copy of a bucket's folder, `fence` that of its lease.
    """

    out: Path
    base: Config
    space: Space
    start: Point | None
    trials: int
    search: str
    first_rung: int
    reduction: int
    concurrent: int
    gpus: float
    cpus: int
    address: str = ""
    fence: int | None = None

    @property
    def epochs(self) -> int:
        return self.base.schedule.epochs

    @property
    def monitor(self) -> str:
        return self.base.schedule.monitor

    @property
    def rising(self) -> bool:
        """Whether a higher score is better."""
        return self.monitor in RISING

    @property
    def fresh(self) -> bool:
        """Whether each trial needs a process of its own: TensorFlow allows one MirroredStrategy a process."""
        return self.gpus > 1 or (self.base.machine.replicas or 1) > 1

    def folder(self, trial: str) -> Path:
        return self.out / "trials" / trial

    def place(self, trial: str) -> Place:
        """The trial's folder; the sweep's own mirror sends it to a bucket."""
        folder = self.folder(trial)
        return Place(folder, f"{self.address}/trials/{trial}" if self.address else str(folder), self.fence)

    def searched(self, point: Point | None) -> Config:
        """The configuration at a point, as a user would write it; without one, the starting configuration."""
        return cast(Config, replace(self.base, **self.space.values(point or {})))

    def config(self, trial: str, point: Point | None, until: int = 0) -> Config:
        """A trial's configuration on its share of this machine as it is now, up to an epoch; 0 is to the end.

        Call it where the trial will run, and when it starts.
        """
        gpus = "none" if not self.gpus else "all" if self.gpus < 1 else str(int(self.gpus))
        share: dict[str, Any] = dict(threads=self.cpus, workers=self.cpus, gpus=gpus, memory=self._memory())
        share |= dict(notice="off", step_timeout="0")  # the sweep hears the notice; one slow trial is no reason to stop all
        if self.gpus >= 1:
            share["replicas"] = int(self.gpus)
        stop_after = until if until < self.epochs else 0
        return cast(Config, replace(self.searched(point), **share, out=str(self.folder(trial)), stop_after=stop_after))

    def _memory(self) -> float:
        """GiB for a trial's decoded images: as given, or its share of half of what is free now.

        Other trials may be about to take their share, so it is that of all that can run on this machine at once.
        """
        if self.base.feed.memory is not None:
            return self.base.feed.memory
        here = min(self.concurrent, max(1, devices.cores() // self.cpus))
        return round(devices.free_memory() / 2 / here / 2**30, 3)


class Halt(Stop):
    """A stop that crosses processes and machines: a file in the sweep's folder, checked twice a second."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self._path, self._next = out / HALT, 0.0

    def set(self) -> None:
        super().set()
        with suppress(OSError):  # such as a full disk, which the trials meet themselves
            self._path.touch()

    def clear(self) -> None:
        """Forget what an earlier start was asked."""
        self._path.unlink(missing_ok=True)

    def __bool__(self) -> bool:
        if not super().__bool__() and time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.5
            if self._path.exists():
                super().set()
        return super().__bool__()
