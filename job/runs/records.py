"""The files of a run folder, but for its checkpoints: their names, how they are written and read."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from importlib import metadata
from pathlib import Path
from typing import Any

from job import __version__
from job.config.options import build, read_toml, to_toml
from job.config.resolve import Resolved
from job.config.schema import Cache, Config
from job.console import duration
from job.data import manifest
from job.data.location import Location, locate
from job.data.sources import is_remote
from job.errors import UserError
from job.machine.devices import Devices, cores
from job.metrics import Metrics
from job.shutdown import Stop
from job.storage import lease, local, lock
from job.storage.opening import canonical, is_bucket

CONFIG, METRICS, SUMMARY, LOG, MODEL = "config.toml", "metrics.jsonl", "summary.json", "log.txt", "model.keras"
DATA, CHECKPOINTS = "data", "checkpoints"  # folders
STATUSES = ("running", "interrupted", "stopped", "failed", "done")
PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "opencv-python-headless", "protobuf")


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The record of an epoch: how training went in it, and the metrics of validation at its end.

    `step` is the last step, `seconds` those of the run so far, `train_loss` as trained: augmented, smoothed, weighted.
    """

    epoch: int
    step: int
    train_loss: float
    train_accuracy: float
    learning_rate: float
    images_per_second: float
    seconds: float
    validation: Metrics

    def monitored(self, monitor: str) -> float | None:
        """The metric of validation that `--monitor` names; None where it needs both classes, or is not a number."""
        value = getattr(self.validation, monitor)
        return None if value is None or not math.isfinite(value) else float(value)

    def fields(self) -> dict[str, Any]:
        """As `metrics.jsonl` and `history.csv` have it: flat, the metrics of validation with `val_` before their names."""
        own = {name: value for name, value in asdict(self).items() if name not in ("validation", "step")}
        return own | _validated(self.validation)

    @classmethod
    def read(cls, record: dict[str, Any]) -> Epoch:
        own = {field.name: record[field.name] for field in dataclass_fields(cls) if field.name != "validation"}
        return cls(**own, validation=_validation(record))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run stands, as in `summary.json`. The metrics are those of the best epoch, on validation.

    `status` is `running`, `interrupted`, `stopped`, `failed` or `done` (`planned` and `shown` are never written).
    `updated` are seconds since 1970; `process` is who wrote it: whether a `running` run still runs, `is_running` says.
    """

    status: str
    steps: int = 0
    epochs: int = 0
    seconds: float = 0.0
    images_per_second: float = 0.0
    best_step: int | None = None
    parameters: int = 0
    classes: tuple[str, str] = ("", "")
    model: str = ""
    precision: str = ""
    fingerprint: str = ""
    updated: float = 0.0
    process: str = ""
    validation: Metrics | None = None

    @property
    def accuracy(self) -> float:
        """Accuracy on validation; not a number before the first epoch's end."""
        return math.nan if self.validation is None else self.validation.accuracy

    def document(self) -> dict[str, Any]:
        """As `summary.json` has it: flat."""
        own = {name: value for name, value in asdict(self).items() if name != "validation"}
        return own | ({} if self.validation is None else _validated(self.validation))


def _validated(metrics: Metrics) -> dict[str, Any]:
    """Flat, as JSON has it: a metric that is no number is null, since NaN is no JSON."""
    return {f"val_{name}": None if value != value else value for name, value in asdict(metrics).items()}


def _validation(document: dict[str, Any]) -> Metrics:
    return Metrics(**{field.name: document[f"val_{field.name}"] for field in dataclass_fields(Metrics)})


def read_metrics(folder: Path, damaged: Callable[[int], None] = lambda lines: None) -> list[dict[str, Any]]:
    """The records so far, of steps and of epochs; a last line that a kill cut short is left out.

    Args:
        damaged: called with the number of other lines that are left out, where there are any.
    """
    try:
        *lines, last = (folder / METRICS).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    records = [_record(line) for line in lines]
    if None in records:
        damaged(records.count(None))
    return [record for record in (*records, _record(last)) if record is not None]


def _record(line: bytes) -> dict[str, Any] | None:
    """The record in a line of `metrics.jsonl`; None where it lacks what its readers rely on."""
    try:
        record: dict[str, Any] = json.loads(line)
        whole = _NEEDED[record["kind"]] <= record.keys() and all(_is_figure(*item) for item in record.items())
        return record if whole else None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _is_figure(name: str, value: Any) -> bool:
    if name in ("step", "epoch"):
        return type(value) is int and 0 <= value < 2**63
    if name in ("kind", "val_confusion"):
        return isinstance(value, (str, list))
    if value is None:
        return name.startswith("val_")
    return name.isidentifier() and type(value) in (int, float) and isinstance(float(value), float)  # a huge one overflows


