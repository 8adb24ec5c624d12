"""What a run says while it trains: what is about to happen, and each epoch's line."""

from __future__ import annotations

from job.console import console, counted, duration
from job.runs.checkpoints import Checkpoint
from job.runs.records import Epoch
from job.training import schedules
from job.training.build import Run


def announce(run: Run, latest: Checkpoint | None) -> None:
    """Say what will be trained, on what, and from where."""
    config, machine = run.config, run.config.machine
    counts = " and ".join(f"{n:,} {c}" for n, c in zip(run.shards.splits["train"].classes, run.shards.classes, strict=True))
    length = f"{counted(config.schedule.epochs, 'epoch')}, {run.steps:,} steps of {config.schedule.batch} images"
    console.log(f"training {config.model.model} on {counts}: {length}")
    console.log(
        f"device: {run.devices.words}, {counted(machine.replicas, 'replica')}, {counted(machine.threads, 'thread')}; "
        f"precision {machine.precision}: {run.devices.precision_reason}"
    )
    if run.class_weights != (1.0, 1.0):
        pairs = zip(run.shards.classes, run.class_weights, strict=True)
        weights = ", ".join(f"{name} {weight:.3f}" for name, weight in pairs)
        console.log(f"class weights: {weights}; probabilities are corrected back to the data's own class balance")
    side = run.shards.settings.get("side", 0)
    if side < config.model.size:
        console.log(f"note: images are stored at {side} px and enlarged to {config.model.size}; prepare with --side to keep more")
    if latest is not None:
        console.log(f"resuming from step {latest.state.step:,} of {run.steps:,}")


def epoch_ended(run: Run, epoch: Epoch, better: bool) -> None:
    """Say how an epoch went, and how long the rest will take."""
    epochs, found = run.config.schedule.epochs, epoch.validation
    done, steps = epoch.step, run.steps
    left = epoch.seconds * schedules.work(run.config, done, steps, steps) / schedules.work(run.config, 0, done, steps)
    console.log(
        f"epoch {epoch.epoch}/{epochs}: loss {epoch.train_loss:.4f}, accuracy {epoch.train_accuracy:.4f}; "
        f"validation log loss {found.log_loss:.4f}, accuracy {found.accuracy:.4f} "
        f"({found.accuracy_low:.4f} to {found.accuracy_high:.4f}){', best' if better else ''}; "
        f"{epoch.images_per_second:,.0f} images/s" + (f", about {duration(left)} left" if epoch.epoch < epochs else ""),
        **epoch.fields(),
    )
