"""One trial: the ordinary training job with another configuration, in whatever process it is called from.

Nothing that happens to it reaches the caller as an exception: how it ended is an `Outcome`.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.config.schema import Config
from job.console import console
from job.errors import Interrupted, JobError, MachineError, OutOfMemory, from_os_error
from job.machine import memory
from job.runs import checkpoints, records
from job.runs.place import Place
from job.runs.records import Epoch, Summary
from job.shutdown import Stop
from job.storage import local, lock

WAIT = 60.0  # seconds for the process of an earlier start to release the run folder


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: `done`, `stopped` by the search, `interrupted`, `failed`, or `fault`, which is the machine's."""

    status: str
    reason: str = ""


def run(config: Config, on_epoch: Callable[[Epoch], Any], stop: Stop, where: Place | None = None) -> Outcome:
    """Train. What the job and the libraries print goes to the run's log file.

    Args:
        config: the trial's own.
        on_epoch: called with each epoch's record; a true answer ends the trial as `stopped`.
        stop: set it, and the trial is saved and `interrupted`.
        where: its run folder; by default the local one of `config.output.out`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    where = Place(Path(config.output.out), config.output.out) if where is None else where
    try:
        local.make_folder(where.path)
        with console.silenced(), _output_to(where.path / records.LOG):
            return _outcome(config, where, on_epoch, stop)
    except OSError as error:
        return _of_os_error(error)


def _outcome(config: Config, where: Place, on_epoch: Callable[[Epoch], Any], stop: Stop) -> Outcome:
    try:
        return Outcome(_train(config, where, on_epoch, stop).status)
    except Interrupted:
        return Outcome("interrupted")
    except OutOfMemory as error:  # another configuration may fit
        return Outcome("failed", str(error))
    except MachineError as error:
        return Outcome("fault", str(error))
    except JobError as error:
        return Outcome("failed", str(error))
    except Exception as error:
        traceback.print_exc()
        return _of_os_error(error) if isinstance(error, OSError) else Outcome("failed", _words(error))
    finally:
        _clear()


def _of_os_error(error: OSError) -> Outcome:
    known = from_os_error(error)
    return Outcome("fault", str(known)) if known else Outcome("failed", _words(error))


def _train(config: Config, where: Place, on_epoch: Callable[[Epoch], Any], stop: Stop) -> Summary:
    from job.train import train

    deadline = time.monotonic() + WAIT
    while True:
        try:
            return train(config, on_epoch, stop=stop, where=where)
        except lock.InUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _words(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0][:300]
    return f"out of memory ({first})" if memory.is_out_of_memory(error) else f"{type(error).__name__}: {first}"


def _clear() -> None:
    """Leave nothing of a trial behind in a process that runs another one after it."""
    if "keras" in sys.modules:
        from job.machine.libraries import keras

        keras.backend.clear_session()
    gc.collect()


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Turn both output descriptors to a file."""
    kept = [(number, os.dup(number)) for number in (1, 2)]
    with path.open("ab") as file:
        try:
            for number, _ in kept:
                os.dup2(file.fileno(), number)
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            for number, copy in kept:
                os.dup2(copy, number)
                os.close(copy)


def inherit(parent: Path, child: Path) -> None:
    """Let a run folder start where another one stands: its configuration, records, newest and best checkpoint.

    A child that has begun already is left as it is. The configuration is copied last: it makes a folder a run.
    """
    if (child / records.CONFIG).exists():
        return
    shutil.rmtree(child, ignore_errors=True)
    local.make_folder(child / records.CHECKPOINTS)
    newest = checkpoints.newest(parent / records.CHECKPOINTS)
    if newest is None:
        return
    best = checkpoints.of_step(parent / records.CHECKPOINTS, newest.state.best_step)
    for name in {newest.name, best} - {None}:
        shutil.copytree(parent / records.CHECKPOINTS / str(name), child / records.CHECKPOINTS / str(name))
    shutil.copy2(parent / records.METRICS, child / records.METRICS)
    shutil.copy2(parent / records.CONFIG, child / records.CONFIG)
