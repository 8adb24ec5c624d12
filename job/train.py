"""`twofold train`: shards become a model. The main flow; every part is in the module of its name.

`train` reads as the table of contents; `job/training/loop.py` takes the steps. Two looks before a run are here as well: the
plan (`--dry-run`) and the contact sheet (`--show-augment`).
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from job.config.options import replace
from job.config.resolve import resolve
from job.config.schema import Config
from job.console import console, duration
from job.data import manifest
from job.errors import UserError
from job.feeds import order
from job.inference import plots
from job.machine import devices
from job.runs import checkpoints, records
from job.shutdown import Stop
from job.storage import local, lock
from job.training import augment, resume
from job.training.loop import Loop, Summary

DRY_STEPS = 3
SHEET = 32  # images on the contact sheet


def train(
    config: Config,
    on_epoch: Callable[[dict[str, Any]], Any] | None = None,
    *,
    given: Collection[str] | None = None,
    stop: Stop | None = None,
) -> Summary:
    """Train, validate, and write the run folder; or go on with one; or find it done.

    Sets no signal handlers and changes no folder, so that it runs inside another program.

    Args:
        config: as the user gave it; `source.data` is a folder of shards, or `run.out/data` holds them.
        on_epoch: called with each epoch's record; a true answer ends the run as `stopped`.
        given: the knobs set by the user, where a resumed run must not differ; by default those that differ from
            their defaults.
        stop: set it, and the step under way is finished and saved.

    Returns:
        The run's summary, as in `summary.json`.

    Raises:
        UserError, MachineError: see `job/errors.py`.
        Interrupted: `stop` was set before the first step of this start.
    """
    if not config.output.out:
        raise UserError("--out", "no run folder given", "add --out RUN")
    stop = Stop() if stop is None else stop
    folder = Path(config.output.out).absolute()
    if (folder / records.CONFIG).exists():
        config = resume.merge(folder, config, resume.given_of(config) if given is None else given)
    before = records.read_summary(folder)
    if before.get("status") == "done":
        console.log(f"{folder} was finished before: validation accuracy {before.get('val_accuracy', 0):.4f}")
        return before
    shards_folder = records.data_folder(config)
    shards = manifest.read(shards_folder)
    train_split, _ = (shards.split(name, shards_folder) for name in ("train", "validation"))
    config = resolve(config, train_split.records)
    config = replace(config, **_recorded(config, shards))
    if config.run.dry_run or config.run.show_augment:
        config, chosen = devices.set_up(config)
        loop = Loop(config, chosen, folder, shards_folder, shards, stop)
        return _show_augmented(loop, Path(config.run.show_augment)) if config.run.show_augment else _plan(loop)
    local.make_folder(folder)
    with lock.only_writer(folder), console.copy_to(folder / "log.txt"):
        started = time.monotonic()
        latest = checkpoints.newest(folder / "checkpoints")
        if latest is None:
            manifest.verify(shards_folder, tuple(s for n in ("train", "validation") for s in shards.splits[n].shards))
        config, chosen = devices.set_up(config)
        stop.check()  # what is not begun needs no saving
        loop = Loop(config, chosen, folder, shards_folder, shards, stop)
        records.write_config(folder, config)
        records.write_environment(folder, config, chosen)
        return loop.go(latest, on_epoch, started)


def _recorded(config: Config, shards: manifest.Manifest) -> dict[str, Any]:
    """What `config.toml` says of folders and of how the data was prepared: absolute, and as it was."""
    data = Path(config.source.data)
    for flag, path in (("--out", config.output.out), ("--data", config.source.data)):
        if path.encode("utf-8", "replace").decode() != path:
            raise UserError(flag, f"the name {path!r} is not valid UTF-8, so config.toml can't hold it", "rename that folder")
    prepared = {name: shards.settings[name] for name in ("side", "val", "test", "positive", "max_bad")}
    return prepared | {
        "out": str(Path(config.output.out).absolute()),
        "data": str(data.absolute()) if data.exists() else str(config.source.data),
    }


def _plan(loop: Loop) -> Summary:
    """`--dry-run`: three real steps at each square, and what a run will take."""
    local.make_folder(loop.folder)
    loop.restore(None)
    console.log(f"checking by {DRY_STEPS} steps at each square; nothing is kept")
    total, first = 0.0, time.monotonic()
    grow_at = [0.0, *(loop.config.schedule.grow_at or ()), 1.0]
    for number, size in enumerate(loop.config.schedule.train_sizes or ()):
        times = []
        for step in range(DRY_STEPS):
            made, began = loop.make(step), time.monotonic()
            outcome = loop.step.run(*made, 0.0, step, size)
            if not bool(outcome.finite):
                raise UserError("--dry-run", f"the loss is not finite at step {step + 1}", "check --precision and the data")
            times.append(time.monotonic() - began)
        share = grow_at[number + 1] - grow_at[number]
        total += share * loop.steps * min(times[1:])
        console.log(
            f"{size} px: {loop.batch / min(times[1:]):,.0f} images/s over {share * loop.steps:,.0f} steps (compiled in {times[0]:.1f} s)"
        )
    began = time.monotonic()
    loop.validate()
    validation = time.monotonic() - began
    seconds = total + validation * loop.config.schedule.epochs + (began - first) / 2
    state = sum(array.nbytes for array in loop.step.arrays().values())
    written = 4 * state + loop.network.model.count_params() * 4 + 400 * loop.steps
    local.require_space(loop.folder, written, "the run")
    done = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + seconds))
    console.log(f"plan: {loop.steps:,} steps in {loop.config.schedule.epochs} epochs, about {duration(seconds)}, done at {done}")
    console.log(f"plan: writes about {local.size(written)} to {loop.folder} ({local.size(state)} a checkpoint)")
    return dict(status="planned", steps=loop.steps, seconds=seconds, bytes=written)


def _show_augmented(loop: Loop, path: Path) -> Summary:
    """`--show-augment`: a contact sheet of the first training images as the model will see them."""
    numbers = order.permutation(loop.seed, 0, loop.images)[: SHEET // 4]
    images, labels = loop.training.gather(numbers)
    size = (loop.config.schedule.train_sizes or (0,))[-1]
    shown, titles = [], []
    for turn in range(SHEET // len(numbers)):
        noise = order.noise(loop.seed, turn, len(numbers), augment.COLUMNS)
        changed, mixed = augment.augment(images, labels, noise, loop.config.augment, size)
        shown += list(np.clip(np.rint(changed.numpy()), 0, 255).astype(np.uint8))
        titles += [_title(float(label), loop.manifest.classes) for label in np.asarray(mixed)]
    strength = loop.config.augment.augment
    plots.sheet(shown, titles, path, f"--augment {strength:g} at {size} px", columns=len(numbers))
    console.log(f"wrote {path}")
    return dict(status="shown")


def _title(label: float, classes: tuple[str, str]) -> str:
    return classes[round(label)] if label in (0.0, 1.0) else f"{label:.0%} {classes[1]}"
