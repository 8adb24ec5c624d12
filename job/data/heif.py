"""HEIC by `pillow-heif` and AVIF by Pillow: OpenCV reads no HEIC, and of an AVIF neither the rotation nor 10 bits rightly."""

from __future__ import annotations

import io
import re
import threading

import numpy as np
import numpy.typing as npt

from job.data import reasons, signatures
from job.data.reasons import Undecodable

_EXIF_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)
_IMPORTING = threading.Lock()
_ERRORS = (OSError, ValueError, SyntaxError, RuntimeError, EOFError)  # what both raise for a file that is not whole


def decode(data: bytes) -> tuple[npt.NDArray[np.uint8], bool]:
    """The first or primary image, upright, as 8-bit grey, RGB or RGBA; and whether alpha is in the colors already.

    Raises:
        Undecodable: with the reason.
        MemoryError: it does not fit into memory.
    """
    try:
        return _avif(data) if signatures.is_avif(data[: signatures.FIRST]) else _heic(data)
    except Undecodable:
        raise
    except _ERRORS as error:
        large, text = reasons.too_large(data), str(error).lower()
        if "memory" in text and "limit" not in text and not large:  # libheif has limits of its own against made files
            raise MemoryError(str(error)) from None
        raise Undecodable(large or reasons.reason(data)) from None


def _avif(data: bytes) -> tuple[npt.NDArray[np.uint8], bool]:
    """By the plugin itself: `Image.open` would warn of a large image, on the terminal, where we have a limit of our own."""
    from PIL import AvifImagePlugin, ImageOps

    if not AvifImagePlugin.SUPPORTED:
        raise Undecodable("this Pillow reads no AVIF: install one that does, or convert it to PNG or JPEG")
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # images are decoded side by side by the caller's threads
    # Pillow would read the EXIF block, and warn where it is damaged; the rotation of an AVIF stands elsewhere (irot, imir)
    with AvifImagePlugin.AvifImageFile(io.BytesIO(_EXIF_ITEM.sub(rb"\1none", data))) as image:
        return np.array(ImageOps.exif_transpose(image)), False


def _heic(data: bytes) -> tuple[npt.NDArray[np.uint8], bool]:
    try:
        with _IMPORTING:  # a thread beside must not see it half made
            import pillow_heif
    except ImportError:
        raise Undecodable("HEIC needs an extra: pip install 'twofold[heic]'") from None
    pillow_heif.options.DECODE_THREADS = 1
    file = pillow_heif.open_heif(data)
    image = file[file.primary_index]
    pixels = np.array(image)
    if pixels.dtype == np.uint16:  # grey of 10 or 12 bits, scaled to 16
        pixels = pixels >> 8
    return pixels.astype(np.uint8), image.premultiplied_alpha
