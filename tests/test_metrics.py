"""Metrics against scikit-learn, SciPy, and figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, brier_score_loss, confusion_matrix, log_loss, roc_auc_score

from job.metrics import calibration_error, measure, probability, wilson

# quarters, so that many logits are equal
PAIRS = st.lists(st.tuples(st.integers(0, 1), st.integers(-24, 24)), min_size=2, max_size=80).filter(lambda p: len({y for y, _ in p}) == 2)


@settings(deadline=None, max_examples=150)
@given(PAIRS)
def test_figures_equal_scikit_learn_s(pairs: list[tuple[int, int]]) -> None:
    y, z = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs]) / 4
    p = 1 / (1 + np.exp(-z))
    found = measure(y, z)
    assert found.auc == pytest.approx(roc_auc_score(y, z), abs=1e-12)
    assert found.average_precision == pytest.approx(average_precision_score(y, z), abs=1e-12)
    assert found.log_loss == pytest.approx(log_loss(y, p), abs=1e-9)
    assert found.brier == pytest.approx(brier_score_loss(y, p), abs=1e-12)
    assert found.confusion == confusion_matrix(y, z >= 0, labels=[0, 1]).tolist()
    assert sum(map(sum, found.confusion)) == found.images == len(pairs)
    assert found.accuracy == pytest.approx((found.confusion[0][0] + found.confusion[1][1]) / len(pairs))
    assert found.accuracy_low <= found.accuracy <= found.accuracy_high


@settings(deadline=None, max_examples=80)
@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_images_does_not_matter(pairs: list[tuple[int, int]], random: object) -> None:
    mixed = list(pairs)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    one, other = (measure([y for y, _ in some], [z / 4 for _, z in some]) for some in (pairs, mixed))
    assert one.auc == pytest.approx(other.auc)
    assert one.average_precision == pytest.approx(other.average_precision)
    assert one.ece == pytest.approx(other.ece)
    assert one.confusion == other.confusion


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 20_000), st.data())
def test_the_interval_is_wilson_s(total: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, total))
    wanted = binomtest(right, total).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(right, total) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_the_interval_by_hand() -> None:
    # 8 of 10: (0.8 + 3.8415/20 +- 1.95996 sqrt(0.016 + 3.8415/400)) / 1.38415
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.490162, abs=1e-6)
    assert high == pytest.approx(0.943318, abs=1e-6)
    assert wilson(0, 0) == (0, 1)
    assert wilson(0, 5)[0] == 0
    assert wilson(5, 5)[1] == 1


def test_calibration_error_by_hand() -> None:
    # sure 0.91 of two, one right; 0.62 right; 0.81 right: (0.82 + 0.38 + 0.19) / 4
    labels, probabilities = np.array([1.0, 0, 1, 0]), np.array([0.91, 0.91, 0.62, 0.19])
    assert calibration_error(labels, probabilities) == pytest.approx(0.3475)
    assert calibration_error(np.array([1.0, 0]), np.array([1.0, 0])) == 0
    assert calibration_error(np.array([0.0, 1]), np.array([1.0, 0])) == 1
    assert calibration_error(np.array([1.0, 0]), np.array([0.5, 0.5])) == 0


def test_calibration_bins_are_fifteen_between_a_half_and_one() -> None:
    """0.60 right and 0.66 wrong lie in two bins, so that they do not make up for each other."""
    assert calibration_error(np.array([1.0, 0.0]), np.array([0.601, 0.66])) == pytest.approx((0.399 + 0.66) / 2)


@pytest.mark.filterwarnings("error")
def test_extreme_logits_do_not_overflow() -> None:
    found = measure([1, 0, 1, 0], [1e4, -1e4, 1e300, -1e300])
    assert (found.accuracy, found.auc, found.log_loss, found.brier) == (1, 1, 0, 0)
    wrong = measure([0, 1], [1e4, -1e4])
    assert wrong.log_loss == 1e4
    assert wrong.brier == 1
    assert probability([-1e308, 0, 1e308]).tolist() == [0, 0.5, 1]
    assert all(math.isfinite(v) for v in (wrong.ece, wrong.accuracy_low, wrong.accuracy_high))


def test_one_class_alone_has_no_ranking() -> None:
    found = measure([1, 1, 1], [2.0, -1.0, 0.0])
    assert found.auc is None
    assert found.average_precision is None
    assert found.confusion == [[0, 0], [1, 2]]  # 0.5 is the positive class


def test_no_skill_is_a_half() -> None:
    assert measure([0, 1, 0, 1], [0.3, 0.3, 0.3, 0.3]).auc == 0.5
