"""`twofold evaluate`: exact figures of a run on its validation, on shards, or on any source of images."""

from __future__ import annotations

import hashlib
import heapq
import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from job.config.options import replace
from job.config.schema import Cache, EvaluateConfig, Reading
from job.console import console
from job.data import manifest
from job.data.class_names import same_class
from job.data.labels import Wanted
from job.data.location import Location, locate, open_records
from job.data.sources.address import shown
from job.data.survey import survey
from job.errors import MachineError, UserError
from job.inference import export, plots
from job.inference.trained import Item, Prediction, Trained
from job.metrics import measure, probability
from job.runs.records import MODEL, find_data
from job.shutdown import Stop
from job.storage import local
from job.storage.opening import is_bucket

MISTAKES = 32  # drawn, the most confident ones
COMPARED = 64  # originals that model.keras is compared on


def evaluate(run: Path, config: EvaluateConfig, stop: Stop | None = None, address: str = "") -> dict[str, Any]:
    """Measure a run.

    Args:
        run: its folder; `address` is where that was fetched from.

    Returns:
        The figures by name. `learnt` is the number of images that the run was trained on, `chose` that of images in
        the validation that chose its model: the figures flatter it where they are not 0. They go by the images'
        hashes, and are None where the run's own shards are not found.

    Raises:
        UserError: no such run, split or source, or classes that the model does not know.
        OutOfMemory: a batch does not fit.
        Interrupted: `stop` was set.
    """
    stop = Stop() if stop is None else stop
    trained = Trained(run, config.work.workers)
    if is_bucket(address):  # it may have been copied to there
        trained.config = replace(trained.config, out=address)
    data = config.source.data
    with tempfile.TemporaryDirectory(prefix="twofold-") as scratch:
        own = _own_shards(trained, config.feed, stop, bool(data))
        named = locate(data, config.feed, stop)
        if data and not (manifest.exists(named) or manifest.unfinished(named)):
            if config.evaluation.split:
                raise UserError("--split", f"{shown(data)} is a source, not shards", "omit it, or prepare the source")
            dataset = _from_source(data, Path(scratch), trained, config.reading, stop)
        elif data or own:
            place = named if data or own is None else own
            dataset = _from_shards(place, config.evaluation.split or ("test" if data else "validation"), trained.classes)
        else:
            raise UserError("--data", f"the shards that {run} was trained on are not found", "name them, or another source")
        what = f"{dataset.total:,} images of {shown(data) or own} ({dataset.split})"
        console.log(f"evaluating {what} by step {trained.step:,} of {run} ({trained.standing})")
        labels, logits, mistakes, compared = [], [], _Mistakes(), []
        with closing(dataset.items), console.progress("evaluating", dataset.total, "images") as bar:
            for prediction in trained.predict(dataset.items):
                stop.check()
                labels.append(prediction.label)
                logits.append(prediction.logit)
                mistakes.add(prediction)
                if prediction.key in dataset.originals:
                    compared.append((dataset.originals.pop(prediction.key), float(probability(prediction.logit))))
                bar.advance()
    if not labels:
        raise UserError(shown(data), "none of its images decodes", "give JPEG, PNG or WebP files")
    if compared and (run / MODEL).exists():
        console.log(
            "model.keras resizes the originals at once, without the stored JPEG between: " + export.apart(run, compared, trained.levels)
        )
    mistakes.draw(run / "report" / f"mistakes-{dataset.split}.png", trained.classes, what, is_bucket(address))
    figures = asdict(measure(labels, logits)) | {"split": dataset.split, "positive": trained.classes[1], "classes": trained.classes}
    return figures | {"learnt": _shared(dataset, own, "train"), "chose": _shared(dataset, own, "validation")}


@dataclass
class _Dataset:
    """The images to evaluate. While `items` streams, `sha256` gathers their hashes, and `originals` a few whole files.

    Of shards, `fingerprint` names the data set, and `splits` are those of it that are evaluated.
    """

    split: str
    total: int
    items: Generator[Item, None, None]
    sha256: list[str]
    originals: dict[str, bytes]
    fingerprint: str = ""
    splits: tuple[str, ...] = ()


def _own_shards(trained: Trained, cache: Cache, stop: Stop, others: bool) -> Location | None:
    """Where the very shards are that a run was trained on; None where they are gone, changed or damaged.

    Why a bucket cannot be read is said where it is what is to be evaluated, and not `others`.
    """
    try:
        found = find_data(trained.folder, trained.config, trained.fingerprint, cache, stop)
        return found if manifest.read(found).fingerprint == trained.fingerprint else None
    except (UserError, MachineError):
        if others or not (is_bucket(trained.config.source.data) or is_bucket(trained.config.output.out)):
            return None
        raise


