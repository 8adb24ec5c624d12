"""Checkpoints: each a folder that is whole or absent, with hashes; a damaged one is passed over with a warning.

`checkpoints/step-00000123-0007/` holds `state.npz` (every variable by name) and `checkpoint.json` (all else, a hash of
the arrays, and one of itself). The second number is the fence: that of the start that wrote it, higher with each start.
It is written under another name and renamed into place, and no name is used twice: within a start the step only grows.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from job.console import console
from job.errors import UserError
from job.runs.state import State
from job.storage import local

FORMAT, VERSION = "twofold-checkpoint", 3
OLD = 2  # version of the checkpoints that have no fence in their name and no hash of their document
DOCUMENT, ARRAYS = "checkpoint.json", "state.npz"
_DAMAGED = (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError, zipfile.BadZipFile, RecursionError)


@dataclass(frozen=True)
class Name:
    """The step of a checkpoint, and the fence of the start that wrote it; 0 in the names of older versions."""

    step: int
    fence: int

    @property
    def age(self) -> tuple[int, int]:
        """What the newest has most of: a later start may have fallen back, and is newer all the same."""
        return self.fence, self.step

    def __str__(self) -> str:
        return f"step-{self.step:08d}" + (f"-{self.fence:04d}" if self.fence else "")

    @classmethod
    def read(cls, text: str) -> Name | None:
        """The name that a folder has; None where it is no checkpoint's."""
        found = re.fullmatch(r"step-(\d{8,18})(?:-(\d{4,18}))?", text, re.ASCII)
        name = found and cls(int(found[1]), int(found[2] or 0))
        return name if name and str(name) == text else None


@dataclass(frozen=True)
class Checkpoint:
    """The variables by name, and the state beside them, after `state.step` steps.

    `settings` are the options that shaped the weights, by name; empty where an older version wrote it.
    """

    arrays: dict[str, Any]
    state: State
    fence: int = 1
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> Name:
        return Name(self.state.step, self.fence)


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint."""
    local.make_folder(folder)
    name = checkpoint.name
    temporary = folder / f".{name}.tmp"
    local.remove_tree(temporary)
    temporary.mkdir(exist_ok=True)
    arrays = temporary / ARRAYS
    with arrays.open("wb") as file:
        np.savez(file, **checkpoint.arrays)
        file.flush()
        local.sync(file.fileno())
    document = _encode(
        dict(
            format=FORMAT, version=VERSION, step=name.step, fence=name.fence, bytes=arrays.stat().st_size,
            sha256=local.sha256_of(arrays), settings=checkpoint.settings, state=checkpoint.state.document(),
        )
    )  # fmt: skip
    local.write_atomic(temporary / DOCUMENT, document)
    local.rename(temporary, folder / str(name))
    local.sync_folder(folder)


def _encode(content: dict[str, Any]) -> bytes:
    """A document with the hash of its own content; the same content has the same bytes, so that each of them is checked."""
    own = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({**content, "content_sha256": own}, indent=1).encode() + b"\n"


def names(folder: Path) -> list[Name]:
    """The checkpoints that are there, whole or not, newest first.

    Raises:
        OSError: the folder cannot be listed, which does not mean that there is none.
    """
    try:
        found = [Name.read(name) for name in os.listdir(folder)]
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise UserError(str(folder), "is a file, not a folder", "remove it, or start in a new --out") from None
    return sorted((name for name in found if name), key=lambda name: name.age, reverse=True)


def of_step(folder: Path, step: int | None) -> Name | None:
    """The newest checkpoint of a step; None where it has none."""
    return next((name for name in names(folder) if name.step == step), None)


def next_fence(folder: Path) -> int:
    """The fence of a start that writes into this folder now."""
    return 1 + max((name.fence for name in names(folder)), default=0)


def load(folder: Path, name: Name) -> Checkpoint:
    """Read one checkpoint and check its hashes.

    Raises:
        UserError: it is damaged.
    """
    place = folder / str(name)
    try:
        document = _document(folder, name)
        arrays = place / ARRAYS
        if name.fence and arrays.stat().st_size != document["bytes"]:
            raise ValueError(f"{ARRAYS} has another size")
        if local.sha256_of(arrays) != document["sha256"]:
            raise ValueError("its hash differs")
        with np.load(arrays, allow_pickle=False) as state:
            variables = {key: state[key] for key in state.files}
        return Checkpoint(variables, State.read(document["state"]), name.fence, document.get("settings", {}))
    except _DAMAGED as error:
        raise UserError(str(place), f"the checkpoint is damaged ({_words(error)})", "use another one, or a new --out") from None


def settings(folder: Path) -> dict[str, Any]:
    """The options that shaped the weights, by the newest checkpoint that tells them; empty where none does."""
    for name in names(folder):
        try:
            found: dict[str, Any] = _document(folder, name).get("settings", {})
            return found
        except _DAMAGED:
            continue
    return {}


def _document(folder: Path, name: Name) -> dict[str, Any]:
    """What `checkpoint.json` says.

    Raises:
        Exception: one of `_DAMAGED`.
    """
    raw = (folder / str(name) / DOCUMENT).read_bytes()
    document: dict[str, Any] = json.loads(raw)
    version = VERSION if name.fence else OLD
    if document["format"] != FORMAT or document["version"] != version:
        raise ValueError(f"version {document['version']!r:.20} instead of {version}")
    if version != OLD and _encode({key: value for key, value in document.items() if key != "content_sha256"}) != raw:
        raise ValueError(f"{DOCUMENT} differs from its own hash")
    if (document["step"], document.get("fence", 0)) != (name.step, name.fence):
        raise ValueError(f"{DOCUMENT} is of another checkpoint")
    return document


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{Path(error.filename or DOCUMENT).name}: {error.strerror}"
    return f"no {error}" if isinstance(error, KeyError) else str(error)[:200]


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where none was ever written.

    Raises:
        UserError: there are checkpoints and all are damaged. A run never starts afresh over them.
    """
    found = names(folder)
    for name in found:
        try:
            return load(folder, name)
        except UserError as error:
            console.log(f"warning: {error}; falling back to the checkpoint before")
    if found:
        raise UserError(str(folder), f"all {len(found)} checkpoints are damaged", "restore them, or start in a new --out")
    return None


def prune(folder: Path, keep: Collection[Name | None]) -> None:
    """Delete the other checkpoints, and what saves that were cut off left."""
    for name in names(folder):
        if name not in keep:
            local.remove_tree(folder / str(name))
    for unfinished in folder.glob(".step-*.tmp"):  # of a process that was killed while it saved
        local.remove_tree(unfinished)


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
