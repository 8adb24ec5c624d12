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


@pytest.mark.parametrize("decay", [0.0, 0.03])
def test_sgd_is_kerass_nesterov_with_the_decay_in_the_gradient(problem: Any, decay: float) -> None:
    start, gradients = problem
    ours = _ours(Optimizer(optimizer="sgd", momentum=0.9, weight_decay=decay), "a/kernel", start, gradients, 0.1)
    variable, theirs = keras.Variable(start), keras.optimizers.SGD(0.1, 0.9, nesterov=True)
    theirs.build([variable])
    for gradient in gradients:
        theirs.apply([tf.constant(gradient) + decay * variable], [variable])
    np.testing.assert_allclose(ours, variable, rtol=1e-5, atol=1e-6)


def test_adam_and_adamw_are_kerass(problem: Any) -> None:
    start, gradients = problem
    adam = _ours(Optimizer(optimizer="adam", weight_decay=0.0), "a/kernel", start, gradients, 0.01)
    np.testing.assert_allclose(adam, _keras(keras.optimizers.Adam(0.01, epsilon=1e-8), start, gradients), rtol=1e-5, atol=1e-6)
    adamw = _ours(Optimizer(optimizer="adamw", weight_decay=0.05), "a/kernel", start, gradients, 0.01)
    theirs = _keras(keras.optimizers.AdamW(0.01, weight_decay=0.05, epsilon=1e-8), start, gradients)
    np.testing.assert_allclose(adamw, theirs, rtol=1e-5, atol=1e-6)


def test_adams_decay_is_in_the_gradient(problem: Any) -> None:
    start, (gradient, *_) = problem
    moved = _ours(Optimizer(optimizer="adam", weight_decay=0.7), "a/kernel", start, [gradient], 0.01)
    np.testing.assert_allclose(moved, start - 0.01 * np.sign(gradient + 0.7 * start), rtol=1e-4, atol=1e-5)


def test_beside_muon_the_head_and_vectors_are_adamw_at_their_shares(problem: Any) -> None:
    start, gradients = problem
    options = Optimizer(optimizer="muon", momentum=0.85, weight_decay=0.05)
    head = _ours(options, "head/kernel", start, gradients, 0.05)
    theirs = keras.optimizers.AdamW(0.04 * 0.05, weight_decay=0.05, beta_1=0.85, beta_2=0.99, epsilon=1e-8)
    np.testing.assert_allclose(head, _keras(theirs, start, gradients), rtol=1e-5, atol=1e-6)
    bias = _ours(options, "a/bias", start[0], [g[0] for g in gradients], 0.05)
    theirs = keras.optimizers.Adam(0.2 * 0.05, beta_1=0.85, beta_2=0.99, epsilon=1e-8)
    np.testing.assert_allclose(bias, _keras(theirs, start[0], [g[0] for g in gradients]), rtol=1e-5, atol=1e-6)


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


def _muon(start: Any, gradients: list[Any], lr: float, momentum: float) -> Any:
    """Muon written out in float64, on matrices."""
    value, velocity, norm = start.astype(np.float64), np.zeros(start.shape), min(start.shape) ** 0.5
    for gradient in gradients:
        velocity = momentum * velocity + gradient
        x = gradient + momentum * velocity
        x = x / np.linalg.norm(x)
        for _ in range(4):
            gram = x @ x.T
            x = 3.4445 * x - 4.775 * gram @ x + 2.0315 * gram @ gram @ x
        value = value - lr * x
        value = value * norm / np.linalg.norm(value)
    return value


@pytest.mark.parametrize("shape", [(3, 3, 4, 6), (1, 1, 4, 20), (12, 8)])
def test_muon_is_the_written_out_one_on_kernels_as_matrices(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    start, *gradients = (rng.normal(size=shape).astype(np.float32) for _ in range(6))
    moved = _ours(Optimizer(optimizer="muon", momentum=0.9), "stage1_conv/kernel", start, gradients, 0.05)
    matrices = [array.reshape(-1, shape[-1]) for array in (start, *gradients)]
    expected = _muon(matrices[0], matrices[1:], 0.05, 0.9)
    assert np.linalg.norm(moved) == pytest.approx(min(matrices[0].shape) ** 0.5, rel=1e-5)
    np.testing.assert_allclose(moved.reshape(expected.shape), expected, atol=0.01)  # Newton-Schulz runs in bfloat16
    without = _muon(matrices[0], matrices[1:], 0.05, 0.0)
    assert np.abs(moved.reshape(expected.shape) - without).max() > 0.02


def test_muon_orthogonalises_all_kernels_but_the_heads() -> None:
    made = rules(Optimizer(optimizer="muon", weight_decay=0.05), ["c/kernel", "dense1/kernel", "c/bias", "head/kernel"], [4, 2, 1, 2])
    assert [rule.slots for rule in made] == [("velocity",), ("velocity",), ("first", "second"), ("first", "second")]
