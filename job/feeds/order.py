"""Order and randomness: pure functions of (seed, step), so that a resumed run equals one that never stopped.

Only `random_raw` of NumPy's Philox is used: its stream is fixed, while that of the distributions may change between
NumPy's versions.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt


def derive(seed: int, *words: object) -> int:
    """A 128-bit number from a seed and what it is for."""
    text = "/".join(str(part) for part in (seed, *words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def _raw(key: int, count: int) -> npt.NDArray[np.uint64]:
    return np.asarray(np.random.Philox(key=key).random_raw(count), np.uint64)


@lru_cache(maxsize=3)
def permutation(seed: int, epoch: int, records: int) -> npt.NDArray[np.int64]:
    """The order of an epoch: a true permutation of all records, int64 [records]."""
    order = np.argsort(_raw(derive(seed, "order", epoch), records), kind="stable")
    order.setflags(write=False)
    return order


def positions(seed: int, step: int, batch: int, records: int) -> npt.NDArray[np.int64]:
    """The records of a step: positions [step * batch, (step + 1) * batch) of the permutations one after another."""
    first, last = step * batch, (step + 1) * batch
    parts = []
    while first < last:
        epoch, at = divmod(first, records)
        take = min(records - at, last - first)
        parts.append(permutation(seed, epoch, records)[at : at + take])
        first += take
    return np.concatenate(parts)


def epoch_end(epoch: int, batch: int, records: int) -> int:
    """The number of steps after which an epoch has ended: the first step at or past records * epoch."""
    return -(-records * epoch // batch)


def noise(seed: int, step: int, batch: int, columns: int) -> npt.NDArray[np.float32]:
    """What is random in a step: float32 [batch, columns] in [0, 1), a row for each position of the global batch."""
    raw = _raw(derive(seed, "noise", step), batch * columns)
    uniform: Any = (raw >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    return np.asarray(uniform.reshape(batch, columns), np.float32)
