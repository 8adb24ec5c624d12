"""A worker: a process that runs one trial after another, so that one killed for memory does not take the sweep along.

For KerasTuner; Ray has workers of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from job.config.schema import Config
from job.runs.records import Epoch
from tuning import trial
from tuning.plan import Halt


class Worker:
    """The process, started when first needed and again after it has died."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._process: Any = None
        self._pipe: Connection | None = None

    def run(self, config: Config, on_epoch: Callable[[Epoch], None], tick: Callable[[], None]) -> trial.Outcome:
        """Run a trial and wait for it; `tick` is called twice a second."""
        if self._process is None or not self._process.is_alive():
            self._start()
        assert self._pipe is not None
        try:
            self._pipe.send(config)
            while True:
                tick()
                if self._pipe.poll(0.5):
                    said = self._pipe.recv()
                    if isinstance(said, trial.Outcome):
                        return said
                    on_epoch(said)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            return trial.Outcome("failed", _death(self._process.exitcode))

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit the threads and locks of TensorFlow
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._out, os.getpid()), daemon=True)
        self._process.start()
        theirs.close()

    def close(self) -> None:
        if self._process is not None and self._pipe is not None:
            self._pipe.close()
            self._process.join(10)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process = None


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"its process was killed ({name})" + (", perhaps for memory" if name == "SIGKILL" else "")
    return f"its process left with exit code {code}"


def _serve(pipe: Connection, out: Path, parent: int) -> None:
    """The worker's main loop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the sweep's: it asks through the halt file
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    halt = Halt(out)

    def on_epoch(epoch: Epoch) -> None:
        pipe.send(epoch)

    while True:
        try:
            config = pipe.recv()
        except EOFError:
            return
        pipe.send(trial.run(config, on_epoch, halt))


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
