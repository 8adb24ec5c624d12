"""Golden traces: thirty steps of each network, number by number, on images drawn by arithmetic alone.

A change that should not change numbers leaves them as they are. After one that should, renew the traces, and say why in
the commit: `python -m tests.test_golden`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from job.config.options import build
from job.config.schema import Config
from job.data import manifest, shards
from job.feeds import order
from job.feeds.memory import MemoryFeed
from job.train import train
from job.training.step import Step
from tests.conftest import THREADS

TRACES = Path(__file__).with_name("golden")
STEPS = 30
COMMON: dict[str, Any] = dict(
    batch=8, epochs=4, stop_after=3, threads=THREADS, workers=1, precision="float32", augment=0.8, dropout=0.3, log_every=1,
)  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "residual": dict(COMMON, size=32, train_sizes=(16, 24, 32), grow_at=(0.25, 0.5), filters=(8, 16), warmup=0.1),
    "classic": dict(
        COMMON, model="classic", size=24, filters=(4, 8), dense=(8,), ema=0.9, smoothing=0.05, decay="cosine", class_weights="auto",
    ),
}  # fmt: skip
# How far another CPU, or another number of threads, may be off after thirty steps
RELATIVE = dict(loss=1e-2, weights=1e-3, averages=1e-3, moving=2e-2, learning_rate=1e-7, resolution=0.0)


def _data(folder: Path) -> Path:
    """Shards of 80 records to train on, 48 of them negative, and 16 to validate; their images are `_images`'."""
    splits = {}
    for name, count in (("train", 80), ("validation", 16)):
        labels = [int(n % 5 >= 3) for n in range(count)]
        records = (shards.Record(b"", label, f"{name}/{n}", f"{n:064x}") for n, label in enumerate(labels))
        written = shards.write(folder, f"{name}-00000-of-00001", records)
        splits[name] = manifest.Split(count, (count - sum(labels), sum(labels)), (written,))
    settings = dict(sources=[], side=40, val=0.1, test=0.0, positive="", max_bad=0.01)
    manifest.write(folder, manifest.Manifest(("crosses", "rings"), splits, settings))
    return folder


def _images(self: MemoryFeed, numbers: Any) -> Any:
    """Instead of a feed's own: coarse noise, brighter on the left where the label is 1."""
    coarse = [order.noise(7, int(n), 8, 24).reshape(8, 8, 3) for n in numbers]
    labels = np.array([float(n % 5 >= 3) for n in numbers], np.float32)
    across = np.arange(self.size) * 8 // self.size
    images = np.stack([noise[across][:, across] for noise in coarse]) * 200
    images[:, :, : self.size // 2] += 50 * labels[:, None, None, None]
    return np.rint(images).astype(np.uint8), labels


def _norm(arrays: dict[str, Any], kind: str) -> float:
    """The norm of all variables of a kind: `weights`, `averages`, or the `moving` statistics."""
    moving = [name for name in arrays if "moving" in name]
    prefix = "average/" if kind == "averages" else "weights/"
    chosen = [n for n in arrays if n.startswith(prefix) and (n in moving) == (kind == "moving")]
    return float(np.sqrt(sum(np.sum(np.square(arrays[name], dtype=np.float64)) for name in chosen)))


def trace(case: str, folder: Path) -> dict[str, list[float]]:
    """Train, and write down each step."""
    found: dict[str, list[float]] = {name: [] for name in RELATIVE}
    plain = Step.run

    def run(self: Step, images: Any, labels: Any, noise: Any, lr: float, step: int, size: int) -> Any:
        outcome = plain(self, images, labels, noise, lr, step, size)
        arrays = self.arrays()
        for name in ("weights", "averages", "moving"):
            found[name].append(_norm(arrays, name))
        for name, value in (("loss", float(outcome.loss)), ("learning_rate", lr), ("resolution", size)):
            found[name].append(value)
        return outcome

    config = build(Config, dict(CASES[case], data=str(_data(folder)), out=str(folder / "run")))
    with mock.patch.object(Step, "run", run), mock.patch.object(MemoryFeed, "gather", _images):
        assert train(config).status == "stopped"
    return found


@pytest.mark.parametrize("case", CASES)
def test_thirty_steps_are_those_written_down(case: str, tmp_path: Path) -> None:
    golden = json.loads((TRACES / f"{case}.json").read_text())
    found = trace(case, tmp_path)
    assert len(found["loss"]) == STEPS
    for name, tolerance in RELATIVE.items():
        np.testing.assert_allclose(found[name], golden[name], rtol=tolerance, err_msg=f"{name} of {case}")


if __name__ == "__main__":
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            made = trace(case, Path(folder))
        rows = [f' "{name}": {json.dumps([float(f"{value:.9g}") for value in values])}' for name, values in made.items()]
        (TRACES / f"{case}.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")
        print(f"wrote {TRACES / f'{case}.json'}")
