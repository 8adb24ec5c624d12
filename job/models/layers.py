"""The layers that the networks are put together from, each with a name of ours and weights from (seed, path)."""

from __future__ import annotations

from typing import Any

from job.feeds.order import derive
from job.machine.libraries import keras, tf

MOMENTUM, EPSILON = 0.9, 1e-3  # of BatchNorm's moving statistics; added to its variance
FORMAT = "channels_last"  # said at each layer, as is its dtype: Keras's defaults may be the user's for other work


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Stock BatchNormalization, trained by TensorFlow's fused kernel: Keras's own takes five times as long on a CPU.

    The moving variance takes the unbiased batch variance.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not training:
            return super().call(inputs, training=False, mask=mask)
        y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, tf.cast(self.gamma, tf.float32), tf.cast(self.beta, tf.float32), epsilon=self.epsilon, is_training=True
        )
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * (1 - self.momentum))
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (1 - self.momentum))
        return y


class NoiseDropout(keras.layers.Layer):
    """Dropout of whole features whose mask comes from columns of the step's noise, not from a generator's state."""

    def __init__(self, rate: float, first: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.rate, self.first = rate, first

    def call(self, inputs: Any, noise: Any) -> Any:
        width = inputs.shape[-1]
        keep = tf.cast(noise[:, self.first : self.first + width] >= self.rate, inputs.dtype)
        return inputs * keep / tf.cast(1 - self.rate, inputs.dtype)

    def compute_output_spec(self, inputs: Any, noise: Any) -> Any:
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)


class Layers:
    """Makes layers to train, or stock ones in float32 for inference where `precision` is None."""

    def __init__(self, seed: int, precision: str | None, noise: Any) -> None:
        self.seed, self.noise = seed, noise
        self.dtype = keras.DTypePolicy("float32" if precision in (None, "float32") else f"mixed_{precision}")
        self.columns = 0

    def _initializer(self, name: str, scale: float = 1.0) -> Any:
        number = derive(self.seed, f"{name}/kernel") % 2**31
        return keras.initializers.VarianceScaling(scale, "fan_in", "untruncated_normal", seed=number)

    def conv(self, x: Any, filters: int, kernel: int, name: str, strides: int = 1, bias: bool = False) -> Any:
        return keras.layers.Conv2D(
            filters, kernel, strides, "same", FORMAT,
            use_bias=bias, kernel_initializer=self._initializer(name), name=name, dtype=self.dtype,
        )(x)  # fmt: skip

    def norm(self, x: Any, name: str, gamma: str = "ones") -> Any:
        kind = keras.layers.BatchNormalization if self.noise is None else FusedBatchNormalization
        return kind(momentum=MOMENTUM, epsilon=EPSILON, gamma_initializer=gamma, name=name, dtype=self.dtype)(x)

    def relu(self, x: Any, name: str) -> Any:
        return keras.layers.ReLU(name=name, dtype=self.dtype)(x)

    def pool(self, x: Any, name: str) -> Any:
        return keras.layers.MaxPooling2D(2, data_format=FORMAT, name=name, dtype=self.dtype)(x)

    def add(self, x: Any, y: Any, name: str) -> Any:
        return keras.layers.Add(name=name, dtype=self.dtype)([x, y])

    def mean(self, x: Any, name: str) -> Any:
        return keras.layers.GlobalAveragePooling2D(FORMAT, name=name, dtype=self.dtype)(x)

    def flatten(self, x: Any, name: str) -> Any:
        return keras.layers.Flatten(FORMAT, name=name, dtype=self.dtype)(x)

    def dense(self, x: Any, width: int, name: str) -> Any:
        return keras.layers.Dense(width, kernel_initializer=self._initializer(name, 2.0), name=name, dtype=self.dtype)(x)

    def dropout(self, x: Any, rate: float, name: str) -> Any:
        if not rate:
            return x
        if self.noise is None:
            return keras.layers.Dropout(rate, name=name, dtype=self.dtype)(x)
        first, self.columns = self.columns, self.columns + x.shape[-1]
        return NoiseDropout(rate, first, name=name, dtype=self.dtype)(x, self.noise)

    def head(self, x: Any) -> Any:
        """The logit, float32 [B, 1]; small weights, so that training starts from even odds."""
        small = keras.initializers.RandomNormal(0, 0.01, seed=derive(self.seed, "head/kernel") % 2**31)
        return keras.layers.Dense(1, kernel_initializer=small, name="head", dtype="float32")(x)
