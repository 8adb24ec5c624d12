"""What a feed is: images by number, decoded, with their labels."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]


class Feed(Protocol):
    """The images of some shards. What is given for a number never depends on what was asked for before."""

    def __len__(self) -> int: ...

    def gather(self, numbers: npt.NDArray[np.int64]) -> Batch:
        """The images, uint8 [n, size, size, 3], and labels, float32 [n], of these records."""
        ...

    def close(self) -> None: ...
