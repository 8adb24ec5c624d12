"""Order and randomness: pure functions of seed and step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.feeds.order import (
    NEIGHBORS,
    WHITENED,
    Windows,
    derive,
    epoch_end,
    noise,
    permutation,
    positions,
    whitened,
    window_at,
    window_shards,
)

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


WINDOWS = st.builds(Windows, st.lists(st.integers(1, 30), min_size=1, max_size=12).map(tuple), st.integers(0, 13))


@settings(deadline=None, max_examples=100)
@given(SEEDS, st.integers(0, 20), WINDOWS)
def test_within_windows_every_epoch_is_a_permutation_too(seed: int, epoch: int, data: Windows) -> None:
    order = permutation(seed, epoch, data).tolist()
    assert sorted(order) == list(range(data.records))
    shards = [window_shards(seed, epoch * data.per_epoch + k, data) for k in range(data.per_epoch)]
    assert sorted(shard for window in shards for shard in window) == list(range(len(data.sizes)))
    assert {len(window) for window in shards[:-1]} <= {data.width}
    starts = np.cumsum([0, *data.sizes])
    for window in shards:  # one after another
        records = {record for shard in window for record in range(starts[shard], starts[shard + 1])}
        assert set(order[: len(records)]) == records
        order = order[len(records) :]


@settings(deadline=None, max_examples=50)
@given(SEEDS, st.integers(0, 20), st.lists(st.integers(1, 30), min_size=1, max_size=12).map(tuple))
def test_a_window_of_all_shards_is_the_order_without_windows(seed: int, epoch: int, sizes: tuple[int, ...]) -> None:
    wanted = permutation(seed, epoch, sum(sizes)).tolist()
    for shards in (0, len(sizes), len(sizes) + 5):
        assert permutation(seed, epoch, Windows(sizes, shards)).tolist() == wanted


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(1, 60), st.integers(1, 30), WINDOWS)
def test_a_step_lies_in_its_window_and_those_after_it(seed: int, batch: int, steps: int, data: Windows) -> None:
    assert positions(seed, steps, batch, data)[0] == positions(seed, steps * batch, 1, data)[0]
    starts = np.cumsum([0, *data.sizes])
    last = 0
    for step in range(steps):
        number = window_at(seed, step, batch, data)
        assert number >= last
        last = number
        first = int(np.searchsorted(starts, positions(seed, step, batch, data)[0], side="right")) - 1
        assert first in window_shards(seed, number, data)


def test_windows_and_their_shards_are_shuffled_anew_in_each_epoch() -> None:
    data = Windows((40,) * 10, 3)
    assert [data.per_epoch, data.width, data.records] == [4, 3, 400]
    orders = [permutation(seed, epoch, data).tolist() for seed in (1, 2) for epoch in (0, 1)]
    shards = [[window_shards(seed, 4 * epoch + k, data) for k in range(4)] for seed in (1, 2) for epoch in (0, 1)]
    for one in range(4):
        assert all(orders[one] != orders[other] and shards[one] != shards[other] for other in range(one))
    whole = Windows((40, 40), 1)
    within = [[record % 40 for record in permutation(1, 0, whole)[half : half + 40]] for half in (0, 40)]
    assert within[0] != within[1], "each window has an order of its own"


def test_streams_are_those_of_all_versions() -> None:
    assert derive(1, "order", 0) == GOLDEN_KEY
    assert permutation(1, 0, 10).tolist() == GOLDEN_ORDER
    assert [round(float(x) * 2**24) for x in noise(1, 0, 2, 3).ravel()] == GOLDEN_NOISE
    assert permutation(1, 1, Windows((3, 2, 4), 2)).tolist() == GOLDEN_WINDOWS
    assert derive(1, 2) != derive(12) != derive("1", "2", "")


GOLDEN_KEY = 265873817400576624322451596809217508364
GOLDEN_ORDER = [3, 7, 9, 1, 2, 5, 6, 0, 8, 4]
GOLDEN_NOISE = [4532609, 5216578, 8770970, 13278703, 8773174, 4453931]
GOLDEN_WINDOWS = [8, 6, 3, 4, 5, 7, 0, 1, 2]


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.one_of(st.integers(1, WHITENED + 2 * NEIGHBORS), st.integers(1, 10**6)))
def test_the_whitening_layer_follows_from_runs_of_neighbors(seed: int, records: int) -> None:
    found = whitened(seed, records)
    assert len({*found.tolist()}) == len(found) == min(records, WHITENED)
    assert 0 <= found.min() <= found.max() < records
    assert (np.diff(found) != 1).sum() < WHITENED // NEIGHBORS
    assert records <= WHITENED + 2 * NEIGHBORS or sorted(found) != sorted(whitened(seed + 1, records))
