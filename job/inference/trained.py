"""A trained run, opened to answer: its configuration, classes, and best weights so far, in float32 on one device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from job.config.options import replace
from job.config.resolve import resolve
from job.console import console
from job.data import levels, pixels
from job.errors import UserError
from job.inference.forward import Inference
from job.machine import devices, memory, strategy
from job.machine.libraries import keras
from job.machine.pool import in_order
from job.models.network import build_network
from job.runs import checkpoints, records


@dataclass(frozen=True)
class Item:
    """An image to classify, as the JPEG that a shard would hold. `label` is -1 where it is not known."""

    key: str
    label: int
    jpeg: bytes


@dataclass(frozen=True)
class Prediction:
    """What the model says of an image: `logit` are the log odds of the positive class, `image` is what the model saw."""

    key: str
    label: int
    logit: float
    image: pixels.Image


class Trained:
    """A run's best model, or where its checkpoint is damaged the newest one that is whole.

    `step` is the checkpoint's, `fingerprint` names the data set; `standing` says in words whether the run is done.
    """

    def __init__(self, folder: Path, workers: int | None = None) -> None:
        """Open a run.

        Raises:
            UserError: the folder is not a run's, it has no checkpoint yet, or all are damaged.
        """
        config = records.read_config(folder)
        summary = records.read_summary(folder)
        saved = checkpoints.names(folder / records.CHECKPOINTS)
        if summary is not None and summary.steps and not saved:
            what = f"all checkpoints are gone, and {records.SUMMARY} says that one of step {summary.steps:,} was saved"
            raise UserError(str(folder / records.CHECKPOINTS), what, "restore them, or train a new run")
        if summary is None or summary.best_step is None or not saved:
            raise UserError(str(folder), "this run has finished no epoch yet", "rerun its twofold train to resume, then try again")
        config = replace(config, replicas=1, precision="float32")
        chosen = devices.choose(replace(config, gpus="auto", threads=None, xla=False, memory=None))
        self.config = resolve(replace(config, threads=chosen.hardware.threads), hardware=chosen.hardware)
        gpus = devices.set_up_inference(self.config, chosen)
        self.folder, self.standing = folder, records.standing(folder, summary)
        self.classes: tuple[str, str] = summary.classes
        self.size, self.side = self.config.model.size, self.config.prepare.side
        self.levels = levels.parse(self.config.prepare.levels)
        self.workers = workers or devices.cores()
        distribution = strategy.build(gpus, 1)
        with distribution.scope():
            self.network = build_network(self.config.model, self.config.schedule.seed)
        self.inference = Inference(self.network, distribution, self.size)
        best = _best(folder / records.CHECKPOINTS, summary.best_step)
        self.step, self.fingerprint = best.state.step, best.state.fingerprint
        self.inference.load(checkpoints.inference_weights(best.arrays, best.state.logit_shift))

    def predict(self, items: Iterable[Item]) -> Iterator[Prediction]:
        """Classify images, in their order.

        Raises:
            OutOfMemory: they do not fit.
        """

        def ready(item: Item) -> tuple[Item, pixels.Image]:
            return item, pixels.square(item.jpeg, self.size)

        with memory.guard("reading images", lambda free: "free some memory, or use --workers 1"):
            decoded = in_order(ready, items, self.workers)
            while batch := list(islice(decoded, self.inference.batch)):
                logits = self.inference.logits(np.stack([image for _, image in batch]))
                for (item, image), logit in zip(batch, logits, strict=True):
                    yield Prediction(item.key, item.label, float(logit), image)

    def stored(self, images: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes, str]]:
        """Image files as (name, the JPEG that a shard would hold, fault), by all workers, in their order."""

        def store(image: tuple[str, bytes]) -> tuple[str, bytes, str]:
            name, data = image
            try:
                return name, pixels.stored(data, self.side, self.levels), ""
            except pixels.Undecodable as error:
                return name, b"", str(error)

        return in_order(store, images, self.workers)

    def maps(self, image: pixels.Image) -> tuple[Any, list[tuple[str, Any]]]:
        """The first layer's filters, [kernel, kernel, 3, n], and each stage's name and maps, [height, width, n]."""
        model = self.network.model
        outputs = [model.get_layer(name).output for name in self.network.stages]
        found = keras.Model(model.inputs[0], outputs)(image[None].astype(np.float32), training=False)
        filters = np.asarray(model.get_layer(self.network.first).kernel)
        return filters, [(f"stage {k}", np.asarray(maps)[0]) for k, maps in enumerate(found, 1)]


def _best(folder: Path, step: int) -> checkpoints.Checkpoint:
    """The best checkpoint, or the newest one that is whole; the log says which where it is not the best.

    Raises:
        UserError: not one is whole.
    """
    for name in sorted(checkpoints.names(folder), key=lambda name: name.step != step):
        try:
            found = checkpoints.load(folder, name)
        except UserError:
            continue
        if name.step != step:
            lost = f"the best checkpoint, of step {step:,}, is damaged or missing, and its weights are lost"
            console.log(f"warning: {folder}: {lost}; using step {name.step:,}, the newest that is whole")
        return found
    raise UserError(str(folder), "all checkpoints are damaged", "restore them from a copy, or train in a new --out")
