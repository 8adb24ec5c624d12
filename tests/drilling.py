"""Run as a program in place of `twofold train`, by the drill's tests: takes steps, saves, resumes, and can be made to err.

It writes what a run folder has, without TensorFlow, so that a start takes less than a second. `DRILLED` names what it does wrong.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from job.console import console
from job.runs import checkpoints, records
from job.runs.checkpoints import Checkpoint
from job.runs.state import State
from job.storage import local, lock

STEPS, EPOCHS, EVERY = 300, 3, 10
MOST = 5  # starts without a new checkpoint, of which the last is refused
FAULT = os.environ.get("DRILLED", "")


def train(folder: Path) -> int:
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    folder.mkdir(parents=True, exist_ok=True)
    with lock.only_writer(folder):
        latest = checkpoints.newest(folder / records.CHECKPOINTS)
        console.log("device: none")
        if latest is not None:
            console.log(f"resuming from step {latest.state.step:,} of {STEPS:,}")
            if FAULT == "ends":
                print("twofold: out: is broken; mend it", file=sys.stderr)
                return 2
        counted = len(_read(folder / "starts"))
        if counted >= MOST - 1:
            return 1
        (folder / "starts").write_text("." * (counted + 1))
        return _steps(folder, latest, asked)


def _steps(folder: Path, latest: Checkpoint | None, asked: list[int]) -> int:
    fence = checkpoints.next_fence(folder / records.CHECKPOINTS)
    state = latest.state if latest else State(fingerprint="f", logit_shift=0.0)
    weight = latest.arrays["weights/a"] if latest else np.zeros(4, np.float32)
    before = latest.name if latest else None
    kept = [record for record in records.read_metrics(folder) if record["step"] <= state.step or FAULT == "repeats"]
    local.write_atomic(folder / records.METRICS, "".join(json.dumps(record) + "\n" for record in kept))
    while state.step < STEPS:
        time.sleep(0.004)
        state = replace(state, step=state.step + 1)
        image = state.step + 1 if FAULT == "order" and latest and state.step % 7 == 0 else state.step
        weight = (weight * 0.9 + np.sin(image)).astype(np.float32)
        _record(folder, kind="step", step=state.step, loss=float(weight[0]))
        if state.step % (STEPS // EPOCHS) == 0:
            _record(folder, kind="epoch", step=state.step, epoch=state.step * EPOCHS // STEPS)
        if state.step % EVERY == 0 or asked:
            saved = Checkpoint({"weights/a": weight}, state, fence)
            checkpoints.save(folder / records.CHECKPOINTS, saved)
            (folder / "starts").write_text("")
            checkpoints.prune(folder / records.CHECKPOINTS, {saved.name, before})
            before = saved.name
        if asked and FAULT == "deaf":
            time.sleep(60)
        if asked:
            return 75
    raw = io.BytesIO()
    with h5py.File(raw, "w") as file:
        file["layers/a"] = weight
    with zipfile.ZipFile(folder / "model.keras", "w") as model:
        model.writestr("model.weights.h5", raw.getvalue())
    records.write_summary(folder, records.Summary(status="done", steps=STEPS))
    return 0


def _record(folder: Path, **figures: Any) -> None:
    with (folder / records.METRICS).open("a") as file:
        file.write(json.dumps({**figures, "time": time.time()}) + "\n")


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    out = sys.argv[sys.argv.index("--out") + 1]
    with console.using(json=True):
        sys.exit(train(Path(out)))
