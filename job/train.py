"""`twofold train`: shards become a model. The main flow; every part is in the module of its name.

`train` reads as the table of contents: the configuration, the data, the devices, the run, its state, the loop, the export.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")

import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import fields
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

from job.config import lengths
from job.config.options import replace
from job.config.resolve import Resolved, recorded, resolve
from job.config.schema import Config, Prepare, Reading
from job.console import console
from job.data import manifest
from job.data.location import Location, auto_window, locate
from job.data.remote_shards import RemoteShards
from job.data.sources import is_remote
from job.data.sources.address import canonical, identity
from job.errors import JobError, UserError
from job.machine import devices, memory, notice
from job.machine.devices import Devices
from job.models.network import activation_bytes
from job.runs import checkpoints, place, records, starts
from job.runs.place import Place
from job.runs.records import Epoch, Summary
from job.shutdown import Stop
from job.storage import local, lock
from job.storage.cache import default_folder
from job.storage.opening import is_bucket
from job.training import reporter, resume
from job.training.build import Run, build, require_same_data, restore
from job.training.contact_sheet import show_augmented
from job.training.exporter import export_best
from job.training.loop import Loop
from job.training.plan import plan
from job.training.runlog import RunLog
from job.training.saver import Saver
from job.training.watchdog import Watchdog

COUNTED = 10.0  # seconds for a bucket to hear of this start before training begins


def train(
    config: Config,
    on_epoch: Callable[[Epoch], Any] | None = None,
    *,
    given: Collection[str] | None = None,
    stop: Stop | None = None,
    where: Place | None = None,
) -> Summary:
    """Train, validate, and write the run folder; or resume a run; or find it done.

    Sets no signal handlers and changes no folder, so that it runs inside another program.

    Args:
        config: as the user gave it; `source.data` is a folder of shards, or `run.out/data` holds them.
        on_epoch: called with each epoch's record; a true answer ends the run as `stopped`.
        given: the options set by the user, where a resumed run must not differ; by default those that differ from
            their defaults.
        stop: set it, and the step under way is finished and saved.
        where: the run folder, opened already.

    Returns:
        The run's summary, as in `summary.json`.

    Raises:
        UserError, MachineError: see `job/errors.py`.
        Interrupted: `stop` was set before the first step of this start.
    """
    if not config.output.out:
        raise UserError("--out", "no run folder given", "add --out RUN")
    stop = Stop() if stop is None else stop
    given = resume.given_of(config) if given is None else given
    if where is None:
        grace = lengths.seconds(config.run.grace, "--grace")
        with place.opened(config.output.out, default_folder(config.feed.cache), stop, grace) as where:
            return _train(config, on_epoch, given, stop, where)
    return _train(config, on_epoch, given, stop, where)


def _train(config: Config, on_epoch: Callable[[Epoch], Any] | None, given: Collection[str], stop: Stop, where: Place) -> Summary:
    folder = where.path.absolute()
    before = records.read_summary(folder)
    if before is not None and before.status == "done" and not (config.run.show_augment or config.run.dry_run):
        resume.merge(folder, config, given)  # what differs is refused
        if "data" in given and manifest.exists(named := locate(config.source.data, config.feed, stop)):
            require_same_data(manifest.read(named), before.fingerprint, folder)
        console.log(f"{folder} is already finished: validation accuracy {before.accuracy:.4f}")
        best = checkpoints.of_step(folder / records.CHECKPOINTS, before.best_step)
        fault = "" if best is not None else "it is gone"
        try:
            if best is not None:
                checkpoints.load(folder / records.CHECKPOINTS, best)
        except UserError as error:
            fault = str(error).partition(";")[0]
        if fault:
            console.log(f"warning: its best checkpoint, of step {before.best_step or 0:,}, cannot be read: {fault}")
        return before
    config, data = resume.configuration(folder, config, given, before, stop)
    shards = manifest.read(data)
    train_split, validation_split = (shards.split(name, data) for name in ("train", "validation"))
    config = replace(config, **_recorded(config, data, shards, where))
    chosen = devices.choose(config)
    hardware = replace_fields(chosen.hardware, window=auto_window(data, shards))
    if before is not None and "precision" not in given:
        chosen = replace_fields(chosen, precision_reason="as the run was started")
    resolved = resolve(config, train_split.records, hardware)
    devices.set_up(resolved, chosen)
    if config.run.show_augment:
        return show_augmented(resolved, data, shards)
    if config.run.dry_run:
        with closing(build(resolved, chosen, folder, data, shards, stop)) as run, _memory_guard(run):
            return plan(run)
    local.make_folder(folder)
    with (
        lock.only_writer(folder), console.copy_to(folder / records.LOG), notice.heard(config.run.notice, stop),
        Watchdog(config.run, stop, lambda: starts.clear(folder)) as watch,
    ):  # fmt: skip
        started = time.monotonic()
        latest = checkpoints.newest(folder / records.CHECKPOINTS)
        if latest is None:
            resume.require_nothing_saved(folder, before)
            manifest.verify(data, train_split.shards + validation_split.shards)
        stop.check()  # what has not begun needs no saving
        with closing(build(resolved, chosen, folder, data, shards, stop)) as run:
            state = restore(run, latest)
            _write_setup(folder, config, resolved, chosen)  # what is refused changes nothing
            reporter.announce(run, latest)
            fence = checkpoints.next_fence(folder / records.CHECKPOINTS) if where.fence is None else where.fence
            saver = Saver(run, state, watch, fence, None if latest is None else latest.name)
            stop.check()
            starts.begin(folder, "" if latest is None else str(latest.name))
            where.settle(COUNTED)
            with closing(RunLog(folder, state.step, state.epoch)) as log, closing(saver):
                if latest is not None:
                    log.draw()  # a kill may have come before this was done
                return _go(Loop(run, state, log, saver, watch, stop, started), on_epoch)


def _go(loop: Loop, on_epoch: Callable[[Epoch], Any] | None) -> Summary:
    """Train to the end or to a stop, and leave a summary that says which."""
    run, state, saver = loop.run, loop.state, loop.saver
    saver.summarise(state, "running")
    try:
        with _memory_guard(run):
            status = loop.go(on_epoch)
        saver.wait()
        saver.tell()
        if status == "done":
            loop.watch.on("the export", compiles=True)
            export_best(run, state)
            loop.watch.off()
        starts.clear(run.folder)
        summary = saver.summarise(state, status)
        if status == "interrupted":
            console.keep(f"interrupted after step {state.step:,}")  # to the log alone: the command says it
        if status == "stopped" and 0 < run.config.schedule.stop_after <= state.epoch:
            console.log(f"stopped after epoch {state.epoch:,}, as --stop-after says; give a larger one, or 0, to go on")
        if status == "done":
            console.log(f"validation accuracy {summary.accuracy:.4f} at step {summary.best_step:,}; model and curves in {run.folder}")
        return summary
    except BaseException as error:
        saver.close()
        with suppress(OSError, JobError):  # the first fault is the one to tell
            saver.summarise(saver.saved, "interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
        raise


def _memory_guard(run: Run) -> AbstractContextManager[None]:
    """Out of memory in a step names a batch that fits."""
    config = run.config
    batch, replicas, size = config.schedule.batch, config.machine.replicas, max(config.schedule.train_sizes)

    def fix(free: int) -> str:
        return memory.smaller_batch(batch, replicas, activation_bytes(run.inference.network, size), free)

    return memory.guard(f"a step of {batch} images of {size} px", fix)


def _write_setup(folder: Path, config: Config, resolved: Resolved, chosen: Devices) -> None:
    records.write_config(folder, recorded(config, resolved))
    records.write_environment(folder, resolved, chosen)


def _recorded(config: Config, data: Location, shards: manifest.Manifest, where: Place) -> dict[str, Any]:
    """What `config.toml` says of folders and of how the data was prepared: absolute, and as it was."""
    named = config.source.data
    own = (str(where.path.absolute() / records.DATA), f"{where.address}/{records.DATA}")
    if isinstance(data, RemoteShards) and str(data) not in own:
        named = str(data)
    elif is_remote(named):
        named = identity(canonical(named))  # without its secrets
    elif named and Path(named).exists():
        named = str(Path(named).absolute())
    elif str(data) not in own:  # the shards were moved
        named = str(data)
    for flag, path in (("--out", config.output.out), ("--data", named)):
        if path.encode("utf-8", "replace").decode() != path:
            raise UserError(flag, f"the name {path!r} is not valid UTF-8, so config.toml cannot hold it", "rename that folder")
    names = [field.name for section in (Prepare, Reading) for field in fields(section) if field.name in shards.settings]
    prepared = {name: tuple(value) if isinstance(value := shards.settings[name], list) else value for name in names}
    return prepared | {"out": where.address if is_bucket(where.address) else str(where.path.absolute()), "data": named}
