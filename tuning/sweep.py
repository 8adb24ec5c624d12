"""`twofold sweep`: many configurations of the ordinary training job, and the best of them. The main flow.

Both engines do the same three things: propose a point of the space, run the job there, and stop it early or not. All
else is here: what is checked before anything starts, the sweep's state, the status table, and the results.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from job.config import lengths
from job.config.options import build, knobs, leaves, replace
from job.config.resolve import resolve
from job.config.schema import Config, SweepConfig
from job.console import console, counted, duration
from job.data import manifest
from job.data.location import auto_window, locate
from job.errors import Interrupted, MachineError, UserError
from job.feeds import order
from job.machine import devices, notice
from job.runs.place import Place
from job.shutdown import Stop
from job.storage import local, lock
from job.storage.opening import is_bucket
from tuning import local_ray, report, space
from tuning.plan import Halt, Plan
from tuning.state import START, SweepState
from tuning.status import StatusTable

MANY = 10**9  # images, where it is not known yet how many there are
SEARCHES = {"ray": ("tpe", "random"), "keras-tuner": ("hyperband", "bayesian", "random")}


def check(config: SweepConfig, fixed: Collection[str] = ()) -> None:
    """Refuse what can be refused before the images are prepared, which may take an hour.

    Raises:
        UserError: options or a space that are invalid; what depends on the number of images is left to `sweep`.
    """
    base = _base(config)
    _search(config)
    _budget(config)
    if is_bucket(config.output.out) and config.sweep.engine == "ray" and os.environ.get("RAY_ADDRESS", "") not in ("", "local"):
        fix = "give a folder that all machines of the cluster see, or unset RAY_ADDRESS"
        raise UserError("--out", "a sweep in a bucket runs on one machine", fix)
    _require_engine(config.sweep.engine)
    space.read(_space_file(config), base, MANY, fixed)


def sweep(config: SweepConfig, fixed: Collection[str] = (), stop: Stop | None = None, where: Place | None = None) -> SweepState:
    """Search, or resume a search that was interrupted, or find it finished.

    Args:
        config: as the user gave it; `source.data` is a folder of shards.
        fixed: the fields of training that are the same for all trials.
        stop: set it, and running trials are saved. Needs no main thread.
        where: the sweep's folder, opened already; by default the local one of `config.output.out`.

    Raises:
        UserError, MachineError: see `job/errors.py`.
        Interrupted: `stop` was set; the same call resumes.
    """
    check(config, fixed)
    stop = Stop() if stop is None else stop
    base = _base(config)
    data = locate(base.source.data, base.feed, stop)
    shards = manifest.read(data)
    if base.schedule.window is None and (window := auto_window(data, shards)):  # the same for all trials, whatever cache they meet
        base = replace(base, window=window)
    images = shards.split("train", data).records
    shards.split("validation", data)
    searched = space.read(_space_file(config), base, images, fixed)
    search = _search(config)
    budget = _budget(config)
    out = Path(base.output.out) if where is None else where.path.absolute()
    bucket: dict[str, Any] = dict(address=where.address, fence=where.fence) if where is not None and where.mirror is not None else {}
    local.make_folder(out)
    with lock.only_writer(out), console.copy_to(out / "log.txt"), notice.heard(config.run.notice, stop):
        with _engine(config, stop) as (engine, cores, gpus):
            plan = Plan(
                out=out, base=base, space=searched, start=searched.start(resolve(base, images)), trials=config.sweep.trials, search=search,
                first_rung=config.sweep.first_rung, reduction=config.sweep.reduction, **_shares(config, base, cores, gpus), **bucket,
            )  # fmt: skip
            state = SweepState(plan, _settings(plan, config, shards.fingerprint), changed=report.write)
            until = time.monotonic() + budget
            halt = Halt(out)
            halt.clear()
            status_table = StatusTable(state, until)
            _announce(plan, state, config, shards)

            def tick() -> None:
                if not halt and (stop or time.monotonic() > until):
                    halt.set()
                    if console.drawing:
                        console.log("stopping: saving the running trials")
                status_table.tick()

            try:
                with status_table.shown():
                    engine(plan, state, status_table, halt, order.derive(base.schedule.seed, "sampler") % 2**31, tick)
            finally:
                halt.clear()
        state.settle()
        report.write(state)
        report.draw(state)
        if stop:
            raise Interrupted(saved=True)
        _tell(state, time.monotonic() > until)
        return state


def _space_file(config: SweepConfig) -> Path | None:
    return Path(config.sweep.space) if config.sweep.space else None


def _base(config: SweepConfig) -> Config:
    """The starting configuration, with absolute folders."""
    if not config.output.out:
        raise UserError("--out", "no sweep folder given", "add --out SWEEP")
    if config.sweep.first_rung > config.schedule.epochs:
        raise UserError("--first-rung", f"{config.sweep.first_rung} is more than --epochs {config.schedule.epochs}", "give at most that")
    for flag, given in (
        ("--dry-run", config.run.dry_run),
        ("--show-augment", config.run.show_augment),
        ("--stop-after", config.schedule.stop_after),
    ):
        if given:
            raise UserError(flag, "is for one run, not for a sweep", "use it with twofold train")
    data = config.source.data if is_bucket(config.source.data) else str(Path(config.source.data).absolute())
    out = config.output.out if is_bucket(config.output.out) else str(Path(config.output.out).absolute())
    own = {k.name for k in knobs(Config)}
    values = {name: value for name, value in leaves(config).items() if name in own}
    base: Config = build(Config, {**values, "data": data, "out": out})
    return base


def _search(config: SweepConfig) -> str:
    engine = config.sweep.engine
    search = config.sweep.search or SEARCHES[engine][0]
    if search not in SEARCHES[engine]:
        raise UserError("--search", f"{engine} has no {search}", f"use one of {', '.join(SEARCHES[engine])}, or another --engine")
    if engine == "keras-tuner" and (config.sweep.concurrent or 1) > 1:
        raise UserError("--concurrent", "keras-tuner runs one trial at a time", "remove it, or use --engine ray")
    return search


def _budget(config: SweepConfig) -> float:
    """Seconds; infinity where there is no limit."""
    return lengths.limit(config.sweep.time_budget, "--time-budget")


def _require_engine(engine: str) -> None:
    from importlib.util import find_spec

    needed = {"ray": ("ray", "optuna"), "keras-tuner": ("keras_tuner", "scipy")}[engine]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UserError(f"--engine {engine}", f"{missing[0]} is not installed", "pip install 'twofold[cpu,sweep]' (or gpu for cpu)")


@contextmanager
def _engine(config: SweepConfig, stop: Stop) -> Iterator[tuple[Callable[..., None], int, float]]:
    """The engine's `search`, and the cores and GPUs that it has, while it is up."""
    if config.sweep.engine == "keras-tuner":
        from tuning import engine_kerastuner

        yield engine_kerastuner.search, devices.cores(), len(devices.present())
        return
    with ExitStack() as stack:
        cluster = os.environ.get("RAY_ADDRESS", "")
        own = stack.enter_context(local_ray.started(devices.cores())) if cluster in ("", "local") else None
        from tuning import engine_ray  # takes seconds, in which Ray starts

        resources = stack.enter_context(engine_ray.connected(cluster if own is None else own(), stop))
        yield engine_ray.search, int(resources.get("CPU", 1)), resources.get("GPU", 0)


