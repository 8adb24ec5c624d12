"""A small training step and its batches, for the tests that take steps without a run around them."""

from __future__ import annotations

from typing import Any

import numpy as np

from job.config.options import build
from job.config.resolve import resolve
from job.config.schema import Config
from job.machine import devices, strategy
from job.models.network import build_network
from job.training import augment
from job.training.step import Step
from tests.conftest import THREADS

SIZE, BATCH = 24, 8
SETTINGS: dict[str, Any] = dict(
    size=SIZE, train_sizes=(SIZE,), filters=(8,), batch=BATCH, augment=1.0, dropout=0.2, threads=THREADS, precision="float32"
)
PLAIN: dict[str, Any] = dict(augment=0.0, dropout=0.0, smoothing=0.0, weight_decay=0.0, ema=0.0)  # nothing but the optimizer


def make_step(kind: type[Step] = Step, **changes: Any) -> Step:
    """A step of the residual network on one device."""
    asked = build(Config, {**SETTINGS, **changes})
    chosen = devices.choose(asked)
    config = resolve(asked, 1000, chosen.hardware)
    devices.set_up(config, chosen)
    distribution = strategy.build(chosen.gpus, 1)
    with distribution.scope():
        network = build_network(config.model, 1, config.machine.precision)
    return kind(config, network, distribution, (1.0, 1.0))


def make_batch(step: Step, seed: int = 0, batch: int = BATCH) -> tuple[Any, Any, Any]:
    """Images of 32 px, alternating labels, and noise."""
    rng = np.random.default_rng(seed)
    noise = rng.random((batch, augment.COLUMNS + step.network.noise_columns), dtype=np.float32)
    return rng.integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8), (np.arange(batch) % 2).astype(np.float32), noise
