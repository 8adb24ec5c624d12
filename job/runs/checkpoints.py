"""Checkpoints: each a folder that is whole or absent, with a hash; a damaged one is passed over with a warning.

`checkpoints/step-00000123/` holds `state.npz` (every variable by name) and `checkpoint.json` (step, hash, and the
loop's own record). It is written under another name and renamed into place.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from job.console import console
from job.errors import UserError
from job.storage import local

FORMAT, VERSION = "twofold-checkpoint", 1


@dataclass(frozen=True)
class Checkpoint:
    """The state at a step: `arrays` by name, `record` as the loop left it."""

    step: int
    arrays: dict[str, Any]
    record: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint) -> int:
    """Write a checkpoint; returns its bytes."""
    local.make_folder(folder)
    target = path(folder, checkpoint.step)
    temporary = folder / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    state = temporary / "state.npz"
    with state.open("wb") as file:
        np.savez(file, **checkpoint.arrays)
        file.flush()
        local.sync(file.fileno())
    document = dict(format=FORMAT, version=VERSION, step=checkpoint.step, sha256=local.sha256_of(state), record=checkpoint.record)
    local.write_json(temporary / "checkpoint.json", document)
    replaced = folder / f".{target.name}.old"
    if target.exists():  # the same step once more, after a stop between its end and its validation
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(target, replaced)
    os.rename(temporary, target)
    local.sync_folder(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    return sum(file.stat().st_size for file in target.iterdir())


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, newest first."""
    found = [int(place.name[5:]) for place in folder.glob("step-*") if place.name[5:].isdigit()]
    return sorted(found, reverse=True)


def load(folder: Path, step: int) -> Checkpoint:
    """Read one checkpoint and check its hash.

    Raises:
        UserError: it is damaged.
    """
    place = path(folder, step)
    try:
        document = json.loads((place / "checkpoint.json").read_text(encoding="utf-8"))
        if document["format"] != FORMAT or document["version"] != VERSION:
            raise ValueError(f"version {document['version']} instead of {VERSION}")
        if local.sha256_of(place / "state.npz") != document["sha256"]:
            raise ValueError("its hash differs")
        with np.load(place / "state.npz", allow_pickle=False) as state:
            arrays = {name: state[name] for name in state.files}
        return Checkpoint(step, arrays, document["record"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(str(place), f"the checkpoint is damaged ({error})", "use another one, or a new --out") from None


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where none was ever written.

    Raises:
        UserError: there are checkpoints and all are damaged. A run never starts afresh over them.
    """
    found = steps(folder)
    for step in found:
        try:
            return load(folder, step)
        except UserError as error:
            console.log(f"warning: {error}; falling back to the checkpoint before")
    if found:
        raise UserError(str(folder), f"all {len(found)} checkpoints are damaged", "restore them, or start in a new --out")
    return None


def prune(folder: Path, keep: Collection[int]) -> None:
    """Delete the checkpoints of other steps."""
    for step in steps(folder):
        if step not in keep:
            shutil.rmtree(path(folder, step))


def path(folder: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return folder / f"step-{step:08d}"


def inference_weights(arrays: dict[str, Any]) -> dict[str, Any]:
    """Path to array of the weights that are validated: the averages where there are any, else the weights."""
    chosen = {name.removeprefix("weights/"): value for name, value in arrays.items() if name.startswith("weights/")}
    return chosen | {name.removeprefix("average/"): value for name, value in arrays.items() if name.startswith("average/")}
