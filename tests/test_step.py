"""The step: two replicas equal one device in turn; what is not finite changes nothing; XLA and float16."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.config.options import build
from job.config.resolve import resolve
from job.config.schema import Config
from job.machine import devices, strategy
from job.models.network import build_network
from job.runs.checkpoints import inference_weights
from job.training import augment
from job.training.step import SCALE, Step
from tests.conftest import THREADS


def _case(case: str, optimizer: str, folder: Path) -> Any:
    path = folder / f"{case}-{optimizer}.npz"
    script = str(Path(__file__).with_name("replicas.py"))
    subprocess.run([sys.executable, script, case, optimizer, str(path)], check=True, capture_output=True, timeout=300)
    return np.load(path)


@pytest.fixture(scope="module")
def turns(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return _case("turns", "sgd", tmp_path_factory.mktemp("turns"))


def test_two_replicas_equal_one_device_that_takes_the_halves_in_turn(turns: Any, tmp_path: Path) -> None:
    mirrored = _case("mirrored", "sgd", tmp_path)
    assert float(mirrored["_apart"]) == 0.0, "the replicas' own copies drifted apart"
    assert set(mirrored.files) == set(turns.files)
    for name in turns.files:
        np.testing.assert_allclose(mirrored[name], turns[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_comparison_finds_a_missing_all_reduce(turns: Any, tmp_path: Path) -> None:
    silent = _case("silent", "sgd", tmp_path)
    assert float(silent["_apart"]) > 1e-4
    assert any(not np.allclose(silent[name], turns[name], rtol=1e-5, atol=1e-6) for name in turns.files if "kernel" in name)
    assert any(not np.allclose(silent[name], turns[name], rtol=1e-5, atol=1e-6) for name in turns.files if "moving" in name)


def _step(**changes: Any) -> Step:
    values = dict(size=24, train_sizes=(24,), filters=(8,), batch=8, augment=1.0, dropout=0.2, threads=THREADS, precision="float32")
    asked = build(Config, {**values, **changes})
    chosen = devices.choose(asked)
    config = resolve(asked, 1000, chosen.hardware)
    devices.set_up(config, chosen)
    distribution = strategy.build(chosen.gpus, 1)
    with distribution.scope():
        network = build_network(config.model, 1, config.machine.precision)
    return Step(config, network, distribution, (1.0, 1.0))


def _batch(step: Step, seed: int = 0) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    noise = rng.random((8, augment.COLUMNS + step.network.noise_columns), dtype=np.float32)
    return rng.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8), (np.arange(8) % 2).astype(np.float32), noise


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
def test_a_batch_is_learned_by_heart(optimizer: str) -> None:
    step = _step(optimizer=optimizer, augment=0.0, dropout=0.0)
    images, labels, noise = _batch(step)
    images[labels == 1, :, :, 0] //= 4
    lr = 0.05 if optimizer in ("sgd", "muon") else 0.005
    losses = [float(step.run(images, labels, noise, lr, k, 24).loss) for k in range(20)]
    assert losses[-1] < 0.9 * losses[0]


def test_a_batch_that_is_not_finite_changes_nothing() -> None:
    step = _step()
    images, labels, noise = _batch(step)
    step.run(images, labels, noise, 0.05, 0, 24)
    before = step.arrays()
    outcome = step.run(images, np.full(8, np.nan, np.float32), noise, 0.05, 1, 24)
    assert not bool(outcome.finite)
    for name, array in step.arrays().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_float16_overflow_halves_the_scale_and_spares_the_statistics() -> None:
    step = _step(precision="float16")
    batch = _batch(step)
    assert bool(step.run(*batch, 0.05, 0, 24).finite)
    step.state["loss/scale"].assign(2.0**40)
    before = step.arrays()
    assert not bool(step.run(*batch, 0.05, 1, 24).finite)
    after = step.arrays()
    assert after["loss/scale"] == 2.0**39
    for name in before.keys() - {"loss/scale", "loss/good_steps"}:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    assert before["loss/good_steps"] == 1
    assert after["loss/good_steps"] == 0


def test_float16_and_bfloat16_follow_float32() -> None:
    losses = {}
    for precision in ("float32", "bfloat16", "float16"):
        step = _step(precision=precision)
        batch = _batch(step)
        losses[precision] = [float(step.run(*batch, 0.02, k, 24).loss) for k in range(4)]
        assert step.arrays()["loss/scale"] == (SCALE if precision == "float16" else 1.0)
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.03)
    np.testing.assert_allclose(losses["float16"], losses["float32"], rtol=0.03)


def test_xla_gives_the_same_steps(tmp_path: Path) -> None:
    plain, compiled = _case("plain", "sgd", tmp_path), _case("xla", "sgd", tmp_path)
    for name in plain.files:
        np.testing.assert_allclose(compiled[name], plain[name], rtol=2e-3, atol=2e-4, err_msg=name)


def test_clipping_bounds_what_a_step_changes() -> None:
    moved = {}
    for clip in (0.0, 1e-3):
        step = _step(optimizer="sgd", momentum=0.0, weight_decay=0.0, clip=clip)
        before = step.arrays()
        step.run(*_batch(step), 1.0, 0, 24)
        trained = [n for n in before if n.startswith("weights/") and "moving" not in n]
        moved[clip] = float(np.sqrt(sum(np.sum((step.arrays()[n] - before[n]) ** 2) for n in trained)))
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert moved[0.0] > 0.01


def test_class_weights_scale_the_loss_of_each_class() -> None:
    step = _step(augment=0.0, smoothing=0.0, dropout=0.0)
    images, _, noise = _batch(step)
    only_positive = np.ones(8, np.float32)
    plain = float(step.run(images, only_positive, noise, 0.0, 0, 24).loss)
    weighted = _step(augment=0.0, smoothing=0.0, dropout=0.0)
    weighted.class_weights = (0.5, 3.0)
    assert float(weighted.run(images, only_positive, noise, 0.0, 0, 24).loss) == pytest.approx(3 * plain, rel=1e-5)


def test_averages_are_what_is_judged_and_follow_the_weights() -> None:
    step = _step(ema=0.5)
    for number in range(3):
        step.run(*_batch(step, number), 0.05, number, 24)
    arrays, judged = step.arrays(), inference_weights(step.arrays(), 0.0)
    assert set(judged) == {v.path for v in step.network.model.variables}
    assert not np.array_equal(judged["head/kernel"], arrays["weights/head/kernel"])
    np.testing.assert_array_equal(judged["stem/kernel"], arrays["weights/stem/kernel"])


def test_class_weights_weigh_both_images_of_a_mixup_by_their_own_class() -> None:
    step = _step(augment=0.0, smoothing=0.1, dropout=0.0)
    step.class_weights = (0.5, 3.0)
    targets, logits = np.array([0.0, 1.0, 0.3], np.float32), np.array([0.7, -1.1, 0.4], np.float32)
    positive, negative = (np.log1p(np.exp(-logits)), np.log1p(np.exp(logits)))  # losses of an answer of 1 and of 0
    ones, zeros = 0.95 * positive + 0.05 * negative, 0.05 * positive + 0.95 * negative  # smoothed
    expected = 3.0 * targets * ones + 0.5 * (1 - targets) * zeros
    np.testing.assert_allclose(step._losses(targets, logits), expected, rtol=1e-5)


def test_a_float16_step_that_overflowed_does_not_count_for_adam() -> None:
    """After an overflow at the first step, the second changes the weights as a first one does."""
    moved = []
    for first in (float("inf"), None):
        step = _step(optimizer="adam", precision="float16", augment=0.0, dropout=0.0, smoothing=0.0)
        number = 0
        if first is not None:
            step.state["loss/scale"].assign(first)
            assert not bool(step.run(*_batch(step), 0.01, number, 24).finite)
            number += 1
        step.state["loss/scale"].assign(1024.0)
        before = step.arrays()
        assert bool(step.run(*_batch(step), 0.01, number, 24).finite)
        assert float(step.state["optimizer/updates"]) == 1.0
        moved.append(step.arrays()["weights/head/bias"] - before["weights/head/bias"])
    np.testing.assert_array_equal(moved[0], moved[1])
