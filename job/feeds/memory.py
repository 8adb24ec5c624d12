"""The feed that decodes with threads and keeps decoded images in memory, as far as the memory for them goes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from job.data import pixels
from job.data.shards import Records
from job.feeds.interface import Batch


class MemoryFeed:
    """The images of some shards, uint8 [size, size, 3], with their labels, by number.

    An image is decoded when first asked for; the first `cache_bytes` worth of them stay in memory.
    """

    def __init__(self, reader: Records, size: int, workers: int, cache_bytes: int) -> None:
        self.reader, self.size = reader, size
        kept = min(len(reader), cache_bytes // (3 * size * size))
        self._cache = np.empty((kept, size, size, 3), np.uint8)
        self._labels = np.zeros(len(reader), np.float32)
        self._known = np.zeros(kept, bool)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._workers = workers

    def __len__(self) -> int:
        return len(self.reader)

    def gather(self, numbers: npt.NDArray[np.int64]) -> Batch:
        """The images, uint8 [n, size, size, 3], and labels, float32 [n], of these records."""
        images = np.empty((len(numbers), self.size, self.size, 3), np.uint8)
        cached = numbers < len(self._cache)
        known = np.zeros(len(numbers), bool)
        known[cached] = self._known[numbers[cached]]
        images[known] = self._cache[numbers[known]]

        missing = np.flatnonzero(~known)
        records = self.reader.begin(numbers[missing].tolist())

        def load(part: npt.NDArray[np.int64]) -> None:
            for place in part:
                number = int(numbers[place])
                record = records[number]
                images[place] = pixels.square(record.image, self.size)
                self._labels[number] = record.label
                if number < len(self._cache):
                    self._cache[number] = images[place]
                    self._known[number] = True

        parts = np.array_split(missing, self._workers)
        for done in [self._pool.submit(load, part) for part in parts if len(part)]:
            done.result()
        return images, self._labels[numbers]

    def stop(self) -> None:
        """End the threads; the reader stays open."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        self.stop()
        self.reader.close()
