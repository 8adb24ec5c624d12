"""The log of a run under way: a record of each logged step and epoch, in every form that people read.

`metrics.jsonl` is the source; `history.csv`, `curves.png` and TensorBoard's events are made from it. On resume it is
cut back to the checkpoint's step, and the others are made anew, so each step shows once.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from job.console import console, counted
from job.errors import MachineError
from job.inference import plots
from job.runs.records import METRICS, Epoch, read_metrics
from job.storage import local

ROTATE = 10_000_000  # bytes of a file of TensorBoard's events, after which the next is begun


class RunLog:
    """`metrics.jsonl`, `history.csv`, `curves.png` and TensorBoard's events. `step` and `epoch` are those resumed from."""

    def __init__(self, folder: Path, step: int, epoch: int) -> None:
        self.folder = folder
        kept = [r for r in read_metrics(folder, _tell_of_damage) if r["step"] <= step and (r["kind"] == "step" or r["epoch"] <= epoch)]
        self.epochs = [r for r in kept if r["kind"] == "epoch"]
        local.write_atomic(folder / METRICS, "".join(json.dumps(r) + "\n" for r in kept))
        self._file = (folder / METRICS).open("a", encoding="utf-8")
        self._tensorboard = _TensorBoard(folder / "tensorboard")
        for record in kept:
            self._tensorboard.add(record)

    def add_step(self, step: int, figures: dict[str, Any]) -> None:
        """Record a logged step."""
        self._add("step", step, figures)

    def add_epoch(self, epoch: Epoch) -> None:
        self._add("epoch", epoch.step, epoch.fields())

    def _add(self, kind: str, step: int, figures: dict[str, Any]) -> None:
        """Record figures with the time of day in seconds since 1970."""
        record = {"kind": kind, "step": step, "time": round(time.time(), 3), **figures}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self._tensorboard.add(record)
        if kind == "epoch":
            self.epochs.append(record)

    def draw(self) -> None:
        """Write `history.csv`, a row an epoch, and `curves.png`. They are made anew at each epoch: a failure is only a warning."""
        import pandas as pd

        if not self.epochs:
            return
        history = pd.DataFrame(self.epochs).drop(columns=["kind", "time"])
        try:
            local.write_atomic(self.folder / "history.csv", history.to_csv(index=False))
            plots.draw(self.epochs, self.folder / "curves.png")
            self._tensorboard.flush()
        except (OSError, MachineError) as error:
            console.log(f"warning: history.csv, curves.png or tensorboard/ could not be written ({error}); training continues")

    def close(self) -> None:
        self._file.close()
        self._tensorboard.close()


def _tell_of_damage(lines: int) -> None:
    console.log(f"warning: {METRICS}: {counted(lines, 'line')} corrupt, left out of the run's records")


class _TensorBoard:
    """TensorBoard's events, by its own writer, in files of up to `ROTATE` bytes; a name is used once."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        local.make_folder(folder)
        for old in folder.glob("events.*"):
            with suppress(OSError):
                old.unlink()
        self._folder, self._event, self._summary = folder, Event, Summary
        self._open()

    def _open(self) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._bytes = 0
        self._writer = EventFileWriter(str(self._folder), filename_suffix=f".{uuid4().hex[:8]}")

    def add(self, record: dict[str, Any]) -> None:
        values = [
            self._summary.Value(tag=f"{record['kind']}/{name}", simple_value=value)
            for name, value in record.items()
            if isinstance(value, (int, float)) and name not in ("step", "time", "epoch")
        ]
        event = self._event(wall_time=record["time"], step=record["step"], summary=self._summary(value=values))
        if self._bytes > ROTATE:
            self._writer.close()
            self._open()
        self._bytes += event.ByteSize()
        self._writer.add_event(event)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
