"""A worker: a process that runs one trial after another, so that one killed for memory does not take the sweep along.

For KerasTuner; Ray has workers of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from job.config.schema import Config
from job.runs.place import Place
from job.runs.records import Epoch
from tuning import process, trial
from tuning.plan import Halt

SECONDS = 10.0  # for a worker to leave by itself


class Worker:
    """The process, started when first needed and again after it has died."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def run(self, config: Config, where: Place, on_epoch: Callable[[Epoch], None], tick: Callable[[], None]) -> trial.Outcome:
        """Run a trial and wait for it; `tick` is called twice a second."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start()
        assert self._process is not None
        assert self._pipe is not None
        try:
            self._pipe.send((config, where))
            while True:
                tick()
                if self._pipe.poll(0.5):
                    answer = self._pipe.recv()
                    if isinstance(answer, trial.Outcome):
                        return answer
                    on_epoch(answer)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return trial.Outcome("failed", _death(self._process.wait()))

    def _start(self) -> None:
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = process.start(
                "tuning.worker", (self._out, theirs.fileno(), os.getpid()), (theirs.fileno(),),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip

    def close(self) -> None:
        if self._process is not None and self._pipe is not None:
            self._pipe.close()
            try:
                self._process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def _death(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"its process was killed ({name})" + (", perhaps for memory" if name == "SIGKILL" else "")
    return f"its process left with exit code {code}"


def main(out: Path, descriptor: int, parent: int) -> None:
    """Run the trials that come through the pipe, until it closes."""
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    pipe, halt = Connection(descriptor), Halt(out)
    while True:
        try:
            config, where = pipe.recv()
        except EOFError:
            return
        pipe.send(trial.run(config, pipe.send, halt, where))


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
