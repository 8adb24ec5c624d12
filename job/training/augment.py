"""Augmentation on the device: pure functions of images and numbers drawn beforehand.

Nothing is drawn here: each row of `noise` holds what is random for one image, so the result does not depend on
the device, on XLA, or on how the batch is divided. Shapes: B images, S side of the given images, T the training resolution.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from job.config.resolve import Augment
from job.machine.libraries import tf

COLUMNS = 16  # of noise, for each image
_LARGEST_RATIO = math.log(4 / 3)
_GREY = 127.5
_QUANTILES = 4096  # steps in which MixUp's share is drawn


def augment(images: Any, labels: Any, noise: Any, options: Augment, size: int) -> tuple[Any, Any]:
    """Augment a replica's images.

    Args:
        images: uint8 [B, S, S, 3].
        labels: float32 [B].
        noise: float32 [B, at least COLUMNS] in [0, 1); the columns after these are the network's.
        options: the settings, resolved.
        size: T.

    Returns:
        float32 [B, T, T, 3] in 0..255, and labels, float32 [B], mixed as the images are.
    """
    column = [noise[:, k] for k in range(COLUMNS)]
    images = _crop(tf.cast(images, tf.float32), column[0:5], options.crop, options.flip, size)
    if options.rotate:
        images = _rotate(images, (2 * column[5] - 1) * math.radians(options.rotate), size)
    if options.brightness or options.contrast or options.saturation:
        images = _colour(images, column[6:9], options)
    if options.erase:
        images = _erase(images, column[9:13], options.erase, size)
    if options.mixup:
        images, labels = _mixup(images, labels, column[13], options.mixup)
    return images, labels


def _crop(images: Any, random: list[Any], smallest: float, flip: float, size: int) -> Any:
    """Random resized crop and mirror image (Szegedy et al. 2015), each pixel the mean over the area it covers.

    The share of the area kept is uniform in [smallest, 1], the ratio of the sides log-uniform in [3/4, 4/3], less
    where little may be cut off.
    """
    side = images.shape[1]
    spread = _LARGEST_RATIO * min(1.0, (1 - smallest) / 0.65)
    root = tf.sqrt(smallest + (1 - smallest) * random[0])
    ratio = tf.exp(0.5 * spread * (2 * random[1] - 1))
    height, width = (side * tf.minimum(root * r, 1.0) for r in (ratio, 1 / ratio))
    top, left = random[2] * (side - height), random[3] * (side - width)
    rows = _coverage(top, height, side, size)
    columns = _coverage(left, width, side, size)
    columns = tf.where((random[4] < flip)[:, None, None], columns[:, ::-1], columns)
    batch = tf.shape(images)[0]
    shrunk = tf.matmul(rows, tf.reshape(images, [batch, side, side * 3]))  # [B, T, S * 3]
    turned = tf.transpose(tf.reshape(shrunk, [batch, size, side, 3]), [0, 2, 1, 3])  # [B, S, T, 3]
    done = tf.matmul(columns, tf.reshape(turned, [batch, side, size * 3]))
    return tf.transpose(tf.reshape(done, [batch, size, size, 3]), [0, 2, 1, 3])


def _coverage(start: Any, length: Any, side: int, size: int) -> Any:
    """How much of each of `size` equal parts of [start, start + length] lies in each pixel: [B, size, side], rows sum to 1."""
    part = (length / size)[:, None, None]
    low = start[:, None, None] + part * tf.range(size, dtype=tf.float32)[None, :, None]
    pixel = tf.range(side, dtype=tf.float32)[None, None, :]
    return tf.maximum(tf.minimum(low + part, pixel + 1) - tf.maximum(low, pixel), 0.0) / part


def _rotate(images: Any, angle: Any, size: int) -> Any:
    """Turn each image about its centre, bilinear; what comes from outside is mirrored in."""
    centre = (size - 1) / 2
    grid = tf.range(size, dtype=tf.float32) - centre
    sine, cosine = tf.sin(angle)[:, None, None], tf.cos(angle)[:, None, None]
    y = cosine * grid[None, :, None] + sine * grid[None, None, :] + centre
    x = cosine * grid[None, None, :] - sine * grid[None, :, None] + centre

    def mirrored(at: Any) -> Any:
        return (size - 1) - tf.abs((size - 1) - tf.abs(at))

    y, x = tf.clip_by_value(mirrored(y), 0, size - 1), tf.clip_by_value(mirrored(x), 0, size - 1)
    top, left = tf.minimum(tf.floor(y), size - 2), tf.minimum(tf.floor(x), size - 2)
    down, right = (y - top)[..., None], (x - left)[..., None]
    first = tf.cast(top, tf.int32) * size + tf.cast(left, tf.int32)
    flat = tf.reshape(images, [tf.shape(images)[0], size * size, 3])

    def corner(offset: int) -> Any:
        return tf.gather(flat, first + offset, batch_dims=1)

    upper = corner(0) * (1 - right) + corner(1) * right
    lower = corner(size) * (1 - right) + corner(size + 1) * right
    return upper * (1 - down) + lower * down


def _colour(images: Any, random: list[Any], options: Augment) -> Any:
    """Brightness, contrast about the image's mean, saturation about its grey; each factor uniform about 1."""
    settings = (options.brightness, options.contrast, options.saturation)
    brightness, contrast, saturation = ((1 + most * (2 * u - 1))[:, None, None, None] for most, u in zip(settings, random, strict=True))
    images = images * brightness
    mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
    images = mean + (images - mean) * contrast
    grey = tf.reduce_sum(images * [0.299, 0.587, 0.114], axis=3, keepdims=True)
    return tf.clip_by_value(grey + (images - grey) * saturation, 0.0, 255.0)


def _erase(images: Any, random: list[Any], probability: float, size: int) -> Any:
    """Random erasing (Zhong et al. 2017): a square of 0.15 to 0.4 of the side becomes grey."""
    side = size * (0.15 + 0.25 * random[1])
    top, left = random[2] * (size - side), random[3] * (size - side)
    at = tf.range(size, dtype=tf.float32) + 0.5
    rows = (at >= top[:, None]) & (at < (top + side)[:, None])
    columns = (at >= left[:, None]) & (at < (left + side)[:, None])
    hit = rows[:, :, None] & columns[:, None, :] & (random[0] < probability)[:, None, None]
    return tf.where(hit[..., None], _GREY, images)


def _mixup(images: Any, labels: Any, random: Any, alpha: float) -> tuple[Any, Any]:
    """MixUp (Zhang et al. 2017) with the next image of the replica's slice; the larger share is the image's own."""
    share = tf.gather(tf.constant(_beta_quantiles(alpha)), tf.cast(random * _QUANTILES, tf.int32))
    share = tf.maximum(share, 1 - share)
    weight = share[:, None, None, None]
    mixed = weight * images + (1 - weight) * tf.roll(images, -1, axis=0)
    return mixed, share * labels + (1 - share) * tf.roll(labels, -1, axis=0)


def _beta_quantiles(alpha: float) -> npt.NDArray[np.float32]:
    """Quantiles of Beta(alpha, alpha) in equal steps, float32 [_QUANTILES]; its density is smooth in the log odds."""
    odds = np.linspace(-60, 60, 200_001) / min(alpha, 1.0)
    density = np.exp(alpha * odds - 2 * alpha * np.logaddexp(0, odds))
    below = np.cumsum(density) / density.sum()
    middle = np.interp((np.arange(_QUANTILES) + 0.5) / _QUANTILES, below, odds)
    return (1 / (1 + np.exp(-np.clip(middle, -80, 80)))).astype(np.float32)
