"""Order and randomness: pure functions of (seed, step), so that a resumed run equals one that never stopped.

Only `random_raw` of NumPy's Philox is used: its stream is fixed, while that of the distributions may change between
NumPy's versions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

WHITENED, NEIGHBORS = 2000, 50  # images that the whitening layer follows from, and how many of them lie side by side


def derive(seed: int, *words: object) -> int:
    """A 128-bit number from a seed and what it is for."""
    text = "/".join(str(part) for part in (seed, *words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def _raw(key: int, count: int) -> npt.NDArray[np.uint64]:
    return np.asarray(np.random.Philox(key=key).random_raw(count), np.uint64)


@dataclass(frozen=True)
class Windows:
    """Shards of so many records each, of which `shards` at a time are shuffled together; 0 is all of them.

    An epoch goes through the shards in an order of its own, window by window. Windows are numbered through all epochs.
    """

    sizes: tuple[int, ...]
    shards: int = 0

    @property
    def records(self) -> int:
        return sum(self.sizes)

    @property
    def width(self) -> int:
        """The shards of a window; the last of an epoch may have fewer."""
        return len(self.sizes) if self.shards == 0 else min(self.shards, len(self.sizes))

    @property
    def per_epoch(self) -> int:
        return -(-len(self.sizes) // self.width)


@lru_cache(maxsize=3)
def permutation(seed: int, epoch: int, data: int | Windows) -> npt.NDArray[np.int64]:
    """The order of an epoch: a true permutation of all records, int64 [records]; within windows, of each window's records."""
    if isinstance(data, int) or data.per_epoch == 1:
        records = data if isinstance(data, int) else data.records
        order = np.argsort(_raw(derive(seed, "order", epoch), records), kind="stable")
    else:
        first = epoch * data.per_epoch
        order = np.concatenate([_window(seed, number, data) for number in range(first, first + data.per_epoch)])
    order.setflags(write=False)
    return order


def _window(seed: int, number: int, data: Windows) -> npt.NDArray[np.int64]:
    """The records of a window in their order."""
    ends = np.cumsum(data.sizes)
    records = np.concatenate([np.arange(ends[shard] - data.sizes[shard], ends[shard]) for shard in window_shards(seed, number, data)])
    return records[np.argsort(_raw(derive(seed, "window", number), len(records)), kind="stable")]


def window_shards(seed: int, number: int, data: Windows) -> list[int]:
    """The shards of a window."""
    epoch, at = divmod(number, data.per_epoch)
    order = _shards(seed, epoch, data) if data.per_epoch > 1 else np.arange(len(data.sizes))
    return [int(shard) for shard in order[at * data.width : (at + 1) * data.width]]


@lru_cache(maxsize=3)
def _shards(seed: int, epoch: int, data: Windows) -> npt.NDArray[np.int64]:
    """The order of an epoch's shards."""
    return np.argsort(_raw(derive(seed, "shards", epoch), len(data.sizes)), kind="stable")


def window_at(seed: int, step: int, batch: int, data: Windows) -> int:
    """The window that a step's first record is in."""
    epoch, at = divmod(step * batch, data.records)
    if data.per_epoch == 1:
        return epoch
    ends = np.cumsum(np.asarray(data.sizes)[_shards(seed, epoch, data)])
    shard = int(np.searchsorted(ends, at, side="right"))
    return epoch * data.per_epoch + shard // data.width


def positions(seed: int, step: int, batch: int, data: int | Windows) -> npt.NDArray[np.int64]:
    """The records of a step: positions [step * batch, (step + 1) * batch) of the permutations one after another."""
    records = data if isinstance(data, int) else data.records
    first, last = step * batch, (step + 1) * batch
    parts = []
    while first < last:
        epoch, at = divmod(first, records)
        take = min(records - at, last - first)
        parts.append(permutation(seed, epoch, data)[at : at + take])
        first += take
    return np.concatenate(parts)


def whitened(seed: int, records: int) -> npt.NDArray[np.int64]:
    """The records that the whitening layer follows from: int64, `WHITENED` of them, or all where there are fewer.

    They are runs of neighbors: in a bucket one request brings a run, and shards are in the order of their images' hashes,
    so that neighbors have no more in common than others.
    """
    if records <= WHITENED:
        return np.arange(records)
    starts = np.argsort(_raw(derive(seed, "whitening"), records // NEIGHBORS), kind="stable")[: WHITENED // NEIGHBORS] * NEIGHBORS
    return np.asarray((starts[:, None] + np.arange(NEIGHBORS)).ravel(), np.int64)


def epoch_end(epoch: int, batch: int, records: int) -> int:
    """The number of steps after which an epoch has ended: the first step at or past records * epoch."""
    return -(-records * epoch // batch)


def noise(seed: int, step: int, batch: int, columns: int) -> npt.NDArray[np.float32]:
    """What is random in a step: float32 [batch, columns] in [0, 1), a row for each position of the global batch."""
    raw = _raw(derive(seed, "noise", step), batch * columns)
    uniform: Any = (raw >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    return np.asarray(uniform.reshape(batch, columns), np.float32)
