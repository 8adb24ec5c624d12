"""The feed: images by number, with and without memory; work ahead in order, errors handed over."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.data import pixels
from job.data.manifest import read
from job.data.shards import Reader
from job.errors import UserError
from job.feeds.memory import MemoryFeed
from job.feeds.prefetch import ahead


@pytest.fixture
def reader(shards: Path) -> Any:
    opened = Reader(shards, read(shards).splits["train"].shards)
    yield opened
    opened.close()


@pytest.mark.parametrize("kept", [0, 7, 10_000])
def test_images_are_the_same_with_any_cache(reader: Reader, kept: int) -> None:
    feed = MemoryFeed(reader, 24, 3, kept * 24 * 24 * 3)
    numbers = np.array([5, 0, 5, len(reader) - 1, 3])
    expected = np.stack([pixels.square(reader[int(n)].image, 24) for n in numbers])
    for _ in range(2):
        images, labels = feed.gather(numbers)
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(labels, [reader[int(n)].label for n in numbers])
    feed.close()


def test_a_cached_image_is_not_read_again(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = MemoryFeed(reader, 24, 1, 10**8)
    first, _ = feed.gather(np.arange(len(reader)))
    monkeypatch.setattr(pixels, "square", lambda *a: pytest.fail("decoded twice"))
    again, _ = feed.gather(np.arange(len(reader)))
    np.testing.assert_array_equal(first, again)
    feed.close()


def test_a_damaged_record_is_an_error_of_the_taker(shards: Path, tmp_path: Path) -> None:
    made = read(shards).splits["train"].shards[0]
    data = bytearray((shards / made.file).read_bytes())
    data[40] ^= 1
    (tmp_path / made.file).write_bytes(data)
    (tmp_path / made.index).write_bytes((shards / made.index).read_bytes())
    feed = MemoryFeed(Reader(tmp_path, [made]), 24, 2, 0)
    batches = ahead(lambda step: feed.gather(np.arange(made.records)), 0, 3)
    with pytest.raises(UserError, match="record 0 fails its checksum"):
        next(batches)
    feed.close()


def test_ahead_keeps_the_order_and_stops_when_the_taker_leaves() -> None:
    made: list[int] = []

    def make(step: int) -> int:
        made.append(step)
        return step * step

    assert list(ahead(make, 3, 8)) == [9, 16, 25, 36, 49]
    made.clear()
    batches = ahead(make, 0, 1000, depth=2)
    assert next(batches) == 0
    batches.close()
    assert len(made) < 10
    assert "feed" not in {thread.name for thread in threading.enumerate()}
