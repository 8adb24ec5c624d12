"""`prepare` at the size of the tests, a data set by its bytes, and a stop that comes by itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from job.config.options import build
from job.config.schema import PrepareConfig
from job.data import manifest
from job.prepare import prepare
from job.shutdown import Stop
from job.storage import local


class Soon(Stop):
    """Set after some seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.until = time.monotonic() + seconds

    def __bool__(self) -> bool:
        return super().__bool__() or time.monotonic() > self.until


def prepared(source: Path | list[str], out: Path, stop: Stop | None = None, **values: Any) -> manifest.Manifest:
    sources = source if isinstance(source, list) else [str(source)]
    return prepare(sources, build(PrepareConfig, {"side": 40, "workers": 2, "val": 0.25, "test": 0.15, **values, "out": str(out)}), stop)


def bytes_of(out: Path) -> dict[str, str]:
    """Every file of a data set by its hash; the lock names the process, so it is left out."""
    return {p.relative_to(out).as_posix(): local.sha256_of(p) for p in sorted(out.rglob("*")) if p.is_file() and p.name != ".lock"}
