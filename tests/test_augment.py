"""Augmentation: what each operation does, and that nothing is drawn on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

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


def test_a_crop_shows_a_part_of_the_image(noise: Any) -> None:
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[None, None, :, None] * 8, (6, 32, 32, 3)).copy()
    done, _ = _apply(ramp, noise, crop=0.25)
    spans = done[:, 0, -1, 0] - done[:, 0, 0, 0]
    assert (spans > 0).all()
    assert spans.std() > 5


def test_no_rotation_is_the_identity_and_a_half_turn_of_the_range_moves(images: Any) -> None:
    plain, _ = _apply(images)
    still, _ = _apply(images, rotate=15)  # noise of 0.5 is an angle of 0
    np.testing.assert_allclose(still, plain, atol=0.05)
    turned, _ = _apply(images, np.ones((6, augment.COLUMNS), np.float32), rotate=15)
    assert np.abs(turned - plain).mean() > 5


def test_rotation_is_in_degrees(images: Any) -> None:
    turned, _ = _apply(images, np.ones((6, augment.COLUMNS), np.float32), rotate=30)  # noise of 1 is the largest angle
    plain, _ = _apply(images)
    np.testing.assert_allclose(turned, augment._rotate(plain, np.full(6, np.pi / 6, np.float32), 16), atol=0.5)


def test_a_quarter_turn_is_exact(images: Any) -> None:
    angle = np.full(6, np.pi / 2, np.float32)
    source = images[:, :16, :16].astype(np.float32)
    turned = augment._rotate(source, angle, 16).numpy()
    np.testing.assert_allclose(turned, np.rot90(source, axes=(1, 2)), atol=0.1)


def test_colours_stay_in_range_and_grey_has_no_saturation(images: Any, noise: Any) -> None:
    done, _ = _apply(images, noise, brightness=0.9, contrast=0.9, saturation=0.9)
    assert (done.min() >= 0, done.max() <= 255) == (True, True)
    grey = np.repeat(images[..., :1], 3, axis=3)
    coloured, _ = _apply(grey, noise, saturation=0.9)
    np.testing.assert_allclose(coloured, _apply(grey)[0], atol=1e-2)


def test_erasing_covers_a_square_of_the_promised_side(images: Any, noise: Any) -> None:
    bright = np.full((6, 32, 32, 3), 255, np.uint8)
    done, _ = _apply(bright, noise, erase=1.0, size=40)
    share = (done[..., 0] == 127.5).mean(axis=(1, 2))
    assert (share > 0.1**2).all()
    assert (share < 0.45**2).all()
    untouched, _ = _apply(bright, noise, erase=1e-9)
    assert (untouched == 255).all()


def test_mixup_mixes_labels_as_images(noise: Any) -> None:
    ramp = np.stack([np.full((32, 32, 3), value, np.uint8) for value in (0, 200, 0, 200, 0, 200)])
    labels = np.array([0, 1, 0, 1, 0, 1], np.float32)
    done, mixed = _apply(ramp, noise, labels, mixup=0.4)
    np.testing.assert_allclose(done[:, 0, 0, 0], 200 * mixed, atol=1e-2)
    np.testing.assert_array_equal(mixed >= 0.5, labels > 0.5)


def test_the_mixing_share_follows_beta() -> None:
    from scipy import stats

    drawn = np.random.default_rng(0).random((4000, augment.COLUMNS), dtype=np.float32)
    _, mixed = _apply(np.zeros((4000, 8, 8, 3), np.uint8), drawn, np.tile([0, 1], 2000).astype(np.float32), size=8, mixup=0.4)
    share = np.abs(mixed - 0.5) + 0.5
    beta = stats.beta(0.4, 0.4).rvs(4000, random_state=0)
    assert stats.ks_2samp(share, np.maximum(beta, 1 - beta)).statistic < 0.035


def test_a_row_depends_on_its_own_noise_alone(images: Any, noise: Any) -> None:
    """How a batch is divided over replicas changes nothing (MixUp, which pairs within a slice, left out)."""
    settings = dict(crop=0.3, flip=0.5, rotate=15, brightness=0.4, contrast=0.4, saturation=0.4, erase=0.5)
    whole, _ = _apply(images, noise, **settings)
    halves = [_apply(images[part], noise[part], **settings)[0] for part in (slice(0, 3), slice(3, 6))]
    np.testing.assert_allclose(np.concatenate(halves), whole, atol=1e-3)
