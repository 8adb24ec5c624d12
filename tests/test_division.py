"""How a class's images are divided: by their hashes, within one image of the shares, and with few moves when images come."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from job.data.audit import Examined
from job.data.division import cut, divide, place
from job.errors import UserError

SHARES = st.sampled_from([0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.33, 0.5])


def _images(counts: tuple[int, int], seed: int, split: str | None = None) -> list[Examined]:
    return [
        Examined(f"{label}/{k}", label, split, hashlib.sha256(f"{seed} {split} {label} {k}".encode()).hexdigest(), "")
        for label, count in enumerate(counts)
        for k in range(count)
    ]


def _by_name(splits: dict[str, list[Examined]]) -> dict[str, str]:
    return {image.key: name for name, members in splits.items() for image in members}


@settings(deadline=None, max_examples=300)
@given(st.tuples(st.integers(4, 99), st.integers(4, 99)), SHARES, SHARES, st.integers(0, 1000))
def test_each_class_is_within_one_image_of_its_share(counts: tuple[int, int], val: float, test: float, seed: int) -> None:
    assume(val + test < 0.95)
    splits = divide(_images(counts, seed), val, test, ("cats", "dogs"))
    assert sum(map(len, splits.values())) == sum(counts)
    for label, count in enumerate(counts):
        for name, share in (("validation", val), ("test", test)):
            got = sum(image.label == label for image in splits.get(name, ()))
            assert abs(got - share * count) <= 1 + 1e-9
            assert (got > 0) == (share > 0)
        assert any(image.label == label for image in splits["train"])


@settings(deadline=None, max_examples=200)
@given(st.integers(100, 3000), st.sampled_from([0.05, 0.1, 0.2]), st.integers(0, 1000))
def test_many_images_are_within_one_percent_of_their_share(count: int, val: float, seed: int) -> None:
    splits = divide(_images((count, count), seed), val, 0, ("cats", "dogs"))
    for label in (0, 1):
        assert abs(sum(image.label == label for image in splits["validation"]) - val * count) <= 0.01 * count + 1e-9


@settings(deadline=None, max_examples=200)
@given(st.tuples(st.integers(4, 60), st.integers(4, 60)), st.integers(1, 5), SHARES, SHARES, st.integers(0, 1000))
def test_images_that_come_move_few_others(counts: tuple[int, int], more: int, val: float, test: float, seed: int) -> None:
    assume(val + test < 0.95)
    before = _by_name(divide(_images(counts, seed), val, test, ("cats", "dogs")))
    after = _by_name(divide(_images((counts[0] + more, counts[1]), seed), val, test, ("cats", "dogs")))
    moved = [key for key, name in before.items() if after[key] != name]
    assert all(key.startswith("0/") for key in moved)
    assert len(moved) <= 3 * more  # at a random order of shares it would be a third of them


def test_where_the_hashes_fall_well_they_alone_decide() -> None:
    images = _images((10_000, 10_000), 1)
    splits = divide(images, 0.1, 0.2, ("cats", "dogs"))
    for name, members in splits.items():
        for image in members:
            at = place(image.sha256)
            assert name == ("validation" if at < 0.1 else "test" if at >= 0.8 else "train")


@pytest.mark.parametrize(
    ("places", "val", "test", "right"),
    [
        ([0.5, 0.6, 0.7, 0.8], 0.25, 0, (1, 4)),  # none fell below 0.25: the nearest is taken
        ([0.01, 0.02, 0.03, 0.04, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95], 0.1, 0, (2, 10)),  # four did: two too many
        ([0.1, 0.2, 0.3, 0.4], 0, 0.25, (0, 3)),
        ([0.5, 0.5], 0.1, 0, (1, 2)),
        ([0.5, 0.5, 0.5], 0.1, 0.1, (1, 2)),
        ([0.01] * 2, 0.5, 0, (1, 2)),
    ],
)
def test_the_nearest_hashes_are_taken(places: list[float], val: float, test: float, right: tuple[int, int]) -> None:
    assert cut(places, val, test) == right


def test_validation_is_the_same_with_and_without_test() -> None:
    images = _images((40, 25), 3)
    without, having = (divide(images, 0.3, test, ("cats", "dogs"))["validation"] for test in (0.0, 0.3))
    assert without == having


def test_a_split_of_the_source_is_kept_whole_and_the_other_is_cut_from_the_rest() -> None:
    images = _images((30, 30), 1) + _images((5, 5), 2, "test")
    splits = divide(images, 0.1, 0.5, ("cats", "dogs"))
    assert {image.sha256 for image in splits["test"]} == {image.sha256 for image in images if image.split == "test"}
    assert len(splits["validation"]) in range(4, 9)


@pytest.mark.parametrize(
    ("counts", "val", "test", "line"),
    [
        ((1, 5), 0.1, 0, "class cats: has 1 images to train on, and needs 2; give more images"),
        ((5, 2), 0.1, 0.1, "class dogs: has 2 images to train on, and needs 3; give more images"),
        ((0, 5), 0, 0, "class cats: has 0 images to train on, and needs 1; give more images"),
    ],
)
def test_a_class_of_too_few_images_is_refused(counts: tuple[int, int], val: float, test: float, line: str) -> None:
    with pytest.raises(UserError) as caught:
        divide(_images(counts, 1), val, test, ("cats", "dogs"))
    assert str(caught.value) == line
