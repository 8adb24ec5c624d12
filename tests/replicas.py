"""Run as a program: a few training steps and one evaluation, on one device or on two logical ones, to npz files.

TensorFlow allows one MirroredStrategy a process, and determinism once on stays on, so what two replicas do and what XLA
does are processes of their own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from job.config.options import build
from job.config.resolve import resolve
from job.config.schema import Config
from job.inference.forward import Inference
from job.machine import devices, strategy
from job.models.network import build_network
from job.training import augment
from job.training.step import Step
from tests.conftest import THREADS

BATCH, SIZE, STEPS = 16, 24, 3
SETTINGS: dict[str, Any] = dict(
    size=SIZE, train_sizes=(SIZE,), filters=(8, 16), batch=BATCH, augment=1.0, dropout=0.3, threads=THREADS, precision="float32"
)


class InTurn(Step):
    """One device that takes the halves of a batch one after the other: what two replicas must equal."""

    def _gradient_of(self, images: Any, labels: Any, noise: Any, trainable: Any, moving: Any, scale: Any, size: int) -> Any:
        half = BATCH // 2
        parts = [
            super(InTurn, self)._gradient_of(images[s], labels[s], noise[s], trainable, moving, scale, size)
            for s in (slice(0, half), slice(half, BATCH))
        ]
        (loss, right, gradients, moved), (loss2, right2, gradients2, moved2) = parts
        pairs = zip(gradients, gradients2, strict=True), zip(moved, moved2, strict=True)
        return loss + loss2, right + right2, [a + b for a, b in pairs[0]], [(a + b) / 2 for a, b in pairs[1]]


class Silent(Step):
    """Replicas that exchange nothing: the fault that the comparison must find."""

    def _exchange(self, loss: Any, right: Any, gradients: Any, moved: Any) -> Any:
        return loss, right, gradients, moved


def take_steps(kinds: dict[str, type[Step]], folder: Path, replicas: int = 1, **changes: Any) -> None:
    """Train each kind of step under one strategy; each writes its figures to `NAME.npz`."""
    asked = build(Config, dict(SETTINGS, replicas=replicas, optimizer="sgd", **changes))
    chosen = devices.choose(asked)
    config = resolve(asked, 1000, chosen.hardware)
    devices.set_up(config, chosen)
    distribution = strategy.build(chosen.gpus, replicas)
    for name, kind in kinds.items():
        with distribution.scope():
            network = build_network(config.model, 1, "float32")
            inference = Inference(build_network(config.model, 1), distribution, config.model.size)
        np.savez(folder / f"{name}.npz", **_figures(kind(config, network, distribution, (1.0, 1.0)), inference))


def _figures(step: Step, inference: Inference) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    losses, rights = [], []
    for number in range(STEPS):
        images = rng.integers(0, 256, (BATCH, 32, 32, 3), dtype=np.uint8)
        labels = rng.integers(0, 2, BATCH).astype(np.float32)
        noise = rng.random((BATCH, augment.COLUMNS + step.network.noise_columns), dtype=np.float32)
        outcome = step.run(images, labels, noise, 0.05, number, SIZE)
        losses.append(float(outcome.loss))
        rights.append(float(outcome.right))
    apart = 0.0
    for variable in step.state.values():
        copies = [v.numpy() for v in step.distribution.experimental_local_results(variable)]
        apart = max([apart, *(float(np.abs(copies[0] - c).max()) for c in copies[1:])])
    arrays = step.arrays()
    inference.load({name.removeprefix("weights/"): a for name, a in arrays.items() if name.startswith("weights/")})
    inference.batch = 8
    many = rng.integers(0, 256, (13, SIZE, SIZE, 3), dtype=np.uint8)
    logits = np.concatenate([inference.logits(many[:8]), inference.logits(many[8:])])
    return dict(_losses=losses, _rights=rights, _logits=logits, _apart=apart, **arrays)


if __name__ == "__main__":
    if sys.argv[1] == "replicas":
        take_steps({"mirrored": Step, "silent": Silent}, Path(sys.argv[2]), 2)
    else:
        take_steps({"xla": Step}, Path(sys.argv[2]), xla=True)
