"""The optimizers: new values of weights and slots from gradients, as pure functions over tensors.

The step applies them (`job/training/step.py`), since it must be able to leave everything as it was when a batch is not finite.
Gradients arrive summed over replicas, weights are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from job.config.resolve import Optimizer
from job.machine.libraries import tf

# Learning rates beside Muon's own, for what Muon does not orthogonalise (recipe measured at 0.05)
_VECTOR_SHARE, _HEAD_SHARE = 0.2, 0.04
_BETA2, _EPSILON = 0.99, 1e-8


@dataclass(frozen=True)
class Rule:
    """How one variable is trained: its slots' names, and (gradient, value, slots, lr, step) to (value, slots)."""

    slots: tuple[str, ...]
    apply: Callable[[Any, Any, Sequence[Any], Any, Any], tuple[Any, list[Any]]]


def rules(options: Optimizer, paths: Sequence[str], ranks: Sequence[int]) -> list[Rule]:
    """A rule for each variable, by its path and rank. Under Muon the decay is the head's alone: its kernels are kept at a fixed norm."""
    decay = options.weight_decay
    made = []
    for path, rank in zip(paths, ranks, strict=True):
        kernel_decay = decay if rank > 1 else 0.0
        if options.optimizer == "sgd":
            made.append(_sgd(options.momentum, kernel_decay))
        elif options.optimizer == "adam":
            made.append(_adam(options.momentum, 0.999, 1.0, kernel_decay, decoupled=False))
        elif options.optimizer == "adamw":
            made.append(_adam(options.momentum, 0.999, 1.0, kernel_decay, decoupled=True))
        elif rank == 4 or (rank == 2 and not path.startswith("head/")):
            made.append(_muon(options.momentum))
        elif rank == 2:
            made.append(_adam(options.momentum, _BETA2, _HEAD_SHARE, decay, decoupled=True))
        else:
            made.append(_adam(options.momentum, _BETA2, _VECTOR_SHARE, 0.0, decoupled=True))
    return made


def _sgd(momentum: float, decay: float) -> Rule:
    """SGD with Nesterov momentum (Sutskever et al. 2013); decay is added to the gradient."""

    def apply(gradient: Any, value: Any, slots: Sequence[Any], lr: Any, step: Any) -> tuple[Any, list[Any]]:
        gradient = gradient + decay * value
        velocity = momentum * slots[0] + gradient
        return value - lr * (gradient + momentum * velocity), [velocity]

    return Rule(("velocity",), apply)


def _adam(beta1: float, beta2: float, share: float, decay: float, decoupled: bool) -> Rule:
    """Adam (Kingma & Ba 2015), or AdamW (Loshchilov & Hutter 2019) where the decay is decoupled."""

    def apply(gradient: Any, value: Any, slots: Sequence[Any], lr: Any, step: Any) -> tuple[Any, list[Any]]:
        if not decoupled:
            gradient = gradient + decay * value
        first = beta1 * slots[0] + (1 - beta1) * gradient
        second = beta2 * slots[1] + (1 - beta2) * tf.square(gradient)
        update = (first / (1 - tf.pow(beta1, step))) / (tf.sqrt(second / (1 - tf.pow(beta2, step))) + _EPSILON)
        if decoupled:
            update = update + decay * value
        return value - lr * share * update, [first, second]

    return Rule(("first", "second"), apply)


def _muon(momentum: float) -> Rule:
    """Muon (Jordan et al. 2024) on a kernel seen as [height * width * in, out].

    The weight is kept at Frobenius norm sqrt(min(rows, columns)), so that the rate alone sets the angle turned.
    """

    def apply(gradient: Any, value: Any, slots: Sequence[Any], lr: Any, step: Any) -> tuple[Any, list[Any]]:
        columns = value.shape[-1]
        rows = value.shape.num_elements() // columns
        velocity = momentum * slots[0] + gradient
        direction = orthogonalise(tf.reshape(gradient + momentum * velocity, [rows, columns]))
        moved = value - lr * tf.reshape(direction, value.shape)
        return moved * (min(rows, columns) ** 0.5 / (tf.norm(moved) + 1e-7)), [velocity]

    return Rule(("velocity",), apply)


def orthogonalise(matrix: Any, iterations: int = 4) -> Any:
    """The nearest semi-orthogonal matrix, roughly, by Newton-Schulz steps with Jordan's coefficients.

    Args:
        matrix: float32 [rows, columns].

    Returns:
        float32 [rows, columns] with singular values near 1.
    """
    turned = matrix.shape[0] < matrix.shape[1]
    x = tf.transpose(matrix) if turned else matrix
    x = tf.cast(x / (tf.norm(x) + 1e-7), tf.bfloat16)
    for _ in range(iterations):
        gram = tf.matmul(x, x, transpose_a=True)  # the smaller side's, [columns, columns]
        x = 3.4445 * x + tf.matmul(x, -4.775 * gram + 2.0315 * tf.matmul(gram, gram))
    x = tf.cast(x, tf.float32)
    return tf.transpose(x) if turned else x
