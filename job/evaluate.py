"""`twofold evaluate`: exact figures of a run on its validation, on shards, or on any source of photographs."""

from __future__ import annotations

import hashlib
import heapq
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from job.config.schema import EvaluateConfig
from job.console import console
from job.data import layout, manifest
from job.data.shards import Reader
from job.data.sources import open_source
from job.errors import UserError
from job.inference import export, plots
from job.inference.trained import Item, Prediction, Trained
from job.metrics import measure, probability
from job.runs.records import find_data
from job.shutdown import Stop

MISTAKES = 32  # on the image of the most confident ones
COMPARED = 64  # originals that model.keras is compared on


def evaluate(run: Path, config: EvaluateConfig, stop: Stop | None = None) -> dict[str, Any]:
    """Measure a run.

    Returns:
        The figures by name; `chose_model` says whether the split chose the model, `learnt` on how many of the
        images it was trained.

    Raises:
        UserError: no such run, split or source, or classes that the model does not know.
        Interrupted: `stop` was set.
    """
    stop = Stop() if stop is None else stop
    trained = Trained(run, config.work.workers)
    data, own = config.source.data, find_data(run, trained.config, trained.fingerprint)
    with tempfile.TemporaryDirectory(prefix="twofold-") as scratch:
        if not data or manifest.exists(Path(data)) or manifest.unfinished(Path(data)):
            folder = Path(data) if data else own
            dataset = _from_shards(folder, config.evaluation.split or ("test" if data else "validation"), trained.classes)
            chose = dataset.split == "validation" and folder.absolute() == own.absolute()
        else:
            if config.evaluation.split:
                raise UserError("--split", f"{data} is a source, not shards", "leave it out, or prepare the source")
            dataset, chose = _from_source(data, Path(scratch), trained), False
        learnt = _learnt(own) if data else frozenset()
        what = f"{dataset.total:,} images of {data or own} ({dataset.split})"
        console.log(f"evaluating {what} by step {trained.step:,} of {run}" + ("" if trained.finished else ", which is not finished"))
        labels, logits, mistakes, compared = [], [], _Mistakes(), []
        with console.progress("evaluating", dataset.total, "images") as bar:
            for prediction in trained.predict(dataset.items):
                stop.check()
                labels.append(prediction.label)
                logits.append(prediction.logit)
                mistakes.add(prediction)
                if prediction.key in dataset.originals:
                    compared.append((dataset.originals.pop(prediction.key), float(probability(prediction.logit))))
                bar.advance()
    if not labels:
        raise UserError(data, "none of its images decodes", "give JPEG, PNG or WebP files")
    if compared and (run / export.NAME).exists():
        console.log("model.keras resizes the originals at once, without the stored JPEG between: " + export.apart(run, compared))
    mistakes.draw(run / "report" / f"mistakes-{dataset.split}.png", trained.classes, what)
    figures = asdict(measure(labels, logits)) | {"split": dataset.split, "positive": trained.classes[1], "classes": trained.classes}
    return figures | {"chose_model": chose, "learnt": sum(sha256 in learnt for sha256 in dataset.sha256)}


@dataclass
class _Dataset:
    """The images to evaluate. While `items` streams, `sha256` gathers their hashes, and `originals` a few whole files."""

    split: str
    total: int
    items: Iterator[Item]
    sha256: list[str]
    originals: dict[str, bytes]


def _learnt(own: Path) -> frozenset[str]:
    """The hashes of the images that the run learnt from, where its shards are still there."""
    if not manifest.exists(own):
        return frozenset()
    reader = Reader(own, manifest.read(own).split("train", own).shards)
    return frozenset(reader[number].sha256 for number in range(len(reader)))


def _from_shards(folder: Path, split: str, classes: tuple[str, str]) -> _Dataset:
    shards = manifest.read(folder)
    same = [layout.same_class(a) == layout.same_class(b) for a, b in zip(shards.classes, classes, strict=True)]
    if not all(same):
        raise UserError(str(folder), f"its classes are {' and '.join(shards.classes)}, the model's {' and '.join(classes)}", "")
    names = list(shards.splits) if split == "all" else [split]
    chosen = tuple(shard for name in names for shard in shards.split(name, folder).shards)
    manifest.verify(folder, chosen)
    reader = Reader(folder, chosen)
    sha256: list[str] = []

    def items() -> Iterator[Item]:
        for number in range(len(reader)):
            record = reader[number]
            sha256.append(record.sha256)
            yield Item(record.key, record.label, record.image)

    return _Dataset(split, len(reader), items(), sha256, {})


