"""Two runs of one job compared bit for bit: every array, the exported model, every record of a step and of an epoch.

The order of images is compared by what it leads to: the loss and the norm of the gradient at each step, to the last bit. They
follow from the weights before it and from which images came in which place, so that one other image shows at once.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from job.errors import ProofError
from job.runs import checkpoints, records
from job.runs.checkpoints import Checkpoint
from job.shutdown import Stop
from job.storage.opening import is_bucket, open_bucket

MODEL = "model.keras"  # as `job/inference/export.py` names it, which loads Keras
_TIMES = ("time", "seconds", "images_per_second")  # of a record, and of a summary
_OF_THE_PROCESS = ("updated", "process")  # in a summary
_CLOCKS = ("seconds", "epoch_began")  # in a checkpoint's state
_FETCHED = (f"{records.CHECKPOINTS}/", records.METRICS, records.SUMMARY, MODEL)


@dataclass(frozen=True)
class Compared:
    """How much was compared, and in words what differs."""

    arrays: int
    weights: int
    steps: int
    epochs: int
    differences: tuple[str, ...]


def compare(undisturbed: Path, killed: Path) -> Compared:
    """Compare two finished runs, local or fetched."""
    one, two = (_newest(folder) for folder in (undisturbed, killed))
    models = [_weights(folder / MODEL) for folder in (undisturbed, killed)]
    metrics = [records.read_metrics(folder) for folder in (undisturbed, killed)]
    summaries = [_summary(folder) for folder in (undisturbed, killed)]
    differences = [
        *_named("the last checkpoint", _unequal(one.arrays, two.arrays), len(one.arrays)),
        *_named("the state of the last checkpoint", _other(_state(one), _state(two)), len(_state(one))),
        *_named(MODEL, _unequal(*models), len(models[0])),
        *_recorded(*metrics),
        *_named(records.SUMMARY, _other(*summaries), len(summaries[0])),
    ]
    kinds = Counter(record["kind"] for record in metrics[0])
    return Compared(len(one.arrays), len(models[0]), kinds["step"], kinds["epoch"], tuple(differences))


def fetched(address: str, folder: Path, stop: Stop) -> Path:
    """What is compared of a run, on this machine: the run's folder itself where it is local."""
    if not is_bucket(address):
        return Path(address)
    bucket = open_bucket(address, stop)
    names = [found.name for found in bucket.list() if found.name.startswith(_FETCHED)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: bucket.fetch(name, folder / name), names))
    return folder


def _newest(folder: Path) -> Checkpoint:
    found = checkpoints.newest(folder / records.CHECKPOINTS)
    if found is None:
        raise ProofError("drill", f"{folder} has no checkpoint", "")
    return found


def _state(checkpoint: Checkpoint) -> dict[str, Any]:
    return {name: value for name, value in checkpoint.state.document().items() if name not in _CLOCKS}


def _summary(folder: Path) -> dict[str, Any]:
    found = records.read_summary(folder)
    document = {} if found is None else found.document()
    return {name: value for name, value in document.items() if name not in (*_TIMES, *_OF_THE_PROCESS)}


def _weights(model: Path) -> dict[str, Any]:
    """The arrays of an exported model, by their places in it. Its configuration holds addresses of Keras's memory."""
    import h5py

    found: dict[str, Any] = {}
    with zipfile.ZipFile(model) as file, h5py.File(io.BytesIO(file.read("model.weights.h5"))) as weights:
        weights.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def _bits(array: Any) -> tuple[Any, ...]:
    """What two arrays that are equal bit for bit have in common; a value that is no number equals itself."""
    found = np.asarray(array)
    return found.dtype, found.shape, found.tobytes()


def _unequal(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    return [name for name in sorted({*one, *two}) if name not in one or name not in two or _bits(one[name]) != _bits(two[name])]


def _other(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    return [name for name in sorted({*one, *two}) if repr(one.get(name)) != repr(two.get(name))]


def _named(where: str, names: Iterable[str], of: int) -> list[str]:
    found = list(names)
    return [f"{where} differs in {len(found):,} of {of:,} entries, such as {found[0]}"] if found else []


def _recorded(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> list[str]:
    """Whether both have each step and each epoch once, with equal values."""
    found = []
    for kind, number in (("step", "step"), ("epoch", "epoch")):
        rows = [[record for record in run if record["kind"] == kind] for run in (one, two)]
        wanted = range(1, max((row[number] for row in rows[0]), default=0) + 1)
        for name, own in zip(("the undisturbed run", "the killed run"), rows, strict=True):
            times = Counter(row[number] for row in own)
            wrong = [key for key in sorted({*times, *wanted}) if times[key] != 1 or key not in wanted]
            if wrong:
                found.append(f"{name} recorded {kind} {wrong[0]} {times[wrong[0]]:,} times ({len(wrong):,} such {kind}s)")
        by_number = [{row[number]: {k: v for k, v in row.items() if k not in _TIMES} for row in own} for own in rows]
        found += _named(f"the records of each {kind}", (str(key) for key in _other(*by_number)), len(by_number[0]))
    return found
