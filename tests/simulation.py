"""Processes that share a bucket, simulated: one at a time runs, and each may be killed or put to sleep at every call it makes.

A seed says who goes on when, so that what was found is found again. Time is simulated, the disk is real; what the stores'
clients, TensorFlow and threads do is left out: the mirror's passes are made by the process itself, and the lease is renewed
before its other calls. Used by `test_place_kills.py`.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from job.errors import JobError
from job.runs import place, reading
from job.shutdown import Stop
from job.storage import lease, local, mirror, parallel, retrying
from job.storage.bucket import Unavailable
from job.storage.lease import Lease
from job.storage.lock import InUse
from job.storage.mirror import Mirror
from job.storage.retrying import Retrying
from tests.memory_bucket import MemoryBucket


class Killed(BaseException):
    """A process ends here, whatever it was about to do."""


class Process:
    """Runs `job` in a thread of its own, whenever the world lets it. `error` is what it ended with."""

    def __init__(self, world: World, name: str, job: Callable[[Process], None]) -> None:
        self.world, self.name, self._job = world, name, job
        self.wake, self.killed, self.ended, self.error = 0.0, False, False, None  # type: float, bool, bool, BaseException | None
        self.lease: Lease | None = None
        self.renewed = 0.0
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.world.current.process = self
        self._go.acquire()
        try:
            if not self.killed:
                self._job(self)
        except BaseException as error:
            self.error = error
        self.ended = True
        self._back.release()

    def resume(self) -> None:
        """Let it run until it pauses or ends; the world calls this."""
        self._go.release()
        self._back.acquire()
        if self.ended:
            self._thread.join()

    def pause(self, seconds: float = 0.0) -> None:
        """Let others run, for so long at least; the process calls this."""
        if self.killed:
            raise Killed
        self.wake = self.world.now + seconds
        self._back.release()
        self._go.acquire()
        if self.killed:
            raise Killed


class World:
    """The bucket, the clock, and the processes. `chance` decides everything."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 1000.0
        self.bucket = MemoryBucket(etags=seed % 2 == 1)
        self.bucket.fault, self.bucket.after = self._before, self._after
        self.faults = 0.0  # how likely a call fails, or its answer is lost
        self.processes: list[Process] = []
        self.current = threading.local()

    def start(self, name: str, job: Callable[[Process], None]) -> Process:
        self.processes.append(process := Process(self, name, job))
        return process

    def step(self) -> Process | None:
        """One process goes on, the clock with it; None where all have ended."""
        alive = self.processes = [process for process in self.processes if not process.ended]
        if not alive:
            return None
        ready = [process for process in alive if process.wake <= self.now]
        if not ready:
            self.now = min(process.wake for process in alive)
            ready = [process for process in alive if process.wake <= self.now]
        process = self.chance.choice(ready)
        process.resume()
        self.now += self.chance.choice((0.001, 0.01, 0.1))
        return process

    def kill(self, process: Process) -> None:
        process.killed = True
        while not process.ended:
            process.resume()

    def sleep(self, seconds: float) -> None:
        process = getattr(self.current, "process", None)
        if process is not None:
            process.pause(seconds)

    def _before(self, call: str, name: str) -> None:
        process: Process = self.current.process
        process.pause()
        held = process.lease
        if held is not None and name != lease.NAME and self.now - process.renewed > held.document.life / lease.RENEWALS:
            process.renewed = self.now
            with suppress(JobError):
                held.renew()
        self._fail()

    def _after(self, call: str, name: str) -> None:
        self.current.process.pause()
        self._fail()

    def _fail(self) -> None:
        if self.chance.random() < self.faults:
            raise Unavailable("503")


def passes(this: Mirror, most: int = 1) -> None:
    """What the mirror's thread does, until nothing is left, at most so often."""
    for _ in range(most):
        try:
            this._pass()
        except InUse:
            this._on_lost()
            return
        except FileNotFoundError:
            continue
        except (JobError, OSError) as error:
            this.trouble = str(error)
        if not this.unsent():
            return


@contextmanager
def simulated(world: World) -> Iterator[None]:
    """While inside, `place.opened` is of that world, whatever the address."""

    def each(call: Callable[[Any], object], items: Collection[Any], threads: int, stop: Stop | None = None) -> None:
        """Threads are done in any order; what one raises is raised when all have had their turn."""
        errors = []
        for item in world.chance.sample([*items], len(items)):
            try:
                call(item)
            except BaseException as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def start(self: Mirror, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost
        self.lease._on_lost = on_lost

    def keep(self: Lease, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost
        world.current.process.lease = self
        world.current.process.renewed = world.now

    def release(self: Lease, seconds: float = 0.0, forget: bool = False) -> None:
        if not self.lost:
            self._release([], forget and self._first)

    def flush(self: Mirror, deadline: float) -> list[str]:
        self._all = True
        try:
            while world.now < deadline and self.unsent() and not self.lost:
                passes(self)
                world.sleep(0.5)
            if not self.lost:
                passes(self)
            return self.unsent()
        finally:
            self._all = False

    def start_and_keep(self: Mirror, on_lost: Callable[[], None]) -> None:
        start(self, on_lost)
        self.lease.keep(on_lost)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.monotonic", lambda: world.now)
        patch.setattr("time.sleep", world.sleep)
        patch.setattr(retrying, "_dice", world.chance)
        for module in (place, reading):
            patch.setattr(module, "open_bucket", lambda text, stop: Retrying(world.bucket, stop))
        patch.setattr(parallel, "each", each)
        patch.setattr(mirror, "SECOND", 0.0)
        patch.setattr(Mirror, "start", start_and_keep)
        patch.setattr(Mirror, "flush", flush)
        patch.setattr(Mirror, "close", lambda self: None)
        patch.setattr(Lease, "keep", keep)
        patch.setattr(Lease, "release", release)
        patch.setattr(local, "sync", lambda descriptor: None)
        patch.setattr(local, "sync_folder", lambda folder: None)
        yield
