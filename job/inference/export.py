"""`model.keras`: the best model for everyone who has Keras, written whole, and how much its probabilities differ from ours."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from job.config.resolve import Resolved
from job.data import pixels
from job.data.levels import FULL, Levels
from job.machine.libraries import keras
from job.models.network import build_network, exported, variables_of
from job.runs.records import MODEL
from job.storage import local


def write(folder: Path, config: Resolved, weights: dict[str, Any]) -> None:
    """Write a run's `model.keras`, on one device whatever the training's, from weights by their paths."""
    network = build_network(config.model, config.schedule.seed)
    for path, variable in variables_of(network).items():
        variable.assign(weights[path])
    temporary = folder / ".model.tmp.keras"
    exported(network, config.model.size).save(temporary)
    with temporary.open("rb") as file:
        local.sync(file.fileno())
    local.rename(temporary, folder / MODEL)
    local.sync_folder(folder)


def apart(folder: Path, predictions: Iterable[tuple[bytes, float]], levels: Levels = FULL) -> str:
    """How much the written file's probabilities differ from ours, in words.

    Args:
        folder: the run's.
        predictions: image files, stored or original, each with the probability that `evaluate` gives it.
        levels: of 16-bit originals; the file itself sees 8 bits, and whoever uses it brings them to those.
    """
    model = keras.models.load_model(folder / MODEL, safe_mode=True)
    gaps = [abs(float(model(pixels.decode(data, levels)[None])[0, 0]) - probability) for data, probability in predictions]
    most, mean = f"{np.max(gaps):.2g} at most", f"{np.mean(gaps):.2g} on average"
    return f"its probabilities differ from those of twofold evaluate by {most}, {mean}, over {len(gaps)} images"
