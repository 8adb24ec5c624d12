"""`twofold evaluate`: exact figures of a run on its validation, on shards, or on any source of photographs."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from job import curves, export, layout, manifest
from job.config import EvaluateConfig
from job.console import Stop, console
from job.errors import UserError
from job.metrics import measure, probability
from job.shards import Reader
from job.sources import open_source
from job.train import data_folder
from job.trained import Item, Judged, Trained

MISTAKES = 32  # on the picture of the most confident ones
COMPARED = 64  # originals that model.keras is compared on


def evaluate(run: Path, config: EvaluateConfig, stop: Stop | None = None) -> dict[str, Any]:
    """Measure a run.

    Returns:
        The figures of the contract's section 6, and `chose_model`: whether the split chose the model.

    Raises:
        UserError: no such run, split or source, or classes that the model does not know.
        Interrupted: `stop` was set.
    """
    stop = Stop() if stop is None else stop
    trained = Trained(run, config.work.workers)
    data, asked = config.source.data, config.judge.split
    own = data_folder(trained.config)
    originals: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory(prefix="twofold-") as scratch:
        if not data or manifest.exists(Path(data)) or manifest.unfinished(Path(data)):
            folder = Path(data) if data else own
            split = asked or ("test" if data else "validation")
            total, items = _from_shards(folder, split, trained.classes)
        else:
            if asked:
                raise UserError("--split", f"{data} is a source, not shards", "leave it out, or prepare the source")
            folder, split = Path(data), "source"
            total, items = _from_source(data, Path(scratch), trained, originals)
        what = f"{total:,} pictures of {data or own} ({split})"
        console.log(f"judging {what} by step {trained.step:,} of {run}" + ("" if trained.finished else ", which is not finished"))
        labels, logits, mistakes, compared = [], [], _Mistakes(), []
        with console.progress("judging", total, "images") as bar:
            for judged in trained.judge(items):
                stop.check()
                labels.append(judged.label)
                logits.append(judged.logit)
                mistakes.add(judged)
                if judged.key in originals:
                    compared.append((originals.pop(judged.key), float(probability(judged.logit))))
                bar.advance()
    if not labels:
        raise UserError(data, "none of its pictures decodes", "give JPEG, PNG or WebP files")
    if compared and (run / export.NAME).exists():
        console.log("model.keras resizes the originals at once, without the stored JPEG between: " + export.apart(run, compared))
    mistakes.draw(run / "report" / f"mistakes-{split}.png", trained.classes, what)
    chose = split == "validation" and folder.absolute() == own.absolute()
    return {**asdict(measure(labels, logits)), "split": split, "positive": trained.classes[1], "chose_model": chose}


def _from_shards(folder: Path, split: str, classes: tuple[str, str]) -> tuple[int, Iterator[Item]]:
    shards = manifest.read(folder)
    same = [layout.same_class(a) == layout.same_class(b) for a, b in zip(shards.classes, classes, strict=True)]
    if not all(same):
        raise UserError(str(folder), f"its classes are {' and '.join(shards.classes)}, the model's {' and '.join(classes)}", "")
    names = list(shards.splits) if split == "all" else [split]
    chosen = tuple(shard for name in names for shard in shards.split(name, folder).shards)
    manifest.verify(folder, chosen)
    reader = Reader(folder, chosen)

    def items() -> Iterator[Item]:
        for number in range(len(reader)):
            record = reader[number]
            yield Item(record.key, record.label, record.image)

    return len(reader), items()


def _from_source(text: str, scratch: Path, trained: Trained, originals: dict[str, bytes]) -> tuple[int, Iterator[Item]]:
    """The pictures of a source; some of their files, evenly spread, are left in `originals`."""
    source = open_source(text, scratch)
    found = layout.find(source.entries(), text, classes=trained.classes)
    labels = {picture.name: picture.label for picture in found.pictures}
    if found.unlabelled:
        console.log(f"left out: {len(found.unlabelled):,} pictures without a class, such as {found.unlabelled[0]}")

    def pictures() -> Iterator[tuple[str, bytes]]:
        for number, (name, data) in enumerate(item for item in source.read() if item[0] in labels):
            if number % -(-len(labels) // COMPARED) == 0:
                originals[name] = data
            yield name, data

    def items() -> Iterator[Item]:
        for name, jpeg, fault in trained.stored(pictures()):
            if fault:
                console.log(f"left out: {name}: {fault}")
            else:
                yield Item(name, labels[name], jpeg)

    return len(labels), items()


class _Mistakes:
    """The most confident wrong answers met so far."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Judged]] = []
        self._met = 0

    def add(self, judged: Judged) -> None:
        if (judged.logit >= 0) == (judged.label == 1):
            return
        self._met += 1
        heapq.heappush(self._heap, (abs(judged.logit), self._met, judged))
        if len(self._heap) > MISTAKES:
            heapq.heappop(self._heap)

    def draw(self, path: Path, classes: tuple[str, str], what: str) -> None:
        if not self._heap:
            console.log("no mistakes to draw")
            return
        worst = [judged for _, _, judged in sorted(self._heap, reverse=True)]
        titles = [
            f"{judged.key.rsplit('/', 1)[-1][:18]}\n{classes[judged.label]}, said {max(p, 1 - p):.1%} {classes[int(p >= 0.5)]}"
            for judged in worst
            for p in [float(probability(judged.logit))]
        ]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            curves.sheet([j.square for j in worst], titles, path, f"The most confident of {self._met:,} mistakes on {what}")
            console.log(f"the most confident mistakes are in {path}")
        except OSError as error:  # the figures are worth more than the picture
            console.log(f"warning: {path} could not be written ({error.strerror})")


def words(figures: dict[str, Any], classes: tuple[str, str]) -> str:
    """The figures as people read them."""

    def shown(value: float | None) -> str:
        return "needs both classes" if value is None else f"{value:.4f}"

    (tn, fp), (fn, tp) = figures["confusion"]
    width = max(len(c) for c in classes) + 2
    note = " (this split chose the model: the figures flatter it)" if figures["chose_model"] else ""
    return "\n".join(
        (
            f"split              {figures['split']}, {figures['images']:,} pictures{note}",
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
