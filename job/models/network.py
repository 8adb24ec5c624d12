"""The networks. Each takes images of 0 to 255 and gives a logit of the positive class.

A network is built twice from one description: to train (in the precision asked for, with layers that report batch
statistics cheaply and take their dropout noise from the step), and for inference (stock Keras layers in float32). Both
have the same variables under the same paths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from job.config import resolve
from job.machine.libraries import keras
from job.models.layers import FORMAT, Layers


@dataclass(frozen=True)
class Network:
    """A built network.

    `model` takes images, float32 [B, T, T, 3], and gives the logit, float32 [B, 1]. To train it takes a list: images,
    and noise, float32 [B, noise_columns]. `first` is the name of the first
    convolution, `stages` are those of the layers that end a stage; `frozen` the paths of variables not trained.
    """

    model: keras.Model
    noise_columns: int
    first: str
    stages: tuple[str, ...]
    frozen: frozenset[str]


def build_network(options: resolve.Model, seed: int, precision: str | None = None) -> Network:
    """Build a network, to train in `precision`, or for inference where that is None. Weights come from (seed, path)."""
    if options.model == "classic":
        from job.models import classic as chosen
    else:
        from job.models import residual as chosen  # type: ignore[no-redef]

    size = options.size if options.model == "classic" else None
    images = keras.Input((size, size, 3), dtype="float32", name="images")
    noise = keras.Input((None,), dtype="float32", name="noise") if precision else None
    layers = Layers(seed, precision, noise)
    x = keras.layers.Rescaling(4 / 255, -2, name="standardise", dtype="float32")(images)
    x, stages = chosen.body(x, options, layers)
    logit = layers.head(x)
    inputs = images if noise is None else [images, noise]
    model = keras.Model(inputs, keras.layers.Flatten(FORMAT, name="logit", dtype="float32")(logit), name=options.model)
    return Network(model, layers.columns, chosen.FIRST, stages, chosen.FROZEN)


def activation_bytes(network: Network, size: int) -> int:
    """Bytes that the outputs of all layers take, of one image at an input size. `network` is one for inference."""
    model = network.model
    outputs = keras.Model(model.inputs, [layer.output for layer in model.layers])
    found = outputs.compute_output_spec(keras.KerasTensor((1, size, size, 3), "float32"))
    return sum(math.prod(output.shape) * 4 for output in found)


def exported(network: Network, size: int) -> keras.Model:
    """A model for everyone: uint8 [B, any, any, 3] in, probability of the positive class, float32 [B, 1], out; stock layers."""
    images = keras.Input((None, None, 3), dtype="uint8", name="images")
    x = keras.ops.cast(images, "float32")
    # Resizing's own default is training=True, which spreads to the BatchNorm of a plain model(x)
    x = keras.layers.Resizing(size, size, interpolation="area", data_format=FORMAT, name="square", dtype="float32")(x, training=False)
    x = keras.ops.round(x)
    logit = network.model(x, training=False)
    return keras.Model(images, keras.layers.Activation("sigmoid", name="probability", dtype="float32")(logit), name="twofold")


def variables_of(network: Network) -> dict[str, Any]:
    """Path to variable, over trained, frozen and moving ones; stock Dropout's generator state is none of them."""
    return {v.path: v for v in network.model.variables if v.dtype == "float32"}
