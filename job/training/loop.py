"""The training loop: steps up to an epoch's end, validation, checkpoint, and so on to the end or to a stop.

Everything that a resumed run needs is in the checkpoint; the order of images and all randomness follow from
(seed, step).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from job.config.schema import RISING, Config
from job.console import Progress, console, counted, duration
from job.data import manifest
from job.data.shards import Reader
from job.errors import MachineError, UserError
from job.feeds import order, prefetch
from job.feeds.memory import MemoryFeed
from job.inference import export
from job.inference.forward import Inference
from job.inference.metrics import measure, probability
from job.machine import devices, strategy
from job.models.network import build_network, variables_of
from job.models.residual import PATCH_SIDE, whiten
from job.runs import checkpoints, records
from job.shutdown import Stop
from job.training import augment, schedules
from job.training.runlog import RunLog
from job.training.step import Step

WHITENING_IMAGES = 2000
COMPARED = 32  # validation images that model.keras is compared on
OVERFLOWS = 20  # batches in a row that float16 may overflow in before the loss counts as not finite

Summary = dict[str, Any]


class Loop:
    """A run under way: what it is made of, and how it goes on."""

    def __init__(self, config: Config, chosen: devices.Devices, folder: Path, data: Path, shards: manifest.Manifest, stop: Stop) -> None:
        self.config, self.chosen, self.folder, self.manifest, self.stop = config, chosen, folder, shards, stop
        self.batch, self.seed = int(config.schedule.batch or 0), config.schedule.seed
        train, validation = shards.splits["train"], shards.splits["validation"]
        self.images = train.records
        self.steps = order.epoch_end(config.schedule.epochs, self.batch, self.images)
        self.class_weights = _class_weights(config, train)
        workers, room = int(config.work.workers or 1), _cache_bytes(config)
        size = int(config.model.size or 0)
        validation_room = min(room, validation.records * 3 * size * size)
        self.validation = MemoryFeed(Reader(data, validation.shards), size, workers, validation_room)
        self.training = MemoryFeed(Reader(data, train.shards), _source_square(config, shards), workers, room - validation_room)
        self.distribution = strategy.build(chosen.gpus, int(config.machine.replicas or 1))
        stop.listen()  # TensorFlow may have put a handler of its own in place of ours
        with self.distribution.scope():
            self.network = build_network(config.model, self.seed, config.machine.precision)
            self.inference = Inference(build_network(config.model, self.seed), self.distribution)
        self.step = Step(config, self.network, self.distribution, self.class_weights)
        self.record: dict[str, Any] = dict(
            step=0, epoch=0, seconds=0.0, epoch_began=0.0, loss=0.0, right=0.0, seen=0, best=None, best_step=None, stale=0,
            fingerprint=shards.fingerprint,
        )  # fmt: skip
        self._pending: deque[tuple[int, float, Any]] = deque()
        self._overflows = 0
        self._rated: tuple[int, float] = (0, 0.0)

    def go(self, latest: checkpoints.Checkpoint | None, on_epoch: Callable[[dict[str, Any]], Any] | None, started: float) -> Summary:
        """Start or go on, to the end or to a stop."""
        self.restore(latest)
        self._announce(latest)
        self.log = RunLog(self.folder, self.record["step"], self.record["epoch"])
        self._started = started - self.record["seconds"]
        self._saved = time.monotonic()
        self._rated = (self.record["step"], self._saved)
        self._status("running")
        try:
            status = self._loop(on_epoch)
            if status == "done":
                self._export()
            return self._status(status)
        except BaseException:
            with suppress(OSError):  # the first fault is the one to tell
                self._status("failed")
            raise
        finally:
            self.log.close()
            self.training.close()
            self.validation.close()

    def restore(self, latest: checkpoints.Checkpoint | None) -> None:
        if latest is None:
            if "stem/kernel" in self.network.frozen:
                self._whiten()
            return
        if latest.record["fingerprint"] != self.manifest.fingerprint:
            raise UserError(
                "--data", f"the data set is not the one that {self.folder} was trained on", "give that one, or start a new --out"
            )
        try:
            self.step.load(latest.arrays)
        except ValueError as error:
            raise UserError(str(self.folder), str(error), "start in a new --out") from None
        self.record = dict(latest.record)

    def _whiten(self) -> None:
        """Set the frozen stem by the training images' own patches."""
        reader = self.training.reader
        numbers = order.permutation(self.seed, 0, self.images)[:WHITENING_IMAGES]
        small = MemoryFeed(reader, PATCH_SIDE, int(self.config.work.workers or 1), 0)
        images, _ = small.gather(numbers)
        small.close()
        variables_of(self.network)["stem/kernel"].assign(whiten(images))

    def _announce(self, latest: checkpoints.Checkpoint | None) -> None:
        config, machine = self.config, self.config.machine
        train = self.manifest.splits["train"]
        counts = " and ".join(f"{n:,} {c}" for n, c in zip(train.classes, self.manifest.classes, strict=True))
        console.log(f"training {config.model.model} on {counts}, {config.schedule.epochs} epochs, {self.steps:,} steps of {self.batch}")
        console.log(
            f"on {self.chosen.words}, {counted(int(machine.replicas or 1), 'replica')}, {counted(int(machine.threads or 1), 'thread')}; "
            f"precision {machine.precision}: {self.chosen.precision_reason}"
        )
        if self.class_weights != (1.0, 1.0):
            pairs = zip(self.manifest.classes, self.class_weights, strict=True)
            console.log("class weights: " + ", ".join(f"{name} {weight:.3f}" for name, weight in pairs))
        side = self.manifest.settings.get("side", 0)
        if side < int(config.model.size or 0):
            console.log(f"note: images are stored at {side} px and enlarged to {config.model.size}; prepare with --side to keep more")
        if latest is not None:
            console.log(f"going on from step {latest.step:,} of {self.steps:,}")

    def _loop(self, on_epoch: Callable[[dict[str, Any]], Any] | None) -> str:
        """Steps, and what comes at each epoch's end; returns the status that the run ends with."""
        schedule, record = self.config.schedule, self.record
        batches = prefetch.ahead(self.make, record["step"], self.steps)
        with closing(batches), console.progress("training", self.steps, "steps", record["step"]) as bar:
            wanted = False
            while record["epoch"] < schedule.epochs:
                if schedule.patience and record["stale"] >= schedule.patience:
                    console.log(f"no better {schedule.monitor} for {record['stale']} epochs: stopping early")
                    break
                if wanted or 0 < schedule.stop_after <= record["epoch"]:
                    return "stopped"
                if record["step"] == order.epoch_end(record["epoch"] + 1, self.batch, self.images):
                    entry = self._end_epoch()
                    wanted = bool(on_epoch and on_epoch(entry))
                    continue
                self._take_step(next(batches), bar)
                if self.stop or time.monotonic() - self._saved > 60 * self.config.run.save_every:
                    self._save()
                if self.stop:
                    return "interrupted"
        return "done"

    def make(self, step: int) -> tuple[Any, Any, Any]:
        numbers = order.positions(self.seed, step, self.batch, self.images)
        images, labels = self.training.gather(numbers)
        columns = augment.COLUMNS + self.network.noise_columns
        return images, labels, order.noise(self.seed, step, self.batch, columns)

    def _take_step(self, made: tuple[Any, Any, Any], bar: Progress) -> None:
        step = self.record["step"]
        lr = schedules.learning_rate(self.config, step, self.steps)
        outcome = self.step.run(*made, lr, step, schedules.train_size(self.config, step, self.steps))
        self._pending.append((step, lr, outcome))
        self.record["step"] = step + 1
        if (step + 1) % self.config.run.log_every == 0:
            self._settle()
        seen = self.record["seen"]
        bar.advance(note=f"loss {self.record['loss'] / seen:.3f}" if seen else "")

    def _settle(self) -> None:
        """Read the outcomes of the steps taken since the last time, and log the last of them.

        A device computes ahead of Python until somebody reads a result; this is the one place that does.
        """
        while self._pending:
            step, lr, outcome = self._pending.popleft()
            loss, right, finite = float(outcome.loss), float(outcome.right), bool(outcome.finite)
            self._check_finite(step, loss, finite)
            if finite:
                self.record["loss"] += loss * self.batch
                self.record["right"] += right
                self.record["seen"] += self.batch
            if (step + 1) % self.config.run.log_every == 0:
                seconds = time.monotonic() - self._started
                figures = dict(
                    epoch=step * self.batch // self.images + 1, loss=loss, accuracy=right / self.batch, learning_rate=lr,
                    gradient_norm=float(outcome.norm), images_per_second=round(self._rate(step + 1), 1), seconds=round(seconds, 3),
                )  # fmt: skip
                self.log.add("step", step + 1, **{k: v for k, v in figures.items() if np.isfinite(v)})

    def _rate(self, step: int) -> float:
        """Images a second since the last logged step of this start."""
        now = time.monotonic()
        last_step, last_time = self._rated
        self._rated = (step, now)
        return (step - last_step) * self.batch / max(now - last_time, 1e-9)

    def _check_finite(self, step: int, loss: float, finite: bool) -> None:
        self._overflows = 0 if finite else self._overflows + 1
        allowed = OVERFLOWS if self.config.machine.precision == "float16" else 0
        if self._overflows > allowed:
            kept = checkpoints.steps(self.folder / "checkpoints")
            where = f"the checkpoint of step {kept[0]:,} is kept" if kept else "there is no checkpoint yet"
            raise UserError(
                f"step {step + 1:,}", f"the loss or its gradient is not finite (loss {loss}); {where}",
                "lower --lr, raise --warmup, or set --clip 1, in a new --out",
            )  # fmt: skip

    def _end_epoch(self) -> dict[str, Any]:
        """Validate, record, keep the best, save."""
        self._settle()
        record, epoch = self.record, self.record["epoch"] + 1
        figures = self.validate()
        seen = max(1, record["seen"])
        seconds = time.monotonic() - self._started
        entry = dict(
            epoch=epoch, train_loss=record["loss"] / seen, train_accuracy=record["right"] / seen,
            learning_rate=schedules.learning_rate(self.config, max(0, record["step"] - 1), self.steps),
            images_per_second=round(self.images / max(seconds - record["epoch_began"], 1e-9), 1), seconds=round(seconds, 3),
            **{f"val_{name}": value for name, value in figures.items()},
        )  # fmt: skip
        self.log.add("epoch", record["step"], **entry)
        score = figures[self.config.schedule.monitor]
        score = float("-inf") if score is None else score * (1 if self.config.schedule.monitor in RISING else -1)
        better = record["best"] is None or score > record["best"]
        record |= dict(epoch=epoch, epoch_began=seconds, loss=0.0, right=0.0, seen=0, stale=0 if better else record["stale"] + 1)
        if better:
            record |= dict(best=score, best_step=record["step"], best_figures=figures)
        self._save()
        self.log.draw()
        self._tell(entry, better)
        self._status("running")
        return entry

    def validate(self) -> dict[str, Any]:
        self.inference.load(checkpoints.inference_weights(self.step.arrays()))
        labels, logits = self.inference.over(self.validation)
        return asdict(measure(labels, logits))

    def _tell(self, entry: dict[str, Any], better: bool) -> None:
        epochs, epoch = self.config.schedule.epochs, entry["epoch"]
        done, steps = self.record["step"], self.steps
        left = entry["seconds"] * schedules.work(self.config, done, steps, steps) / schedules.work(self.config, 0, done, steps)
        console.log(
            f"epoch {epoch}/{epochs}: loss {entry['train_loss']:.4f}, accuracy {entry['train_accuracy']:.4f}; "
            f"validation log loss {entry['val_log_loss']:.4f}, accuracy {entry['val_accuracy']:.4f} "
            f"({entry['val_accuracy_low']:.4f} to {entry['val_accuracy_high']:.4f}){', best' if better else ''}; "
            f"{entry['images_per_second']:,.0f} images/s" + (f", about {duration(left)} left" if epoch < epochs else ""),
            **entry,
        )

    def _save(self) -> None:
        """Write a checkpoint; keep it, the one before, and the best."""
        self._settle()
        self.record["seconds"] = time.monotonic() - self._started
        folder = self.folder / "checkpoints"
        checkpoints.save(folder, checkpoints.Checkpoint(self.record["step"], self.step.arrays(), dict(self.record)))
        checkpoints.prune(folder, {*checkpoints.steps(folder)[:2], self.record["best_step"]})
        self._saved = time.monotonic()

    def _export(self) -> None:
        """Write `model.keras` from the best checkpoint, and compare it with `evaluate` on a few images."""
        weights = checkpoints.inference_weights(checkpoints.load(self.folder / "checkpoints", self.record["best_step"]).arrays)
        export.write(self.folder, self.config, weights)
        self.inference.load(weights)
        numbers = range(min(COMPARED, len(self.validation)))
        logits = self.inference.logits(self.validation.gather(np.array(numbers))[0])
        stored = (self.validation.reader[n].image for n in numbers)
        console.log("model.keras is written; " + export.apart(self.folder, zip(stored, probability(logits).tolist(), strict=True)))

    def _status(self, status: str) -> Summary:
        """Write `summary.json`; the figures are those of the best epoch on validation."""
        record, seconds = self.record, time.monotonic() - self._started
        figures = record.get("best_figures") or {}
        summary = dict(
            status=status, best_step=record["best_step"], steps=record["step"], epochs=record["epoch"], seconds=round(seconds, 3),
            images_per_second=round(record["step"] * self.batch / max(seconds, 1e-9), 1),
            parameters=int(self.network.model.count_params()), classes=list(self.manifest.classes),
            model=self.config.model.model, precision=self.config.machine.precision,
            **{f"val_{name}": value for name, value in figures.items()},
        )  # fmt: skip
        records.write_summary(self.folder, summary)
        return summary


def _class_weights(config: Config, train: manifest.Split) -> tuple[float, float]:
    """Weights of [negative, positive] that make both classes count the same; 1 where they are near even."""
    negative, positive = train.classes
    if config.optimizer.class_weights == "off" or max(negative, positive) <= 1.1 * min(negative, positive):
        return 1.0, 1.0
    return train.records / (2 * negative), train.records / (2 * positive)


def _source_square(config: Config, shards: manifest.Manifest) -> int:
    """The side of the squares that training crops are taken from, px: a third more than the model sees, if stored."""
    size = int(config.model.size or 0)
    if config.augment.crop == 1 and set(config.schedule.train_sizes or ()) == {size}:
        return size
    return max(size, min(round(size * 4 / 3), int(shards.settings.get("side", size)))) if size <= 512 else size


def _cache_bytes(config: Config) -> int:
    free = devices.free_memory()
    if config.feed.memory is None:
        return free // 2
    if config.feed.memory * 2**30 > free:
        raise MachineError("--memory", f"{config.feed.memory:g} GiB asked for, {free / 2**30:.1f} GiB are free", "give less")
    return int(config.feed.memory * 2**30)
