"""The files of a run folder, but for its checkpoints: their names, how they are written and read."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from job import __version__
from job.config.options import to_toml
from job.config.schema import Config
from job.data import manifest
from job.machine.devices import Devices, cores
from job.storage import local

CONFIG, METRICS, SUMMARY = "config.toml", "metrics.jsonl", "summary.json"
PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy", "opencv-python-headless", "protobuf")


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
    local.write_atomic(folder / CONFIG, to_toml(config))


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    local.write_json(folder / SUMMARY, summary)


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


def data_folder(config: Config) -> Path:
    """Where a run's shards are: what `--data` names, or what was prepared from it in the run folder."""
    named = Path(config.source.data)
    own = Path(config.output.out) / "data"
    return named.absolute() if manifest.exists(named) or not own.exists() else own.absolute()