def _shared(dataset: _Dataset, own: Location | None, split: str) -> int | None:
    """How many of the images evaluated are in a split of the run's own shards; None where those are not found."""
    if own is None:
        return None
    whole = manifest.read(own)
    if dataset.fingerprint == whole.fingerprint:  # no image is in two splits of a data set
        return whole.split(split, own).records if split in dataset.splits else 0
    shards = whole.split(split, own).shards
    if not isinstance(own, Path):
        size = local.size(sum(shard.bytes for shard in shards))
        console.log(f"reading the {split} split of the run's own shards, {size} in {own}, to count the images that are also in it")
    with closing(open_records(own, shards)) as records:
        records.need(0, lambda window: range(len(shards)))
        known = set(records.hashes())
    return sum(sha256 in known for sha256 in dataset.sha256)


def _from_shards(folder: Location, split: str, classes: tuple[str, str]) -> _Dataset:
    shards = manifest.read(folder)
    same = [same_class(a) == same_class(b) for a, b in zip(shards.classes, classes, strict=True)]
    if not all(same):
        raise UserError(str(folder), f"its classes are {' and '.join(shards.classes)}, the model's {' and '.join(classes)}", "")
    names = tuple(shards.splits) if split == "all" else (split,)
    chosen = tuple(shard for name in names for shard in shards.split(name, folder).shards)
    manifest.verify(folder, chosen)
    sha256: list[str] = []

    def items() -> Generator[Item, None, None]:
        with closing(open_records(folder, chosen)) as records:
            records.need(0, lambda window: range(len(chosen)))
            for record in records.stream():
                sha256.append(record.sha256)
                yield Item(record.key, record.label, record.image)

    return _Dataset(split, sum(shard.records for shard in chosen), items(), sha256, {}, shards.fingerprint, names)


def _from_source(text: str, scratch: Path, trained: Trained, reading: Reading, stop: Stop) -> _Dataset:
    found = survey([text], scratch, stop, reading, Wanted(model=trained.classes))
    for line in found.lines():
        console.log(line)
    labels = {image.name: image.label for image in found.layout.images}
    sha256: list[str] = []
    originals: dict[str, bytes] = {}

    def images() -> Iterator[tuple[str, bytes]]:
        for number, (name, data) in enumerate(found.read()):
            sha256.append(hashlib.sha256(data).hexdigest())
            if number % -(-len(labels) // COMPARED) == 0:
                originals[name] = data
            yield name, data

    def items() -> Generator[Item, None, None]:
        for image in found.layout.images:
            if image.fault:
                console.log(f"skipped: {image.name}: {image.fault}")
        for name, jpeg, fault in trained.stored(images()):
            if fault:
                console.log(f"skipped: {name}: {fault}")
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

    def draw(self, path: Path, classes: tuple[str, str], what: str, is_temporary: bool) -> None:
        """Draw them; where the file is a temporary one, whoever sends it says where it went."""
        if not self._heap:
            console.log("no mistakes to draw")
            return
        worst = [prediction for _, _, prediction in sorted(self._heap, reverse=True)]
        titles = [
            f"{prediction.key.rsplit('/', 1)[-1][:18]}\n{classes[prediction.label]}, predicted {classes[int(p >= 0.5)]} {max(p, 1 - p):.1%}"
            for prediction in worst
            for p in [float(probability(prediction.logit))]
        ]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            plots.sheet([prediction.image for prediction in worst], titles, path, f"The most confident of {self._met:,} mistakes on {what}")
            if not is_temporary:
                console.log(f"the most confident mistakes are in {path}")
        except OSError as error:  # the figures are worth more than the plot
            console.log(f"warning: {path} could not be written ({error.strerror})")


def words(figures: dict[str, Any], classes: tuple[str, str]) -> str:
    """The figures as people read them."""

    def shown(value: float | None) -> str:
        return "needs both classes" if value is None else f"{value:.4f}"

    (tn, fp), (fn, tp) = figures["confusion"]
    widest = max(map(len, classes))
    first, other = widest + len("actual "), widest + len("  predicted ")
    return "\n".join(
        (
            f"split              {figures['split']}, {figures['images']:,} images{_note(figures)}",
            f"accuracy           {figures['accuracy']:.4f} (95 %: {figures['accuracy_low']:.4f} to {figures['accuracy_high']:.4f})",
            f"ROC AUC            {shown(figures['auc'])}",
            f"average precision  {shown(figures['average_precision'])} (positive class: {figures['positive']})",
            f"log loss           {figures['log_loss']:.4f}",
            f"Brier score        {figures['brier']:.4f}",
            f"calibration error  {figures['ece']:.4f}",
            f"{'':<{first}}{'predicted ' + classes[0]:>{other}}{'predicted ' + classes[1]:>{other}}",
            f"{'actual ' + classes[0]:<{first}}{tn:>{other},}{fp:>{other},}",
            f"{'actual ' + classes[1]:<{first}}{fn:>{other},}{tp:>{other},}",
        )
    )


def _note(figures: dict[str, Any]) -> str:
    """Whether the figures flatter the model."""
    if figures["learnt"] is None:
        return "\nwarning            the run's own shards are not found: whether it was trained on these images cannot be told"
    parts = [f"it was trained on {figures['learnt']:,} of them"] if figures["learnt"] else []
    parts += [f"{figures['chose']:,} of them chose the model"] if figures["chose"] else []
    return f"\nwarning            {' and '.join(parts)}: the figures flatter it" if parts else ""
