"""Lengths of time and of training, as options write them: `90m`, `12s`, `500steps`, `1epoch`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from job.errors import UserError

_UNITS = dict(s=1.0, m=60.0, h=3600.0)


def seconds(text: str, where: str) -> float:
    """A number with s, m or h, as seconds.

    Args:
        where: the option, for the error.

    Raises:
        UserError: it is something else, or nothing at all.
    """
    try:
        length = float(text[:-1]) * _UNITS[text[-1:]]
    except (KeyError, ValueError):
        length = 0.0
    if not 0 < length < math.inf:
        raise UserError(where, f"{text!r} is not a length of time", "give a number with s, m or h, as 90m")
    return length


def limit(text: str, where: str) -> float:
    """The same, where 0 or nothing is off: infinity."""
    return seconds(text, where) if text not in ("", "0") else math.inf


@dataclass(frozen=True)
class Interval:
    """What lies between two checkpoints within an epoch: a time in seconds, or steps."""

    seconds: float = math.inf
    steps: float = math.inf


def interval(text: str, where: str) -> Interval:
    """A length of time, `500steps`, or `1epoch`, where nothing lies between two epochs' ends; a bare number is minutes."""
    if text in ("1epoch", "epoch"):
        return Interval()
    if (found := re.fullmatch(r"(\d{1,12})steps?", text)) and int(found[1]):
        return Interval(steps=int(found[1]))
    try:
        return Interval(seconds=seconds(text if text[-1:] in _UNITS else f"{text}m", where))
    except UserError:
        fix = "give a time, steps or 1epoch, as 60s, 10m, 500steps (each epoch's end is saved in any case)"
        raise UserError(where, f"{text!r} is not an interval between checkpoints", fix) from None