def _from_source(text: str, scratch: Path, trained: Trained) -> _Dataset:
    source = open_source(text, scratch)
    found = layout.find(source.entries(), text, classes=trained.classes)
    labels = {image.name: image.label for image in found.images}
    if found.unlabelled:
        console.log(f"left out: {len(found.unlabelled):,} images without a class, such as {found.unlabelled[0]}")
    sha256: list[str] = []
    originals: dict[str, bytes] = {}

    def images() -> Iterator[tuple[str, bytes]]:
        for number, (name, data) in enumerate(item for item in source.read() if item[0] in labels):
            sha256.append(hashlib.sha256(data).hexdigest())
            if number % -(-len(labels) // COMPARED) == 0:
                originals[name] = data
            yield name, data

    def items() -> Iterator[Item]:
        for name, jpeg, fault in trained.stored(images()):
            if fault:
                console.log(f"left out: {name}: {fault}")
            else:
                yield Item(name, labels[name], jpeg)

    return _Dataset("source", len(labels), items(), sha256, originals)


class _Mistakes:
    """The most confident wrong answers met so far."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Prediction]] = []
        self._met = 0

    def add(self, prediction: Prediction) -> None:
        if (prediction.logit >= 0) == (prediction.label == 1):
            return
        self._met += 1
        heapq.heappush(self._heap, (abs(prediction.logit), self._met, prediction))
        if len(self._heap) > MISTAKES:
            heapq.heappop(self._heap)

    def draw(self, path: Path, classes: tuple[str, str], what: str) -> None:
        if not self._heap:
            console.log("no mistakes to draw")
            return
        worst = [prediction for _, _, prediction in sorted(self._heap, reverse=True)]
        titles = [
            f"{prediction.key.rsplit('/', 1)[-1][:18]}\n{classes[prediction.label]}, said {max(p, 1 - p):.1%} {classes[int(p >= 0.5)]}"
            for prediction in worst
            for p in [float(probability(prediction.logit))]
        ]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            plots.sheet([j.square for j in worst], titles, path, f"The most confident of {self._met:,} mistakes on {what}")
            console.log(f"the most confident mistakes are in {path}")
        except OSError as error:  # the figures are worth more than the image
            console.log(f"warning: {path} could not be written ({error.strerror})")


def words(figures: dict[str, Any], classes: tuple[str, str]) -> str:
    """The figures as people read them."""

    def shown(value: float | None) -> str:
        return "needs both classes" if value is None else f"{value:.4f}"

    (tn, fp), (fn, tp) = figures["confusion"]
    width = max(len(c) for c in classes) + 2
    note = " (this split chose the model: the figures flatter it)" if figures["chose_model"] else ""
    if figures["learnt"]:
        note = f" (it learnt from {figures['learnt']:,} of them: the figures flatter it)"
    return "\n".join(
        (
            f"split              {figures['split']}, {figures['images']:,} images{note}",
            f"accuracy           {figures['accuracy']:.4f} (95 %: {figures['accuracy_low']:.4f} to {figures['accuracy_high']:.4f})",
            f"ROC AUC            {shown(figures['auc'])}",
            f"average precision  {shown(figures['average_precision'])} (positive class: {figures['positive']})",
            f"log loss           {figures['log_loss']:.4f}",
            f"Brier score        {figures['brier']:.4f}",
            f"calibration error  {figures['ece']:.4f}",
            f"{'':<{width + 7}}{'said ' + classes[0]:>{width + 7}}{'said ' + classes[1]:>{width + 7}}",
            f"{'is ' + classes[0]:<{width + 7}}{tn:>{width + 7},}{fp:>{width + 7},}",
            f"{'is ' + classes[1]:<{width + 7}}{fn:>{width + 7},}{tp:>{width + 7},}",
        )
    )
