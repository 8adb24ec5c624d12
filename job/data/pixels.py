"""Pixels: decode, resize, encode, and how an image of any shape takes the network's input size. OpenCV, no TensorFlow.

Training, evaluation and prediction share this path: `stored` turns a file into the JPEG that a shard holds, `square`
turns that JPEG into what the network sees. Nothing else in this project decodes an image.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what is wrong with a file is said by our own line

import cv2
import numpy as np
import numpy.typing as npt

from job.data import headers, heif, signatures
from job.data.levels import FULL, TOP, Levels, is_dim, table
from job.data.reasons import Undecodable as Undecodable  # also for those who call us
from job.data.reasons import reason, too_large, unread

Image = npt.NDArray[np.uint8]

QUALITY = 92  # of the stored JPEG; at 160 px about 9 kB an image
_JPEG = b"\xff\xd8\xff"
_JP2 = (b"\0\0\0\x0c", b"\xff\x4f\xff\x51")
_WITH_MORE = (b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", *_JP2)
_PNM = (b"P2", b"P3", b"P5", b"P6")
_PHOTOMETRIC, _EXTRA_SAMPLES = 0x0106, 0x0152

cv2.setNumThreads(1)  # images are decoded side by side by the caller's threads


@dataclass(frozen=True)
class Stored:
    """An image as a shard holds it. `dim`: it was of 16 bits, all values below 4,096 as stored or seen, whatever the levels made of it."""

    jpeg: bytes
    dim: bool


@dataclass(frozen=True)
class _Raw:
    """An image as its file holds it: grey or BGR of 8 or 16 bits, alpha, and what its header says."""

    colors: npt.NDArray[Any]
    alpha: npt.NDArray[Any] | None
    multiplied: bool  # alpha is in the colors already
    orientation: int
    white_is_zero: bool
    ours: bool  # OpenCV's own way to RGB would give other values, or turn it not


def decode(data: bytes, levels: Levels = FULL) -> Image:
    """Decode an image file.

    EXIF orientation is applied, alpha is laid over white; grey, CMYK, palette and 16 bit become 8-bit RGB. Of an
    animation, the first frame.

    Args:
        levels: which values of a 16-bit image become black and white.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        Undecodable: with the reason.
        MemoryError: the image does not fit into memory.
    """
    return _decode(data, levels)[0]


def _decode(data: bytes, levels: Levels) -> tuple[Image, bool]:
    """The image, and whether it is dim."""
    if not data:
        raise Undecodable("the file is empty")
    dim = False
    try:
        if not data.startswith(_JPEG):  # most images are, and need none of this
            if signatures.is_heif(data[: signatures.FIRST]):
                return _flat(*heif.decode(data)), False
            if why := unread(data):
                raise Undecodable(why)
            ours, dim = _by_us(data, levels)
            if ours is not None:
                return ours, dim
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:  # the machine's fault: the image may be a good one
            raise MemoryError(error.err) from None
        raise Undecodable(too_large(data) or f"does not decode ({error.err or 'OpenCV refuses it'})") from None
    if image is None:
        raise Undecodable(reason(data))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise Undecodable("it does not become RGB of 8 bits: convert it to PNG or JPEG")
    return np.asarray(image, np.uint8), dim


def _by_us(data: bytes, levels: Levels) -> tuple[Image | None, bool]:
    """An image with alpha or of 16 bits as RGB; None where OpenCV's own way does it. And whether it is dim."""
    raw = _raw(data) if _needs_more(data) else None
    if raw is None:
        return None, False
    seen_dim = raw.white_is_zero and is_dim(TOP - raw.colors, None)
    dim = seen_dim or is_dim(raw.colors, raw.alpha)
    low, high = levels.range(dim)
    if seen_dim and levels.auto:
        low, high = TOP - high, TOP - low
    if raw.alpha is not None:
        return _over_white(raw, low, high), dim
    if raw.ours or (raw.colors.dtype == np.uint16 and (low, high) != (0, TOP)):
        return _leveled(raw, low, high), dim
    return None, dim


def _needs_more(data: bytes) -> bool:
    """Whether it may hold alpha or 16 bits, which decoding to RGB drops."""
    return data[:4] in _WITH_MORE or (data[:4] == b"RIFF" and data[8:12] == b"WEBP") or data[:2] in _PNM or headers.bmp_has_alpha(data)


