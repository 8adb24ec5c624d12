"""`--dry-run`: a few real steps at each resolution, and what the run will take."""

from __future__ import annotations

import time

from job.console import console, duration
from job.errors import UserError
from job.inference.forward import validate
from job.runs.records import Summary
from job.storage import local
from job.training.build import Run, restore

DRY_STEPS = 3


def plan(run: Run) -> Summary:
    """Try steps and a validation, and print the time and the disk space that the run will take."""
    restore(run, None)
    schedule = run.config.schedule
    console.log(f"trying {DRY_STEPS} steps at each resolution; nothing of the training is kept")
    total, first = 0.0, time.monotonic()
    grow_at = [0.0, *schedule.grow_at, 1.0]
    for number, size in enumerate(schedule.train_sizes):
        times = []
        for step in range(DRY_STEPS):
            batch, began = run.batch(step), time.monotonic()
            outcome = run.step.run(*batch, 0.0, step, size)
            if not bool(outcome.finite):
                raise UserError("--dry-run", f"the loss is not finite at step {step + 1}", "check --precision and the data")
            times.append(time.monotonic() - began)
        steps = (grow_at[number + 1] - grow_at[number]) * run.steps
        total += steps * min(times[1:])
        console.log(f"{size} px: {schedule.batch / min(times[1:]):,.0f} images/s over {steps:,.0f} steps (compiled in {times[0]:.1f} s)")
    began = time.monotonic()
    validate(run.inference, run.validation)
    validation = time.monotonic() - began
    seconds = total + validation * schedule.epochs + (began - first) / 2
    state = sum(array.nbytes for array in run.step.arrays().values())
    written = 4 * state + run.network.model.count_params() * 4 + 400 * run.steps
    local.require_space(next(place for place in (run.folder, *run.folder.parents) if place.exists()), written, "the run")
    done = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + seconds))
    console.log(f"plan: {run.steps:,} steps in {schedule.epochs} epochs, about {duration(seconds)}, done at {done}")
    console.log(f"plan: writes about {local.size(written)} to {run.folder} ({local.size(state)} a checkpoint)")
    return Summary(status="planned", steps=run.steps, epochs=schedule.epochs, seconds=seconds)