_EPOCH = [field.name for field in dataclass_fields(Epoch) if field.name != "validation"]
_NEEDED = {"step": {"step", "time"}, "epoch": {"time", *_EPOCH, *(f"val_{field.name}" for field in dataclass_fields(Metrics))}}


def read_epochs(folder: Path) -> list[Epoch]:
    """The epochs so far."""
    return [Epoch.read(record) for record in read_metrics(folder) if record["kind"] == "epoch"]


def write_config(folder: Path, config: Config) -> None:
    local.write_atomic(folder / CONFIG, to_toml(config))


def require_run(folder: Path) -> None:
    """Refuse a folder that is no run's.

    Raises:
        UserError: it has no configuration.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(str(folder), "is not a run folder", "name the --out of a twofold train")


def read_config(folder: Path) -> Config:
    """The configuration that a run was started with.

    Raises:
        UserError: the folder is not a run's, or its configuration is damaged.
    """
    require_run(folder)
    config: Config = build(Config, read_toml(folder / CONFIG, Config))
    return config


def write_summary(folder: Path, summary: Summary) -> None:
    local.write_json(folder / SUMMARY, summary.document())


def read_summary(folder: Path) -> Summary | None:
    """The summary; None where there is none yet, or it is damaged: what counts is in the checkpoints."""
    try:
        document = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        own = {field.name: document[field.name] for field in dataclass_fields(Summary) if field.name in document}
        validation = _validation(document) if "val_log_loss" in document else None
        summary = Summary(**{**own, "classes": tuple(document["classes"]), "validation": validation})
        return summary if _is_whole(summary) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_whole(summary: Summary) -> bool:
    """Whether values have the types that they should have."""
    counts = (summary.steps, summary.epochs, 0 if summary.best_step is None else summary.best_step)
    texts = (summary.fingerprint, summary.process, *summary.classes)
    return (
        summary.status in STATUSES and len(summary.classes) == 2 and all(isinstance(text, str) for text in texts)
        and all(type(count) is int and count >= 0 for count in counts) and math.isfinite(summary.updated)
        and (summary.best_step is None if summary.validation is None else math.isfinite(summary.validation.accuracy))
    )  # fmt: skip


def is_running(folder: Path) -> bool:
    """Whether a process holds the run folder now. A run that says `running` and is not was killed: rerun it to resume."""
    return lock.holder(folder) is not None


def standing(folder: Path, summary: Summary) -> str:
    """How a run stands, in words: whether it is done, runs now, or was cut off without a chance to say so."""
    if summary.status != "running":
        return summary.status
    saved = f"last saved {duration(time.time() - summary.updated)} ago"
    if is_running(folder):
        return f"running, {saved}"
    if (folder / lease.NAME).exists():  # fetched from a bucket: its process may be anywhere
        with suppress(ValueError):
            if not lease.Document.read((folder / lease.NAME).read_bytes()).released:
                return f"running or cut off: {saved} by {summary.process}"
    return f"cut off: process {summary.process} is gone; rerun its twofold train to resume"


def find_data(
    folder: Path, config: Config | Resolved, fingerprint: str = "", cache: Cache | None = None, stop: Stop | None = None
) -> Location:
    """Where a run's shards are, also after the run, its data or the folder around both was moved.

    Args:
        folder: the run's, where it is now.
        config: its configuration; `source.data` and `output.out` say where they were.
        fingerprint: the data set's; empty where it is not known yet.
        cache: for what a bucket holds; by default the run's.

    Returns:
        The first place that holds that data set, else what `--data` names.
    """
    stop = Stop() if stop is None else stop
    named, was = Path(config.source.data), Path(config.output.out)
    places: list[Location] = [folder / DATA]
    default = places[0]
    if is_bucket(config.source.data):
        places.append(locate(config.source.data, cache or config.feed, stop))
        default = places[-1]
    elif config.source.data and not is_remote(config.source.data):
        places = [named.absolute(), folder / DATA, folder.absolute().parent / named.name]
        if named.is_absolute() and was.is_absolute():
            places.insert(2, Path(os.path.normpath(folder.absolute() / os.path.relpath(named, was))))
        default = places[0]
    if is_bucket(config.output.out):
        places.append(locate(f"{canonical(config.output.out)}/{DATA}", cache or config.feed, stop))
    other: Location | None = None
    for place in dict.fromkeys(places):  # one by one: a bucket that is not needed may be out of reach
        if manifest.exists(place):
            if not fingerprint or manifest.read(place).fingerprint == fingerprint:
                return place
            other = other or place
    return other or default


def write_environment(folder: Path, config: Resolved, devices: Devices) -> None:
    """Write `environment.json`: versions, device, precision and its reason, git revision."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    local.write_json(
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