def _raw(data: bytes) -> _Raw | None:
    image: Any
    image, kinds, blocks = cv2.imdecodeWithMetadata(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype not in (np.uint8, np.uint16):
        return None
    alpha, jp2 = None, data[:4] in _JP2
    if image.ndim == 3 and image.shape[2] == 4:
        image, alpha = image[..., :3], image[..., 3]
        if jp2 and headers.kinds_of_components(data)[3:] not in ([], [1], [2]):  # said to be neither color nor alpha
            alpha = None
    elif data[:4] == b"\x89PNG" and (grey := headers.transparent_grey(data)) is not None:
        alpha = np.where(image == grey, 0, _top(image)).astype(image.dtype)
    found = [bytes(block) for kind, block in zip(kinds, blocks, strict=False) if kind == cv2.IMAGE_METADATA_EXIF]
    exif = found[0] if found else headers.exif(data) if data[:4] == b"\x89PNG" else b""  # of an animated PNG none is found
    orientation, top = headers.orientation(exif), _declared(data, image.dtype == np.uint16)
    if top != _top(image):
        image, alpha = _scaled(image, top), None if alpha is None else _scaled(alpha, top)
    deep, tiff = image.dtype == np.uint16, data[:2] in (b"II", b"MM")
    return _Raw(
        image, alpha, orientation=orientation,
        multiplied=_is_multiplied(data, deep) if tiff or jp2 else False,
        white_is_zero=tiff and deep and headers.tag(data, _PHOTOMETRIC) == 0,
        ours=jp2 or data[:4] == b"RIFF" or data[:2] in _PNM or (orientation > 1 and not found),
    )  # fmt: skip


def _is_multiplied(data: bytes, deep: bool) -> bool:
    if data[:4] in _JP2:
        return headers.kinds_of_components(data)[3:] == [2]
    return not deep or headers.tag(data, _EXTRA_SAMPLES) == 1  # of 8 bits, libtiff hands it out so


def _declared(data: bytes, deep: bool) -> int:
    """The value of white as the file's header has it, where OpenCV leaves that to us."""
    full = TOP if deep else 255
    if data[:2] in _PNM:
        return headers.top(data) or full if deep or data[:2] in (b"P5", b"P6") else full
    if data[:4] in _JP2:
        return min(full, int((1 << max(1, min(headers.components(data), default=8))) - 1))
    return full


def _scaled(values: npt.NDArray[Any], top: int) -> npt.NDArray[Any]:
    """Values from 0 to `top` as those of the whole range."""
    full = _top(values)
    return np.asarray((np.minimum(values, top).astype(np.uint64) * full + top // 2) // top, values.dtype)


def _top(image: npt.NDArray[Any]) -> int:
    return TOP if image.dtype == np.uint16 else 255


def _over_white(raw: _Raw, low: int, high: int) -> Image:
    """Over white, as RGB of 8 bits; of 16 bits, from `low` to `high`."""
    assert raw.alpha is not None
    alpha = raw.alpha[..., None].astype(np.float32) / _top(raw.alpha)
    low, high = (low, high) if raw.colors.dtype == np.uint16 else (0, 255)
    colors = raw.colors[..., ::-1] if raw.colors.ndim == 3 else np.repeat(raw.colors[..., None], 3, axis=2)
    share = alpha if raw.multiplied else 1
    seen = (colors.astype(np.float32) - low * share) / (high - low)
    np.clip(seen, 0, share, out=seen)
    blended = (seen if raw.multiplied else seen * alpha) + (1 - alpha)
    return _upright(np.asarray(np.rint(blended * 255), np.uint8), raw.orientation)


def _leveled(raw: _Raw, low: int, high: int) -> Image:
    """To 8-bit RGB; of 16 bits, from `low` to `high`."""
    image = table(low, high)[raw.colors] if raw.colors.dtype == np.uint16 else raw.colors
    if raw.white_is_zero:
        image = 255 - image
    image = image[..., ::-1] if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    return _upright(image, raw.orientation)


def _flat(image: Image, multiplied: bool) -> Image:
    """Grey, RGB or RGBA of 8 bits, with or without alpha, as RGB over white."""
    if image.ndim == 3 and image.shape[2] == 4:
        return _over_white(_Raw(image[..., 2::-1], image[..., 3], multiplied, 1, False, True), 0, 255)
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def _upright(image: Image, orientation: int) -> Image:
    if orientation in (5, 6, 7, 8):
        image = np.swapaxes(image, 0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def reduce(image: Image, side: int) -> Image:
    """Shrink so that the short side is `side` px, aspect ratio kept, by area; never enlarges."""
    height, width = image.shape[:2]
    short = min(height, width)
    if short <= side:
        return image
    target = (max(1, round(width * side / short)), max(1, round(height * side / short)))
    return np.asarray(cv2.resize(image, target, interpolation=cv2.INTER_AREA), np.uint8)


def encode(image: Image) -> bytes:
    """RGB uint8 [height, width, 3] to JPEG, without EXIF."""
    done, buffer = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
    if not done:
        raise Undecodable("could not be stored as JPEG")
    return buffer.tobytes()


def store(data: bytes, side: int, levels: Levels = FULL) -> Stored:
    """An image file as a shard holds it, and whether it was dim.

    Raises:
        Undecodable: with the reason.
    """
    image, dim = _decode(data, levels)
    return Stored(encode(reduce(image, side)), dim)


def stored(data: bytes, side: int, levels: Levels = FULL) -> bytes:
    """The JPEG of `store`."""
    return store(data, side, levels).jpeg


def square(jpeg: bytes, size: int) -> Image:
    """A stored JPEG at the network's input size: the whole image, resized to uint8 [size, size, 3], RGB.

    The whole image, since what tells the classes apart may lie at its edge; its aspect ratio is not kept, since bars
    would be seen as content. Each pixel is the mean over the area that it covers, in both directions; `Resizing(interpolation="area")`
    does the same in `model.keras`.
    """
    return squeeze(decode(jpeg), size)


def squeeze(image: Image, size: int) -> Image:
    """uint8 [height, width, 3] to uint8 [size, size, 3] by area."""
    height, width = image.shape[:2]
    # one axis at a time where one shrinks and the other grows: OpenCV averages by area only where both shrink
    reduced = cv2.resize(image, (min(width, size), min(height, size)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(reduced, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
