"""The parts of a step against Keras's own, or against a reference written out in NumPy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from job.models.layers import EPSILON, MOMENTUM, FusedBatchNormalization, NoiseDropout
from job.models.network import build_network, variables_of
from job.models.residual import whiten
from job.runs import checkpoints
from job.runs.checkpoints import Checkpoint, inference_weights
from job.runs.state import State
from job.storage import local
from job.training import step as steps
from job.training.optimizers import rules
from tests.test_step import _batch, _step


def test_averages_are_the_exponential_ones_with_a_warm_start() -> None:
    step = _step(ema=0.6)
    averages = {n: a for n, a in step.arrays().items() if n.startswith("average/")}
    assert averages
    for number in range(8):
        step.run(*_batch(step, number), 0.05, number, 24)
        arrays, count = step.arrays(), number + 1
        decay = min(0.6, (1 + count) / (10 + count))
        for name, before in averages.items():
            expected = decay * before + (1 - decay) * arrays[name.replace("average/", "weights/")]
            np.testing.assert_allclose(arrays[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
            averages[name] = arrays[name]


def test_batch_normalization_is_kerass_with_the_unbiased_variance() -> None:
    """Outputs and gradients as Keras has them; the moving statistics as the formula of the layer says."""
    images = np.random.default_rng(0).normal(3, 2, (4, 5, 6, 3)).astype(np.float32)
    ours, theirs = (kind(momentum=MOMENTUM, epsilon=EPSILON) for kind in (FusedBatchNormalization, keras.layers.BatchNormalization))
    upstream = np.random.default_rng(1).normal(size=images.shape).astype(np.float32)
    results = []
    for layer in (ours, theirs):
        layer.build(images.shape)
        layer.gamma.assign([0.5, 1.0, 2.0])
        layer.beta.assign([1.0, -1.0, 0.0])
        x = tf.constant(images)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(y * upstream)
        results.append([y, *tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)
    mean, variance = images.mean(axis=(0, 1, 2)), images.var(axis=(0, 1, 2), ddof=1)
    np.testing.assert_allclose(ours.moving_mean, (1 - MOMENTUM) * mean, rtol=1e-4)
    np.testing.assert_allclose(ours.moving_variance, MOMENTUM + (1 - MOMENTUM) * variance, rtol=1e-4)
    np.testing.assert_allclose(ours(images, training=False), theirs(images, training=False), rtol=0.05, atol=0.05)


def test_dropout_drops_by_the_noise_and_rescales_the_rest() -> None:
    noise = np.random.default_rng(0).random((64, 40)).astype(np.float32)
    kept = NoiseDropout(0.25, 8)(np.ones((64, 32), np.float32), noise)
    np.testing.assert_allclose(kept, (noise[:, 8:] >= 0.25) / 0.75, rtol=1e-6)
    assert float(np.mean(kept)) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_kerass_binary_cross_entropy(smoothing: float) -> None:
    step = _step(augment=0.0, smoothing=smoothing, dropout=0.0)
    targets, logits = np.array([0, 1, 1, 0], np.float32), np.array([-2.0, 3.0, -0.5, 0.1], np.float32)
    theirs = [
        float(keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing)(targets[k : k + 1], logits[k : k + 1]))
        for k in range(4)
    ]
    np.testing.assert_allclose(step._losses(targets, logits), theirs, rtol=1e-5)


def test_muon_is_its_formula_over_several_steps() -> None:
    """Nesterov momentum over the raw gradients, Newton-Schulz in bfloat16, the norm kept."""
    rng = np.random.default_rng(0)
    value, gradients = rng.normal(size=(6, 4)).astype(np.float32), [rng.normal(size=(6, 4)).astype(np.float32) for _ in range(4)]
    step = _step(optimizer="muon", momentum=0.8)
    (rule,) = rules(step.config.optimizer, ["a/kernel"], [2])
    ours, slots = tf.constant(value), [tf.zeros(value.shape)]
    velocity = np.zeros_like(value)
    for number, gradient in enumerate(gradients, 1):
        ours, slots = rule.apply(tf.constant(gradient), ours, slots, 0.1, float(number))
        velocity = 0.8 * velocity + gradient
        moved = value - 0.1 * _newton_schulz(gradient + 0.8 * velocity)
        value = moved * 2.0 / np.linalg.norm(moved)  # the root of 4, its smaller side
        np.testing.assert_allclose(ours, value, atol=0.01)  # bfloat16 has three digits
        np.testing.assert_allclose(slots[0], velocity, rtol=1e-5)


def _newton_schulz(matrix: Any) -> Any:
    x = matrix / np.linalg.norm(matrix)
    for _ in range(4):
        gram = x.T @ x
        x = 3.4445 * x + x @ (-4.775 * gram + 2.0315 * gram @ gram)
    return x


def test_the_loss_scale_of_float16_doubles_after_enough_finite_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "GROWTH_STEPS", 3)
    step = _step(precision="float16")
    scales = []
    for number in range(7):
        step.run(*_batch(step, number), 0.001, number, 24)
        scales.append(float(step.state["loss/scale"].numpy()) / steps.SCALE)
    assert scales == [1, 1, 2, 2, 2, 4, 4]


def test_a_run_whitens_its_stem_by_its_own_images(run: Path) -> None:
    """The frozen stem is neither what the network began with nor what training moved: patches through it are white."""
    stem = checkpoints.load(run / "checkpoints", checkpoints.steps(run / "checkpoints")[0]).arrays["weights/stem/kernel"]
    from job.data import manifest, pixels
    from job.data.shards import Reader
    from job.feeds import order
    from job.runs.records import read_config

    config = read_config(run)
    train = manifest.read(Path(config.source.data)).splits["train"]
    with Reader(Path(config.source.data), train.shards) as reader:
        numbers = order.permutation(config.schedule.seed, 0, train.records)
        images = np.stack([pixels.square(reader[int(n)].image, 64) for n in numbers])
    np.testing.assert_allclose(stem, whiten(images), rtol=1e-5, atol=1e-6)
    from job.config.resolve import resolve

    fresh = variables_of(build_network(resolve(config).model, config.schedule.seed))["stem/kernel"]
    assert np.abs(fresh.numpy() - stem).max() > 0.1


def test_a_checkpoint_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files are synced and closed before the folder gets its name, and the folder above after that."""
    done: list[str] = []
    sync, rename = os.fsync, local.rename

    def synced(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def renamed(old: Path, new: Path) -> None:
        done.append(f"named {new.name}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(local, "rename", renamed)
    before = len(os.listdir("/proc/self/fd"))
    checkpoints.save(tmp_path / "checkpoints", Checkpoint({"weights/a": np.zeros(3)}, State(fingerprint="f", step=4)))
    assert len(os.listdir("/proc/self/fd")) == before
    last = done.index("named step-00000004")
    assert "state.npz" in done[:last]
    assert any("checkpoint.json" in name for name in done[:last])
    assert "checkpoints" in done[last:]


def test_inference_takes_the_averages_and_takes_back_what_class_weights_add() -> None:
    arrays = {
        "weights/head/bias": np.array([1.0]),
        "average/head/bias": np.array([2.0]),
        "weights/a": np.array([3.0]),
        "slots/a/v": np.zeros(1),
    }
    chosen = inference_weights(arrays, 0.5)
    assert {name: float(value[0]) for name, value in chosen.items()} == {"head/bias": 1.5, "a": 3.0}
    assert float(inference_weights(arrays, 0.0)["head/bias"][0]) == 2.0


def test_a_float16_step_moves_the_weights_as_a_float32_one_does() -> None:
    """With SGD, which is not blind to the scale of gradients as Adam and Muon are."""
    moved = []
    for precision in ("float32", "float16"):
        step = _step(optimizer="sgd", precision=precision, weight_decay=0.0, dropout=0.0)
        before = step.arrays()["weights/head/kernel"]
        step.run(*_batch(step), 0.1, 0, 24)
        moved.append(step.arrays()["weights/head/kernel"] - before)
    assert np.abs(moved[0]).max() > 1e-4
    np.testing.assert_allclose(moved[1], moved[0], rtol=0.05, atol=0.02 * np.abs(moved[0]).max())
