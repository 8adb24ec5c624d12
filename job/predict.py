"""`twofold predict`: file, class and probability for images, folders and archives."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from job.config.schema import PredictConfig
from job.console import console
from job.data.sources import open_source
from job.errors import UserError
from job.inference.trained import Item, Trained
from job.metrics import probability
from job.shutdown import Stop

COLUMNS = ("file", "class", "probability")


def predict(run: Path, paths: Sequence[str], config: PredictConfig, stop: Stop | None = None) -> Iterator[str]:
    """Classify every image below `paths`; yields the lines to print. What does not decode is named in the log.

    Raises:
        UserError: no such run or path, or not one image could be read.
        Interrupted: `stop` was set.
    """
    if not paths:
        raise UserError("predict", "no image given", "name images, folders or archives after the run")
    stop = Stop() if stop is None else stop
    trained = Trained(run, config.work.workers)
    rows: list[tuple[str, str, float]] = []
    with tempfile.TemporaryDirectory(prefix="twofold-") as scratch:
        sources = [(path, open_source(path, Path(scratch))) for path in paths]
        total = sum(len(source.entries()) for _, source in sources)
        if not total:
            raise UserError(" ".join(paths), "holds no image", "give JPEG, PNG or WebP files")

        def items() -> Iterator[Item]:
            for path, source in sources:
                for name, jpeg, fault in trained.stored(source.read()):
                    shown = _shown(path, name)
                    if fault:
                        console.log(f"left out: {shown}: {fault}")
                    else:
                        yield Item(shown, -1, jpeg)

        style = config.format.format
        if style == "csv":
            yield _csv(COLUMNS)
        with console.progress("predicting", total, "images") as bar:
            for prediction in trained.predict(items()):
                stop.check()
                bar.advance()
                p = float(probability(prediction.logit))
                row = (prediction.key, trained.classes[int(p >= 0.5)], p)
                rows.append(row)
                if style == "csv":
                    yield _csv((row[0], row[1], f"{p:.6f}"))
                elif style == "jsonl":
                    yield json.dumps(dict(zip(COLUMNS, (row[0], row[1], round(p, 6)), strict=True)), ensure_ascii=False)
    if not rows:
        raise UserError(" ".join(paths), "none of its images decodes", "give JPEG, PNG or WebP files")
    if style == "table":
        yield from _table(rows, trained.classes[1])


def _shown(path: str, name: str) -> str:
    """An image's name as the user would say it."""
    if Path(path).name == name or path.startswith(("kaggle:", "http")):
        return path if Path(path).name == name else name
    return f"{path.rstrip('/')}/{name}"


def _csv(row: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(row)
    return text.getvalue()


def _table(rows: list[tuple[str, str, float]], positive: str) -> Iterator[str]:
    width, kinds = max(4, *(len(r[0]) for r in rows)), max(5, *(len(r[1]) for r in rows))
    yield f"{'file':<{width}}  {'class':<{kinds}}  probability of {positive}"
    for file, kind, p in rows:
        yield f"{file:<{width}}  {kind:<{kinds}}  {p:.4f}"
