"""`residual`: a small ResNet-9-shaped network behind a frozen whitening layer, the default.

Stem: 3x3 convolution with stride 2 whose filters whiten the training images' patches (Page 2024, airbench) and are
not trained, with a trained bias. Each stage: 3x3 convolution, 2x2 max-pooling, BatchNorm, ReLU, then residual blocks
whose last scale starts at 0. Mean over the image, dense head.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from job.config import resolve
from job.models.layers import Layers

STEM = 36  # filters: 18 leading directions of the 27 in a 3x3 RGB patch, with both signs
PATCH_SIDE = 64  # px of the images that the patches are taken from
REGULAR = 0.01  # added to the eigenvalues, so that flat directions are not blown up
FIRST = "stem"
FROZEN = frozenset({"stem/kernel"})


def body(x: Any, options: resolve.Model, layers: Layers) -> tuple[Any, tuple[str, ...]]:
    """Images to features, and the names of the layers that end a stage."""
    x = layers.relu(layers.conv(x, STEM, 3, "stem", strides=2, bias=True), "stem_relu")
    stages = []
    for stage, filters in enumerate(options.filters, 1):
        x = layers.conv(x, filters, options.kernel, f"stage{stage}_conv")
        x = layers.pool(x, f"stage{stage}_pool")
        x = layers.relu(layers.norm(x, f"stage{stage}_norm"), f"stage{stage}_relu")
        for block in range(1, options.depth + 1):
            name = f"stage{stage}_block{block}"
            y = layers.conv(x, filters, options.kernel, f"{name}_conv1")
            y = layers.relu(layers.norm(y, f"{name}_norm1"), f"{name}_relu1")
            y = layers.conv(y, filters, options.kernel, f"{name}_conv2")
            y = layers.norm(y, f"{name}_norm2", gamma="zeros")
            x = layers.relu(layers.add(x, y, f"{name}_add"), f"{name}_relu2")
        stages.append(f"stage{stage}_block{options.depth}_relu2")
    x = layers.mean(x, "mean")
    return layers.dropout(x, options.dropout, "dropout"), tuple(stages)


def whiten(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The stem's filters, float32 [3, 3, 3, STEM], from uint8 [n, PATCH_SIDE, PATCH_SIDE, 3].

    Leading eigenvectors of the patches' covariance, each divided by the root of its eigenvalue, and their negatives.
    """
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))[:, ::2, ::2]
    total, outer, count = np.zeros(27), np.zeros((27, 27)), 0
    for chunk in np.array_split(windows, max(1, len(images) // 200)):
        patches = chunk.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 27).astype(np.float32) * np.float32(4 / 255) - 2
        total += patches.sum(axis=0, dtype=np.float64)
        outer += patches.T @ patches
        count += len(patches)
    mean = total / count
    values, vectors = np.linalg.eigh(outer / count - np.outer(mean, mean))
    leading = np.argsort(values)[::-1][: STEM // 2]
    directions = vectors[:, leading]
    directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), range(len(leading))])  # a fixed sign
    filters = directions / np.sqrt(np.maximum(values[leading], 0) + REGULAR)
    return np.concatenate([filters, -filters], axis=1).reshape(3, 3, 3, STEM).astype(np.float32)
