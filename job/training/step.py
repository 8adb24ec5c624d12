"""One training step on every replica: augment, forward, backward, sum, test, assign.

The gradient is a pure function of weights, statistics, images and noise. Replicas then sum gradients and average
batch statistics in one exchange, and apply the same update, unless something in it is not finite: then everything
stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from job.config.resolve import Resolved
from job.machine import strategy
from job.machine.libraries import tf
from job.models.network import Network
from job.training import augment, optimizers

SCALE, GROWTH_STEPS = 2.0**15, 2000  # of float16's loss: where it starts, finite steps before it doubles


@dataclass(frozen=True)
class Outcome:
    """What a step gives back, as tensors: mean loss, right answers, whether all was finite, norm of the gradient."""

    loss: Any
    right: Any
    finite: Any
    norm: Any


class Step:
    """The state that training changes, and the compiled function that changes it.

    `state` names every variable a checkpoint must hold.
    """

    def __init__(self, config: Resolved, network: Network, distribution: Any, class_weights: tuple[float, float]) -> None:
        self.config, self.network, self.distribution = config, network, distribution
        self.class_weights = class_weights
        model = network.model
        self._trainable = list(model.trainable_variables)
        self._moving = list(model.non_trainable_variables)
        self._trained = [v for v in self._trainable if v.path not in network.frozen]
        paths = [v.path for v in self._trained]
        self._rules = optimizers.rules(config.optimizer, paths, [len(v.shape) for v in self._trained])
        self.state: dict[str, Any] = {f"weights/{v.path}": v.value for v in self._trainable + self._moving}
        with distribution.scope():
            self._slots = [
                [self._variable(f"slots/{path}/{name}", tf.zeros(v.shape)) for name in rule.slots]
                for path, v, rule in zip(paths, self._trained, self._rules, strict=True)
            ]
            averaged = self._trained + self._moving if config.optimizer.ema else []
            self._averages = [self._variable(f"average/{v.path}", tf.convert_to_tensor(v.value)) for v in averaged]
            self._scale = self._variable("loss/scale", tf.constant(SCALE if self._scaled else 1.0))
            self._good = self._variable("loss/good_steps", tf.constant(0.0))
            self._updates = self._variable("optimizer/updates", tf.constant(0.0))
        compiled = {"jit_compile": True} if config.machine.xla else {}
        self._gradient = tf.function(self._gradient_of, **compiled)
        self._run = tf.function(self._on_replicas)

    @property
    def _scaled(self) -> bool:
        return self.config.machine.precision == "float16"

    def _variable(self, name: str, initial: Any) -> Any:
        variable = tf.Variable(initial, trainable=False, name=name.replace("/", "_"))
        self.state[name] = variable
        return variable

    def run(self, images: Any, labels: Any, noise: Any, lr: float, step: int, size: int) -> Outcome:
        """Take one step.

        Args:
            images: uint8 [batch, S, S, 3]; labels: float32 [batch]; noise: float32 [batch, columns].
            lr: the learning rate.
            step: its number from 0.
            size: the training resolution, px.
        """
        parts = [strategy.divide(self.distribution, part) for part in (images, labels, noise)]
        done = self._run(*parts, tf.constant(lr, tf.float32), tf.constant(step + 1, tf.float32), size)
        return Outcome(*(strategy.one(self.distribution, value) for value in done))

    def _on_replicas(self, images: Any, labels: Any, noise: Any, lr: Any, count: Any, size: int) -> Any:
        return self.distribution.run(self._replica, args=(images, labels, noise, lr, count, size))

    def _replica(self, images: Any, labels: Any, noise: Any, lr: Any, count: Any, size: int) -> Any:
        trainable = [tf.convert_to_tensor(v.value) for v in self._trainable]
        moving = [tf.convert_to_tensor(v.value) for v in self._moving]
        scale = tf.convert_to_tensor(self._scale)
        if self._scaled:  # a step that overflowed was no update: it must not count for Adam's bias correction
            count = self._updates + 1
        loss, right, gradients, moved = self._gradient(images, labels, noise, trainable, moving, scale, size)
        loss, right, gradients, moved = self._exchange(loss, right, gradients, moved)
        gradients = [gradient / scale for gradient in gradients]
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
        for value in moved:
            finite &= tf.reduce_all(tf.math.is_finite(value))
        if self.config.optimizer.clip:
            gradients, _ = tf.clip_by_global_norm(gradients, self.config.optimizer.clip, use_norm=norm)
        self._assign(gradients, moved, finite, lr, count)
        return loss, right, finite, norm

    def _exchange(self, loss: Any, right: Any, gradients: list[Any], moved: list[Any]) -> Any:
        """Sum over replicas, in one go; of the moving statistics, the mean."""
        context = tf.distribute.get_replica_context()
        summed = context.all_reduce(tf.distribute.ReduceOp.SUM, [loss, right, *gradients, *moved])
        replicas = self.distribution.num_replicas_in_sync
        last = 2 + len(gradients)
        return summed[0], summed[1], summed[2:last], [value / replicas for value in summed[last:]]

    def _gradient_of(self, images: Any, labels: Any, noise: Any, trainable: list[Any], moving: list[Any], scale: Any, size: int) -> Any:
        """This replica's share of loss, right answers, gradients (times `scale`) and new moving statistics."""
        augmented, targets = augment.augment(images, labels, noise, self.config.augment, size)
        watched = [t for t, v in zip(trainable, self._trainable, strict=True) if v.path not in self.network.frozen]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(watched)
            inputs = [augmented, noise[:, augment.COLUMNS :]]
            logits, moved = self.network.model.stateless_call(trainable, moving, inputs, training=True)
            loss = tf.reduce_sum(self._losses(targets, logits[:, 0])) / float(self.config.schedule.batch)
            scaled = loss * scale
        gradients = tape.gradient(scaled, watched)
        right = tf.reduce_sum(tf.cast((logits[:, 0] > 0) == (targets > 0.5), tf.float32))
        return loss, right, gradients, list(moved)

    def _losses(self, targets: Any, logits: Any) -> Any:
        """Cross-entropy of each image, with label smoothing; class weights weigh each of the images that MixUp mixed by its own class."""
        smoothing = self.config.optimizer.smoothing
        if self.class_weights == (1.0, 1.0):
            return tf.nn.sigmoid_cross_entropy_with_logits(targets * (1 - smoothing) + 0.5 * smoothing, logits)
        negative, positive = self.class_weights
        as_positive = tf.nn.sigmoid_cross_entropy_with_logits(tf.ones_like(logits) * (1 - 0.5 * smoothing), logits)
        as_negative = tf.nn.sigmoid_cross_entropy_with_logits(tf.ones_like(logits) * 0.5 * smoothing, logits)
        return positive * targets * as_positive + negative * (1 - targets) * as_negative

    def _assign(self, gradients: list[Any], moved: list[Any], finite: Any, lr: Any, count: Any) -> None:
        """The one place where training changes anything; nothing changes where `finite` is false."""

        def assign(variable: Any, value: Any) -> None:
            variable.assign(tf.where(finite, value, tf.convert_to_tensor(variable)))

        fresh = []
        for variable, gradient, rule, slots in zip(self._trained, gradients, self._rules, self._slots, strict=True):
            before = tf.convert_to_tensor(variable.value)
            value, updated = rule.apply(gradient, before, [tf.convert_to_tensor(s) for s in slots], lr, count)
            fresh.append(value)
            assign(variable.value, value)
            for slot, new in zip(slots, updated, strict=True):
                assign(slot, new)
        for variable, value in zip(self._moving, moved, strict=True):
            assign(variable.value, value)
        if self._averages:
            decay = tf.minimum(self.config.optimizer.ema, (1 + count) / (10 + count))
            for average, value in zip(self._averages, fresh + moved, strict=True):
                assign(average, decay * average + (1 - decay) * value)
        if self._scaled:
            good = tf.where(finite, self._good + 1, 0.0)
            grown = tf.where(good >= GROWTH_STEPS, self._scale * 2, self._scale)
            self._scale.assign(tf.where(finite, grown, tf.maximum(self._scale / 2, 1.0)))
            self._good.assign(tf.where(good >= GROWTH_STEPS, 0.0, good))
        self._updates.assign_add(tf.cast(finite, tf.float32))

    def arrays(self) -> dict[str, Any]:
        """Every variable of the state as a NumPy array."""
        return {name: np.asarray(variable.numpy()) for name, variable in self.state.items()}

    def load(self, arrays: dict[str, Any]) -> None:
        """Put a checkpoint's arrays back; names and shapes must be those of the state."""
        if arrays.keys() != self.state.keys():
            raise ValueError(f"the checkpoint holds other variables: {sorted(arrays.keys() ^ self.state.keys())[:4]}")
        for name, variable in self.state.items():
            variable.assign(arrays[name])
        if self._scaled and arrays["loss/scale"] == 1:  # the run had another precision until now
            self._scale.assign(SCALE)
