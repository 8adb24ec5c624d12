"""The strategy: how one step runs on one device or on several. The only file that knows which.

A place is kept for MultiWorkerMirroredStrategy: it divides and gathers by the same three functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from job.machine.devices import Gpu
from job.machine.libraries import tf


def build(chosen: Sequence[Gpu], replicas: int) -> Any:
    """OneDeviceStrategy for one replica, MirroredStrategy over GPUs or logical CPU devices for several."""
    kind = "GPU" if chosen else "CPU"
    if replicas == 1:
        return tf.distribute.OneDeviceStrategy(f"/{kind.lower()}:0")
    return tf.distribute.MirroredStrategy([f"/{kind.lower()}:{k}" for k in range(replicas)])


def divide(strategy: Any, batch: Any) -> Any:
    """Give replica r of R the r-th equal slice of an array [B, ...]."""
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return tf.convert_to_tensor(batch)
    share = len(batch) // replicas

    def part(context: Any) -> Any:
        r = context.replica_id_in_sync_group
        return tf.convert_to_tensor(batch[r * share : (r + 1) * share])

    return strategy.experimental_distribute_values_from_function(part)


def gather(strategy: Any, parts: Any) -> Any:
    """The replicas' results, one after another, as a NumPy array."""
    return np.concatenate([part.numpy() for part in strategy.experimental_local_results(parts)])


def one(strategy: Any, values: Any) -> Any:
    """A result that is the same on every replica."""
    return strategy.experimental_local_results(values)[0]
