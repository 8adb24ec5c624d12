"""Out of memory, on the host or on a GPU, as one line that says what to try."""

from __future__ import annotations

import gc
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from job.errors import OutOfMemory
from job.machine.devices import free_memory

TRAINING = 0.7  # bytes that a step takes for each byte of its layers' outputs; 0.5 to 0.7 measured: most are not kept
_WORDS = re.compile(r"out of memory|out_of_memory|alloc_failed|bad_alloc|failed to allocate|create a memory object", re.IGNORECASE)
MORE = "free some memory, use a machine with more, or train with a smaller --size"
_NO_MEMORY = -4  # OpenCV's code


@contextmanager
def guard(where: str, fix: Callable[[int], str]) -> Iterator[None]:
    """Raise `OutOfMemory` where memory runs out inside.

    Args:
        where: what runs inside.
        fix: given the bytes that are free once the failed operation has let go of its own, says what to try.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold batches, which would count as taken
        gc.collect()
        free = _free()
        raise OutOfMemory(where, f"out of memory ({free / 2**30:.1f} GiB are free)", fix(free)) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, TensorFlow or OpenCV says that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    tensorflow: Any = sys.modules.get("tensorflow")
    if tensorflow is not None and isinstance(error, tensorflow.errors.OpError):
        return isinstance(error, tensorflow.errors.ResourceExhaustedError) or bool(_WORDS.search(str(error)))
    return getattr(error, "code", None) == _NO_MEMORY and type(error).__module__ == "cv2"


def _free() -> int:
    """Bytes free where TensorFlow computes: on the host, or on all GPUs what was in use at the peak and is no longer."""
    tensorflow: Any = sys.modules.get("tensorflow")
    gpus = [] if tensorflow is None else tensorflow.config.list_logical_devices("GPU")
    found = [tensorflow.config.experimental.get_memory_info(gpu.name) for gpu in gpus]
    return len(found) * min(info["peak"] - info["current"] for info in found) if found else free_memory()


def smaller_batch(batch: int, replicas: int, image: int, free: int) -> str:
    """What to try where a step of training does not fit: at most half the batch, and what should fit into what is free.

    Args:
        batch: over all replicas.
        image: bytes of the layers' outputs for one image.
        free: bytes, over all replicas.
    """
    fits = int(0.8 * free / (TRAINING * image))
    tried = min(batch // 2, max(fits, 1)) // replicas * replicas
    return f"try --batch {tried} in a new --out" if tried else "try a smaller --size or fewer --filters in a new --out"
