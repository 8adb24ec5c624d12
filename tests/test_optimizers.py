"""The optimizers against Keras's own, Muon against what it promises."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from job.config.schema import Optimizer
from job.training.optimizers import orthogonalise, rules


def _ours(options: Optimizer, path: str, start: Any, gradients: list[Any], lr: float) -> Any:
    (rule,) = rules(options, [path], [start.ndim])
    value, slots = tf.constant(start), [tf.zeros(start.shape) for _ in rule.slots]
    for step, gradient in enumerate(gradients, 1):
        value, slots = rule.apply(tf.constant(gradient), value, slots, lr, tf.constant(float(step)))
    return value.numpy()


def _keras(optimizer: Any, start: Any, gradients: list[Any]) -> Any:
    variable = keras.Variable(start)
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient)], [variable])
    return variable.numpy()


@pytest.fixture
def problem() -> tuple[Any, list[Any]]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(6, 4)).astype(np.float32), [rng.normal(size=(6, 4)).astype(np.float32) for _ in range(5)]


def test_sgd_is_kerass_nesterov(problem: Any) -> None:
    start, gradients = problem
    ours = _ours(Optimizer(optimizer="sgd", momentum=0.9, weight_decay=0.0), "a/kernel", start, gradients, 0.1)
    np.testing.assert_allclose(ours, _keras(keras.optimizers.SGD(0.1, 0.9, nesterov=True), start, gradients), rtol=1e-5, atol=1e-6)


def test_adam_and_adamw_are_kerass(problem: Any) -> None:
    start, gradients = problem
    adam = _ours(Optimizer(optimizer="adam", weight_decay=0.0), "a/kernel", start, gradients, 0.01)
    np.testing.assert_allclose(adam, _keras(keras.optimizers.Adam(0.01, epsilon=1e-8), start, gradients), rtol=1e-4, atol=1e-5)
    adamw = _ours(Optimizer(optimizer="adamw", weight_decay=0.05), "a/kernel", start, gradients, 0.01)
    theirs = _keras(keras.optimizers.AdamW(0.01, weight_decay=0.05, epsilon=1e-8), start, gradients)
    np.testing.assert_allclose(adamw, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
def test_only_kernels_decay(optimizer: str) -> None:
    """With a gradient of nothing, a bias stays and a kernel shrinks or turns by nothing else."""
    options = Optimizer(optimizer=optimizer, weight_decay=0.1)
    ones, nothing = np.ones(5, np.float32), [np.zeros(5, np.float32)]
    np.testing.assert_array_equal(_ours(options, "a/bias", ones, nothing, 0.1), ones)
    kernel = _ours(options, "head/kernel", np.ones((5, 1), np.float32), [np.zeros((5, 1), np.float32)], 0.1)
    assert (kernel < 1).all()


@pytest.mark.parametrize("shape", [(27, 8), (8, 27), (16, 16)])
def test_orthogonalise_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values = np.linalg.svd(orthogonalise(tf.constant(matrix)).numpy(), compute_uv=False)
    assert values.min() > 0.4
    assert values.max() < 1.4


def test_muon_moves_a_convolution_kernel_as_a_matrix_and_keeps_its_norm() -> None:
    rng = np.random.default_rng(0)
    start, gradient = (rng.normal(size=(3, 3, 4, 6)).astype(np.float32) for _ in range(2))
    moved = _ours(Optimizer(optimizer="muon"), "stage1_conv/kernel", start, [gradient], 0.05)
    assert np.linalg.norm(moved) == pytest.approx(np.sqrt(min(36, 6)), rel=1e-3)
    step = start - moved * np.linalg.norm(start) / np.linalg.norm(moved)
    assert np.sum(step * gradient) > 0
    assert [rule.slots for rule in rules(Optimizer(optimizer="muon"), ["c/kernel", "c/bias", "head/kernel"], [4, 1, 2])] == [
        ("velocity",), ("first", "second"), ("first", "second"),
    ]  # fmt: skip
