"""A pass of a network over images, in float32, each image exactly once. For train, evaluate and predict."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np

from job.feeds import prefetch
from job.feeds.interface import Batch, Feed
from job.machine import memory, strategy
from job.machine.libraries import tf
from job.metrics import Metrics, measure
from job.models.network import Network, variables_of

BATCH, FULL = 128, 256  # images at once, up to that input size in px; above it as many fewer as images are larger


class Inference:
    """The inference copy of a network, and its compiled forward pass over a strategy's replicas.

    `batch` follows from the input size alone, so that an image's figures do not depend on how many images there are.
    """

    def __init__(self, network: Network, distribution: Any, size: int) -> None:
        self.network, self.distribution, self.size = network, distribution, size
        replicas = distribution.num_replicas_in_sync
        batch = max(1, min(BATCH, BATCH * FULL**2 // size**2))
        self.batch = -(-batch // replicas) * replicas
        self._variables = variables_of(network)
        self._run = tf.function(lambda images: distribution.run(self._forward, args=(images,)))

    def load(self, weights: dict[str, Any]) -> None:
        """Take over weights by their paths."""
        for path, variable in self._variables.items():
            variable.assign(weights[path])

    def _forward(self, images: Any) -> Any:
        return self.network.model(tf.cast(images, tf.float32), training=False)[:, 0]

    def logits(self, images: Any) -> Any:
        """float32 [n] of uint8 [n, size, size, 3].

        Raises:
            OutOfMemory: a batch does not fit.
        """
        with memory.guard(f"inference of {self.batch} images of {self.size} px", lambda free: memory.MORE):
            return np.concatenate([self._logits(images[first : first + self.batch]) for first in range(0, len(images), self.batch)])

    def _logits(self, images: Any) -> Any:
        """Those of one batch; a smaller one is padded and the rest dropped."""
        padded = np.zeros((self.batch, *images.shape[1:]), np.uint8)
        padded[: len(images)] = images
        parts = self._run(strategy.divide(self.distribution, padded))
        return strategy.gather(self.distribution, parts)[: len(images)]

    def over(self, feed: Feed, advance: Callable[[int], None] = lambda count: None) -> tuple[Any, Any]:
        """Labels and logits, float32 [n] each, of all records in their order.

        `advance` is called after each batch; what it raises ends the pass.
        """
        bounds = range(0, len(feed), self.batch)

        def make(number: int) -> Batch:
            first = bounds[number]
            return feed.gather(np.arange(first, min(first + self.batch, len(feed))))

        labels, logits = [], []
        with closing(prefetch.ahead(make, 0, len(bounds))) as batches:
            for images, truth in batches:
                labels.append(truth)
                logits.append(self.logits(images))
                advance(len(images))
        return np.concatenate(labels), np.concatenate(logits)


def validate(inference: Inference, feed: Feed, advance: Callable[[int], None] = lambda count: None) -> Metrics:
    """The metrics of the weights loaded, over all images of a feed; `advance` as in `over`."""
    return measure(*inference.over(feed, advance))
