"""Checkpoints: each a folder that is whole or absent, with a hash; a damaged one is passed over with a warning.

`checkpoints/step-00000123/` holds `state.npz` (every variable by name) and `checkpoint.json` (step, hash, and the
state beside the variables). It is written under another name and renamed into place; where the same step is written
once more, the one before stays readable as `.step-00000123.old` until the new one is in place.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from job.console import console
from job.errors import UserError
from job.runs.state import State
from job.storage import local

FORMAT, VERSION = "twofold-checkpoint", 2


@dataclass(frozen=True)
class Checkpoint:
    """The variables by name, and the state beside them, after `state.step` steps."""

    arrays: dict[str, Any]
    state: State


def save(folder: Path, checkpoint: Checkpoint) -> int:
    """Write a checkpoint; returns its bytes."""
    local.make_folder(folder)
    step = checkpoint.state.step
    target, replaced = folder / _name(step), folder / f".{_name(step)}.old"
    temporary = folder / f".{_name(step)}.tmp"
    local.remove_tree(temporary)
    temporary.mkdir(exist_ok=True)
    arrays = temporary / "state.npz"
    with arrays.open("wb") as file:
        np.savez(file, **checkpoint.arrays)
        file.flush()
        local.sync(file.fileno())
    document = dict(format=FORMAT, version=VERSION, step=step, sha256=local.sha256_of(arrays), state=checkpoint.state.document())
    local.write_json(temporary / "checkpoint.json", document)
    if target.exists():  # the same step once more, after a stop between its end and its validation
        local.remove_tree(replaced)
        local.rename(target, replaced)
    local.rename(temporary, target)
    local.sync_folder(folder)
    local.remove_tree(replaced)
    return sum(file.stat().st_size for file in target.iterdir())


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, newest first."""
    names = {place.name for place in folder.glob("step-*")} | {place.name[1:-4] for place in folder.glob(".step-*.old")}
    return sorted((int(name[5:]) for name in names if name[5:].isdigit()), reverse=True)


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
        return Checkpoint(arrays, State.read(document["state"]))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
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


def prune(folder: Path, keep: Collection[int | None]) -> None:
    """Delete the checkpoints of other steps, and what saves that were cut off left."""
    for step in steps(folder):
        if step not in keep:
            local.remove_tree(path(folder, step))
    for unfinished in folder.glob(".step-*.tmp"):  # of a process that was killed while it saved
        local.remove_tree(unfinished)


def path(folder: Path, step: int) -> Path:
    """The folder of a step's checkpoint; the one before, where a crash left no other."""
    target, replaced = folder / _name(step), folder / f".{_name(step)}.old"
    return replaced if replaced.exists() and not target.exists() else target


def _name(step: int) -> str:
    return f"step-{step:08d}"


def inference_weights(arrays: dict[str, Any], logit_shift: float) -> dict[str, Any]:
    """Path to array of the weights for inference: the averages where there are any, else the weights.

    Args:
        arrays: a checkpoint's.
        logit_shift: what class weights add to the log odds. It is taken back here, in the head's bias, so that
            probabilities are those of the training data's own class balance wherever these weights are used.
    """
    chosen = {name.removeprefix("weights/"): value for name, value in arrays.items() if name.startswith("weights/")}
    chosen |= {name.removeprefix("average/"): value for name, value in arrays.items() if name.startswith("average/")}
    if logit_shift:
        chosen["head/bias"] = chosen["head/bias"] - np.float32(logit_shift)
    return chosen
