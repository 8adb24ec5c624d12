"""Levels: which values of a 16-bit image become black and white (`--levels`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from job.errors import UserError

TOP = 65535
DIM = 4096  # 12 bits in a file of 16: microscopes, X-ray


@dataclass(frozen=True)
class Levels:
    """`low` becomes 0 and `high` 255, linear between and clipped beyond; `auto` takes 0 to 4,095 for a dim image."""

    low: int = 0
    high: int = TOP
    auto: bool = False

    def range(self, dim: bool) -> tuple[int, int]:
        """The values that become black and white."""
        return (0, DIM - 1) if self.auto and dim else (self.low, self.high)


FULL = Levels()
AUTO = Levels(auto=True)


def parse(text: str) -> Levels:
    """`full`, `auto` or MIN:MAX.

    Raises:
        UserError: it is none of them, or not a range within 0 to 65,535.
    """
    if text in ("full", "auto"):
        return AUTO if text == "auto" else FULL
    found = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)
    if found is None:
        raise UserError("--levels", f"{text!r} is not full, auto or MIN:MAX", "give two whole numbers from 0 to 65,535, such as 0:4095")
    low, high = int(found[1]), int(found[2])
    if high > TOP:
        raise UserError("--levels", f"{text} ends above 65,535, the largest value of 16 bits", f"use {min(low, TOP - 1)}:{TOP}")
    if low >= high:
        raise UserError("--levels", f"{text} has a MIN that is not below its MAX", "give the smaller value first, such as 0:4095")
    return Levels(low, high)


def is_dim(colors: npt.NDArray[Any], alpha: npt.NDArray[Any] | None) -> bool:
    """Whether an image is of 16 bits, and all values that are seen lie below 4,096: as it stands, it is nearly black."""
    if colors.dtype != np.uint16:
        return False
    if alpha is None or colors.max() < DIM:
        return bool(colors.max() < DIM)
    seen = colors[alpha > 0]  # what a transparent pixel holds is not a level
    return seen.size > 0 and bool(seen.max() < DIM)


@lru_cache(maxsize=8)
def table(low: int, high: int) -> npt.NDArray[np.uint8]:
    """The 8-bit value of each 16-bit value."""
    return np.asarray(np.rint(np.clip((np.arange(TOP + 1) - low) / (high - low), 0, 1) * 255), np.uint8)
