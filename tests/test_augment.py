"""Augmentation: what each operation does, and that nothing is drawn on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from job.config.schema import Augment
from job.data import pixels
from job.training import augment

OFF: dict[str, float] = dict(augment=0, crop=1.0, flip=0.0, rotate=0.0, brightness=0.0, contrast=0.0, saturation=0.0, erase=0.0, mixup=0.0)


def _apply(images: Any, noise: Any = None, labels: Any = None, size: int = 16, **changes: float) -> tuple[Any, Any]:
    count = len(images)
    noise = np.full((count, augment.COLUMNS), 0.5, np.float32) if noise is None else noise
    labels = np.zeros(count, np.float32) if labels is None else labels
    done, mixed = augment.augment(images, labels, noise, Augment(**{**OFF, **changes}), size)
    return done.numpy(), np.asarray(mixed)


@pytest.fixture
def images() -> Any:
    return np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def noise() -> Any:
    return np.random.default_rng(1).random((6, augment.COLUMNS), dtype=np.float32)


def test_without_augmentation_an_image_is_what_evaluation_sees(images: Any) -> None:
    done, _ = _apply(images)
    expected = np.stack([pixels.squeeze(image, 16) for image in images])
    np.testing.assert_allclose(done, expected, atol=0.51)


@pytest.mark.parametrize("size", [16, 32, 48])
def test_a_crop_of_one_colour_stays_that_colour(noise: Any, size: int) -> None:
    done, _ = _apply(np.full((6, 32, 32, 3), 77, np.uint8), noise, size=size, crop=0.2, flip=0.5)
    np.testing.assert_allclose(done, 77, atol=1e-3)


def test_a_flip_mirrors_the_image(images: Any) -> None:
    plain, _ = _apply(images)
    flipped, _ = _apply(images, np.zeros((6, augment.COLUMNS), np.float32), flip=0.5)
    np.testing.assert_allclose(flipped, plain[:, :, ::-1], atol=1e-3)


def _areas(line: Any, start: float, length: float, size: int) -> Any:
    """Means of a line of pixels over `size` equal parts of [start, start + length], by its integral."""
    ends = start + length * np.arange(size + 1) / size
    return np.diff(np.interp(ends, np.arange(len(line) + 1), np.append(0, np.cumsum(line)))) * size / length


def test_a_crop_is_the_mean_over_its_areas(images: Any, noise: Any) -> None:
    """The share of the area uniform in [0.25, 1], the ratio of the sides log-uniform in [3/4, 4/3]; then flipped."""
    done, _ = _apply(images, noise, crop=0.25, flip=0.5)
    for image, (area, shape, top, left, flip), found in zip(images, noise[:, :5].astype(float), done, strict=True):
        root, ratio = np.sqrt(0.25 + 0.75 * area), (4 / 3) ** (0.5 * (2 * shape - 1))
        height, width = (32 * min(root * r, 1) for r in (ratio, 1 / ratio))
        rows = np.apply_along_axis(_areas, 0, image.astype(float), top * (32 - height), height, 16)
        expected = np.apply_along_axis(_areas, 1, rows, left * (32 - width), width, 16)
        np.testing.assert_allclose(found, expected[:, ::-1] if flip < 0.5 else expected, atol=0.05)


def test_a_small_crop_keeps_the_shape(images: Any) -> None:
    """Where little may be cut off, the ratio of the sides is near 1 too, and what is cut off is what was asked for."""
    extreme = np.full((6, augment.COLUMNS), 0.5, np.float32)
    extreme[:, :2] = [0.0, 1.0]
    done, _ = _apply(images, extreme, crop=0.9)
    ratio = (4 / 3) ** (0.5 * 0.1 / 0.65)
    height, width = 32 * min(0.9**0.5 * ratio, 1), 32 * 0.9**0.5 / ratio
    rows = np.apply_along_axis(_areas, 0, images[0].astype(float), 0.5 * (32 - height), height, 16)
    np.testing.assert_allclose(done[0], np.apply_along_axis(_areas, 1, rows, 0.5 * (32 - width), width, 16), atol=0.05)


def test_no_rotation_is_the_identity_and_a_half_turn_of_the_range_moves(images: Any) -> None:
    plain, _ = _apply(images)
    still, _ = _apply(images, rotate=15)  # noise of 0.5 is an angle of 0
    np.testing.assert_allclose(still, plain, atol=0.05)
    turned, _ = _apply(images, np.ones((6, augment.COLUMNS), np.float32), rotate=15)
    assert np.abs(turned - plain).mean() > 5


def test_rotation_turns_by_its_share_of_the_degrees(images: Any, noise: Any) -> None:
    noise[:, 5] = 1.0
    plain, _ = _apply(images)
    turned, _ = _apply(images, noise, rotate=90)
    np.testing.assert_allclose(turned, np.rot90(plain, axes=(1, 2)), atol=0.1)
    noise[:, 5] = 0.0
    turned, _ = _apply(images, noise, rotate=90)
    np.testing.assert_allclose(turned, np.rot90(plain, -1, axes=(1, 2)), atol=0.1)


def test_colours_stay_in_range_and_grey_has_no_saturation(images: Any, noise: Any) -> None:
    done, _ = _apply(images, noise, brightness=0.9, contrast=0.9, saturation=0.9)
    assert (done.min() >= 0, done.max() <= 255) == (True, True)
    grey = np.repeat(images[..., :1], 3, axis=3)
    coloured, _ = _apply(grey, noise, saturation=0.9)
    np.testing.assert_allclose(coloured, _apply(grey)[0], atol=1e-2)


def test_colours_are_brightness_then_contrast_then_saturation(noise: Any) -> None:
    image = np.random.default_rng(0).uniform(90, 150, (6, 16, 16, 3)).astype(np.uint8)
    done, _ = _apply(image, noise, brightness=0.2, contrast=0.3, saturation=0.4)
    factor = (1 + np.array([0.2, 0.3, 0.4]) * (2 * noise[:, 6:9] - 1))[:, :, None, None, None]
    expected = image * factor[:, 0]
    mean = expected.mean(axis=(1, 2, 3), keepdims=True)
    expected = mean + (expected - mean) * factor[:, 1]
    grey = expected @ np.array([0.299, 0.587, 0.114])
    expected = grey[..., None] + (expected - grey[..., None]) * factor[:, 2]
    np.testing.assert_allclose(done, expected, atol=0.05)


def test_erasing_covers_the_square_of_its_noise(noise: Any) -> None:
    noise[:, 9] = np.linspace(0, 1, 6)  # whether
    bright = np.full((6, 32, 32, 3), 255, np.uint8)
    done, _ = _apply(bright, noise, erase=0.5, size=40)
    for found, (hit, length, top, left) in zip(done, noise[:, 9:13].astype(float), strict=True):
        side, at = 40 * (0.15 + 0.25 * length), np.arange(40) + 0.5
        rows, columns = ((at >= first * (40 - side)) & (at < first * (40 - side) + side) for first in (top, left))
        expected = np.where(rows[:, None] & columns & (hit < 0.5), 127.5, 255)
        np.testing.assert_allclose(found, np.repeat(expected[..., None], 3, axis=2), atol=0.01)


def test_mixup_mixes_with_the_next_image_by_a_share_of_beta(images: Any, noise: Any) -> None:
    """The larger share is the image's own, and labels are mixed as images are."""
    labels = np.array([0, 1, 1, 0, 1, 0], np.float32)
    done, mixed = _apply(images, noise, labels, size=32, mixup=0.4)
    drawn = stats.beta(0.4, 0.4).ppf((np.floor(noise[:, 13].astype(float) * 4096) + 0.5) / 4096)
    share = np.maximum(drawn, 1 - drawn)
    np.testing.assert_allclose(mixed, share * labels + (1 - share) * np.roll(labels, -1), atol=1e-3)
    weight = share[:, None, None, None]
    np.testing.assert_allclose(done, weight * images + (1 - weight) * np.roll(images, -1, axis=0), atol=0.3)


def test_a_row_depends_on_its_own_noise_alone(images: Any, noise: Any) -> None:
    """How a batch is divided over replicas changes nothing (MixUp, which pairs within a slice, left out)."""
    settings = dict(crop=0.3, flip=0.5, rotate=15, brightness=0.4, contrast=0.4, saturation=0.4, erase=0.5)
    whole, _ = _apply(images, noise, **settings)
    halves = [_apply(images[part], noise[part], **settings)[0] for part in (slice(0, 3), slice(3, 6))]
    np.testing.assert_allclose(np.concatenate(halves), whole, atol=1e-3)
