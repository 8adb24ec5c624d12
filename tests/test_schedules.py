"""The learning rate and the training resolution, step by step."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.config.options import build
from job.config.resolve import resolve
from job.config.schema import Config
from job.training.schedules import learning_rate, train_size, work


def _config(**values: Any) -> Config:
    return resolve(build(Config, values), 10_000)


def _rates(steps: int, **values: Any) -> list[float]:
    config = _config(**values)
    return [learning_rate(config, step, steps) for step in range(steps)]


def test_linear_by_hand() -> None:
    rates = _rates(10, lr=1.0, warmup=0.2, decay="linear")
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])


def test_cosine_by_hand() -> None:
    rates = _rates(4, lr=2.0, warmup=0.0, decay="cosine")
    assert rates == pytest.approx([2.0, 1 + 0.5**0.5, 1.0, 1 - 0.5**0.5])


def test_constant_after_the_warmup() -> None:
    assert _rates(8, lr=0.1, warmup=0.25, decay="constant") == pytest.approx([0.05] + 7 * [0.1])


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["linear", "cosine", "constant"]), st.floats(0, 0.9), st.integers(1, 400), st.floats(1e-6, 10))
def test_rises_then_falls_and_never_reaches_zero(decay: str, warmup: float, steps: int, peak: float) -> None:
    rates = _rates(steps, lr=peak, warmup=warmup, decay=decay)
    top = rates.index(max(rates))
    assert min(rates) > 0
    assert max(rates) <= peak * (1 + 1e-12)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    if round(warmup * steps) < steps:
        assert max(rates) == pytest.approx(peak)


def test_resolutions_grow_at_their_shares() -> None:
    config = _config(train_sizes=(32, 48, 64), grow_at=(0.5, 0.8), size=64)
    assert [train_size(config, step, 10) for step in range(10)] == [32] * 5 + [48] * 3 + [64] * 2


def test_one_resolution_stays() -> None:
    config = _config(model="classic", size=64)
    assert {train_size(config, step, 7) for step in range(7)} == {64}


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 200), st.data())
def test_work_is_the_sum_over_any_cut(steps: int, data: st.DataObject) -> None:
    config = _config()
    cut = data.draw(st.integers(0, steps))
    whole = sum(train_size(config, step, steps) ** 2 for step in range(steps))
    assert work(config, 0, cut, steps) + work(config, cut, steps, steps) == work(config, 0, steps, steps) == whole