def _shares(config: SweepConfig, base: Config, cores: int, gpus: float) -> dict[str, Any]:
    """The machine divided over the trials: the fields of the plan that say so."""
    options, one_at_a_time = config.sweep, config.sweep.engine == "keras-tuner"
    cpus = options.cpus_per_trial or (cores if one_at_a_time else 1)
    share = options.gpus_per_trial if options.gpus_per_trial is not None else float(gpus > 0)
    if base.machine.gpus == "none":
        share = 0.0
    if not gpus:
        devices.select(base.machine.gpus, [])  # a sweep refuses what train refuses
    if cpus > cores:
        raise MachineError(f"--cpus-per-trial {cpus}", f"there are {counted(cores, 'core')}", f"give at most {cores}")
    if share > gpus:
        there = f"there are {gpus:g}" if gpus else "there is no GPU on this machine"
        fix = f"give at most {gpus:g}" if gpus else "remove it to train on the CPU"
        raise MachineError(f"--gpus-per-trial {share:g}", there, fix)
    if one_at_a_time and 0 < share < 1:
        raise UserError("--gpus-per-trial", f"keras-tuner runs one trial at a time, not {share:g} of a GPU", "give 1, or use --engine ray")
    if share > 1 and share != int(share):
        raise UserError("--gpus-per-trial", f"{share:g} is neither a share of one GPU nor a whole number", "give 0.5, 1 or 2, for example")
    most = 1 if one_at_a_time else max(1, min(cores // cpus, int(gpus / share) if share else cores))
    concurrent = min(options.concurrent or most, most)
    return dict(concurrent=concurrent, gpus=share, cpus=cpus)


def _settings(plan: Plan, config: SweepConfig, fingerprint: str) -> dict[str, Any]:
    """What a later start must share: everything that shapes a trial or the order of the search."""
    result = {k.name: leaves(plan.base)[k.name] for k in knobs(Config) if k.is_result and k.name != "threads"}  # those are cpus_per_trial
    own = dict(engine=config.sweep.engine, search=plan.search, space=plan.space.words, cpus_per_trial=plan.cpus, data=fingerprint)
    return result | own | dict(gpus_per_trial=plan.gpus, first_rung=plan.first_rung, reduction=plan.reduction)


def _announce(plan: Plan, state: SweepState, config: SweepConfig, shards: manifest.Manifest) -> None:
    train, validation = shards.splits["train"], shards.splits["validation"]
    steps = order.epoch_end(plan.epochs, resolve(plan.base, train.records).schedule.batch, train.records)
    how = plan.search + (" under ASHA" if config.sweep.engine == "ray" else "")
    console.log(
        f"sweep of {counted(plan.trials, 'trial')} of up to {counted(plan.epochs, 'epoch')} ({steps:,} steps) on {train.records:,} images, "
        f"compared by {plan.monitor} on {validation.records:,}: {how}, {config.sweep.engine}"
    )
    share = f"{counted(plan.cpus, 'core')}" + (f" and {plan.gpus:g} GPU" if plan.gpus else "")
    console.log(f"searching {', '.join(d.name for d in plan.space.dimensions)}; {counted(plan.concurrent, 'trial')} at once, {share} each")
    if _budget(config) < math.inf:
        console.log(f"stopping after {duration(_budget(config))}; rerun the same command to resume")
    if state.trials:
        console.log(f"resuming: {len(state.ended)} trials already ended, {len(state.unfinished)} interrupted")


def _tell(state: SweepState, late: bool) -> None:
    """Log the result.

    Raises:
        UserError: all trials failed.
    """
    plan, best = state.plan, state.best
    failed = [t for t in state.ended if t.status == "failed"]
    if best is None:
        if failed and not state.unfinished and not late:
            raise UserError(
                "sweep", f"all {len(failed)} trials failed, the first with: {failed[0].reason}", "correct that, and start a new --out"
            )
        why = "the time budget is used up before" if late else "no trial has come to"
        console.log(f"{why} the end of an epoch{f'; {len(failed)} failed' if failed else ''}; rerun the same command to resume")
        return
    if late and len(state.ended) < plan.trials:
        console.log(f"the time budget is used up after {len(state.ended)} of {plan.trials} trials; rerun the same command to resume")
    name, start = plan.monitor.replace("_", " "), state.score(state.trials[START])
    if best.id == START:
        found = f"no trial is better than the starting configuration: {name} {start:.4f} on validation"
    else:
        beside = "" if start is None else f"; the starting configuration has {start:.4f}"
        found = f"best {name} {state.score(best):.4f} on validation (trial {best.id}){beside}"
    console.log(f"{found}; {counted(state.spent, 'step')} in all")
    console.log(f"train it with: twofold train --config {plan.out / report.BEST} --out RUN; table and plots are in {plan.out}")
