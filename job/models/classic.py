"""`classic`: the network this project grew from. Blocks of convolution and max-pooling, then dense layers."""

from __future__ import annotations

from typing import Any

from job.config import resolve
from job.models.layers import Layers

FIRST = "block1_conv1"
FROZEN: frozenset[str] = frozenset()


def body(x: Any, options: resolve.Model, layers: Layers) -> tuple[Any, tuple[str, ...]]:
    """Images to features, and the names of the layers that end a stage."""
    stages = []
    for block, filters in enumerate(options.filters, 1):
        for number in range(1, options.depth + 1):
            name = f"block{block}_conv{number}"
            x = layers.conv(x, filters, options.kernel, name, bias=not options.batchnorm)
            if options.batchnorm:
                x = layers.norm(x, f"{name}_norm")
            x = layers.relu(x, f"{name}_relu")
        stages.append(f"block{block}_conv{options.depth}_relu")
        x = layers.pool(x, f"block{block}_pool")
    x = layers.flatten(x, "flatten")
    for number, width in enumerate(options.dense, 1):
        x = layers.relu(layers.dense(x, width, f"dense{number}"), f"dense{number}_relu")
        x = layers.dropout(x, options.dropout, f"dense{number}_dropout")
    return x, tuple(stages)
