"""`twofold predict`: class, confidence and probabilities of images, one by one or in folders and archives."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from job.config.schema import PredictConfig
from job.console import console
from job.data.sources import Listing, is_downloaded, open_source
from job.data.sources.address import canonical, last_part, shown
from job.errors import UserError
from job.inference.trained import Item, Prediction, Trained
from job.metrics import probability
from job.shutdown import Stop
from job.storage.opening import is_bucket

DIGITS = 6  # of what is printed for programs


def predict(run: Path, paths: Sequence[str], config: PredictConfig, stop: Stop | None = None) -> Iterator[str]:
    """The lines to print, in the format asked for. See `rows`."""
    found = rows(run, paths, config, stop)
    if config.format.format == "table":
        yield from _table(list(found))
        return
    for number, row in enumerate(found):
        short = {name: round(value, DIGITS) if isinstance(value, float) else value for name, value in row.items()}
        if config.format.format == "jsonl":
            yield json.dumps(short, ensure_ascii=False)
            continue
        if number == 0:
            yield _csv(row)
        yield _csv(f"{value:.{DIGITS}f}" if isinstance(value, float) else value for value in short.values())


def rows(run: Path, paths: Sequence[str], config: PredictConfig, stop: Stop | None = None) -> Iterator[dict[str, Any]]:
    """Classify every image below `paths`: `file`, `class`, `confidence`, and the probability of each class, as `P(cat)`.

    What does not decode is named in the log.

    Raises:
        UserError: no such run or path, or not one image could be read.
        Interrupted: `stop` was set.
    """
    stop = Stop() if stop is None else stop
    trained = Trained(run, config.work.workers)
    with tempfile.TemporaryDirectory(prefix="twofold-") as scratch:
        sources = [(path, open_source(path, Path(scratch), stop, config.reading, labels=False)) for path in paths]
        total = sum(len(source.listing.entries) for _, source in sources)
        if not total:
            passed = [line for _, source in sources for line in source.listing.skipped.lines()]
            what = f"no image found, but {passed[0]}" if passed else "no image found"
            raise UserError(" ".join(map(shown, paths)), what, "give JPEG, PNG or WebP files")

        def items() -> Iterator[Item]:
            for path, source in sources:
                _say(path, source.listing)
                for name, jpeg, fault in trained.stored(source.read()):
                    shown = _shown(path, name, source.listing)
                    if fault:
                        console.log(f"skipped: {shown}: {fault}")
                    else:
                        yield Item(shown, -1, jpeg)

        count = 0
        with console.progress("predicting", total, "images") as bar:
            for prediction in trained.predict(items()):
                stop.check()
                bar.advance()
                count += 1
                yield _row(prediction, trained.classes)
    if not count:
        raise UserError(" ".join(map(shown, paths)), "none of its images decodes", "give JPEG, PNG or WebP files")


def _say(path: str, listing: Listing) -> None:
    """What of a source is not predicted, and why."""
    for line in (*listing.notes, *(f"skipped: {line}" for line in listing.skipped.lines())):
        console.log(f"{shown(path)}: {line}")
    for entry in listing.entries:
        if entry.fault:
            console.log(f"skipped: {_shown(path, entry.name, listing)}: {entry.fault}")


def _row(prediction: Prediction, classes: tuple[str, str]) -> dict[str, Any]:
    p = float(probability(prediction.logit))
    chances = {f"P({name})": chance for name, chance in zip(classes, (1 - p, p), strict=True)}
    return {"file": prediction.key, "class": classes[int(p >= 0.5)], "confidence": max(p, 1 - p), **chances}


def _shown(path: str, name: str, listing: Listing) -> str:
    """An image's name as the user would say it; of what is in a bucket its whole address."""
    if is_bucket(address := canonical(path)):
        return f"{address.rpartition('/')[0] if listing.is_table or last_part(address) == name else address}/{name}"
    if last_part(path) == name:
        return shown(path)
    return name if is_downloaded(path) else f"{path.rstrip('/')}/{name}"


def _csv(values: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    cells = [list(rows[0]), *([f"{value:.4f}" if isinstance(value, float) else value for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for line in cells:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
