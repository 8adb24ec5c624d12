"""Pixels: decode, resize, encode, and how an image of any shape takes the network's input size. OpenCV, no TensorFlow.

Training, evaluation and prediction share this path: `stored` turns a file into the JPEG that a shard holds, `square`
turns that JPEG into what the network sees. Nothing else in this project decodes an image.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what is wrong with a file is said by our own line

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

QUALITY = 92  # of the stored JPEG; at 160 px about 9 kB an image
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_ORIENTATION_TAG = 0x0112

cv2.setNumThreads(1)  # images are decoded side by side by the caller's threads


class Undecodable(ValueError):
    """A file that is not an image, or a corrupt one; its text is the reason."""


def decode(data: bytes) -> Image:
    """Decode an image file.

    EXIF orientation is applied, alpha is laid over white; grey, CMYK, palette and 16 bit become 8-bit RGB. Of an
    animation, the first frame.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        Undecodable: with the reason.
        MemoryError: the image does not fit into memory.
    """
    if not data:
        raise Undecodable("the file is empty")
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        raise Undecodable("HEIC is not supported: convert it to JPEG (heif-convert, or the phone's 'most compatible')")
    buffer = np.frombuffer(data, np.uint8)
    try:
        if _may_have_alpha(data):
            image: Any
            image, kinds, blocks = cv2.imdecodeWithMetadata(buffer, cv2.IMREAD_UNCHANGED)
            if image is not None and image.ndim == 3 and image.shape[2] == 4:
                exif = [bytes(block) for kind, block in zip(kinds, blocks, strict=False) if kind == cv2.IMAGE_METADATA_EXIF]
                multiplied = data[:2] in (b"II", b"MM") and image.dtype == np.uint8  # libtiff hands RGBA out so
                return _upright(_over_white(image, multiplied), _orientation(exif[0]) if exif else 1)
        image = cv2.imdecode(buffer, cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:  # the machine's fault: the image may be a good one
            raise MemoryError(error.err) from None
        raise Undecodable(f"does not decode ({error.err or 'OpenCV refuses it'})") from None
    if image is None:
        raise Undecodable(_reason(data))
    return np.asarray(image, np.uint8)


def _may_have_alpha(data: bytes) -> bool:
    return data[:4] in (b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*") or (data[:4] == b"RIFF" and data[8:12] == b"WEBP") or data[4:8] == b"ftyp"


def _over_white(image: npt.NDArray[np.generic], multiplied: bool) -> Image:
    """BGRA of 8 or 16 bits over white, as RGB of 8 bits; `multiplied` says that alpha is in the colours already."""
    top = 65535.0 if image.dtype == np.uint16 else 255.0
    pixels = image.astype(np.float32) / top
    alpha = pixels[..., 3:]
    blended = pixels[..., 2::-1] * (1 if multiplied else alpha) + (1 - alpha)
    return np.asarray(np.rint(blended * 255), np.uint8)


def _orientation(exif: bytes) -> int:
    """The orientation (1 to 8) in an EXIF block, 1 where it holds none."""
    start = exif.find(b"II*\0") if b"II*\0" in exif[:16] else exif.find(b"MM\0*")
    if start < 0:
        return 1
    tiff = exif[start:]
    order = "little" if tiff[:2] == b"II" else "big"

    def number(at: int, length: int) -> int:
        return int.from_bytes(tiff[at : at + length], order)  # type: ignore[arg-type]

    first = number(4, 4)
    for entry in range(number(first, 2)):
        at = first + 2 + 12 * entry
        if number(at, 2) == _ORIENTATION_TAG:
            value = number(at + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1


def _upright(image: Image, orientation: int) -> Image:
    if orientation in (5, 6, 7, 8):
        image = np.swapaxes(image, 0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _reason(data: bytes) -> str:
    if data[:2] == b"\xff\xd8":
        return "the JPEG is truncated or corrupt" if data[-2:] != b"\xff\xd9" else "the JPEG is corrupt"
    if data[:4] == b"\x89PNG":
        return "the PNG is truncated or corrupt"
    if data[:4] == b"RIFF":
        return "the WebP is truncated or corrupt"
    if data[:5].lower() in (b"<html", b"<!doc"):
        return "it is a web page, not an image"
    return "it is not an image that can be read, or it is corrupt"


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


def stored(data: bytes, side: int) -> bytes:
    """An image file as the JPEG that a shard holds.

    Raises:
        Undecodable: with the reason.
    """
    return encode(reduce(decode(data), side))


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
