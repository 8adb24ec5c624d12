"""What training computes, against Keras's own or a reference written out in NumPy."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from job.config.resolve import resolve
from job.config.schema import Model
from job.data import manifest, pixels
from job.machine import devices
from job.models.layers import FusedBatchNormalization, NoiseDropout
from job.models.network import build_network, variables_of
from job.models.residual import PATCH_SIDE, REGULAR, STEM
from job.runs import checkpoints
from job.runs.checkpoints import Checkpoint, inference_weights
from job.runs.records import read_metrics
from job.runs.state import State
from job.shutdown import Stop
from job.training import augment
from job.training import step as step_module
from job.training.build import build, restore
from tests.conftest import small
from tests.stepping import PLAIN, SIZE, make_batch, make_step


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# BatchNorm and dropout


def _trained(layer: Any, x: Any, weights: Any) -> tuple[Any, ...]:
    """A layer's output in training, and the gradients of a weighted sum of it by input, gamma and beta."""
    inputs = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = layer(inputs, training=True)
        loss = tf.reduce_sum(y * weights)
    return (y, *tape.gradient(loss, [inputs, layer.gamma.value, layer.beta.value]))


def test_batch_normalization_is_kerass_with_the_unbiased_variance_kept(rng: np.random.Generator) -> None:
    x = rng.normal(3, 2, (6, 4, 4, 5)).astype(np.float32)
    weights = rng.normal(size=x.shape).astype(np.float32)
    settings = dict(momentum=0.9, epsilon=1e-3)
    ours, stock = FusedBatchNormalization(**settings), keras.layers.BatchNormalization(**settings)
    start = [rng.uniform(0.5, 2, 5).astype(np.float32) for _ in range(4)]
    for layer in (ours, stock):
        layer.build(x.shape)
        layer.set_weights(start)
    for found, expected in zip(_trained(ours, x, weights), _trained(stock, x, weights), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    _, _, mean, variance = start
    np.testing.assert_allclose(ours.moving_mean, 0.9 * mean + 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(ours.moving_variance, 0.9 * variance + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-4)
    stock.set_weights(ours.get_weights())
    np.testing.assert_allclose(ours(x, training=False), stock(x, training=False), rtol=1e-6)


def test_the_networks_norms_have_the_documented_momentum_and_epsilon() -> None:
    network = build_network(Model(model="residual", size=32, filters=(8,)), 1, "float32")
    norms = [layer for layer in network.model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 3
    assert {(layer.momentum, layer.epsilon) for layer in norms} == {(0.9, 1e-3)}
    last = variables_of(network)["stage1_block1_norm2/gamma"]
    np.testing.assert_array_equal(last, 0)  # a block begins as the identity


def test_dropout_keeps_where_the_noise_says_and_rescales(rng: np.random.Generator) -> None:
    x, noise = rng.normal(size=(7, 5)).astype(np.float32), rng.random((7, 9), dtype=np.float32)
    found = NoiseDropout(0.3, 2)(x, noise)
    np.testing.assert_allclose(found, np.where(noise[:, 2:7] >= 0.3, x / 0.7, 0), rtol=1e-6)
    many = rng.random((20_000, 5), dtype=np.float32)
    kept = NoiseDropout(0.3, 0)(np.ones_like(many), many)
    assert float(np.mean(kept)) == pytest.approx(1, abs=0.01)  # in the mean nothing is lost


def test_each_dropout_has_columns_of_its_own() -> None:
    network = build_network(Model(model="classic", size=32, filters=(4,), dense=(16, 8), dropout=0.5), 1, "float32")
    drops = [layer for layer in network.model.layers if isinstance(layer, NoiseDropout)]
    assert [(layer.first, layer.rate) for layer in drops] == [(0, 0.5), (16, 0.5)]
    assert network.noise_columns == 24


# The loss, and the step as a whole


def test_the_loss_is_kerass_binary_cross_entropy_with_label_smoothing(rng: np.random.Generator) -> None:
    step = make_step(**{**PLAIN, "smoothing": 0.2})
    targets, logits = rng.random(50, dtype=np.float32), rng.normal(0, 4, 50).astype(np.float32)
    theirs = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.2, reduction=None)
    np.testing.assert_allclose(step._losses(targets, logits), theirs(targets[:, None], logits[:, None]), rtol=1e-5)


def test_steps_are_those_of_a_stock_network_under_kerass_optimizer() -> None:
    """Loss, right answers, gradient's norm and all weights after three steps of SGD with momentum and label smoothing."""
    step = make_step(**{**PLAIN, "smoothing": 0.1}, optimizer="sgd", momentum=0.8)
    network = build_network(step.config.model, 1)
    stock = variables_of(network)
    for path, variable in variables_of(step.network).items():
        stock[path].assign(variable)
    trained = [v for v in network.model.trainable_variables if v.path not in network.frozen]
    optimizer = keras.optimizers.SGD(0.05, 0.8, nesterov=True)
    optimizer.build(trained)
    loss_of = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1)
    for number in range(3):
        images, labels, noise = make_batch(step, number)
        outcome = step.run(images, labels, noise, 0.05, number, SIZE)
        inputs, _ = augment.augment(images, labels, noise, step.config.augment, SIZE)
        with tf.GradientTape() as tape:
            logits = network.model(inputs, training=True)
            loss = loss_of(labels[:, None], logits)
        gradients = tape.gradient(loss, [v.value for v in trained])
        optimizer.apply(gradients, trained)
        assert float(outcome.loss) == pytest.approx(float(loss), rel=1e-4)
        assert float(outcome.right) == float(np.sum((np.asarray(logits)[:, 0] > 0) == (labels == 1)))
        assert float(outcome.norm) == pytest.approx(float(tf.linalg.global_norm(gradients)), rel=1e-3)
    arrays = step.arrays()
    for path, variable in stock.items():
        if "moving_variance" not in path:  # unbiased in ours
            np.testing.assert_allclose(arrays[f"weights/{path}"], variable, rtol=2e-3, atol=1e-4, err_msg=path)


def test_averages_follow_the_weights_by_their_decay() -> None:
    """Weights and moving statistics; the decay is smaller in the first steps, so that the beginning is forgotten."""
    step = make_step(ema=0.3)
    before = step.arrays()
    names = [name for name in before if name.startswith("average/")]
    expected = {name: before[name.replace("average/", "weights/")] for name in names}
    for number, decay in enumerate((2 / 11, 3 / 12, 0.3, 0.3)):
        step.run(*make_batch(step, number), 0.05, number, SIZE)
        arrays = step.arrays()
        for name in names:
            expected[name] = decay * expected[name] + (1 - decay) * arrays[name.replace("average/", "weights/")]
            np.testing.assert_allclose(arrays[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert {"average/head/kernel", "average/stage1_norm/moving_mean"} <= set(names)


def test_inference_takes_the_averages_and_takes_back_what_class_weights_add() -> None:
    arrays = {
        "weights/head/bias": np.array([1.0]), "average/head/bias": np.array([2.0]), "weights/a": np.array([3.0]), "slots/a/v": np.zeros(1)
    }  # fmt: skip
    chosen = inference_weights(arrays, 0.5)
    assert {name: float(value[0]) for name, value in chosen.items()} == {"head/bias": 1.5, "a": 3.0}
    assert float(inference_weights(arrays, 0.0)["head/bias"][0]) == 2.0


def test_float16s_scale_doubles_after_so_many_finite_steps_and_halves_on_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (step_module.SCALE, step_module.GROWTH_STEPS) == (2.0**15, 2000)
    monkeypatch.setattr(step_module, "GROWTH_STEPS", 3)
    step = make_step(**PLAIN, precision="float16", optimizer="sgd")
    batch = make_batch(step)

    def after(start: float | None = None) -> tuple[float, float]:
        if start is not None:
            step.state["loss/scale"].assign(start)
        step.run(*batch, 1e-4, 0, SIZE)
        return float(step.state["loss/scale"]), float(step.state["loss/good_steps"])

    assert [after(4.0)] + [after() for _ in range(6)] == [(4, 1), (4, 2), (8, 0), (8, 1), (8, 2), (16, 0), (16, 1)]
    before = step.arrays()
    assert after(2.0**40) == (2.0**39, 0)  # an overflow, and the count begins anew
    for name, array in step.arrays().items():
        if name not in ("loss/scale", "loss/good_steps"):
            np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert [after(4.0), after(), after()] == [(4, 1), (4, 2), (8, 0)]
    assert after(float("inf"))[1] == 0
    step.state["weights/head/bias"].assign([np.inf])
    assert after(1.5) == (1, 0)  # never under 1


# Whitening


def test_a_run_begins_with_a_stem_that_whitens_its_own_images(shards: Path, tmp_path: Path) -> None:
    """Patches of the training images come out of the stem with no correlation and about unit variance."""
    asked = small(shards, tmp_path)
    chosen = devices.choose(asked)
    config = resolve(asked, 1000, chosen.hardware)
    devices.set_up(config, chosen)
    with closing(build(config, chosen, tmp_path, shards, manifest.read(shards), Stop())) as run:
        state = restore(run, None)
        kernel = variables_of(run.network)["stem/kernel"].numpy()
        images = np.stack([pixels.square(run.training.reader[n].image, PATCH_SIDE) for n in range(run.images)])
    assert (state.step, state.fingerprint) == (0, manifest.read(shards).fingerprint)
    np.testing.assert_array_equal(kernel[..., STEM // 2 :], -kernel[..., : STEM // 2])
    out = tf.nn.conv2d(images.astype(np.float32) * (4 / 255) - 2, kernel, 2, "VALID").numpy().reshape(-1, STEM)[:, : STEM // 2]
    covariance = np.cov(out, rowvar=False)
    variances = np.diag(covariance)
    np.testing.assert_allclose(covariance, np.diag(variances), atol=0.02)
    original = REGULAR * variances / (1 - variances)  # of the directions, from what the regularisation leaves of each
    assert variances[:3].min() > 0.95
    assert (np.diff(original) < 1e-3).all()  # leading ones first
    assert variances.max() < 1.01


# What is kept of a run


def test_an_epochs_figures_are_the_means_of_its_steps(run: Path) -> None:
    """Each step is of one batch, and every step is logged."""
    records = read_metrics(run)
    for epoch in (record for record in records if record["kind"] == "epoch"):
        steps = [r for r in records if r["kind"] == "step" and r["epoch"] == epoch["epoch"]]
        assert len(steps) > 1
        assert epoch["train_loss"] == pytest.approx(np.mean([r["loss"] for r in steps]))
        assert epoch["train_accuracy"] == pytest.approx(np.mean([r["accuracy"] for r in steps]))
        assert epoch["learning_rate"] == pytest.approx(steps[-1]["learning_rate"])
        assert max(r["loss"] for r in steps) < 3


def test_a_checkpoint_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files are synced whole before the folder gets its name, the folder above after that, and all are closed."""
    seen: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        place = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if place.name == "state.npz":
            assert np.load(place)["weights/a"].shape == (1000,)  # all of it is written by now
        seen.append(("sync", place.name))
        fsync(descriptor)

    def renamed(old: Path, new: Path) -> None:
        seen.append(("rename", Path(new).name))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    before = len(os.listdir("/proc/self/fd"))
    checkpoints.save(tmp_path / "c", Checkpoint({"weights/a": np.arange(1000.0)}, State(fingerprint="f", step=7)))
    assert len(os.listdir("/proc/self/fd")) == before
    temporary = f".checkpoint.json.{os.getpid()}.tmp"
    assert seen == [
        ("sync", "state.npz"), ("sync", temporary), ("rename", "checkpoint.json"), ("sync", ".step-00000007-0001.tmp"),
        ("rename", "step-00000007-0001"), ("sync", "c"),
    ]  # fmt: skip
