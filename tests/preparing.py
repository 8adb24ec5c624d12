"""`prepare` at the size of the tests, a data set by its bytes, and a stop that comes by itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

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


def draw_image(path: Path, seed: int) -> bytes:
    """A little image, different for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8))
    return path.read_bytes()


def draw_pets(folder: Path, each: int, first: int = 0) -> Path:
    for k in range(first, first + each):
        draw_image(folder / "cats" / f"{k}.png", 2 * k)
        draw_image(folder / "dogs" / f"{k}.png", 2 * k + 1)
    return folder
