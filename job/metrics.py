"""Metrics of a two-class model, exact, from every image's label and logit. NumPy, float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
_Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution
_BINS = 15  # of the expected calibration error


@dataclass(frozen=True)
class Metrics:
    """Figures over one split. `confusion` is [[tn, fp], [fn, tp]]; figures that need both classes are None without."""

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    auc: float | None
    average_precision: float | None
    log_loss: float
    brier: float
    ece: float
    confusion: list[list[int]]
    images: int


def measure(labels: Any, logits: Any) -> Metrics:
    """Measure predictions.

    Args:
        labels: [n] of 0 and 1.
        logits: [n], log odds of the positive class.
    """
    y, z = np.asarray(labels, np.float64), np.asarray(logits, np.float64)
    p = probability(z)
    right = (p >= 0.5) == (y >= 0.5)
    low, high = wilson(int(right.sum()), len(y))
    actual, predicted = y >= 0.5, p >= 0.5
    confusion = [[int(((actual == a) & (predicted == b)).sum()) for b in (False, True)] for a in (False, True)]
    both = 0 < y.sum() < len(y)
    return Metrics(
        accuracy=float(right.mean()), accuracy_low=low, accuracy_high=high,
        auc=roc_auc(y, z) if both else None, average_precision=average_precision(y, z) if both else None,
        log_loss=log_loss(y, z), brier=float(np.mean((p - y) ** 2)), ece=calibration_error(y, p),
        confusion=confusion, images=len(y),
    )  # fmt: skip


def probability(logits: Any) -> Array:
    """Logits to probabilities of the positive class, without overflow."""
    z = np.asarray(logits, np.float64)
    e = np.exp(-np.abs(z))
    return np.asarray(np.where(z >= 0, 1.0, e) / (1 + e), np.float64)


def log_loss(labels: Array, logits: Array) -> float:
    """Mean negative log likelihood, from logits so that sure mistakes cost what they should."""
    return float(np.mean(np.logaddexp(0, logits) - labels * logits))


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    if not total:
        return 0.0, 1.0
    share, z2 = right / total, _Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def roc_auc(labels: Array, scores: Array) -> float:
    """Area under the ROC curve: the share of pairs in the right order, ties half (Mann & Whitney 1947)."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positives = int(labels.sum())
    negatives = len(labels) - positives
    return float((ranks[labels > 0.5].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(labels: Array, scores: Array) -> float:
    """The precision at each threshold, weighed by the recall gained there."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # ties are one threshold
    hits = np.cumsum(labels[order])[last]
    return float(np.sum(np.diff(hits, prepend=0) * hits / (last + 1)) / labels.sum())


def calibration_error(labels: Array, probabilities: Array) -> float:
    """Expected calibration error (Naeini et al. 2015) of the predicted class, over 15 equal bins of its probability."""
    predicted = probabilities >= 0.5
    sure = np.where(predicted, probabilities, 1 - probabilities)
    right = predicted == (labels > 0.5)
    bins = np.minimum(((sure - 0.5) * 2 * _BINS).astype(int), _BINS - 1)
    gaps = np.abs(np.bincount(bins, right.astype(np.float64) - sure, minlength=_BINS))
    return float(gaps.sum() / len(labels))
