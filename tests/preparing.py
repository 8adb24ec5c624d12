"""`prepare` at the size of the tests, and a data set by its bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from job.config.options import build
from job.config.schema import PrepareConfig
from job.data import manifest
from job.prepare import prepare
from job.shutdown import Stop
from job.storage import local


def prepared(source: Path | list[str], out: Path, stop: Stop | None = None, **values: Any) -> manifest.Manifest:
    sources = source if isinstance(source, list) else [str(source)]
    return prepare(sources, build(PrepareConfig, {"side": 40, "workers": 2, "val": 0.25, "test": 0.15, **values, "out": str(out)}), stop)


def bytes_of(out: Path) -> dict[str, str]:
    """Every file of a data set by its hash; the lock names the process, so it is left out."""
    return {p.relative_to(out).as_posix(): local.sha256_of(p) for p in sorted(out.rglob("*")) if p.is_file() and p.name != ".lock"}
