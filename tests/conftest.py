"""What tests share: drawn images, a small data set, a small trained run. Nothing outside the tests' own folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

from job.config.options import build
from job.config.schema import Config, PrepareConfig
from job.prepare import prepare
from job.smoke import draw

pytest_plugins = ["tests.stores.fixtures"]

SHARED = Path(__file__).resolve().parents[2] / "shared"
THREADS = 2  # TensorFlow's, in every test: they can't be changed within a process

SMALL: dict[str, Any] = dict(
    size=32,
    train_sizes=(32,),
    filters=(8, 16),
    epochs=2,
    batch=16,
    augment=0.3,
    threads=THREADS,
    workers=2,
    log_every=1,
    precision="float32",
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("TWOFOLD_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty rings and sixty crosses of 40 px, in two folders."""
    folder = tmp_path_factory.mktemp("drawn")
    draw(folder, 60, 40)
    return folder


@pytest.fixture(scope="session")
def shards(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn images as a data set with all three splits."""
    out = tmp_path_factory.mktemp("shards") / "set"
    prepare([str(drawn)], build(PrepareConfig, dict(out=str(out), val=0.25, test=0.15, side=40)))
    return out


@pytest.fixture(scope="session")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the smallest kind."""
    from job.train import train

    out = tmp_path_factory.mktemp("run") / "run"
    summary = train(small(shards, out))
    assert summary.status == "done"
    return out


def small(data: Path, out: Path, **changes: Any) -> Config:
    """The configuration of a run that takes seconds."""
    config: Config = build(Config, {**SMALL, "data": str(data), "out": str(out), **changes})
    return config


@pytest.fixture(scope="session")
def originals() -> Path:
    """A thousand real photographs."""
    path = SHARED / "data" / "dogs-vs-cats-originals-1k.zip"
    if not path.exists():
        pytest.skip(f"the photographs are not there: {path.name}")
    return path
