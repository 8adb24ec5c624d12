"""The networks: any size, width, depth; weights from (seed, path); the inference copy; whitening."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from job.config.schema import Model
from job.models.network import build_network, exported, variables_of
from job.models.residual import STEM, whiten

RESIDUAL = dict(model="residual", size=32, filters=(8, 16))
CLASSIC = dict(model="classic", size=32, filters=(4, 8), dense=(16, 8))


@pytest.mark.parametrize(
    "values", [RESIDUAL, CLASSIC, {**RESIDUAL, "depth": 2, "kernel": 5, "dropout": 0.2}, {**CLASSIC, "batchnorm": False, "depth": 2}]
)
def test_the_inference_copy_has_the_same_variables_and_answers(values: dict[str, Any]) -> None:
    options = Model(**values)
    to_train, to_infer = build_network(options, 3, "float32"), build_network(options, 3)
    trained, copied = variables_of(to_train), variables_of(to_infer)
    assert {p: tuple(v.shape) for p, v in trained.items()} == {p: tuple(v.shape) for p, v in copied.items()}
    for path, variable in trained.items():
        np.testing.assert_array_equal(variable.numpy(), copied[path].numpy(), err_msg=path)
    assert {type(layer).__module__.split(".")[0] for layer in to_infer.model.layers} == {"keras"}
    images = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)
    noise = np.full((3, max(1, to_train.noise_columns)), 0.99, np.float32)
    ours = to_train.model([images, noise], training=False)
    if not options.dropout:
        np.testing.assert_allclose(ours, to_infer.model(images, training=False), atol=1e-5)


def test_weights_follow_the_seed_and_the_path_alone() -> None:
    keras.layers.Dense(1)  # a process that built other things before
    one, same, other = (build_network(Model(**RESIDUAL), seed) for seed in (1, 1, 2))
    first = variables_of(one)
    for path, variable in variables_of(same).items():
        np.testing.assert_array_equal(variable.numpy(), first[path].numpy())
    assert not np.array_equal(variables_of(other)["stage1_conv/kernel"].numpy(), first["stage1_conv/kernel"].numpy())
    a, b = first["stage2_block1_conv1/kernel"].numpy(), first["stage2_block1_conv2/kernel"].numpy()
    assert not np.array_equal(a, b)


def test_residual_takes_images_of_any_size() -> None:
    network = build_network(Model(**RESIDUAL), 1)
    for side in (16, 40, 57):
        assert network.model(np.zeros((2, side, side, 3), np.float32)).shape == (2, 1)


def test_dropout_takes_its_columns_from_the_noise() -> None:
    network = build_network(Model(**CLASSIC, dropout=0.5), 1, "float32")
    assert network.noise_columns == 16 + 8
    images = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype(np.float32)

    def answer(noise: Any) -> float:
        trainable = [v.value for v in network.model.trainable_variables]
        moving = [v.value for v in network.model.non_trainable_variables]
        logit, _ = network.model.stateless_call(trainable, moving, [images, noise], training=True)
        return float(logit[0, 0])

    kept, dropped = np.ones((1, 24), np.float32), np.zeros((1, 24), np.float32)
    assert answer(dropped) == pytest.approx(float(variables_of(network)["head/bias"].numpy()[0]))
    assert answer(kept) != answer(dropped)


def test_whitening_makes_patches_of_unit_variance_and_no_correlation() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (40, 16, 16, 3)).astype(np.float32)
    images = np.clip(np.kron(coarse, np.ones((1, 4, 4, 1))) + rng.normal(0, 20, (40, 64, 64, 3)), 0, 255).astype(np.uint8)
    filters = whiten(images).reshape(27, STEM)
    np.testing.assert_array_equal(filters[:, : STEM // 2], -filters[:, STEM // 2 :])
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))[:, ::2, ::2]
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 27) * (4 / 255) - 2
    covariance = np.cov((patches - patches.mean(axis=0)) @ filters[:, : STEM // 2], rowvar=False)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-2
    assert np.diag(covariance).max() <= 1.001
    np.testing.assert_array_equal(whiten(images), whiten(images))


def test_whitening_of_one_colour_stays_finite() -> None:
    assert np.isfinite(whiten(np.full((3, 64, 64, 3), 90, np.uint8))).all()


def test_the_exported_model_resizes_any_image_as_evaluation_does() -> None:
    from job.data import pixels

    network = build_network(Model(**RESIDUAL), 1)
    model = exported(network, 32)
    for height, width in ((40, 60), (32, 32), (20, 90), (10, 12)):
        image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        direct = network.model(pixels.squeeze(image, 32)[None].astype(np.float32))
        expected = 1 / (1 + np.exp(-np.asarray(direct)))
        np.testing.assert_allclose(model(image[None]), expected, atol=5e-3)
