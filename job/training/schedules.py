"""Schedules: the learning rate and the training resolution at each step."""

from __future__ import annotations

import bisect
import math

from job.config.resolve import Resolved


def learning_rate(config: Resolved, step: int, steps: int) -> float:
    """The learning rate of a step (from 0) of `steps`: a linear rise, then the decay asked for."""
    options, peak = config.schedule, config.optimizer.lr
    rise = round(options.warmup * steps)
    if step < rise:
        return peak * (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    if options.decay == "linear":
        return peak * (1 - done)
    if options.decay == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * done))
    return peak


def train_size(config: Resolved, step: int, steps: int) -> int:
    """The training resolution of a step, px."""
    sizes, grow_at = config.schedule.train_sizes, config.schedule.grow_at
    return sizes[bisect.bisect_right([share * steps for share in grow_at], step)]


def work(config: Resolved, first: int, last: int, steps: int) -> int:
    """Pixels of an image summed over steps [first, last): what their time is about proportional to."""
    return sum(train_size(config, step, steps) ** 2 for step in range(first, last))
