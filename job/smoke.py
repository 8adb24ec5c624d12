"""`twofold smoke`: the whole job on one CPU core, on generated images. Fails loudly when it does not learn.

Rings and crosses of any colour, place, size and turn on a noisy ground: colour and brightness say nothing, so only
a network that learns shapes passes.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from job.config.options import build
from job.config.schema import Config, EvaluateConfig, PredictConfig, PrepareConfig
from job.console import console
from job.errors import ProofError
from job.shutdown import Stop

IMAGES = 800  # of each class
SIDE = 48  # px
ACCURACY = 0.98  # on validation; less is a failure: five seeds reach 1.0
SETTINGS: dict[str, Any] = dict(
    size=48, train_sizes=(40,), filters=(16, 32, 64), epochs=6, batch=32, augment=0.3, smoothing=0.05, threads=1, workers=1,
    log_every=5,
)  # fmt: skip


def smoke(stop: Stop | None = None) -> dict[str, float]:
    """Draw, prepare, train, stop and resume, evaluate, predict, on one core.

    Returns:
        Validation accuracy and seconds.

    Raises:
        ProofError: it did not learn, did not resume, or contradicts itself.
    """
    started = time.monotonic()
    with _one_core(), tempfile.TemporaryDirectory(prefix="twofold-smoke-") as folder:
        root = Path(folder)
        console.log(f"smoke: the whole job on one CPU core, on {2 * IMAGES:,} generated images; about half a minute")
        draw(root / "images", IMAGES, SIDE)
        figures = _job(root, Stop() if stop is None else stop)
    seconds = time.monotonic() - started
    if figures["accuracy"] < ACCURACY:
        raise ProofError("smoke", f"it did not learn: validation accuracy {figures['accuracy']:.4f} is under {ACCURACY}", "")
    console.log(f"smoke: passed in {seconds:.0f} s with validation accuracy {figures['accuracy']:.4f}")
    return {"accuracy": figures["accuracy"], "seconds": seconds}


def _job(root: Path, stop: Stop) -> dict[str, Any]:
    from job.evaluate import evaluate
    from job.predict import predict
    from job.prepare import prepare
    from job.train import train

    prepare([str(root / "images")], build(PrepareConfig, dict(out=str(root / "shards"), side=SIDE, workers=1)), stop)
    config = build(Config, dict(SETTINGS, data=str(root / "shards"), out=str(root / "run")))
    inner = Stop()
    first = train(config, on_epoch=lambda entry: inner.set() if entry.epoch == 2 else None, stop=inner)
    stop.check()
    if first.status != "interrupted":
        raise ProofError("smoke", f"the interrupted run ended as {first.status}", "")
    console.log("smoke: interrupted in the middle of an epoch; resuming")
    second = train(config, stop=stop)
    stop.check()
    if second.status != "done" or second.steps <= first.steps:
        raise ProofError("smoke", f"the interrupted run did not resume to its end ({second.status})", "")
    figures = evaluate(root / "run", build(EvaluateConfig, {}), stop)
    if abs(figures["accuracy"] - second.accuracy) > 1e-9:
        raise ProofError("smoke", f"evaluate gives {figures['accuracy']}, train gave {second.accuracy}", "")
    lines = list(predict(root / "run", [str(root / "images" / "rings")], build(PredictConfig, {"format": "csv"}), stop))
    rings = sum(line.split(",")[1] == "rings" for line in lines[1:])
    console.log(f"smoke: predict finds {rings:,} of {len(lines) - 1:,} rings")
    return figures


@contextmanager
def _one_core() -> Iterator[None]:
    """Keep this process on one core, TensorFlow's threads included."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def draw(folder: Path, each: int, side: int, seed: int = 1) -> None:
    """Draw `each` rings and as many crosses, JPEG files of `side` px, into two folders."""
    rng = np.random.default_rng(seed)
    for name, shape in (("crosses", _cross), ("rings", _ring)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            image = _ground(rng, side)
            colour = tuple(int(c) for c in rng.integers(0, 256, 3))
            centre = rng.uniform(0.35 * side, 0.65 * side, 2)
            shape(image, centre, float(rng.uniform(0.2, 0.32) * side), colour, float(rng.uniform(0, np.pi)))
            cv2.imwrite(str(folder / name / f"{name}.{number}.jpg"), image, (cv2.IMWRITE_JPEG_QUALITY, 92))


def _ground(rng: np.random.Generator, side: int) -> Any:
    coarse = rng.integers(40, 216, (4, 4, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return np.clip(smooth + rng.normal(0, 8, (side, side, 3)), 0, 255).astype(np.uint8)


def _ring(image: Any, centre: Any, radius: float, colour: tuple[int, ...], angle: float) -> None:
    at = (round(float(centre[0])), round(float(centre[1])))
    cv2.circle(image, at, round(radius), colour, max(2, round(radius / 4)), cv2.LINE_AA)


def _cross(image: Any, centre: Any, radius: float, colour: tuple[int, ...], angle: float) -> None:
    for turn in (angle, angle + np.pi / 2):
        reach = radius * np.array([np.cos(turn), np.sin(turn)])
        ends = [tuple(round(float(v)) for v in centre + sign * reach) for sign in (-1, 1)]
        cv2.line(image, ends[0], ends[1], colour, max(2, round(radius / 4)), cv2.LINE_AA)
