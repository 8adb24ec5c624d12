"""A run of the drill: the processes that train it, one after another, and what can be seen of it from outside."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from job.errors import ProofError
from job.runs import records
from job.runs.checkpoints import DOCUMENT, Name
from job.shutdown import Stop
from job.storage.bucket import Bucket
from job.storage.opening import is_bucket, open_bucket

# `twofold train`, but for one thing: the lease of a run in a bucket ends soon after its holder was killed. At its usual life a
# fresh machine would wait a minute after each SIGKILL. It is no option, since nobody but a drill has a use for it.
PROGRAM = "from job.storage import lease; lease.LIFE = 5.0; from job.cli import main; main()"
PATIENCE = 60.0  # seconds in which a start ends after SIGTERM, its grace included
GLANCE = 0.001  # seconds between two looks: a save of a small network takes some milliseconds


@dataclass
class Run:
    """A run at `address`, which may be in a bucket. Its processes take `options` and keep their logs and caches in `work`."""

    address: str
    options: tuple[str, ...]
    work: Path
    starts: int = 0
    machines: int = 0

    @property
    def in_bucket(self) -> bool:
        return is_bucket(self.address)

    @property
    def cache(self) -> Path:
        return self.work / f"machine-{self.machines}"

    @property
    def folder(self) -> Path:
        """Where it lies on this machine, once it has been started here."""
        if not self.in_bucket:
            return Path(self.address)
        return next(self.cache.glob("runs/*/copy"), self.cache / "copy")

    @cached_property
    def _bucket(self) -> Bucket:
        return open_bucket(self.address)

    def move(self) -> None:
        """Let the next start be on a machine that knows nothing of the run but its address."""
        shutil.rmtree(self.cache, ignore_errors=True)
        self.machines += 1

    def newest(self) -> str:
        """The newest checkpoint that a fresh machine would find; empty where there is none."""
        if self.in_bucket:
            objects = [found.name.split("/") for found in self._bucket.list(f"{records.CHECKPOINTS}/")]
            whole = [parts[1] for parts in objects if parts[-1] == DOCUMENT]
        else:
            whole = [*saved(self.folder)]
        names = [name for text in whole if (name := Name.read(text))]
        return str(max(names, key=lambda name: name.age)) if names else ""

    def is_past(self, checkpoint: str) -> bool:
        """Whether there is a newer one than that."""
        return self.newest() != checkpoint

    @contextmanager
    def start(self, stop: Stop) -> Iterator[Start]:
        """One process that trains; it does not outlive this."""
        self.starts += 1
        log = self.work / f"start-{self.starts:03d}.txt"
        options = (*self.options, "--out", self.address, "--cache", str(self.cache), "--log-format", "json")
        argv = [sys.executable, "-c", PROGRAM, "train", *options]
        with log.open("wb") as output:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
        try:
            yield Start(self, process, log, stop)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def saved(folder: Path) -> set[str]:
    """The checkpoints in a run folder that are complete."""
    try:
        names = os.listdir(folder / records.CHECKPOINTS)
    except FileNotFoundError:
        return set()
    return {name for name in names if name.startswith("step-") and (folder / records.CHECKPOINTS / name / DOCUMENT).exists()}


@dataclass
class Start:
    """A process that trains a run, while it runs and afterwards."""

    run: Run
    process: subprocess.Popen[bytes]
    log: Path
    stop: Stop
    began: float = field(default_factory=time.time)

    def until(self, reached: Callable[[], bool], glance: float = GLANCE) -> bool:
        """Wait for something; whether it came before the process ended.

        Raises:
            Interrupted: `stop` was set; the process is killed then.
        """
        while not reached():
            self.stop.check()
            if self.process.poll() is not None:
                return False
            time.sleep(glance)
        return True

    def lasts(self, seconds: float) -> bool:
        """Whether the process is still there after some time."""
        end = time.monotonic() + seconds
        return self.until(lambda: time.monotonic() >= end) and self.process.poll() is None

    def wait(self) -> int:
        """Its exit code; negative where a signal ended it."""
        self.until(lambda: False, 0.02)
        return self.process.wait()

    def kill(self, number: signal.Signals) -> int:
        """Send a signal, and wait for the end.

        Raises:
            ProofError: it goes on after SIGTERM.
        """
        self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise ProofError("drill", f"start {self.run.starts} runs {PATIENCE:.0f} s after {number.name}", f"look at {self.log}") from None

    @property
    def step(self) -> int:
        """The last step that this process has recorded; 0 where there is none yet."""
        try:
            with (self.run.folder / records.METRICS).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                lines = file.read().split(b"\n")[1:-1]  # what follows the last line's end is being written
            record = json.loads(lines[-1])
        except (FileNotFoundError, IndexError, ValueError):
            return 0
        return int(record["step"]) if record["time"] >= self.began else 0

    @property
    def restoring(self) -> bool:
        """Whether it has got the run folder, or fetches it."""
        folder = self.run.folder
        try:
            if (folder / ".lock").read_text().startswith(f"process {self.process.pid} on"):
                return True
        except FileNotFoundError:
            pass
        return self.run.in_bucket and not (folder / ".lock").exists() and folder.is_dir() and any(folder.iterdir())

    @property
    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        try:
            return any(name.endswith(".tmp") for name in os.listdir(self.run.folder / records.CHECKPOINTS))
        except FileNotFoundError:
            return False

    def resumed_from(self) -> int | None:
        """The step that it went on from; None where it did not get so far."""
        said = [line["message"] for line in self.lines()]
        steps = [int(found[1].replace(",", "")) for text in said if (found := re.match(r"resuming from step ([\d,]+) ", text))]
        return steps[0] if steps else 0 if any(text.startswith("device: ") for text in said) else None

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged."""
        found = []
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:  # an error, or a line that was cut off
                continue
        return [line for line in found if isinstance(line, dict) and "message" in line]

    def last_words(self) -> str:
        """The last line that it wrote."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].removeprefix("twofold: ") if lines else "it said nothing"
