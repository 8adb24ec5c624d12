"""Order and randomness: pure functions of seed and step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.feeds.order import derive, epoch_end, noise, permutation, positions

SEEDS = st.integers(0, 2**31 - 1)


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(0, 50), st.integers(1, 500))
def test_every_epoch_is_a_permutation(seed: int, epoch: int, records: int) -> None:
    assert sorted(permutation(seed, epoch, records).tolist()) == list(range(records))


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(0, 50), st.integers(100, 300))
def test_epochs_and_seeds_differ(seed: int, epoch: int, records: int) -> None:
    here = permutation(seed, epoch, records).tolist()
    assert here != permutation(seed, epoch + 1, records).tolist()
    assert here != permutation(seed + 1, epoch, records).tolist()


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(1, 40), st.integers(1, 60), st.integers(1, 8))
def test_steps_one_after_another_are_the_permutations_one_after_another(seed: int, records: int, batch: int, steps: int) -> None:
    found = np.concatenate([positions(seed, step, batch, records) for step in range(steps)])
    wanted = np.concatenate([permutation(seed, epoch, records) for epoch in range(steps * batch // records + 1)])
    assert found.tolist() == wanted[: steps * batch].tolist()


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 50))
def test_an_epoch_ends_with_the_first_step_at_or_past_it(batch: int, records: int, epoch: int) -> None:
    end = epoch_end(epoch, batch, records)
    assert end * batch >= records * epoch > (end - 1) * batch
    assert epoch_end(0, batch, records) == 0


def test_a_permutation_that_is_kept_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        permutation(1, 0, 10)[0] = 5


def test_noise_is_uniform_and_of_its_step_alone() -> None:
    first = noise(1, 7, 512, 16)
    assert first.dtype == np.float32
    assert first.min() >= 0
    assert first.max() < 1
    assert abs(float(first.mean()) - 0.5) < 0.02
    assert abs(float(first.std()) - 12**-0.5) < 0.02
    assert not np.array_equal(first, noise(1, 8, 512, 16))
    assert not np.array_equal(first, noise(2, 7, 512, 16))
    noise(1, 9, 3, 3)
    assert np.array_equal(first, noise(1, 7, 512, 16))


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.integers(0, 1000), st.integers(1, 32), st.integers(1, 12))
def test_a_row_of_noise_belongs_to_its_position(seed: int, step: int, batch: int, columns: int) -> None:
    assert np.array_equal(noise(seed, step, batch, columns), noise(seed, step, batch + 5, columns)[:batch])


def test_streams_are_those_of_all_versions() -> None:
    assert derive(1, "order", 0) == GOLDEN_KEY
    assert permutation(1, 0, 10).tolist() == GOLDEN_ORDER
    assert [round(float(x) * 2**24) for x in noise(1, 0, 2, 3).ravel()] == GOLDEN_NOISE
    assert derive(1, 2) != derive(12) != derive("1", "2", "")


GOLDEN_KEY = 265873817400576624322451596809217508364
GOLDEN_ORDER = [3, 7, 9, 1, 2, 5, 6, 0, 8, 4]
GOLDEN_NOISE = [4532609, 5216578, 8770970, 13278703, 8773174, 4453931]
