"""The run folder: what was asked, where it ran, what came out of each step and epoch.

`metrics.jsonl` is the source; `history.csv`, `curves.png` and TensorBoard's events are made from it. On resume it is
cut back to the checkpoint's step, and the others are made anew, so each step shows once.
"""

from __future__ import annotations

import json
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from job import __version__, curves, storage
from job.config import Config
from job.devices import Devices, cores
from job.options import to_toml

CONFIG, METRICS, SUMMARY = "config.toml", "metrics.jsonl", "summary.json"
PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "opencv-python-headless", "protobuf")


class Records:
    """The files of a run folder, but for the checkpoints. `step` and `epoch` are those resumed from."""

    def __init__(self, folder: Path, step: int, epoch: int) -> None:
        self.folder = folder
        kept = [r for r in read_metrics(folder) if r["step"] <= step and (r["kind"] == "step" or r["epoch"] <= epoch)]
        self.epochs = [r for r in kept if r["kind"] == "epoch"]
        storage.write_atomic(folder / METRICS, "".join(json.dumps(r) + "\n" for r in kept))
        self._file = (folder / METRICS).open("a", encoding="utf-8")
        self._board = _Board(folder / "tensorboard")
        for record in kept:
            self._board.add(record)

    def add(self, kind: str, step: int, **figures: Any) -> None:
        """Record a logged step or an epoch, with the time of day in seconds since 1970."""
        record = {"kind": kind, "step": step, "time": round(time.time(), 3), **figures}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        self._board.add(record)
        if kind == "epoch":
            self.epochs.append(record)

    def draw(self) -> None:
        """Write `history.csv`, a row an epoch, and `curves.png`."""
        import pandas as pd

        if not self.epochs:
            return
        history = pd.DataFrame(self.epochs).drop(columns=["kind", "time"])
        storage.write_atomic(self.folder / "history.csv", history.to_csv(index=False))
        curves.draw(self.epochs, self.folder / "curves.png")
        self._board.flush()

    def close(self) -> None:
        self._file.close()
        self._board.close()


class _Board:
    """TensorBoard's events, by its own writer."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        storage.make_folder(folder)
        for old in folder.glob("events.*"):
            old.unlink()
        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(folder))

    def add(self, record: dict[str, Any]) -> None:
        values = [
            self._summary.Value(tag=f"{record['kind']}/{name}", simple_value=value)
            for name, value in record.items()
            if isinstance(value, (int, float)) and name not in ("step", "time", "epoch")
        ]
        event = self._event(wall_time=record["time"], step=record["step"], summary=self._summary(value=values))
        self._writer.add_event(event)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records so far; a last line that a kill cut short is left out."""
    path = folder / METRICS
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def write_config(folder: Path, config: Config) -> None:
    storage.write_atomic(folder / CONFIG, to_toml(config))


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    storage.write_json(folder / SUMMARY, summary)


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary; empty where there is none yet."""
    try:
        return dict(json.loads((folder / SUMMARY).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}


def write_environment(folder: Path, config: Config, devices: Devices) -> None:
    """Write `environment.json`: versions, device, precision and its reason, git revision."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    storage.write_json(
        folder / "environment.json",
        dict(
            twofold=__version__, python=platform.python_version(), system=platform.platform(), versions=versions,
            host=platform.node(), processor=_processor(), cores=cores(), device=devices.words,
            gpus=[gpu.model for gpu in devices.gpus], replicas=config.machine.replicas, threads=config.machine.threads,
            precision=config.machine.precision, precision_reason=devices.precision_reason, git=_revision(),
        ),
    )  # fmt: skip


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _revision() -> str | None:
    """The git revision that this program's source is at, with a + where it was changed since; None outside git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        revision = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return revision.stdout.strip() + ("+" if changed.stdout.strip() else "") if revision.returncode == 0 else None
