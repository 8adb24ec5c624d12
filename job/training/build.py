"""A run put together: feeds, strategy, network, step; and where it begins, from nothing or from a checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from job.config.resolve import Resolved
from job.data import manifest
from job.data.location import Location, open_records
from job.errors import UserError
from job.feeds import order
from job.feeds.memory import MemoryFeed
from job.inference.forward import Inference
from job.machine import strategy
from job.machine.devices import Devices
from job.models.network import Network, build_network, variables_of
from job.models.residual import PATCH_SIDE, whiten
from job.runs.checkpoints import Checkpoint
from job.runs.state import State
from job.shutdown import Stop
from job.training import augment
from job.training.step import Step


@dataclass(frozen=True)
class Run:
    """What a run is made of. `steps` are all of the schedule; `images` those of training; `close` it."""

    config: Resolved
    devices: Devices
    folder: Path
    shards: manifest.Manifest
    class_weights: tuple[float, float]
    training: MemoryFeed
    validation: MemoryFeed
    network: Network
    inference: Inference
    step: Step

    @property
    def images(self) -> int:
        return self.shards.splits["train"].records

    @property
    def steps(self) -> int:
        return self.epoch_end(self.config.schedule.epochs)

    @property
    def logit_shift(self) -> float:
        """What class weights add to the log odds that the network learns."""
        negative, positive = self.class_weights
        return math.log(positive / negative)

    @cached_property
    def order(self) -> order.Windows:
        """What the order of images follows from, beside the seed."""
        return windows(self.config, self.shards)

    def epoch_end(self, epoch: int) -> int:
        """The number of steps after which an epoch has ended."""
        return order.epoch_end(epoch, self.config.schedule.batch, self.images)

    def batch(self, step: int) -> tuple[Any, Any, Any]:
        """The images, labels and noise of a step."""
        options = self.config.schedule
        images, labels = self.training.gather(order.positions(options.seed, step, options.batch, self.order))
        self.look_ahead(step)
        return images, labels, order.noise(options.seed, step, options.batch, augment.COLUMNS + self.network.noise_columns)

    def look_ahead(self, step: int) -> None:
        """Say which shards are needed from this step on, where they have to be fetched."""
        seed, batch, data = self.config.schedule.seed, self.config.schedule.batch, self.order
        shards_of = partial(order.window_shards, seed, data=data)
        self.training.reader.need(order.window_at(seed, step, batch, data), shards_of, self.shards.splits["validation"].shards)

    def close(self) -> None:
        self.training.close()
        self.validation.close()


def build(config: Resolved, devices: Devices, folder: Path, data: Location, shards: manifest.Manifest, stop: Stop) -> Run:
    """Put a run together. TensorFlow must be set up (`job/machine/devices.py`).

    Args:
        folder: the run's.
        data: where its shards are.
    """
    training, validation = open_feeds(config, data, shards)
    weights = class_weights(config, shards.splits["train"])
    distribution = strategy.build(devices.gpus, config.machine.replicas)
    stop.listen()  # TensorFlow may have put a handler of its own in place of ours
    with distribution.scope():
        network = build_network(config.model, config.schedule.seed, config.machine.precision)
        inference = Inference(build_network(config.model, config.schedule.seed), distribution, config.model.size)
    step = Step(config, network, distribution, weights)
    return Run(config, devices, folder, shards, weights, training, validation, network, inference, step)


def open_feeds(config: Resolved, data: Location, shards: manifest.Manifest) -> tuple[MemoryFeed, MemoryFeed]:
    """The feeds of training and validation; validation's images come first in what is kept in memory."""
    train, validation = shards.splits["train"], shards.splits["validation"]
    size, room = config.model.size, int(config.feed.memory * 2**30)
    validation_room = min(room, validation.records * 3 * size * size)
    return (
        MemoryFeed(open_records(data, train.shards), _source_size(config, shards), config.work.workers, room - validation_room),
        MemoryFeed(open_records(data, validation.shards), size, config.work.workers, validation_room),
    )


def windows(config: Resolved, shards: manifest.Manifest) -> order.Windows:
    """The training shards, and how many of them are shuffled together."""
    return order.Windows(tuple(shard.records for shard in shards.splits["train"].shards), config.schedule.window)


def _source_size(config: Resolved, shards: manifest.Manifest) -> int:
    """The side of what training crops are taken from, px: a third more than the input size, if so much is stored."""
    size = config.model.size
    if config.augment.crop == 1 and set(config.schedule.train_sizes) == {size}:
        return size
    return max(size, min(round(size * 4 / 3), int(shards.settings.get("side", size)))) if size <= 512 else size


def class_weights(config: Resolved, train: manifest.Split) -> tuple[float, float]:
    """Weights of [negative, positive] in the loss, by inverse class frequency; 1 where the classes are near even."""
    negative, positive = train.classes
    if config.optimizer.class_weights == "off" or max(negative, positive) <= 1.1 * min(negative, positive):
        return 1.0, 1.0
    return train.records / (2 * negative), train.records / (2 * positive)


def restore(run: Run, latest: Checkpoint | None) -> State:
    """Set the variables to where the run begins, and return the state there.

    Raises:
        UserError: the checkpoint is of other data or of another network.
    """
    if latest is None:
        if "stem/kernel" in run.network.frozen:
            _whiten(run)
        return State(fingerprint=run.shards.fingerprint, logit_shift=run.logit_shift)
    require_same_data(run.shards, latest.state.fingerprint, run.folder)
    try:
        run.step.load(latest.arrays)
    except ValueError as error:
        raise UserError(str(run.folder), str(error), "start in a new --out") from None
    return latest.state


def require_same_data(shards: manifest.Manifest, fingerprint: str, folder: Path) -> None:
    """Refuse another data set than the one that a run was trained on."""
    if shards.fingerprint != fingerprint:
        raise UserError("--data", f"the data set is not the one that {folder} was trained on", "give that one, or start a new --out")


def _whiten(run: Run) -> None:
    """Set the frozen stem by the training images' own patches."""
    small = MemoryFeed(run.training.reader, PATCH_SIDE, run.config.work.workers, 0)
    images, _ = small.gather(order.whitened(run.config.schedule.seed, run.images))
    small.stop()
    variables_of(run.network)["stem/kernel"].assign(whiten(images))
