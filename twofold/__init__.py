"""twofold from Python: the commands as functions, with the options as keywords. docs/python.md shows a session.

They set no signal handlers, change no folder, run in any thread, and raise `twofold.Error`, one line each. Importing
this imports nothing heavy.
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, TypeVar

from job import __version__, commands
from job.config.options import Request, build, read_keywords
from job.config.schema import Config, EvaluateConfig, PredictConfig, PrepareConfig, SweepConfig
from job.console import console
from job.errors import Interrupted, UserError
from job.errors import JobError as Error
from job.shutdown import Stop

if TYPE_CHECKING:
    from job.data.manifest import Manifest
    from job.runs.records import Summary

__all__ = ["Error", "__version__", "evaluate", "predict", "prepare", "sweep", "train"]

_Path = str | os.PathLike[str]
_Result = TypeVar("_Result")
_PRINTED = {"format", "json"}


def prepare(*sources: _Path, **options: Any) -> Manifest | None:
    """Turn images into shards in `out`; returns the manifest: classes, splits, counts. None for a `dry_run`."""
    return _run(commands.prepare, _request(PrepareConfig, options, source=[os.fspath(source) for source in sources]))


def train(**options: Any) -> Summary:
    """Train, or resume the run in `out`; `data` is prepared first where it is not shards. Returns the run's summary."""
    return _run(commands.train, _request(Config, options))


def evaluate(run: _Path, **options: Any) -> dict[str, Any]:
    """The metrics of a run: on its validation split, or on `data`."""
    return _run(commands.evaluate, _request(EvaluateConfig, options, run=os.fspath(run)))


def predict(run: _Path, *paths: _Path, **options: Any) -> list[dict[str, Any]]:
    """Classify images, folders and archives; returns a row for each image, with the columns that `twofold predict` prints."""
    return _run(commands.predict_rows, _request(PredictConfig, options, run=os.fspath(run), path=[os.fspath(path) for path in paths]))


def sweep(**options: Any) -> list[dict[str, Any]]:
    """Search, or resume the sweep in `out`; returns a row for each trial, as in `trials.csv`."""
    return _run(commands.sweep, _request(SweepConfig, options))


def _request(tree: type, options: dict[str, Any], **positional: Any) -> Request:
    for name in _PRINTED & options.keys():
        raise UserError(name, "is how the command line prints", "remove it")
    values = read_keywords(options, tree)
    names = frozenset(values)
    return Request(build(tree, values), given=names, fixed=names, flags=names, positional=positional)


def _await(future: Future[_Result]) -> Future[_Result]:
    """Wait for the end in short pieces: a signal that comes just before a wait without a limit is not seen until the next one."""
    while not future.done():
        wait([future], timeout=0.2)
    return future


def _run(command: Callable[[Request, Stop], _Result], request: Request) -> _Result:
    """Run a command; on the main thread in a second one, so that Ctrl-C here lets it finish its step and save."""
    stop, future = Stop(), Future[_Result]()

    def work() -> None:
        try:
            future.set_result(command(request, stop))
        except BaseException as error:
            future.set_exception(error)

    with console.using(json=request.config.log.log_format == "json"):
        if threading.current_thread() is not threading.main_thread():
            return command(request, stop)
        try:
            threading.Thread(target=contextvars.copy_context().run, args=(work,), name="twofold", daemon=True).start()
            return _await(future).result()
        except KeyboardInterrupt:
            stop.set()
            console.log("stopping: finishing the current step and saving")
            error = _await(future).exception()  # a second Ctrl-C leaves at once
            if error is not None and not isinstance(error, Interrupted):
                raise error from None
            raise
